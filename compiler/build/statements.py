"""Statements of a body.  A statement that fails is reported, and what it binds is poisoned, so that nothing
cascades."""

from __future__ import annotations

import re

from .. import syntax
from ..diagnostics import Diagnostics
from ..types import TypeRuleError
from .session import Build, join
from .values import POISON, Fault, Instance, Poisoned, Record, describe, is_number, is_tensor, show

NOTHING = object()                    # what a block gives that has not returned
RESERVED = {"training"}
MOST_TURNS = 10_000                   # of an unrolled loop


def run_block(build: Build, scope, statements):
    """Runs statements in order; the returned value, POISON where the return failed, or NOTHING."""
    for statement in statements:
        build.tick(statement)
        build.depth += 1
        try:
            result = _RUN[type(statement)](build, scope, statement)
        except Fault as fault:
            build.report(fault, statement.span)
            if isinstance(statement, syntax.Assert):
                raise Poisoned from None          # what follows an assertion relies on it
            result = _poison(scope, statement)
        except TypeRuleError as error:
            build.report(Fault("shape", str(error)), statement.span)
            result = _poison(scope, statement)
        except Poisoned:
            result = _poison(scope, statement)
        finally:
            build.depth -= 1
        if result is not NOTHING:
            return result
    return NOTHING


def _poison(scope, statement):
    """After a failure: the names that the statement would have bound, and perhaps the result, are poison."""
    for name in bound_names([statement]):
        scope.set(name, POISON)
    return POISON if has_return([statement]) else NOTHING


def bound_names(statements) -> set[str]:
    """The names that statements bind in their scope."""
    names: set[str] = set()
    for s in statements:
        if isinstance(s, (syntax.Assign,)):
            names |= {t.name for t in s.targets}
        elif isinstance(s, (syntax.Param, syntax.State, syntax.Input)):
            names.add(s.name)
        elif isinstance(s, syntax.For):
            names |= {t.name for t in s.targets} | bound_names(s.body)
        elif isinstance(s, syntax.If):
            names |= bound_names(s.then) | bound_names(s.otherwise)
        elif isinstance(s, syntax.Scan):
            names |= {c.name for c in s.carries} | {c.name for c in s.collects}
    return names


def has_return(statements) -> bool:
    for s in statements:
        if isinstance(s, syntax.Return):
            return True
        if isinstance(s, syntax.If) and (has_return(s.then) or has_return(s.otherwise)):
            return True
        if isinstance(s, syntax.For) and has_return(s.body):
            return True
    return False


# --- binding ----------------------------------------------------------------------------------------------------


def _assign(build: Build, scope, tree: syntax.Assign):
    from .expressions import evaluate
    if not tree.unpack and isinstance(tree.value, syntax.Call):
        build.naming = (tree.value, tree.targets[0].name)
    try:
        value = evaluate(build, scope, tree.value)
    finally:
        build.naming = None
    if not tree.unpack:
        bind_name(build, scope, tree.targets[0], value, tree)
        return NOTHING
    for target, item in zip(tree.targets, _unpacked(value, len(tree.targets), tree.value.span)):
        bind_name(build, scope, target, item, tree)
    return NOTHING


def _unpacked(value, count: int, span) -> tuple:
    """A value taken apart into ``count`` items."""
    if isinstance(value, Record):
        value = tuple(value.fields.values())
    if isinstance(value, range):
        value = tuple(value[:count + 1])
    if not isinstance(value, tuple):
        raise Fault("count", "this cannot be unpacked", span=span, expected=f"a tuple of {count}",
                    found=describe(value),
                    hint="a tensor is taken apart by `split` or by indexing" if is_tensor(value) else None)
    if len(value) != count:
        raise Fault("count", "the number of names and values differ", span=span, expected=f"{count} values",
                    found=f"{len(value)}")
    return value


def bind_name(build: Build, scope, target, value, tree) -> None:
    """``name = value``: names an instance, updates a state, records an inner value."""
    name = target.name
    if name in RESERVED:
        raise Fault("reserved", f"`{name}` is reserved", span=target.span)
    frame = scope.frame
    if value is POISON:
        scope.set(name, value)
        return
    _name_instances(build, name, value)
    if frame is not None and name in frame.states:
        value = _update_state(build, frame, name, value, tree)
    elif scope.closed and name not in scope.names and scope.shadows(name):
        raise Fault("scan", f"`{name}` is bound outside the scan", span=target.span,
                    hint=f"to pass it from step to step, carry it: `carrying {name} = ...`")
    scope.set(name, value)
    build.see(target, value)
    if frame is not None and not scope.closed:
        build.record(join(frame.prefix, name), value, target.span)


def _name_instances(build: Build, name: str, value) -> None:
    """An instance that is bound gets the name for its path; those in a tuple get numbers behind it."""
    if isinstance(value, Instance) and value.path is None and value.home is None and build.frame is not None:
        value.path = join(build.frame.path, build.frame.unique(name, bound=True))
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            _name_instances(build, f"{name}_{i}", item)


