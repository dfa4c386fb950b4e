"""Annotations: declared shapes with their own symbols, matching them with what came, checks of settings."""

from __future__ import annotations

from typing import Any

from .. import syntax
from ..ir import Node
from ..types import DTYPES, Dim, DType, Size, TensorType, divide_exactly, substitute, symbols
from . import shapes
from .scope import Scope
from .session import Build
from .values import (
    POISON,
    Fault,
    Instance,
    ModelValue,
    describe,
    is_function,
    is_int,
    is_number,
    is_size,
    is_tensor,
    nearest,
)

KINDS = {
    "int": ("an integer", is_size), "bool": ("true or false", lambda v: isinstance(v, bool)),
    "float": ("a number", lambda v: is_number(v) and not isinstance(v, bool)),
    "tuple": ("a tuple", lambda v: isinstance(v, tuple)), "function": ("a function", is_function),
    "model": ("a model", lambda v: isinstance(v, (ModelValue, Instance))),
    "str": ("a word", lambda v: isinstance(v, str)),
}

# what other languages call the element types
OPEN = "a size that is not known yet has a capitalised name, such as `N`"
ELSEWHERE = {"float": "f32", "float32": "f32", "float64": "f64", "double": "f64", "int": "i32", "int32": "i32",
             "int64": "i64", "long": "i64", "boolean": "bool"}


class SymbolScope(Scope):
    """The scope of a signature's shapes: a capitalised name that is no number elsewhere becomes a symbol.

    A symbol is written ``'K`` inside, so that a declared ``K`` is never taken for the caller's own ``K``.
    """

    is_lazy = True

    def own(self, name: str):
        if name in self.names:
            return self.names[name]
        if not name[:1].isupper() or self._is_number(name):
            return super().own(name)
        self.names[name] = Dim.symbol("'" + name)
        return self.names[name]

    def _is_number(self, name: str) -> bool:
        try:
            found = self.parent.find(name) if self.parent is not None else None
            return is_size(found) or found is POISON
        except KeyError:
            return False


def declared_shape(build: Build, scope, annotation: syntax.TypeAnnotation) -> list:
    """The sizes of an annotation, ``...`` as Ellipsis."""
    from .expressions import evaluate
    shape = []
    for dim in annotation.dims:
        if isinstance(dim, syntax.Ellipsis):
            if Ellipsis in shape:
                raise Fault("signature", "a shape may have one `...`", span=dim.span)
            shape.append(Ellipsis)
            continue
        if isinstance(dim, syntax.Name) and not dim.name[:1].isupper() and dim.name != "training" \
                and not scope.knows(dim.name):
            raise Fault("name", f"the dimension `{dim.name}` is not defined", span=dim.span,
                        hint=f"the names of dimensions are capitalised: `{dim.name.capitalize()}`")
        size = evaluate(build, scope, dim)
        if not is_size(size):
            raise Fault("type", "a size must be an integer", span=dim.span, found=describe(size),
                        hint=OPEN if size is None else None)
        if is_int(size) and size < 0:
            raise Fault("size", "a size cannot be negative", span=dim.span, found=str(size), hint=OPEN)
        shape.append(size)
    return shape


def dtype_of(build: Build, annotation) -> DType:
    """The element type that an annotation names."""
    if not isinstance(annotation, syntax.TypeAnnotation) or annotation.name not in DTYPES:
        name = getattr(annotation, "name", "a tuple")
        hint = f"did you mean `{ELSEWHERE[name]}`?" if name in ELSEWHERE else nearest(name, DTYPES)
        raise Fault("element-type", f"`{name}` is no element type", span=annotation.span, expected=", ".join(DTYPES),
                    hint=hint)
    return shapes.dtype_by_name(annotation.name, build.precision)


def plain(text) -> str:
    """Declared sizes as the file writes them."""
    return str(text).replace("'", "")


