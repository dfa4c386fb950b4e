"""The summary of a model: a row for each call of a layer and each operation between layers, as data and as a table.

Costs are those of one sample unless ``sizes`` says otherwise; what is not known stays a symbol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from ..runtime.records import dataclass
from .graph_cost import format_cost, nbytes, total_bytes, total_flops
from .ir import users
from .model import Model
from .outline import Arrow, Box, Port, outline
from .types import Dim, Size, substitute, symbols

if TYPE_CHECKING:
    from .attribution import Attribution, Kernel  # with most of the back end: imported where a summary is made

COLUMNS = ("layer (type)", "output shape", "parameters", "connected to", "FLOPs", "bytes", "kernels")
NUMBERS = (2, 4, 5)                    # the columns of numbers, which are aligned right
MOST_KERNELS = 3                       # of a row that are named one by one
HELPERS = ("halo", "repeat")           # kernels that a reader of the table is not told of


@dataclass(frozen=True)
class Row:
    """One line.  ``path`` names the call (``features:1.dense``), ``parameters`` counts the elements of its weights,
    ``shared`` says that an earlier row counts them already, ``hidden`` counts rows that were folded into this one."""

    kind: str                          # "input", "layer", "operation", "parameter" or "output"
    path: str
    name: str
    type: str                          # "Conv2D", "concat"; of inputs and outputs nothing
    settings: tuple[tuple[str, str], ...]
    depth: int
    outputs: tuple[str, ...]
    parameters: int
    shared: bool
    sources: tuple[str, ...]
    flops: Size
    bytes: Size
    kernels: tuple[str, ...]           # "map 3"; one that begins with "→" is another row's
    where: str
    hidden: int = 0


@dataclass(frozen=True, repr=False)
class Summary:
    """What is known of a model before it has weights or data; it prints as a table."""

    model: str
    rows: tuple[Row, ...]
    parameters: int
    parameter_bytes: int
    state: int
    flops: Size
    kernels: int
    losses: tuple[str, ...]
    penalties: int
    optimizer: str | None
    targets: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)

    def table(self) -> list[tuple[str, ...]]:
        """The rows as text, a cell a column, without the heading."""
        return [_cells(row, self.sizes) for row in self.rows]

    def totals(self) -> list[str]:
        """What stands below the table."""
        lines = [f"{self.parameters:,} parameters ({self.parameter_bytes / 2 ** 20:.2f} MiB)"]
        if self.state:
            lines.append(f"{self.state:,} numbers of state")
        per = ", ".join(f"{name} = {size}" for name, size in self.sizes.items())
        lines.append(f"{format_cost(self.flops, self.sizes) or 0} FLOPs in {self.kernels} kernels"
                     + (f" at {per}" if per else ""))
        if self.losses:
            lines.append(f"losses: {', '.join(self.losses)}"
                         + (f" and {self.penalties} penalties" if self.penalties else ""))
        if self.optimizer is not None:
            lines.append(f"optimiser: {self.optimizer}")
        return lines

    def __str__(self) -> str:
        """A table as plain text; every line ends without spaces."""
        rows = [COLUMNS, *self.table()]
        shown = [column for column in range(len(COLUMNS)) if any(row[column] for row in rows[1:])]
        widths = {column: max(len(row[column]) for row in rows) for column in shown}
        lines = ["  ".join(f"{row[column]:>{widths[column]}}" if column in NUMBERS
                           else f"{row[column]:<{widths[column]}}"
                           for column in shown).rstrip() for row in rows]
        rule = "-" * (sum(widths.values()) + 2 * (len(shown) - 1))
        return "\n".join([f"model {self.model}", "", lines[0], rule, *lines[1:], "", *self.totals()])

    __repr__ = __str__

    def to_dict(self) -> dict:
        """Plain data, fit for JSON; a cost that is not a number is its formula as text."""
        rows = [{"kind": row.kind, "path": row.path, "name": row.name, "type": row.type, "settings": dict(row.settings),
                 "depth": row.depth, "outputs": list(row.outputs), "parameters": row.parameters, "shared": row.shared,
                 "connected_to": list(row.sources), "flops": self._number(row.flops), "bytes": self._number(row.bytes),
                 "kernels": list(row.kernels), "where": row.where} for row in self.rows]
        return {"model": self.model, "sizes": dict(self.sizes), "rows": rows, "parameters": self.parameters,
                "parameter_bytes": self.parameter_bytes, "state": self.state, "flops": self._number(self.flops),
                "kernels": self.kernels, "losses": list(self.losses), "penalties": self.penalties,
                "optimizer": self.optimizer, "targets": list(self.targets)}

    def _number(self, size: Size) -> int | str:
        known = substitute(size, self.sizes)
        return known if isinstance(known, int) else str(known)


def summarize(model: Model, depth: int | None = None, sizes: Mapping[str, int] | None = None) -> Summary:
    """The summary of a model.

    ``depth``: how many levels of nested models are opened; without it all of the user's own, but no layer of the
    prelude.  ``sizes``: values for symbols; without them the batch is 1 and the others stay symbols.
    """
    root = outline(model)
    maker = _Maker(model, root, depth, dict.fromkeys(batch_symbol(model), 1) if sizes is None else dict(sizes))
    maker.add(root, 0, lambda source: source)
    variables = [v for v in model.parameters if v.trainable]
    return Summary(
        model=model.name, rows=tuple(maker.rows), parameters=sum(v.type.size for v in variables),
        parameter_bytes=sum(nbytes(v.type) for v in variables),
        state=sum(v.type.size for v in (*model.parameters, *model.states) if not v.trainable),
        flops=maker.total(root), kernels=len(maker.attribution.kernels), losses=tuple(model.training.losses),
        penalties=len(model.training.penalties), optimizer=model.optimizer.name if model.optimizer else None,
        targets=tuple(f"{leaf.attrs['name']}: {leaf.type}" for leaf in model.targets), sizes=maker.sizes)


def batch_symbol(model: Model) -> list[str]:
    """The symbol that leads the first input; none where that is a number."""
    first = next((leaf.shape[0] for leaf in model.inputs if leaf.shape), None)
    return sorted(symbols(first))[:1] if isinstance(first, Dim) and len(symbols(first)) == 1 else []


class _Maker:
    """Rows out of boxes."""

    def __init__(self, model: Model, root: Box, depth: int | None, sizes: Mapping[str, int]):
        from .attribution import attribute
        self.model, self.depth, self.sizes = model, depth, sizes
        self.attribution: Attribution = attribute(model, [value for box in root.walk() for value in box.outputs])
        self.counts = {v.path: v.type.size for v in model.parameters}
        self.variables = {v.path: v.type for v in (*model.parameters, *model.states)}
        self.tables = _tables(model)
        self.rows: list[Row] = []

    def add(self, box: Box, depth: int, resolve) -> None:
        """Rows for the children of a box; ``resolve`` gives the box behind one of its inputs."""
        siblings = {child.name for child in box.children}
        for child in box.children:
            sources = [self._source(arrow, resolve, siblings) for arrow in box.arrows_to(child)]
            opened = bool(child.children) and self._is_open(child, depth)
            self.rows.append(self._row(child, box, depth, tuple(dict.fromkeys(filter(None, sources))), opened))
            if opened:
                feeds = dict(enumerate(child.feeds))
                self.add(child, depth + 1, lambda source, feeds=feeds: _behind(feeds.get(source.number), resolve))

    def _is_open(self, box: Box, depth: int) -> bool:
        """The inside of a layer is told at its first call only."""
        return not box.own.call and (not box.own.library if self.depth is None else depth + 1 < self.depth)

    def _row(self, box: Box, caller: Box, depth: int, sources: tuple[str, ...], opened: bool) -> Row:
        layer = box.layer
        paths = layer.parameters if layer is not None else ()
        return Row(
            kind=box.kind, path=box.path, name=box.name,
            type=box.label if box.kind in ("layer", "operation") else "",
            settings=layer.settings if layer is not None else (), depth=depth,
            outputs=tuple(str(value.type) for value in box.outputs),
            parameters=sum(self.counts.get(path, 0) for path in paths) if layer is not None
            else box.outputs[0].type.size if box.kind == "parameter" else 0,
            shared=layer is not None and layer.call > 0, sources=sources, flops=self.total(box), bytes=self._bytes(box),
            kernels=self._kernels(box, caller), where=layer.where if layer is not None else "",
            hidden=0 if opened else sum(child.kind == "layer" for child in box.walk()))

    def total(self, box: Box) -> Size:
        """FLOPs of a box and all below it.  A layer in a scan is counted by the scan, which belongs to its caller, so
        that its own row is not added again."""
        if box.layer is None:
            return total_flops(box.nodes)
        own = total_flops(box.nodes)
        below = sum((self.total(child) for child in box.children
                     if child.layer is not None and child.own.repeats == box.own.repeats), 0)
        return own * box.own.repeats + below

    def _bytes(self, box: Box) -> Size:
        """What the box alone would read and write: its inputs, its weights, its results."""
        if box.kind in ("input", "output", "parameter"):
            return 0
        if box.layer is None:
            read = (value for value in box.reads if value.op.name != "constant")
            return total_bytes(read) + total_bytes(box.outputs)
        activations = total_bytes(box.own.inputs) + total_bytes(box.outputs)
        return activations * box.own.repeats + self._weights(box)

    def _weights(self, box: Box) -> Size:
        """Bytes of the weights that are read: of a table that is only looked up in, the rows that come out."""
        nodes = [*box.nodes, *(node for child in box.walk() for node in child.nodes if child.layer is not None)]
        whole = sum(nbytes(self.variables[path]) for path in box.own.parameters if path not in self.tables)
        return whole + total_bytes(node for node in nodes if node.op.name == "gather"
                                   and node.args[0].attrs.get("path") in self.tables)

    def _kernels(self, box: Box, caller: Box) -> tuple[str, ...]:
        """The kernels whose value the box makes, and those of others that its results come to be in."""
        if box.kind not in ("layer", "operation"):
            return ()
        if box.layer is None:
            own: tuple[Kernel, ...] = self.attribution.storing(box.outputs[0])
        else:
            own = self.attribution.own([box.layer, *(child.layer for child in box.walk() if child.layer is not None)])
        ends = self.attribution.end(box.outputs, own)
        if box.layer is not None and box.own.repeats != caller.own.repeats:
            ends = tuple(kernel for kernel in self.attribution.own([caller.own])
                         if any(value.op.name == "scan" for value in kernel.values))
        elsewhere = dict.fromkeys(f"→ {kernel.name}" for kernel in ends if kernel not in own)
        return (*(kernel.name for kernel in own), *elsewhere)

    def _source(self, arrow: Arrow, resolve, siblings: set[str]) -> str | None:
        """What a row is connected to, by its name; by its path where that is in another body, after a "/" where the
        path could be taken for a name in this one."""
        if arrow.weight is not None:
            return arrow.weight
        if isinstance(arrow.source, Box):
            return arrow.source.name
        found = resolve(arrow.source)
        if found is None:
            return None
        return f"/{found.path}" if found.path in siblings else found.path


def _tables(model: Model) -> set[str]:
    """The weights that are only looked up in."""
    uses = users(model.inference.outputs.values())
    return {node.attrs["path"] for node, found in uses.items() if node.op.name == "param"
            and all(user.op.name == "gather" and user.args[0] is node for user in found)}


def _behind(source: Box | Port | None, resolve) -> Box | None:
    return resolve(source) if isinstance(source, Port) else source


# --- as text ----------------------------------------------------------------------------------------------------------


def _cells(row: Row, sizes: Mapping[str, int]) -> tuple[str, ...]:
    name = "  " * row.depth + (f"{row.name} ({row.type})" if row.type else f"{row.kind} {row.name}")
    name += f" +{row.hidden}" if row.hidden else ""
    count = f"{row.parameters:,}" if row.parameters else ""
    return (name, ", ".join(row.outputs), "shared" if row.shared and count else count, ", ".join(row.sources),
            format_cost(row.flops, sizes), format_cost(row.bytes, sizes, "B"), kernels_text(row.kernels))


def kernels_text(kernels: tuple[str, ...]) -> str:
    """``product, map 3 → map 10``, without those that only fill borders or repeat a vector; many are only counted."""
    shown = [kernel for kernel in kernels if not kernel.removeprefix("→ ").startswith(HELPERS)]
    own = [kernel for kernel in shown if not kernel.startswith("→")]
    into = [kernel for kernel in shown if kernel.startswith("→")]
    different = dict.fromkeys(own)
    first = ", ".join(different) if len(different) <= MOST_KERNELS else f"{len(own)} kernels"
    return " ".join([first, *into[:MOST_KERNELS], *["…"] * (len(into) > MOST_KERNELS)]).strip()