def _update_state(build, frame, name: str, value, tree):
    path, type_ = frame.states[name]
    if is_number(value):
        value = build.arithmetic.tensor(value, type_.dtype)
    if not is_tensor(value):
        raise Fault("type", f"the state `{name}` takes a tensor", span=tree.span, expected=str(type_),
                    found=describe(value))
    if value.dtype is not type_.dtype:
        raise Fault("dtype", f"the state `{name}` must keep its element type", span=tree.span, expected=str(type_),
                    found=str(value.type), hint=f"convert it: `cast(..., {type_.dtype})`")
    if value.shape != type_.shape:
        raise Fault("shape", f"the state `{name}` must keep its shape", span=tree.span, expected=str(type_),
                    found=str(value.type))
    if build.scans and build.in_scan(value):
        raise Fault("scan", f"the state `{name}` cannot be updated inside a scan", span=tree.span,
                    hint="carry the value, and assign it after the scan")
    build.updates[path] = value
    return value


# --- control ----------------------------------------------------------------------------------------------------


def _return(build, scope, tree):
    from .expressions import evaluate
    if scope.closed:
        raise Fault("return", "a scan's body cannot return", span=tree.span, hint="return after the scan")
    return evaluate(build, scope, tree.value)


def _if(build, scope, tree):
    from .expressions import truth
    return run_block(build, scope, tree.then if truth(build, scope, tree.condition) else tree.otherwise)


def _for(build, scope, tree):
    from .expressions import evaluate
    items = evaluate(build, scope, tree.iterable)
    if isinstance(items, Record):
        items = tuple(items.fields.values())
    if not isinstance(items, (tuple, range)):
        raise Fault("loop", "`for` runs over a range or a tuple", span=tree.iterable.span, found=describe(items),
                    hint="a loop along a tensor's axis is a `scan`" if is_tensor(items) else
                    f"write `range({show(items)})`" if is_number(items) else None)
    if len(items) > MOST_TURNS:
        raise Fault("limit", "the loop is unrolled, and would become too long", span=tree.iterable.span,
                    found=f"{len(items)} turns", expected=f"at most {MOST_TURNS}", hint="a long loop is a `scan`")
    for item in items:
        values = (item,) if len(tree.targets) == 1 else _unpacked(item, len(tree.targets), tree.iterable.span)
        for target, value in zip(tree.targets, values):
            scope.set(target.name, value)
            build.see(target, value)
        result = run_block(build, scope, tree.body)
        if result is not NOTHING:
            return result
    return NOTHING


def _penalty(build, scope, tree):
    from .expressions import evaluate
    value = evaluate(build, scope, tree.value)
    if is_number(value):
        value = build.arithmetic.tensor(value, build.precision)
    if not is_tensor(value) or value.shape != () or value.dtype.kind != "float":
        raise Fault("loss-scalar", "a penalty must be one number", span=tree.value.span,
                    expected=f"{build.precision}[]",
                    found=describe(value), hint="reduce it: `sum(...)` or `mean(...)`" if is_tensor(value) else None)
    if build.scans and build.in_scan(value):
        raise Fault("scan", "a penalty inside a scan must not depend on the step", span=tree.span,
                    hint="collect the values, and write the penalty after the scan")
    if not _is_zero(value) and value not in build.penalties:      # a shared instance's weights count once
        build.penalties.append(value)
    return NOTHING


def _is_zero(value) -> bool:
    """A constant 0, or a product with one: the penalty of ``l2 = 0.0``."""
    if value.op.name == "constant":
        return value.attrs["value"] == 0
    return value.op.name == "mul" and any(_is_zero(arg) for arg in value.args)


def _assert(build, scope, tree):
    from .expressions import truth
    if not truth(build, scope, tree.condition):
        text = interpolate(build, scope, tree.message) if tree.message \
            else f"`{tree.condition.span.text}` does not hold"
        raise Fault("assert", text, span=tree.condition.span)
    return NOTHING


def interpolate(build, scope, message: str) -> str:
    """The message with ``{expression}`` replaced by compile-time values."""
    from ..parser import parse
    from .expressions import evaluate

    def value(found):
        try:
            tree = parse(f"net 1\nconst value = {found.group(1).strip()}\n", "<message>").consts[0].value
            return show(evaluate(build, scope, tree))
        except (Diagnostics, Fault, Poisoned, IndexError):
            return found.group(0)
    return re.sub(r"\{([^{}\n]*)\}", value, message)


def _param(build, scope, tree):
    from .models import declare
    declare(build, scope, tree, trainable=True)
    return NOTHING


def _state(build, scope, tree):
    from .models import declare
    declare(build, scope, tree, trainable=False)
    return NOTHING


def _scan(build, scope, tree):
    from .scans import run_scan
    run_scan(build, scope, tree)
    return NOTHING


_RUN = {
    syntax.Assign: _assign, syntax.Return: _return, syntax.If: _if, syntax.For: _for, syntax.Param: _param,
    syntax.State: _state, syntax.Penalty: _penalty, syntax.Assert: _assert, syntax.Scan: _scan,
}


def register(kind, run) -> None:
    """Adds a statement that only a ``train`` block has."""
    _RUN[kind] = run