def type_text(dtype, shape) -> str:
    return plain(f"{dtype}[{', '.join('...' if s is Ellipsis else str(s) for s in shape)}]")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def match(declared: list, actual, bindings: dict[str, Any]) -> str | None:
    """Binds the declared symbols so that the shapes agree; what clashes, or None.  ``bindings`` grows in place."""
    if Ellipsis in declared:
        here = declared.index(Ellipsis)
        after = len(declared) - here - 1
        if len(actual) < len(declared) - 1:
            return f"{counted(len(declared) - 1, 'dimension')} or more are declared, {len(actual)} came"
        middle = tuple(actual[here:len(actual) - after])
        if bindings.setdefault("...", middle) != middle:
            return f"`...` is {shapes.shape_text(middle)} here and {shapes.shape_text(bindings['...'])} before"
        actual = tuple(actual[:here]) + tuple(actual[len(actual) - after:])
        declared = declared[:here] + declared[here + 1:]
    if len(declared) != len(actual):
        return (f"{counted(len(declared), 'dimension')} {'is' if len(declared) == 1 else 'are'} declared, "
                f"{len(actual)} came")
    for want, have in zip(declared, actual):           # plain symbols first: compound sizes may need them
        name = _symbol(want)
        if name is not None and name not in bindings:
            bindings[name] = have
    for position, (want, have) in enumerate(zip(declared, actual)):
        expected = substitute(want, bindings)
        if isinstance(expected, Dim) and any(s.startswith("'") for s in symbols(expected)):
            solved = _solve(expected, have, bindings)
            if solved is None:
                return f"dimension {position}: {plain(want)} cannot be {have}"
            expected = solved
        if expected != have:
            meaning = f"{plain(want)} = {expected}" if plain(want) != str(expected) else f"{expected}"
            return f"dimension {position} is {have}, expected {meaning}"
    return None


def _symbol(size) -> str | None:
    """The name of a declared size that is one symbol."""
    if isinstance(size, Dim) and len(size.symbols) == 1:
        name = next(iter(size.symbols))
        if name.startswith("'") and size == Dim.symbol(name):
            return name
    return None


def _solve(expected: Dim, have: Size, bindings) -> Size | None:
    """Binds the one free symbol of ``a * K + b``; the size, or None where it has no whole solution."""
    free = [s for s in symbols(expected) if s.startswith("'")]
    factor = expected.terms.get((free[0],))
    if len(free) != 1 or factor is None:
        return None
    rest = expected - Dim.symbol(free[0]) * factor
    if any(s.startswith("'") for s in symbols(rest)):
        return None
    answer = divide_exactly(have - rest, factor)
    if answer is None:
        return None
    bindings[free[0]] = answer
    return have


def clash_hint(declared: list, actual) -> str | None:
    """A likely reason for a clash of shapes."""
    sizes = [s for s in declared if s is not Ellipsis]
    if len(sizes) == len(actual) and len(sizes) > 1 and Ellipsis not in declared:
        if len(sizes) == 4 and actual[1] == sizes[-1] and not isinstance(sizes[-1], Dim):
            return "images are [batch, height, width, channels] here: `transpose(x, (0, 2, 3, 1))`"
        if sorted(map(plain, sizes)) == sorted(map(str, actual)):
            return "the axes are in another order: `transpose` it"
    if Ellipsis not in declared and len(sizes) == len(actual) + 1:
        return "an axis is missing: add it with `x[..., None]` or `x[None]`"
    if Ellipsis not in declared and len(actual) > len(sizes) == 2:
        return "flatten it first, e.g. `x |> Flatten()`"
    return None


# --- values against annotations ---------------------------------------------------------------------------------


