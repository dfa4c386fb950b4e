"""The syntax tree of a `.net` file, and `parse`, which makes one.

Every node carries `span`, its place in the source, as its first field. Nodes compare by identity: two `Dense(10)` in a
file are two calls, so a node can be the key of a table (of instances, say). Sequences are tuples. Nothing here knows
meanings: names are plain text, and whether `Dense` is a model or a function is the elaborator's business
(`compiler/build`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from ..runtime.records import dataclass
from .diagnostics import Span


# Nodes are never changed. They are not `frozen`, whose instances take longer to make and to read: a file has thousands.
@dataclass_transform(eq_default=False)
def node(cls: type) -> type:
    return dataclass(eq=False, repr=False)(cls)


@node
class Node:
    """Any of them; `span` is its place."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]
    span: Span

    def __repr__(self) -> str:
        parts = ", ".join(f"{part.name}={getattr(self, part.name)!r}" for part in fields(self))
        return f"{type(self).__name__}({parts})"


# ---- expressions -----------------------------------------------------------------------------------------------------


@node
class Number(Node):
    """`3`, `10_000`, `1e-3`: an int or a finite float."""

    value: int | float


@node
class Boolean(Node):
    """`true`, `false`."""

    value: bool


@node
class NoneValue(Node):
    """`none` (or `None`): no value; inside an index, a new axis of size 1."""


@node
class String(Node):
    """`"text"`: the text with escapes resolved."""

    value: str


@node
class Name(Node):
    """`x`: whatever the name stands for where it is used."""

    name: str


@node
class Tuple(Node):
    """`(a, b)`, `()`, `(a,)`, and the bare `a, b` right of `=` and `return`. Items may be Starred."""

    items: tuple[Expression, ...]


@node
class Starred(Node):
    """`*values`, only among a call's positional arguments or a tuple's items."""

    value: Expression


@node
class KeywordArgument(Node):
    """`name = value` in a call; `span` covers both, `name_span` the name."""

    name: str
    value: Expression
    name_span: Span


@node
class Call(Node):
    """`callee(args, kwargs)`; the keyword names are distinct."""

    callee: Expression
    args: tuple[Expression, ...]
    kwargs: tuple[KeywordArgument, ...]


@node
class Slice(Node):
    """`start:stop:step` inside an index; a missing part is None."""

    start: Expression | None
    stop: Expression | None
    step: Expression | None


@node
class Ellipsis(Node):
    """`...`, inside an index or a shape."""


@node
class Index(Node):
    """`value[items]`; items are expressions (NoneValue: new axis), Slice, Ellipsis (once at most)."""

    value: Expression
    items: tuple[Expression | Slice | Ellipsis, ...]


@node
class Attribute(Node):
    """`value.name`: a member of an imported module, or a path below a value."""

    value: Expression
    name: str
    name_span: Span


@node
class Unary(Node):
    """op in `-`, `+`, `not`."""

    op: str
    operand: Expression


@node
class Binary(Node):
    """op in `+ - * / // % @ **`; `op_span` is the operator's own place."""

    op: str
    left: Expression
    right: Expression
    op_span: Span


@node
class Compare(Node):
    """op in `== != < <= > >=`; comparisons do not chain."""

    op: str
    left: Expression
    right: Expression
    op_span: Span


@node
class BoolOp(Node):
    """op in `and`, `or`; two or more operands, flat: `a and b and c` is one node."""

    op: str
    operands: tuple[Expression, ...]


@node
class Conditional(Node):
    """`then if condition else otherwise`."""

    condition: Expression
    then: Expression
    otherwise: Expression


@node
class Pipe(Node):
    """`value |> stage |> stage`, flat; each stage is a function or an instance that is applied to what comes before
    it."""

    value: Expression
    stages: tuple[Expression, ...]


Expression = (
    Number | Boolean | NoneValue | String | Name | Tuple | Call | Index | Attribute | Unary | Binary | Compare | BoolOp
    | Conditional | Pipe | Starred
)


# ---- types and parameters --------------------------------------------------------------------------------------------


@node
class TypeAnnotation(Node):
    """`f32[N, 2 * K, ...]`, `int`, `i32`. `name` is as written; dims are expressions or Ellipsis, () where there are no
    brackets (`bracketed` tells `f32[]` from `f32`)."""

    name: str
    dims: tuple[Expression | Ellipsis, ...]
    bracketed: bool


@node
class TupleAnnotation(Node):
    """`(int, int)`."""

    items: tuple[Annotation, ...]


Annotation = TypeAnnotation | TupleAnnotation


@node
class Parameter(Node):
    """One setting or input of a model, parameter of a def, or named output: `*name: annotation = default`.

    `variadic` (the star) stands on the last positional one and takes all that is left as a tuple: `model
    Reshape(*shape: int)`."""

    name: str
    annotation: Annotation | None
    default: Expression | None
    variadic: bool
    name_span: Span


# ---- statements ------------------------------------------------------------------------------------------------------


@node
class Target(Node):
    """A name that is bound."""

    name: str


@node
class Assign(Node):
    """`a = value`; `a, b = value` unpacks a tuple of as many items. One target and `unpack` false: no unpacking."""

    targets: tuple[Target, ...]
    value: Expression
    unpack: bool


@node
class Return(Node):
    """`return value`."""

    value: Expression


@node
class If(Node):
    """`elif` is an If that is the one statement of `otherwise`; () where there is no else."""

    condition: Expression
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@node
class For(Node):
    """`for i in iterable:`; several targets unpack each item."""

    targets: tuple[Target, ...]
    iterable: Expression
    body: tuple[Statement, ...]


