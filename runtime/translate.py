"""From the Python of kernels to LLVM's language.

Kernels, those that the compiler prints and the runtime's own, are functions in a part of Python: numbers and
pointers, assignments, `if`, `while`, `for` over a `range` whose step is positive, subscripts of pointers, intrinsics,
and calls of other such functions, which are expanded in place.  A variable has one kind; nothing is checked when it
runs:

    int32 and boolean operands of arithmetic become int64, of float and int operands the ints become float64;
    `//` and `%` round down, and give 0 where the divisor is 0; so does the one quotient of ints that overflows;
    overflow of int64 is not defined; floats are IEEE's, and nothing is reordered.

This module is imported only to compile.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import operator
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from .kinds import Intrinsic, Kind, Pointer, Typed, boolean, constant, float32, float64, int32, int64
from .records import dataclass
from .simd import (
    F64,
    I32,
    I64,
    allocate,
    as_read,
    call_intrinsic,
    call_library,
    counting,
    loop_hint,
    use_no_library,
    use_whole_vectors,
)

# Alias scopes are lists of "all the others": a bound keeps them short.  Pointers beyond it may alias, as far as LLVM
# knows, which costs only speed.
MAX_SCOPES = 48

# What NumPy and Python call what kernels have.
KINDS = {np.float32: float32, np.float64: float64, np.int32: int32, np.int64: int64, np.bool_: boolean, bool: boolean,
         int: int64, float: float64}
LLVM_FUNCTIONS = {np.sqrt: "sqrt", np.floor: "floor", np.ceil: "ceil", np.rint: "rint", math.exp: "exp",
                  math.log: "log", math.sin: "sin", math.cos: "cos", math.pow: "pow"}
LIBRARY_FUNCTIONS = {math.expm1: "expm1", math.log1p: "log1p", math.tanh: "tanh", math.erf: "erf"}     # of float64

COMPARISONS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
ARITHMETIC = {ast.Add: ("add", operator.add), ast.Sub: ("sub", operator.sub), ast.Mult: ("mul", operator.mul),
              ast.FloorDiv: ("floordiv", operator.floordiv), ast.Mod: ("mod", operator.mod), ast.Div: ("div", None)}
BITWISE = {ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "ashr"}


class TranslationError(Exception):
    """Source that is not in the part of Python that kernels are written in."""


@dataclass(frozen=True)
class Definition:
    """A function's syntax, and what its free names stand for."""

    node: ast.FunctionDef
    names: Mapping[str, Any]


