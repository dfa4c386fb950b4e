"""The summary of a model: one row a call of an instance, with the shapes that it gives and its parameters."""

from __future__ import annotations

from .connections import Row, rows
from .model import Model
from .types import product

MIB = 2 ** 20


def summarize(model: Model) -> str:
    """A table as text; every line ends without spaces."""
    sizes = {variable.path: product(variable.type.shape) for variable in model.parameters}
    lines = [("layer", "kind", "output", "parameters", "connected to")]
    lines += [(f"input {leaf.attrs['name']}", "", str(leaf.type), "", "") for leaf in model.inputs]
    lines += [_line(row, sizes) for row in rows(model)]
    lines += [(f"target {leaf.attrs['name']}", "", str(leaf.type), "", "") for leaf in model.targets]
    return "\n".join([f"model {model.name}", "", *_table(lines), "", *_totals(model)])


def _line(row: Row, sizes: dict[str, int]) -> tuple[str, ...]:
    types, sources = ", ".join(str(value.type) for value in row.outputs), ", ".join(row.sources)
    if row.layer is None:
        is_models = row.depth == 0
        kind = "" if is_models else ", ".join(dict.fromkeys(value.op.name for value in row.outputs))
        return ("output " if is_models else "  " * row.depth) + row.name, kind, types, "", sources
    count = sum(sizes.get(path, 0) for path in row.layer.parameters)
    shown = "shared" if row.layer.call and count else f"{count:,}" if count else ""
    return "  " * row.depth + row.name, row.layer.kind, types, shown, sources


def _table(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines)]
    aligned = ["  ".join(f"{cell:{'>' if column == 3 else '<'}{width}}" for column, (cell, width)
                         in enumerate(zip(line, widths))).rstrip() for line in lines]
    return [aligned[0], "-" * (sum(widths) + 2 * len(widths) - 2), *aligned[1:]]


def _totals(model: Model) -> list[str]:
    lines = [f"{_count(model.parameters):,} parameters ({_bytes(model.parameters) / MIB:.2f} MiB)"]
    if model.states:
        lines.append(f"{_count(model.states):,} numbers of state")
    if model.training.losses:
        lines.append(f"losses: {', '.join(model.training.losses)}"
                     + (f" and {len(model.training.penalties)} penalties" if model.training.penalties else ""))
    if model.optimizer is not None:
        lines.append(f"optimiser: {model.optimizer.name}")
    return lines


def _count(variables) -> int:
    return sum(product(variable.type.shape) for variable in variables)


def _bytes(variables) -> int:
    return sum(product(variable.type.shape) * variable.type.dtype.itemsize for variable in variables)