def check_annotation(build: Build, scope, value, annotation, what: str, span, variadic: bool = False):
    """The value, converted where the annotation asks for it (an integer for a float); Fault where it does not fit."""
    if variadic:
        return tuple(check_annotation(build, scope, item, annotation, what, span) for item in value)
    if isinstance(annotation, syntax.TupleAnnotation):
        if not isinstance(value, tuple) or len(value) != len(annotation.items):
            raise Fault("setting-type", f"{what} must be a tuple of {len(annotation.items)}", span=span,
                        expected=annotation_text(annotation), found=describe(value))
        return tuple(check_annotation(build, scope, item, inner, what, span)
                     for item, inner in zip(value, annotation.items))
    if annotation.name in KINDS and not annotation.bracketed:
        text, fits = KINDS[annotation.name]
        if not fits(value):
            raise Fault("setting-type", f"{what} must be {text}", span=span, expected=annotation.name,
                        found=describe(value))
        return float(value) if annotation.name == "float" and is_int(value) else value
    if annotation.name not in DTYPES:
        raise Fault("element-type", f"`{annotation.name}` is no type", span=annotation.span,
                    expected=", ".join([*KINDS, *DTYPES]), hint=nearest(annotation.name, [*KINDS, *DTYPES]))
    return _check_tensor(build, scope, value, annotation, what, span)


def _check_tensor(build, scope, value, annotation, what, span):
    dtype = dtype_of(build, annotation)
    if is_number(value):
        value = build.arithmetic.tensor(value, dtype)
    if not is_tensor(value):
        raise Fault("type", f"{what} must be a tensor", span=span, expected=str(dtype), found=describe(value))
    if value.dtype is not dtype:
        raise Fault("dtype", f"{what} has another element type", span=span, expected=str(dtype), found=str(value.type),
                    hint=f"convert it: `cast(x, {dtype})`")
    if annotation.bracketed:
        symbolic = SymbolScope(scope)
        declared = declared_shape(build, symbolic, annotation)
        bindings: dict = {}
        reason = match(declared, value.shape, bindings)
        if reason:
            raise Fault("shape", f"{what} has another shape: {reason}", span=span, expected=type_text(dtype, declared),
                        found=str(value.type), hint=clash_hint(declared, value.shape))
        bind_symbols(scope, bindings)
    return value


def bind_symbols(scope, bindings: dict) -> None:
    """Makes the bound symbols integers of the body."""
    for name, size in bindings.items():
        if name != "...":
            scope.set(name[1:], size)


def annotation_text(annotation) -> str:
    if isinstance(annotation, syntax.TupleAnnotation):
        return f"({', '.join(map(annotation_text, annotation.items))})"
    return annotation.name


def tensor_input(build: Build, value, dtype, declared, bindings, what: str, span) -> Node:
    """A value given for an input that is declared ``dtype[declared]``."""
    if is_number(value) and not declared:
        if dtype.kind == "float" or not isinstance(value, float):
            value = build.arithmetic.tensor(value, dtype)
        else:
            value = build.arithmetic.tensor(value)
    if isinstance(value, tuple):
        value = build.arithmetic.table(value, None)
    if not is_tensor(value):
        raise Fault("type", f"{what} must be a tensor", span=span, expected=type_text(dtype, declared),
                    found=describe(value), hint=shapes.tensor_hint(value))
    if value.dtype is not dtype:
        raise Fault("dtype", f"{what} has another element type", span=span, expected=type_text(dtype, declared),
                    found=str(value.type), hint=f"convert it: `cast(x, {dtype})`")
    reason = match(declared, value.shape, bindings)
    if reason:
        raise Fault("shape", f"{what} has another shape: {reason}", span=span, expected=type_text(dtype, declared),
                    found=str(value.type), hint=clash_hint(declared, value.shape))
    return value


def concrete(build: Build, scope, annotation, what: str) -> TensorType:
    """The type of a parameter, a state or a ``train`` input, without new symbols."""
    dtype = dtype_of(build, annotation)
    declared = declared_shape(build, scope, annotation)
    if Ellipsis in declared:
        raise Fault("signature", f"{what} must name every dimension", span=annotation.span)
    return TensorType(dtype, shapes.checked_shape(declared, what))