@functools.cache
def definition(function: Callable) -> Definition:
    """Of a Python function, by its source file."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    enclosed = zip(function.__code__.co_freevars, function.__closure__ or ())
    names = {**function.__globals__, **{name: cell.cell_contents for name, cell in enclosed}}
    return Definition(node, names)


def translate(defined: Definition, kinds: Sequence[Kind | Pointer], module: ir.Module, symbol: str,
              result: Kind | None = None) -> None:
    """Add the function to the module, as the C function ``symbol`` of arguments and a result of these kinds."""
    returned = ir.VoidType() if result is None else result.llvm
    function = ir.Function(module, ir.FunctionType(returned, [kind.llvm for kind in kinds]), symbol)
    use_whole_vectors(function)
    if any(isinstance(inner, ast.For) for outer in ast.walk(defined.node) if isinstance(outer, ast.For)
           for inner in outer.body):
        use_no_library(function)        # many rows are short, such as those of a margin: a call takes longer
    function.attributes.add("nounwind")
    entry, body = function.append_basic_block("entry"), function.append_basic_block("body")     # variables; all else
    builder = ir.IRBuilder(body)
    accesses: list[tuple[ir.Instruction, int]] = []
    expansion = _Expansion(builder, defined, list(map(Typed, kinds, function.args)), accesses)
    value = expansion.run()
    if result is None:
        builder.ret_void()
    else:
        builder.ret(expansion.convert(value, result, defined.node).value)
    ir.IRBuilder(entry).branch(body)
    _note_scopes(module, accesses)


def _note_scopes(module: ir.Module, accesses: Sequence[tuple[ir.Instruction, int]]) -> None:
    """Tell LLVM of each load and store that it belongs to its scope and to no other."""
    if not accesses:
        return
    domain = module.add_metadata(["netc buffers"])
    used = sorted({scope for _, scope in accesses})
    nodes = {scope: module.add_metadata([f"netc buffer {scope}", domain]) for scope in used}
    own = {scope: module.add_metadata([nodes[scope]]) for scope in used}
    others = {scope: module.add_metadata([nodes[other] for other in used if other != scope]) for scope in used}
    for instruction, scope in accesses:
        instruction.set_metadata("alias.scope", own[scope])
        instruction.set_metadata("noalias", others[scope])


class _Expansion:
    """The code of one function's body, given its arguments.

    A name that is assigned once stands for its value; others are variables, places in the frame that LLVM makes
    registers of.
    """

    def __init__(self, builder: ir.IRBuilder, defined: Definition, arguments: Sequence[Typed], accesses: list):
        self.builder, self.defined, self.accesses = builder, defined, accesses
        self.values: dict[str, Typed] = {}
        self.variables: dict[str, tuple[Kind | Pointer, ir.Value]] = {}
        self.ends: list[ir.Block] = []          # of the loops around
        self.is_long = False                    # whether the innermost loop so far calls a long function
        self.result: Typed = Typed(None)
        self.changing = _assigned_often(defined.node)
        names = [argument.arg for argument in defined.node.args.args]
        if len(names) != len(arguments):
            raise TranslationError(f"{defined.node.name} takes {len(names)} arguments, not {len(arguments)}")
        for name, value in zip(names, arguments):
            self.assign_name(name, value)

    @functools.cached_property
    def guards(self) -> set[str]:
        """Conditions on which more than a choice of values depends: loads that one guards shall be under one branch."""
        return {ast.unparse(part.test) for part in ast.walk(self.defined.node)
                if isinstance(part, ast.IfExp) and not _is_plain_choice(part)}

    def run(self) -> Typed:
        """Emit everything; gives what the function returns."""
        *body, last = self.defined.node.body
        self.block(body)
        if isinstance(last, ast.Return):
            self.result = self.expression(last.value) if last.value is not None else self.result
        else:
            self.statement(last)
        return self.result

    def fail(self, node: ast.AST, why: str):
        line = ast.unparse(node).splitlines()[0]
        raise TranslationError(f"{self.defined.node.name}, line {node.lineno}: `{line}`: {why}")

    # --- statements

    def block(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, s: ast.stmt) -> None:
        match s:
            case ast.Assign():
                self.assign_all(s)
            case ast.AugAssign():
                value = self.binary(s, s.op, self.expression(s.target), self.expression(s.value))
                self.assign(s.target, value)
            case ast.Expr():
                if not isinstance(s.value, ast.Constant):           # a docstring
                    self.expression(s.value)
            case ast.If():
                self.branch(s)
            case ast.For():
                self.count(s)
            case ast.While():
                self.repeat(s)
            case ast.Break() if self.ends:
                self.builder.branch(self.ends[-1])
            case ast.Pass():
                pass
            case _:
                self.fail(s, "no statement of kernels")

    def assign_all(self, s: ast.Assign) -> None:
        target = s.targets[0]
        if isinstance(target, ast.Tuple):
            if not isinstance(s.value, ast.Tuple) or len(s.value.elts) != len(target.elts) or len(s.targets) > 1:
                self.fail(s, "as many values as names are expected")
            values = [self.expression(value) for value in s.value.elts]
            for place, value in zip(target.elts, values):
                self.assign(place, value)
            return
        value = self.expression(s.value)
        for target in s.targets:
            self.assign(target, value)

    def assign(self, target: ast.expr, value: Typed) -> None:
        if value.kind is None:
            self.fail(target, "nothing is assigned")
        if isinstance(target, ast.Name):
            self.assign_name(target.id, value)
            return
        if not isinstance(target, ast.Subscript):
            self.fail(target, "neither a name nor a subscript")
        pointer, place = self.place(target)
        stored = self.convert(value, pointer.dtype, target).value
        if pointer.dtype is boolean:
            stored = self.builder.zext(stored, boolean.stored)
        self.note(self.builder.store(stored, place), pointer)

    def assign_name(self, name: str, value: Typed) -> None:
        if name not in self.changing:
            self.values[name] = value
            return
        if name not in self.variables:
            self.variables[name] = value.kind, allocate(self.builder, value.kind.llvm, name)
        kind, place = self.variables[name]
        self.builder.store(self.convert(value, kind, self.defined.node, implicit=True).value, place)

    def branch(self, s: ast.If) -> None:
        condition = self.truth(s.test)
        if condition.constant is not None:
            self.block(s.body if condition.constant else s.orelse)
            return
        builder = self.builder
        then, after = builder.append_basic_block("then"), builder.append_basic_block("after")
        otherwise = builder.append_basic_block("else") if s.orelse else after
        builder.cbranch(condition.value, then, otherwise)
        for block, body in ((then, s.body), (otherwise, s.orelse)):
            if block is not after:
                builder.position_at_end(block)
                self.block(body)
                self.leave_for(after)
        builder.position_at_end(after)

    def leave_for(self, block: ir.Block) -> None:
        if not self.builder.block.is_terminated:        # by a break
            self.builder.branch(block)

    def count(self, s: ast.For) -> None:
        called = s.iter.func if isinstance(s.iter, ast.Call) else None
        if not isinstance(called, ast.Name) or called.id != "range" or not isinstance(s.target, ast.Name) or s.orelse:
            self.fail(s, "a loop counts: `for name in range(...)`")
        name = s.target.id
        if name in self.changing or name in self.values:
            self.fail(s, f"{name} is assigned elsewhere")
        bounds = [self.convert(self.expression(bound), int64, s).value for bound in s.iter.args]
        start = bounds[0] if len(bounds) > 1 else ir.Constant(I64, 0)
        step = bounds[2] if len(bounds) > 2 else ir.Constant(I64, 1)
        with counting(self.builder, start, bounds[min(1, len(bounds) - 1)], step) as (index, after):
            self.values[name] = Typed(int64, index)
            self.ends.append(after)
            self.is_long = False
            self.block(s.body)
            self.ends.pop()
            last, is_open = self.builder.block, not self.builder.block.is_terminated
        if self.is_long and is_open:
            last.terminator.set_metadata("llvm.loop", loop_hint(self.builder.module, "llvm.loop.interleave.count", 2))
        self.is_long = False            # of a loop around this one
        del self.values[name]           # its last value is not kept

    def repeat(self, s: ast.While) -> None:
        builder = self.builder
        head, body, after = (builder.append_basic_block(part) for part in ("while", "do", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        builder.cbranch(self.truth(s.test).value, body, after)
        builder.position_at_end(body)
        self.ends.append(after)
        self.block(s.body)
        self.ends.pop()
        self.leave_for(head)
        builder.position_at_end(after)

    # --- expressions

    def expression(self, e: ast.expr) -> Typed:
        match e:
            case ast.Constant(value=bool() as value):
                return constant(value, boolean)
            case ast.Constant(value=int() as value):
                return constant(value, int64)
            case ast.Constant(value=float() as value):
                return constant(value, float64)
            case ast.Name() | ast.Attribute():
                return self.name(e)
            case ast.Subscript():
                pointer, place = self.place(e)
                loaded = self.builder.load(place)
                self.note(loaded, pointer)
                is_boolean = pointer.dtype is boolean
                return Typed(pointer.dtype, self.builder.trunc(loaded, boolean.llvm) if is_boolean else loaded)
            case ast.BinOp():
                return self.binary(e, e.op, self.expression(e.left), self.expression(e.right))
            case ast.UnaryOp():
                return self.unary(e)
            case ast.Compare(ops=[comparison], comparators=[right]):
                return self.compare(e, COMPARISONS[type(comparison)], self.expression(e.left), self.expression(right))
            case ast.BoolOp():
                return self.both_or_either(e)
            case ast.IfExp():
                return self.choose(e)
            case ast.Call(keywords=[]):
                return self.call(e)
        self.fail(e, "no expression of kernels")

    def name(self, e: ast.Name | ast.Attribute) -> Typed:
        if isinstance(e, ast.Name) and e.id in self.variables:
            kind, place = self.variables[e.id]
            return Typed(kind, self.builder.load(place))
        if isinstance(e, ast.Name) and e.id in self.values:
            return self.values[e.id]
        found = self.static(e)
        if isinstance(found, bool):
            return constant(found, boolean)
        if isinstance(found, (int, float)):
            return constant(found, int64 if isinstance(found, int) else float64)
        self.fail(e, "no number, and no value here")

    def static(self, e: ast.expr) -> Any:
        """What a name that is not the function's own stands for."""
        if isinstance(e, ast.Attribute):
            return getattr(self.static(e.value), e.attr)
        names = self.defined.names
        if isinstance(e, ast.Name) and e.id in names and e.id not in self.values and e.id not in self.variables:
            return names[e.id]
        if isinstance(e, ast.Name) and e.id in BUILTINS:
            return BUILTINS[e.id]
        self.fail(e, "is not known here")

    def place(self, e: ast.Subscript) -> tuple[Pointer, ir.Value]:
        """The kind of a pointer, and the address of the element."""
        base = self.expression(e.value)
        if not isinstance(base.kind, Pointer):
            self.fail(e, "no pointer")
        index = self.convert(self.expression(e.slice), int64, e).value
        return base.kind, self.builder.gep(base.value, [index], inbounds=True)

    def note(self, access: ir.Instruction, pointer: Pointer) -> None:
        if 0 <= pointer.scope < MAX_SCOPES:
            self.accesses.append((access, pointer.scope))

    def unary(self, e: ast.UnaryOp) -> Typed:
        if isinstance(e.op, ast.Not):
            truth = self.truth(e.operand)
            return constant(not truth.constant, boolean) if truth.constant is not None else \
                Typed(boolean, self.builder.not_(truth.value))
        if not isinstance(e.op, ast.USub):
            self.fail(e, "no operator of kernels")
        value = self.expression(e.operand)
        if value.constant is not None and value.kind is not boolean:
            return constant(-value.constant, value.kind)
        value = self.widen(value, e)
        return Typed(value.kind, self.builder.fneg(value.value) if value.kind.is_float else
                     self.builder.sub(ir.Constant(I64, 0), value.value, flags=("nsw",)))

    def binary(self, e: ast.AST, op: ast.operator, a: Typed, b: Typed) -> Typed:
        if type(op) in BITWISE:
            if a.kind is b.kind is boolean:
                return Typed(boolean, getattr(self.builder, BITWISE[type(op)])(a.value, b.value))
            a, b = self.convert(a, int64, e), self.convert(b, int64, e)
            return Typed(int64, getattr(self.builder, BITWISE[type(op)])(a.value, b.value))
        if type(op) not in ARITHMETIC:
            self.fail(e, "no operator of kernels")
        name, compute = ARITHMETIC[type(op)]
        if a.kind is b.kind is int64 and compute and a.constant is not None and b.constant is not None \
                and (b.constant or name not in ("floordiv", "mod")):
            return constant(compute(a.constant, b.constant), int64)
        a, b = self.alike(a, b, e)
        if name == "div" and not a.kind.is_float:
            a, b = self.convert(a, float64, e), self.convert(b, float64, e)
        if name in ("floordiv", "mod"):
            divide = _divide_floats if a.kind.is_float else _divide_ints
            return Typed(a.kind, divide(self.builder, a.value, b.value)[name == "mod"])
        if a.kind.is_float:
            return Typed(a.kind, getattr(self.builder, "f" + name)(a.value, b.value))
        return Typed(int64, getattr(self.builder, name)(a.value, b.value, flags=("nsw",)))

    def compare(self, e: ast.expr, comparison: str, a: Typed, b: Typed) -> Typed:
        if a.kind is b.kind is boolean:
            return Typed(boolean, self.builder.icmp_unsigned(comparison, a.value, b.value))
        if a.kind != b.kind or not isinstance(a.kind, Kind):
            a, b = self.alike(a, b, e)
        if not a.kind.is_float:
            return Typed(boolean, self.builder.icmp_signed(comparison, a.value, b.value))
        compare = self.builder.fcmp_unordered if comparison == "!=" else self.builder.fcmp_ordered
        return Typed(boolean, compare(comparison, a.value, b.value))

    def truth(self, e: ast.expr) -> Typed:
        value = self.expression(e)
        if value.constant is not None:
            return constant(bool(value.constant), boolean)
        return self.convert(value, boolean, e)

    def both_or_either(self, e: ast.BoolOp) -> Typed:
        """`and` and `or`, whose later operands are only computed where the earlier ones leave it open."""
        builder = self.builder
        after = builder.append_basic_block("after")
        is_and = isinstance(e.op, ast.And)
        known: list[tuple[ir.Value, ir.Block]] = []
        for operand in e.values[:-1]:
            value = self.truth(operand).value
            following = builder.append_basic_block("next")
            known.append((ir.Constant(boolean.llvm, not is_and), builder.block))
            builder.cbranch(value, *((following, after) if is_and else (after, following)))
            builder.position_at_end(following)
        known.append((self.truth(e.values[-1]).value, builder.block))
        builder.branch(after)
        return Typed(boolean, self.join(after, boolean, known))

    def join(self, block: ir.Block, kind: Kind | Pointer, known: Sequence[tuple[ir.Value, ir.Block]]) -> ir.Value:
        self.builder.position_at_end(block)
        phi = self.builder.phi(kind.llvm)
        for value, origin in known:
            phi.add_incoming(value, origin)
        return phi

    def choose(self, e: ast.IfExp) -> Typed:
        condition = self.truth(e.test)
        if condition.constant is not None:
            return self.expression(e.body if condition.constant else e.orelse)
        builder = self.builder
        if _is_plain_choice(e) and ast.unparse(e.test) not in self.guards:
            a, b = self.same(self.expression(e.body), self.expression(e.orelse), e)
            return Typed(a.kind, builder.select(condition.value, as_read(builder, a.value), as_read(builder, b.value)))
        arms = builder.append_basic_block("then"), builder.append_basic_block("else")
        after = builder.append_basic_block("after")
        builder.cbranch(condition.value, *arms)
        known = []
        for block, arm in zip(arms, (e.body, e.orelse)):
            builder.position_at_end(block)
            known.append((self.expression(arm), builder.block))
        kind = self.common(known[0][0].kind, known[1][0].kind, e)
        for number, (value, block) in enumerate(known):
            builder.position_at_end(block)
            known[number] = self.convert(value, kind, e).value, block
            builder.branch(after)
        return Typed(kind, self.join(after, kind, known))

    # --- calls

    def call(self, e: ast.Call) -> Typed:
        called = self.static(e.func)
        arguments = [self.expression(argument) for argument in e.args]
        if isinstance(called, Intrinsic):
            self.is_long = self.is_long or called.is_long
            emit, result, *kinds = called.signature(arguments)
            values = [self.convert(value, kind, e).value for value, kind in zip(arguments, kinds, strict=True)]
            return Typed(result, emit(self.builder, *values))
        if isinstance(called, Kind) or called in KINDS:
            kind = called if isinstance(called, Kind) else KINDS[called]
            return self.convert(arguments[0], kind, e)
        if called is abs:
            return self.absolute(arguments[0], e)
        if called in LLVM_FUNCTIONS or called in LIBRARY_FUNCTIONS:
            given = [self.convert(value, value.kind if value.kind.is_float else float64, e) for value in arguments]
            name, kind = LLVM_FUNCTIONS.get(called), given[0].kind
            values = [value.value for value in given]
            if name is not None:
                return Typed(kind, call_intrinsic(self.builder, name, kind.llvm, values))
            return Typed(float64, call_library(self.builder, LIBRARY_FUNCTIONS[called], F64, values))
        if inspect.isfunction(called):
            return _Expansion(self.builder, definition(called), arguments, self.accesses).run()
        self.fail(e, "no function of kernels")

    def absolute(self, value: Typed, e: ast.expr) -> Typed:
        value = self.widen(value, e)
        if value.kind.is_float:
            return Typed(value.kind, call_intrinsic(self.builder, "fabs", value.kind.llvm, [value.value]))
        negative = self.builder.icmp_signed("<", value.value, ir.Constant(I64, 0))
        return Typed(int64, self.builder.select(negative, self.builder.neg(value.value), value.value))

    # --- kinds

    def widen(self, value: Typed, e: ast.AST) -> Typed:
        """An int or boolean as int64; floats as they are."""
        if not isinstance(value.kind, Kind):
            self.fail(e, "no number")
        return value if value.kind.is_float else self.convert(value, int64, e)

    def alike(self, a: Typed, b: Typed, e: ast.AST) -> tuple[Typed, Typed]:
        """Two numbers in the kind in which they are computed with."""
        a, b = self.widen(a, e), self.widen(b, e)
        return self.same(a, b, e)

    def same(self, a: Typed, b: Typed, e: ast.AST) -> tuple[Typed, Typed]:
        kind = self.common(a.kind, b.kind, e)
        return self.convert(a, kind, e), self.convert(b, kind, e)

    def common(self, a: Kind | Pointer, b: Kind | Pointer, e: ast.AST) -> Kind | Pointer:
        if a == b:
            return a
        if not isinstance(a, Kind) or not isinstance(b, Kind):
            self.fail(e, "different kinds of values")
        return float64 if a.is_float or b.is_float else int64

    def convert(self, value: Typed, kind: Kind | Pointer, e: ast.AST, implicit: bool = False) -> Typed:
        """A number as one of another kind; ``implicit``: only where nothing can be lost."""
        origin = value.kind
        if origin == kind:
            return value
        if isinstance(origin, Pointer) and isinstance(kind, Pointer) and origin.dtype == kind.dtype:
            return Typed(kind, value.value)
        if not isinstance(origin, Kind) or not isinstance(kind, Kind):
            self.fail(e, f"{origin} where {kind} is expected")
        if implicit and (kind, origin) not in {(int64, boolean), (int64, int32), (float64, float32)}:
            self.fail(e, f"a variable is {kind.name} and then {origin.name}")
        if value.constant is not None and kind in (float32, float64):
            return constant(_rounded(float(value.constant), kind), kind)
        return Typed(kind, self.converted(value.value, origin, kind))

    def converted(self, value: ir.Value, origin: Kind, kind: Kind) -> ir.Value:
        builder = self.builder
        if kind is boolean:
            compare = builder.fcmp_unordered if origin.is_float else builder.icmp_signed
            return compare("!=", value, ir.Constant(origin.llvm, 0))
        if origin is boolean:
            return builder.uitofp(value, kind.llvm) if kind.is_float else builder.zext(value, kind.llvm)
        if origin.is_float:
            if not kind.is_float:
                return builder.fptosi(value, kind.llvm)
            return builder.fpext(value, kind.llvm) if kind is float64 else builder.fptrunc(value, kind.llvm)
        if kind.is_float:
            return builder.sitofp(value, kind.llvm)
        return builder.sext(value, kind.llvm) if origin.llvm == I32 else builder.trunc(value, kind.llvm)


