"""The model's view of a model: its layers as they were written, nested models as boxes around theirs."""

from __future__ import annotations

from collections.abc import Mapping

from ..graph_cost import short
from ..model import Model
from ..outline import Arrow, Box, Port, outline
from ..types import TensorType
from .figure import Block, Figure, Group, Link

MOST_BLOCKS = 44             # up to which layers of the prelude are opened where nobody says how deep to look
SIGNS = {"+", "−", "×", "÷"}


def model_view(model: Model, depth: int | None = None, unroll: bool = False) -> Figure:
    """A figure of the layers.

    ``depth``: levels of nested models to open; without it the user's own, and of the prelude's as many as stay
    readable. Models that follow one another and are alike are drawn once, with how often, unless ``unroll``.
    """
    root = outline(model)
    drawing = _Drawing(model, unroll)
    opened = _opened(root, depth, drawing)
    return drawing.draw(root, opened)


def _opened(root: Box, depth: int | None, drawing: _Drawing) -> set[Box]:
    """The boxes whose inside is shown."""
    if depth is not None:
        opened: set[Box] = set()
        level = [root]
        for _ in range(depth):
            opened.update(box for box in level if box.children)
            level = [child for box in level for child in box.children]
        return opened
    opened = {root}
    level = [box for box in drawing.shown(root) if box.children]
    own = [box for box in level if not box.own.library]
    while own:                                                # the user's models, all of them
        opened.update(own)
        own = [child for box in own for child in drawing.shown(box) if child.children and not child.own.library]
    while True:                                               # the prelude's, level by level
        level = [child for box in opened for child in drawing.shown(box) if child.children and child not in opened]
        more = sum(len(drawing.shown(box)) for box in level)
        now = sum(len(drawing.shown(box)) for box in opened)
        if not level or now + more > MOST_BLOCKS:
            return opened
        opened.update(level)


class _Drawing:
    """One figure under construction."""

    def __init__(self, model: Model, unroll: bool):
        self.model, self.unroll = model, unroll
        self.counts = {v.path: v.type.size for v in model.parameters}
        self.runs: dict[Box, list[list[Box]]] = {}

    def draw(self, root: Box, opened: set[Box]) -> Figure:
        total = sum(self.counts.values())
        self.figure = Figure(self.model.name, f"{total:,} parameters")
        self.opened = opened
        self.entry: dict[Box, Block] = {}                     # what an arrow to a box goes to
        self.exits: dict[tuple[Box, int], tuple[Block, int]] = {}         # what an arrow from an output comes from
        self._body(root, None, {})
        return self.figure

    def shown(self, box: Box) -> list[Box]:
        """The children that are drawn: of a run of like ones the first."""
        return [run[0] for run in self._runs(box)]

    def _runs(self, box: Box) -> list[list[Box]]:
        """The children, models that follow one another and are alike put together."""
        if box not in self.runs:
            self.runs[box] = [[child] for child in box.children] if self.unroll else _alike(box)
        return self.runs[box]

    def _body(self, box: Box, group: Group | None, ports: Mapping[int, list[tuple[Block, int]]]) -> None:
        """Blocks and links for what is inside of a box; ``ports``: what gives its inputs."""
        runs = self._runs(box)
        ends = {run[-1]: run[0] for run in runs}              # what the last of a run gives, the drawn one does
        drawn = {run[0] for run in runs}
        skipped = {child for run in runs for child in run if child not in drawn}
        feeds: dict[Box, list[Arrow]] = {}
        for arrow in box.arrows:
            if arrow.target not in skipped:
                feeds.setdefault(arrow.target, []).append(arrow)
        shared = self._junctions(box, group, ports, feeds)
        for run in runs:
            self._child(run, group, feeds.get(run[0], []), ends, shared)

    def _junctions(self, box: Box, group, ports, feeds) -> dict[int, list[tuple[Block, int]]]:
        """An input that several children take comes in at a dot, from which it is shared out."""
        uses: dict[int, int] = {}
        for arrows in feeds.values():
            for arrow in arrows:
                if isinstance(arrow.source, Port):
                    uses[arrow.source.number] = uses.get(arrow.source.number, 0) + 1
        found = dict(ports)
        for number, count in uses.items():
            if count > 1 and group is not None and ports.get(number):
                dot = Block("", shape="dot", group=group)
                self.figure.blocks.append(dot)
                self.figure.links += [Link(source, dot, output) for source, output in ports[number]]
                found[number] = [(dot, 0)]
        return found

    def _child(self, run: list[Box], group: Group | None, arrows: list[Arrow], ends, ports) -> None:
        box = run[0]
        sources = []
        for arrow in arrows:
            for block, output in self._from(arrow, ends, ports):
                sources.append((block, output, arrow))
        if box in self.opened and box.children:
            self._opened_child(run, group, sources, arrows, ends, ports)
            return
        block = self._block(run, group)
        self.figure.blocks.append(block)
        links: dict[tuple, Link] = {}
        for source, output, arrow in sources:                 # of several weights that are tied, one link
            tied = arrow.weight is not None
            links.setdefault((source, output, tied),
                             Link(source, block, output, arrow.weight or _shape_text(arrow.type), tied))
        self.figure.links += links.values()
        for number in range(max(1, len(box.outputs))):
            self.exits[box, number] = block, number if len(box.outputs) > 1 else 0

    def _opened_child(self, run: list[Box], group, sources, arrows, ends, ports) -> None:
        """A box around its children; what it takes goes to those that use it."""
        box = run[0]
        inner = Group(*_titles(box, len(run), self._parameters(run)), parent=group)
        self.figure.groups.append(inner)
        given: dict[int, list[tuple[Block, int]]] = {}
        for number, feed in enumerate(box.feeds):
            if feed is not None:
                arrow = next((a for a in arrows if a.source == feed), None)
                given[number] = self._from(arrow, ends, ports) if arrow is not None else []
        self._body(box, inner, given)
        for number, result in enumerate(box.results):
            if isinstance(result, Box):
                exits = {last[-1]: last[0] for last in self._runs(box)}
                self.exits[box, number] = self.exits[exits.get(result, result), 0]
            elif isinstance(result, Port) and given.get(result.number):
                self.exits[box, number] = given[result.number][0]

    def _from(self, arrow: Arrow, ends, ports) -> list[tuple[Block, int]]:
        if isinstance(arrow.source, Port):
            return ports.get(arrow.source.number, [])
        found = self.exits.get((ends.get(arrow.source, arrow.source), arrow.output))
        return [found] if found is not None else []

    def _parameters(self, run: list[Box]) -> int:
        return sum(self.counts.get(path, 0) for box in run for path in box.own.parameters)

    def _block(self, run: list[Box], group: Group | None) -> Block:
        box = run[0]
        shape = " ".join(_shape_text(value.type) for value in box.outputs[:2]) + (" …" if len(box.outputs) > 2 else "")
        if box.kind in ("input", "output"):
            return Block(box.name, (shape,), box.kind, "box", group)
        if box.kind == "parameter":
            return Block(box.name, (shape,), "parameter", "box", group)
        if box.kind == "operation":
            if box.label in SIGNS:
                return Block(box.label, (), "operation", "circle", group, f"{box.name}: {shape}")
            title = f"{box.name}: {box.label}" if box.named else box.label
            return Block(title, (), "operation", "pill", group, f"{box.name}: {shape}")
        title, settings = described(box)
        if box.own.outputs == box.own.inputs[:len(box.own.outputs)] and not box.children:
            return Block(" ".join(filter(None, (title, settings))), (), "operation", "pill", group, box.path)
        count = self._parameters(run)
        shared = "shared" if box.own.call and count else f"{short(count)}" if count else ""
        lines = [settings, " · ".join(filter(None, (shape, shared)))]
        if len(run) > 1:
            title = f"{box.label}  ×{len(run)}"
        return Block(title, tuple(filter(None, lines)), box.own.library or "layer", "box", group, box.path)


