"""Scans whose samples do not meet: each thread takes some of them through all turns, and never waits for another.

A recurrent layer's step mixes the features of a sample, not the samples.  If every kernel of a scan's body keeps to the
rows of the sample whose units it computes, the scan is one step of the table, whose units are blocks of samples;
what a block leaves in the cache at one turn is there at the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .loops import For, Load, Range, Store, Units, statements
from .nest import View
from .schedule import Extent, Product, ScanStep, Step
from .types import evaluate


def samples_of(scan: ScanStep, turns: list[Mapping[str, int]]) -> int | None:
    """How many samples the body's steps work on, each by itself, at every turn; None where they meet.

    ``turns``: the sizes of all symbols at each turn.
    """
    if not turns or not all(isinstance(step, Step) for step in scan.body):
        return None
    samples = _candidate(scan.body, turns[0])
    if samples is None or samples < 2:
        return None
    written = {view.buffer for step in scan.body for view in _written(step)}
    spans: dict[object, int] = {}
    for sizes in turns:
        for step in scan.body:
            units = evaluate(step.units, sizes) if step.matrix is None else samples
            accesses = _accesses(step, samples, sizes, written)
            if units % samples or not all(_stays(access, samples, spans) for access in accesses):
                return None
    return samples


def _candidate(body: tuple[Step, ...], sizes: Mapping[str, int]) -> int | None:
    """The number of rows of the body's first product."""
    for step in body:
        if step.matrix is not None:
            return evaluate(step.matrix.rows[0].size, sizes) if step.matrix.rows else None
    return None


def _written(step: Step) -> list[View]:
    if step.matrix is not None:
        return [step.matrix.c]
    return [step.views[s.buffer] for s in statements(step.code.body) if isinstance(s, Store)]


def _stays(access: tuple | None, samples: int, spans: dict[object, int]) -> bool:
    """Whether an access (buffer, elements a sample, first element and last element for sample 0) keeps to its sample.

    A buffer may hold the samples once or many times over (turns of a scan), each time from the first to the last.
    """
    if access is None:
        return False
    buffer, span, first, last = access
    if span <= 0 or spans.setdefault(buffer, span) != span:
        return False
    return first // span == last // span and first // span % samples == 0


def _accesses(step: Step, samples: int, sizes: Mapping[str, int], written) -> Iterator[tuple | None]:
    """Every access of a step to what the scan writes, for sample 0; None for one that is not so simple."""
    if step.matrix is not None:
        yield from _product_accesses(step.matrix, samples, sizes, written)
        return
    extents: dict[str, int] = {}
    outermost = next(s for s in step.code.body if isinstance(s, (Range, Units)))
    if isinstance(outermost, Range):
        variable, whole = outermost.variable, evaluate(step.units, sizes)
    else:
        variable, whole = outermost.split[0][0], evaluate(outermost.split[0][1], sizes)
        extents |= {name: evaluate(extent, sizes) for name, extent in outermost.split[1:]}
    if whole % samples:
        yield None
        return
    for statement in statements(step.code.body):
        if isinstance(statement, For) and statement.variable != variable:
            extents[statement.variable] = evaluate(statement.extent, sizes)
    extents[variable] = whole // samples
    for statement in statements(step.code.body):
        if isinstance(statement, (Load, Store)) and step.views[statement.buffer].buffer in written:
            yield _access(step.views[statement.buffer], statement, variable, extents, sizes)


def _access(view: View, statement: Load | Store, variable: str, extents: Mapping[str, int], sizes) -> tuple | None:
    index = statement.index
    if statement.dynamic or any(name not in extents for name in index.terms):
        return None
    first = last = evaluate(view.offset, sizes) + evaluate(index.offset, sizes)
    for name, coefficient in index.terms.items():
        reach = evaluate(coefficient, sizes) * (extents[name] - 1)
        first, last = first + min(reach, 0), last + max(reach, 0)
    span = evaluate(index.coefficient(variable), sizes) * extents[variable]
    return view.buffer, span, first, last


def _product_accesses(matrix: Product, samples: int, sizes: Mapping[str, int], written) -> Iterator[tuple | None]:
    is_plain = len(matrix.batch) == bool(matrix.panels) and len(matrix.rows) == 1 and matrix.b.buffer not in written
    if not is_plain or evaluate(matrix.rows[0].size, sizes) != samples:
        yield None
        return
    row = matrix.rows[0]
    if matrix.a.buffer in written:
        yield _operand(matrix.a, evaluate(row.a, sizes), [(e, e.a) for e in matrix.sums], sizes)
    yield _operand(matrix.c, evaluate(row.c, sizes), [(Extent(matrix.all_columns, 0, 0, 1), 1)], sizes)


def _operand(view: View, span: int, extents, sizes: Mapping[str, int]) -> tuple:
    reaches = [evaluate(step, sizes) * (evaluate(extent.size, sizes) - 1) for extent, step in extents]
    first = evaluate(view.offset, sizes)
    return view.buffer, span, first + sum(r for r in reaches if r < 0), first + sum(r for r in reaches if r > 0)