BUILTINS = {"abs": abs, "bool": bool, "int": int, "float": float}


def _is_plain_choice(e: ast.IfExp) -> bool:
    return all(isinstance(arm, (ast.Name, ast.Constant)) for arm in (e.body, e.orelse))


def _rounded(number: float, kind: Kind) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(number)) if kind is float32 else number


def _assigned_often(node: ast.FunctionDef) -> set[str]:
    """The names that are assigned more than once, arguments' values included; a loop's name only where it is assigned
    otherwise."""
    counts = Counter(argument.arg for argument in node.args.args)
    loops: set[str] = set()
    for statement in _statements(node.body):
        match statement:
            case ast.For(target=ast.Name(id=name)):
                loops.add(name)
            case ast.AugAssign(target=ast.Name(id=name)):
                counts[name] += 2
            case ast.Assign(targets=targets):
                names = [part for target in targets for part in getattr(target, "elts", (target,))]
                counts.update(part.id for part in names if isinstance(part, ast.Name))
    counts.update(loops)
    return {name for name, count in counts.items() if count > 1}


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements and those within them."""
    for statement in body:
        yield statement
        yield from _statements(getattr(statement, "body", ()))
        yield from _statements(getattr(statement, "orelse", ()))


def _divide_ints(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Quotient, rounded down, and remainder, of the divisor's sign; 0 and 0 where the processor could not."""
    if isinstance(b, ir.Constant) and b.constant not in (0, -1):
        return _quotient_and_rest(builder, a, b)
    zero = ir.Constant(I64, 0)
    is_smallest = builder.icmp_signed("==", a, ir.Constant(I64, -2 ** 63))
    overflows = builder.and_(is_smallest, builder.icmp_signed("==", b, ir.Constant(I64, -1)))
    fails = builder.or_(builder.icmp_signed("==", b, zero), overflows)
    before, divide, after = builder.block, builder.append_basic_block("divide"), builder.append_basic_block("after")
    builder.cbranch(fails, after, divide).set_weights([1, 99])
    builder.position_at_end(divide)
    found = _quotient_and_rest(builder, a, b)
    builder.branch(after)
    builder.position_at_end(after)
    results = []
    for value in found:
        results.append(builder.phi(I64))
        results[-1].add_incoming(zero, before)
        results[-1].add_incoming(value, divide)
    return tuple(results)