@node
class Param(Node):
    """`param kernel: f32[K, units] = kernel_init`; initial is None where it is left out."""

    name: str
    annotation: Annotation
    initial: Expression | None
    name_span: Span


@node
class State(Node):
    """`state running_mean: f32[C] = zeros`; as Param."""

    name: str
    annotation: Annotation
    initial: Expression | None
    name_span: Span


@node
class Penalty(Node):
    """`penalty value`: joins the training loss."""

    value: Expression


@node
class Assert(Node):
    """`assert condition, "message with {expressions}"`: checked while compiling. `message` is None or has its braces
    unresolved."""

    condition: Expression
    message: str | None


@node
class ScanSource(Node):
    """`z in values`: z is, turn by turn, the slice of values along the scan's axis (which z no longer has)."""

    name: str
    value: Expression
    name_span: Span


@node
class Carry(Node):
    """`h = initial`: passed from turn to turn; assigned in the body."""

    name: str
    initial: Expression
    name_span: Span


@node
class Collect(Node):
    """`collecting value as name`: the body's `value` of all turns, stacked along the scan's axis, bound to `name` after
    the scan."""

    value: str
    name: str
    value_span: Span
    name_span: Span


@node
class Scan(Node):
    """`scan z in a, w in b along axis reversed carrying h = e, c = e collecting h as hs:`. After it the carries' names
    hold the last turn's values."""

    sources: tuple[ScanSource, ...]
    axis: Expression
    reversed: bool
    carries: tuple[Carry, ...]
    collects: tuple[Collect, ...]
    body: tuple[Statement, ...]


Statement = Assign | Return | If | For | Param | State | Penalty | Assert | Scan


# ---- a train block's own statements ----------------------------------------------------------------------------------


@node
class Input(Node):
    """`input label: i32[N]`."""

    name: str
    annotation: Annotation
    name_span: Span


@node
class Loss(Node):
    """`loss name = value`."""

    name: str
    value: Expression
    name_span: Span


@node
class Metric(Node):
    """`metric name = value`."""

    name: str
    value: Expression
    name_span: Span


@node
class Optimizer(Node):
    """`optimizer = adam(lr = 1e-3)`."""

    value: Expression


TrainStatement = Input | Loss | Metric | Optimizer | Assign | If | For | Penalty | Assert


# ---- top level -------------------------------------------------------------------------------------------------------


@node
class Version(Node):
    """`net 1`."""

    number: int


@node
class Import(Node):
    """`import "blocks.net" as blocks`."""

    path: str
    name: str
    path_span: Span
    name_span: Span


@node
class Const(Node):
    """`const NAME = value`, optionally `const NAME: int = value`."""

    name: str
    annotation: Annotation | None
    value: Expression
    name_span: Span


@node
class GradientRule(Node):
    """`gradient(dy) = value` below a def: the arguments' cotangents (one expression, or a tuple of one per tensor
    argument)."""

    parameter: str
    value: Expression
    parameter_span: Span


@node
class Def(Node):
    """`def name(params) = body` (an expression) or `def name(params):` with a block (a tuple of statements)."""

    name: str
    params: tuple[Parameter, ...]
    body: Expression | tuple[Statement, ...]
    gradient: GradientRule | None
    name_span: Span


@node
class Model(Node):
    """`model Name(settings)(inputs) -> outputs:`; with one pair of brackets they are the inputs.

    Exactly one of: `outputs` (a tuple of named Parameters, never with a default), `result` (one unnamed type), neither
    (both None). `header` spans the signature."""

    name: str
    settings: tuple[Parameter, ...]
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...] | None
    result: Annotation | None
    body: tuple[Statement, ...]
    name_span: Span
    header: Span


@node
class Train(Node):
    """`train Model:`."""

    model: str
    body: tuple[TrainStatement, ...]
    name_span: Span


TopLevel = Import | Const | Def | Model | Train


@node
class File(Node):
    """A whole file. `items` holds everything below the version in the order written; the other tuples are its parts by
    kind."""

    version: Version
    imports: tuple[Import, ...]
    consts: tuple[Const, ...]
    defs: tuple[Def, ...]
    models: tuple[Model, ...]
    trains: tuple[Train, ...]
    items: tuple[TopLevel, ...]


def parse(text: str | bytes, filename: str = "<text>") -> File:
    """The tree of a source text. Raises diagnostics.Diagnostics with every syntax error found."""
    from .kept_trees import parse as parse_text

    return parse_text(text, filename)


def dump(root: Node) -> str:
    """The tree as indented text, a node a line with its place and its plain fields; no recursion."""
    lines: list[str] = []
    stack: list[tuple[int, str, Node]] = [(0, "", root)]
    while stack:
        depth, label, node = stack.pop()
        plain, children = [], []
        for part in fields(node):
            value = getattr(node, part.name)
            items = value if isinstance(value, tuple) else (value,)
            nested = [item for item in items if isinstance(item, Node)]
            children += [(depth + 1, f"{part.name}: ", item) for item in nested]
            if not nested and not isinstance(value, Span):
                plain.append(f"{part.name}={value!r}")
        lines.append("  " * depth
                     + f"{label}{type(node).__name__} {node.span.line}:{node.span.column} {' '.join(plain)}".rstrip())
        stack += reversed(children if not isinstance(node, File)
                          else [child for child in children if child[1] in ("version: ", "items: ")])
    return "\n".join(lines)