def _titles(box: Box, times: int, parameters: int) -> tuple[str, str]:
    """A group's title and note."""
    if times > 1:
        return f"{box.label}  ×{times}", f"{times} × {parameters // times:,}"
    title, _ = described(box)
    repeats = f"{box.own.repeats} times" if box.own.repeats != 1 else ""
    count = "shared" if box.own.call and parameters else f"{parameters:,}" if parameters else ""
    return title, " · ".join(filter(None, (repeats, count)))


def described(box: Box) -> tuple[str, str]:
    """A layer's kind, with the user's name for it, and its settings in short."""
    from ..build.models import snake_case
    kind = box.label
    name = box.name.split(":")[0].rstrip("0123456789").rstrip("_")
    title = kind if snake_case(kind) in (name, box.name) or not name else f"{box.name}: {kind}"
    return title, settings_text(kind, dict(box.own.settings))


def settings_text(kind: str, settings: dict[str, str]) -> str:
    """What was set, in the order of the settings: ``3×3, 16, /2, relu``."""
    sides = 2 if kind.endswith("2D") or "2D" in kind else 1
    parts, last = [], []
    for name, value in settings.items():
        if name in ("filters", "units", "rows", "heads", "rate", "activation", "function"):
            parts.append({"heads": f"{value} heads"}.get(name, value))
        elif name in ("sizes", "axes"):
            parts.append(value.strip("()").replace(", ", "×"))
        elif name in ("kernel_size", "size"):
            window = "×".join([value] * sides) if value.isdecimal() and sides > 1 \
                else value.strip("()").replace(", ", "×")
            parts.insert(0, window)
        elif name == "strides":
            last.append("/" + value.strip("()").replace(", ", "×"))
        elif name not in ("padding", "l2", "kernel_init", "bias_init", "eps") and value not in ("false", "none", "0.0"):
            parts.append(f"{name} {value}" if value != "true" else name)
    return ", ".join(parts + last)


def _shape_text(type_: TensorType) -> str:
    """A shape as a figure shows it: ``N×28×28×1``."""
    return "×".join(map(str, type_.shape)) or "one number"


# --- runs of like models ----------------------------------------------------------------------------------------------


def _alike(box: Box) -> list[list[Box]]:
    """The children; a model whose first input is another's result, and which is otherwise the same, joins it."""
    runs: list[list[Box]] = []
    taken: dict = {}
    for arrow in box.arrows:
        taken.setdefault(arrow.source, []).append(arrow.target)
    place: dict = {}
    for child in box.children:
        before = child.feeds[0] if child.feeds else None
        if isinstance(before, Box) and child.children and before in place and _same(before, child) \
                and place[before][-1] is before and set(map(id, taken.get(before, ()))) == {id(child)}:
            place[before].append(child)
            place[child] = place[before]
        else:
            place[child] = [child]
            runs.append(place[child])
    return runs


def _same(a: Box, b: Box) -> bool:
    return a.kind == b.kind == "layer" and a.label == b.label and a.own.settings == b.own.settings \
        and [v.type for v in a.outputs] == [v.type for v in b.outputs] \
        and [v.type for v in a.own.inputs] == [v.type for v in b.own.inputs] and a.feeds[1:] == b.feeds[1:] \
        and not a.own.call and not b.own.call