def _quotient_and_rest(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    zero = ir.Constant(I64, 0)
    quotient, rest = builder.sdiv(a, b), builder.srem(a, b)
    differ = builder.icmp_signed("<", builder.xor(rest, b), zero)
    is_down = builder.and_(builder.icmp_signed("!=", rest, zero), differ)
    return (builder.select(is_down, builder.sub(quotient, ir.Constant(I64, 1)), quotient),
            builder.select(is_down, builder.add(rest, b), rest))


def _divide_floats(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Quotient, rounded down, and remainder, of the divisor's sign, as Python's; by zero, the quotient of ``/``."""
    number = functools.partial(ir.Constant, a.type)
    rest = builder.frem(a, b)
    quotient = builder.fdiv(builder.fsub(a, rest), b)
    is_below = builder.fcmp_ordered("<", b, number(0.0))
    is_exact = builder.fcmp_ordered("==", rest, number(0.0))
    differ = builder.xor(is_below, builder.fcmp_ordered("<", rest, number(0.0)))
    is_down = builder.and_(builder.not_(is_exact), differ)
    quotient = builder.select(is_down, builder.fsub(quotient, number(1.0)), quotient)
    moved = builder.select(is_down, builder.fadd(rest, b), rest)
    rest = builder.select(is_exact, builder.select(is_below, number(-0.0), number(0.0)), moved)
    floor = call_intrinsic(builder, "floor", a.type, [quotient])
    is_far = builder.fcmp_ordered(">", builder.fsub(quotient, floor), number(0.5))
    floor = builder.select(is_far, builder.fadd(floor, number(1.0)), floor)
    # A zero gets the sign of the true quotient.
    zero = builder.fdiv(builder.fmul(builder.fmul(quotient, quotient), a), b)
    floor = builder.select(builder.fcmp_ordered("!=", quotient, number(0.0)), floor, zero)
    return builder.select(builder.fcmp_ordered("==", b, number(0.0)), builder.fdiv(a, b), floor), rest
