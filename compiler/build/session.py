"""The state of one elaboration: what has been declared so far, where we are, what went wrong.

``Sink`` lives as long as ``elaborate``; a ``Build`` is one pass over the model, in one mode (inference or training).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import field
from typing import Any

from ...runtime.digest import blake2b
from ...runtime.records import dataclass
from .. import ops, syntax
from ..diagnostics import Diagnostic, Diagnostics, Span
from ..ir import Node
from ..model import Variable
from ..prelude import is_prelude
from ..types import DType, Size, i64
from .scope import Files, PreludeScope, Scope
from .shapes import Arithmetic
from .values import CODES, Fault, Instance, Poisoned

MOST_DIAGNOSTICS = 40
MOST_NESTED_CALLS = 100
MOST_NESTED_EXPRESSIONS = 1500
MOST_STEPS = 500_000               # expressions evaluated in one pass
MOST_LAYERS = 20_000
MOST_VARIABLES = 20_000


class Sink:
    """Diagnostics of the whole elaboration, each place once, and what both passes share."""

    def __init__(self):
        self.items: list[Diagnostic] = []
        self.places: set[tuple] = set()
        self.warnings: list[Diagnostic] = []
        self.initials: dict[Any, Any] = {}           # initial graphs, by variable path and type
        self.visited: set[int] = set()               # ids of the trees of the models that were elaborated
        self.read: set[str] = set()                  # paths of the files that are imported, there or not
        self.imports: dict[str, str] = {}            # the files that were read, with digests of their content

    def add(self, diagnostic: Diagnostic) -> None:
        span = diagnostic.span
        place = (span.file, span.line, span.column, diagnostic.code) if span else (diagnostic.message,)
        if place not in self.places and not self.full:
            self.places.add(place)
            self.items.append(diagnostic)

    @property
    def full(self) -> bool:
        return len(self.items) >= MOST_DIAGNOSTICS

    def warn(self, warning: Diagnostic) -> None:
        place = (warning.span, warning.code, warning.message)
        if place not in self.places:
            self.places.add(place)
            self.warnings.append(warning)

    def raise_errors(self) -> None:
        if self.items:
            raise Diagnostics(sorted(self.items, key=lambda d: (d.span.file, d.span.line, d.span.column)
                                     if d.span else ("", 0, 0)))


@dataclass(eq=False)
class Frame:
    """One call of one instance, while its body is being elaborated."""

    instance: Instance
    path: str                                        # of the instance: names weights
    prefix: str                                      # of this call: names inner values
    depth: int
    reserved: frozenset = frozenset()                # names that the body binds: anonymous instances avoid them
    taken: set = field(default_factory=set)
    declared: set = field(default_factory=set)       # parameters and states of this call
    states: dict = field(default_factory=dict)       # name -> (path, type)
    draws: int = 0

    def unique(self, name: str, bound: bool) -> str:
        """A name for an instance in this frame: ``name``, or with the first free number behind it."""
        candidate, number = name, 0
        while candidate in self.taken or (not bound and candidate in self.reserved):
            number += 1
            candidate = f"{name}_{number}"
        self.taken.add(candidate)
        return candidate


@dataclass(eq=False)
class ScanFrame:
    """A scan whose body is being elaborated: its placeholders, and the step number once something asks for it."""

    length: Any
    placeholders: set = field(default_factory=set)
    step: Node | None = None


def join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def stable_stream(key: str) -> int:
    """A 32-bit stream number that depends on the key alone."""
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "little")


class Build:
    """One pass of elaboration in one mode."""

    def __init__(self, sink: Sink, precision: DType, training: bool, builtins: dict, loader=None, observer=None):
        self.sink, self.precision, self.training, self.observer = sink, precision, training, observer
        self.has_read_mode = False                   # whether anything depended on ``training``
        self.arithmetic = Arithmetic(precision)
        self.files = Files(self, loader)
        names = dict(builtins)
        names["f32"] = precision
        self.batch: Size | None = None               # the symbol that leads the compiled model's first input
        self.prelude = PreludeScope(self, Scope(None, names))
        self.call_tree: Any = None                  # the builtin's call that is being evaluated
        self.variables: dict[str, Variable] = {}
        self.updates: dict[str, Node] = {}
        self.values: dict[str, Node] = {}
        self.places: dict[str, str] = {}             # of the values, in the user's files
        self.functions: dict[Node, tuple] = {}       # results of functions -> (name, arguments that are tensors)
        self.through: dict[Node, Node] = {}          # both sides of the scans: see model.Structure
        self.penalties: list[Node] = []
        self.layers: list[dict] = []
        self.chain: list[tuple[str, Span, bool]] = []      # name, place of the call, whether it is a model
        self.frames: list[Frame] = []
        self.scans: list[ScanFrame] = []
        self.settled: set[Node] = set()              # nodes older than any scan that is yet to come: none depends on it
        self.constants: set[Node] = set()            # those of them that are made of constants only
        self.streams: dict[int, str] = {}
        self.parameter_sizes: tuple[int, ...] | None = None      # of the model whose optimiser is elaborated
        self.initial_path: str | None = None         # of the variable whose initial value is being elaborated
        self.initial_draws = 0
        self.naming: tuple | None = None             # (Call tree, name): the binding that names its instance
        self.path_calls: dict[str, int] = {}
        self.prefix_calls: dict[str, int] = {}
        self.placeholders = 0
        self.depth = self.steps = 0
        self.seed = ops.input("seed", i64, ())

    def see(self, tree, value) -> None:
        """Tells the observer, if there is one, that a tree has a value here."""
        if self.observer is not None:
            self.observer.see(tree, value)

    # --- where we are -------------------------------------------------------------------------------------------

    @property
    def frame(self) -> Frame | None:
        return self.frames[-1] if self.frames else None

    @contextmanager
    def inside(self, name: str, span: Span, model: bool = False):
        """The chain of calls, for diagnostics; bounded, since a model's text may call itself."""
        if len(self.chain) >= MOST_NESTED_CALLS:
            names = [entry[0] for entry in self.chain[-4:]]
            raise Fault("recursion", f"calls are nested more than {MOST_NESTED_CALLS} deep", span=span,
                        found=" -> ".join(names + [name]), hint=f"does `{name}` call itself without an end?")
        self.chain.append((name, span, model))
        try:
            yield
        finally:
            self.chain.pop()

    def tick(self, tree) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS + 1:
            raise Poisoned                  # it is said once; every statement that is still to come ends here
        if self.steps > MOST_STEPS:
            raise Fault("limit", "the model takes too long to elaborate", span=tree.span,
                        found=f"more than {MOST_STEPS} evaluated expressions")

    # --- diagnostics --------------------------------------------------------------------------------------------

    def place(self, fault: Fault, span) -> None:
        """Gives a fault the innermost span, and the chain at that point."""
        if fault.span is None:
            fault.span = span
        if fault.chain is None:
            fault.chain = tuple(self.chain)

    def report(self, fault: Fault, span=None) -> None:
        """Turns a fault into a diagnostic.  One inside the prelude points at the call in the user's own file."""
        self.place(fault, span)
        chain, where, notes = list(fault.chain or ()), fault.span, []
        message = fault.message
        if where is not None and is_prelude(where.file):
            outer = [i for i, (_, call, _) in enumerate(chain) if not is_prelude(call.file)]
            if outer:
                name, call, _ = chain[outer[-1]]
                message = f"in `{name}`: {message}"
                notes.append(f"at {where.where}: {where.text.splitlines()[0].strip()}")
                where, chain = call, chain[:outer[-1]]
        chain = [entry for i, entry in enumerate(chain) if i == 0 or entry != chain[i - 1]]     # recursion: once
        notes += [f"in `{name}`, called from {call.where}" for name, call, model in reversed(chain)
                  if not model and not name.startswith("train ")]
        models = [(name, call) for name, call, model in chain if model]
        if models:
            models[0] = (models[0][0], None)            # the compiled model itself is called from nowhere
        if len(models) == 1:
            models = []                                 # and goes without saying
        most = 3 if fault.code == "E0806" else 12       # a recursion repeats itself
        self.sink.add(Diagnostic(code=fault.code, span=where, message=message, expected=fault.expected,
                                 found=fault.found,
                                 notes=tuple(notes[:most]), chain=tuple(models[::-1][:most]), hint=fault.hint))

    def add_diagnostics(self, errors: Diagnostics) -> None:
        for item in errors:
            self.sink.add(item)

    def warn(self, kind: str, span: Span, message: str, hint: str | None = None) -> None:
        self.sink.warn(Diagnostic(code=CODES[kind], message=message, span=span, severity="warning", hint=hint))

    # --- constants ----------------------------------------------------------------------------------------------

    def constant_value(self, scope, item: syntax.Const):
        """The value of a top-level ``const``."""
        from .expressions import evaluate
        from .signatures import check_annotation
        frames, self.frames = self.frames, []
        try:
            value = evaluate(self, scope, item.value)
        finally:
            self.frames = frames
        if isinstance(value, (Node, Instance)):
            raise Fault("const", f"the constant `{item.name}` must be a compile-time value", span=item.value.span,
                        found="a tensor" if isinstance(value, Node) else "an instance",
                        hint="numbers, tuples, names and functions can be constants")
        if item.annotation is not None:
            value = check_annotation(self, scope, value, item.annotation, f"the constant `{item.name}`",
                                     item.value.span)
        return value

    # --- placeholders, streams, values --------------------------------------------------------------------------

    def placeholder(self, dtype: DType, shape) -> Node:
        """A leaf that stands for an argument of a body until the body is closed; unlike any other."""
        self.placeholders += 1
        return ops.local(1_000_000 + self.placeholders, dtype, tuple(shape))

    def in_scan(self, node: Node) -> bool:
        """Whether a value changes from step to step of a scan that is open."""
        leaves = set().union(*(scan.placeholders for scan in self.scans))
        return bool(leaves) and any(n in leaves for n in self.unsettled([node]))

    def unsettled(self, roots) -> list[Node]:
        """The nodes below ``roots``, arguments before users, without what stands below settled ones.

        Values from before the scans are not walked again for each scan: a long chain of scans would take forever.
        """
        order, seen = [], set()
        for root in roots:
            stack = [(root, iter(root.args if root not in self.settled else ()))] if root not in seen else []
            seen.add(root)
            while stack:
                current, rest = stack[-1]
                for arg in rest:
                    if arg not in seen:
                        seen.add(arg)
                        stack.append((arg, iter(arg.args if arg not in self.settled else ())))
                        break
                else:
                    order.append(current)
                    stack.pop()
        return order

    def record(self, path: str, value, span: Span) -> None:
        """Remembers an inner value under its path, and where it is made."""
        if not isinstance(value, Node) or self.scans and self.in_scan(value):
            return
        if self.values.pop(path, None) is not value:
            self.places[path] = self.users_place(span)
        self.values[path] = value                    # the newest last: they stand in the order of making

    def called(self, name: str, arguments: list, result: Node) -> None:
        """Remembers what a function gave, and from which tensors; of functions within functions, the outermost."""
        flat = [item for value in arguments for item in (value if isinstance(value, tuple) else (value,))]
        given = tuple(value for value in flat if isinstance(value, Node))
        if result not in given:
            self.functions[result] = (name, given)

    def users_place(self, span: Span) -> str:
        """``file:line:column`` of a span; of one inside the prelude, that of the call in the user's own file."""
        places = [span, *(call for _, call, _ in reversed(self.chain))]
        return next((place for place in places if not is_prelude(place.file)), span).where

    def random_key(self) -> str:
        """The name of the next draw: it depends on the path only, so that draws elsewhere do not change it."""
        if self.initial_path is not None:
            self.initial_draws += 1
            return f"initial:{self.initial_path}#{self.initial_draws - 1}"
        frame = self.frame
        if frame is None:
            raise Fault("place", "random numbers can be drawn only inside a model")
        frame.draws += 1
        return f"draw:{frame.prefix}#{frame.draws - 1}"

    def stream(self) -> int:
        """A stream number for the next draw; two draws never share one."""
        key = self.random_key()
        number = stable_stream(key)
        while self.streams.setdefault(number, key) != key:
            number = (number + 1) % 2 ** 32
        return number

    def scan_seed(self) -> Node:
        """The seed, made different in every step of every scan that is open."""
        seed = self.seed
        for depth, scan in enumerate(self.scans):
            if scan.step is None:
                from ..types import i32
                scan.step = self.placeholder(i32, ())
                scan.placeholders.add(scan.step)
            factor = ops.constant(2 ** 32 * 1_000_003 ** depth % 2 ** 62, i64)
            step = ops.add(ops.cast(scan.step, i64), ops.constant(1, i64))
            seed = ops.add(seed, ops.mul(step, factor))
        return seed
