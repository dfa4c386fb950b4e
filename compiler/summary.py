"""The summary of a model: one row a call of an instance, with the shapes that it gives and its parameters."""

from __future__ import annotations

from .model import Layer, Model
from .types import product

MIB = 2 ** 20


def summarize(model: Model) -> str:
    """A table as text; every line ends without spaces."""
    sizes = {variable.path: product(variable.type.shape) for variable in model.parameters}
    rows = [("layer", "kind", "output", "parameters")]
    rows += [(f"input {leaf.attrs['name']}", "", str(leaf.type), "") for leaf in model.inputs]
    rows += [_row(layer, sizes) for layer in model.layers if layer.path]
    rows += [(f"output {name}", "", str(value.type), "") for name, value in model.inference.outputs.items()]
    rows += [(f"target {leaf.attrs['name']}", "", str(leaf.type), "") for leaf in model.targets]
    return "\n".join([f"model {model.name}", "", *_table(rows), "", *_totals(model)])


def _row(layer: Layer, sizes: dict[str, int]) -> tuple[str, str, str, str]:
    name = "  " * max(0, layer.depth - 1) + layer.path.rsplit(".", 1)[-1]
    count = sum(sizes.get(path, 0) for path in layer.parameters)
    shown = "shared" if layer.call and count else f"{count:,}" if count else ""
    return name, layer.kind, ", ".join(str(value.type) for value in layer.outputs), shown


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}".rstrip() for a, b, c, d in rows]
    return [lines[0], "-" * (sum(widths) + 6), *lines[1:]]


def _totals(model: Model) -> list[str]:
    trainable = [variable for variable in model.parameters if variable.trainable]
    others = [variable for variable in (*model.parameters, *model.states) if not variable.trainable]
    lines = [f"{_count(trainable):,} parameters ({_bytes(trainable) / MIB:.2f} MiB)"]
    if others:
        lines.append(f"{_count(others):,} numbers of state")
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
