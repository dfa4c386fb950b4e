"""What changed from one model to another: totals, rows of the summary, weights.

Rows are paired by what they are and in their order, not by name: a layer that is put in before others renumbers their
names, and still only one row is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import SequenceMatcher

from ..runtime.records import dataclass
from .graph_cost import format_cost
from .model import Model
from .summary import Row, Summary, summarize
from .types import Size, substitute


@dataclass(frozen=True)
class Change:
    """A pair of values under a name: ``parameters``, ``output``, a setting."""

    name: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.name} {self.before or 'none'} → {self.after or 'none'}"


@dataclass(frozen=True)
class RowChange:
    """A row of the summary that is in one model only (the other is None), or that differs."""

    before: Row | None
    after: Row | None
    changes: tuple[Change, ...] = ()

    @property
    def sign(self) -> str:
        return "+" if self.before is None else "-" if self.after is None else "~"

    @property
    def row(self) -> Row:
        found = self.after if self.after is not None else self.before
        assert found is not None            # a change has a side
        return found


@dataclass(frozen=True)
class Difference:
    """All that is different; empty where the models are alike."""

    models: tuple[str, str]
    sizes: Mapping[str, int]
    totals: tuple[Change, ...]
    rows: tuple[RowChange, ...]
    weights: tuple[Change, ...]          # by path: those with another type, with "" where there is none
    kept: int                            # weights of the same path and type
    weight_count: int                    # of the second model

    def __bool__(self) -> bool:
        return bool(self.totals or self.rows or self.weights)

    def lines(self) -> Iterator[tuple[str, str]]:
        """(sign, line) of the report: "+" for what is new, "-" for what is gone, "~" for what changed, else ""."""
        if not self:
            yield "", "no difference"
            return
        if self.totals:
            table = [Change("", "before", "after"), *self.totals]
            name, old, new = (max(len(getattr(row, part)) for row in table) for part in ("name", "before", "after"))
            for row in table:
                line = f"{row.name:{name}}  {row.before:>{old}}  {row.after:>{new}}{_percent(row)}"
                yield "~" if row.name else "", line
        rows = list(self._folded())
        if rows:
            yield "", ""
            names = [_title(change) for change in rows]
            for change, title in zip(rows, names):
                told = "; ".join(map(str, change.changes)) if change.sign == "~" else _told(change.row)
                yield change.sign, f"{change.sign} {title:{max(map(len, names))}}  {told}".rstrip()
        yield "", ""
        yield "", f"{self.kept} of {self.weight_count} weights keep their path and shape"
        yield from self._weight_lines(rows)

    def _folded(self) -> Iterator[RowChange]:
        """The rows, without those inside a layer that is new or gone as a whole."""
        outer: RowChange | None = None
        for change in self.rows:
            if outer is None or change.sign != outer.sign or change.row.depth <= outer.row.depth:
                yield change
                outer = change if change.sign != "~" else None

    def _weight_lines(self, rows: list[RowChange]) -> Iterator[tuple[str, str]]:
        """A line for each weight with another shape, and for all of a layer that is new or gone together."""
        told: set[tuple[str, str]] = set()
        for change in self.weights:
            sign = "+" if not change.before else "-" if not change.after else "~"
            below = (c.row.path for c in rows if c.sign == sign != "~" and change.name.startswith(f"{c.row.path}."))
            layer = next(below, None)
            if layer is None:
                types = f"{change.before} → {change.after}" if sign == "~" else change.after or change.before
                yield sign, f"{sign} {change.name}  {types}"
            elif (sign, layer) not in told:
                told.add((sign, layer))
                alike = [other for other in self.weights if bool(other.before) == bool(change.before)]
                yield sign, f"{sign} {layer}: {sum(other.name.startswith(f'{layer}.') for other in alike)} weights"

    def __str__(self) -> str:
        return "\n".join(line for _, line in self.lines())

    def to_dict(self) -> dict:
        """Plain data, fit for JSON."""
        def pair(change: Change) -> dict:
            return {"name": change.name, "before": change.before, "after": change.after}
        words = {"+": "added", "-": "removed", "~": "changed"}
        rows = [{"change": words[change.sign], "path": change.row.path, "type": change.row.type,
                 "kind": change.row.kind, "outputs": list(change.row.outputs), "parameters": change.row.parameters,
                 "changes": list(map(pair, change.changes))} for change in self.rows]
        return {"models": list(self.models), "sizes": dict(self.sizes), "totals": list(map(pair, self.totals)),
                "rows": rows, "weights": list(map(pair, self.weights)), "weights_kept": self.kept}


def compare(before: Model, after: Model, depth: int | None = None,
            sizes: Mapping[str, int] | None = None) -> Difference:
    """The difference of two models.  ``depth`` and ``sizes`` are those of the summaries that are compared."""
    summaries = summarize(before, depth, sizes), summarize(after, depth, sizes)
    old, new = ({v.path: str(v.type) for v in model.variables} for model in (before, after))
    weights = [Change(path, old.get(path, ""), new.get(path, "")) for path in dict.fromkeys([*old, *new])]
    changed = [change for change in weights if change.before != change.after]
    return Difference(
        models=(before.name, after.name), sizes=summaries[1].sizes, totals=tuple(_totals(*summaries)),
        rows=tuple(_rows(*summaries)), weights=tuple(changed), kept=len(weights) - len(changed),
        weight_count=len(new))


# --- totals -----------------------------------------------------------------------------------------------------


def _totals(before: Summary, after: Summary) -> Iterator[Change]:
    at = ", ".join(f"{name} = {size}" for name, size in after.sizes.items())
    pairs = [
        ("model", before.model, after.model),
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("state", f"{before.state:,}", f"{after.state:,}"),
        (f"FLOPs at {at}" if at else "FLOPs", _cost(before.flops, before), _cost(after.flops, after)),
        ("kernels", str(before.kernels), str(after.kernels)),
        ("losses", ", ".join(before.losses), ", ".join(after.losses)),
        ("penalties", str(before.penalties), str(after.penalties)),
        ("optimiser", before.optimizer or "", after.optimizer or ""),
        ("targets", ", ".join(before.targets), ", ".join(after.targets))]
    yield from (Change(*pair) for pair in pairs if pair[1] != pair[2])


def _cost(cost: Size, summary: Summary) -> str:
    """Whole, where it is a number: two costs that differ shall look different."""
    known = substitute(cost, summary.sizes)
    return f"{known:,}" if isinstance(known, int) else format_cost(cost, summary.sizes)


def _percent(change: Change) -> str:
    """The change of a plain number in percent of the old one."""
    old, new = (text.replace(",", "") for text in (change.before, change.after))
    if not (old.isdigit() and new.isdigit() and int(old)):
        return ""
    return f"  ({(int(new) - int(old)) / int(old):+.1%})"


# --- rows -------------------------------------------------------------------------------------------------------


def _rows(before: Summary, after: Summary) -> list[RowChange]:
    """The rows that differ, in the order of the second model, those that are gone where they were."""
    pairs = list(_paired(before.rows, after.rows, (_same_row, _same_kind)))
    names = {old.path: new.path for old, new in pairs if old is not None and new is not None}
    found = []
    for old, new in pairs:
        changes = tuple(_changes(old, new, names, before, after)) if old is not None and new is not None else ()
        if old is None or new is None or changes:
            found.append(RowChange(old, new, changes))
    return found


def _same_row(row: Row) -> tuple:
    return row.depth, row.kind, row.type, row.settings, row.outputs


def _same_kind(row: Row) -> tuple:
    return row.depth, row.kind, row.type


def _paired(old: tuple[Row, ...], new: tuple[Row, ...], keys: tuple[Callable[[Row], tuple], ...]) -> Iterator[tuple]:
    """Rows side by side: those alike by the first key, and between them those alike by the next, weaker one."""
    key, *weaker = keys
    matcher = SequenceMatcher(None, list(map(key, old)), list(map(key, new)), autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(old[a:b], new[c:d])
        elif tag == "replace" and weaker:
            yield from _paired(old[a:b], new[c:d], tuple(weaker))
        else:
            yield from ((row, None) for row in old[a:b])
            yield from ((None, row) for row in new[c:d])


def _changes(old: Row, new: Row, names: Mapping[str, str], before: Summary, after: Summary) -> Iterator[Change]:
    if old.name != new.name:
        yield Change("name", old.name, new.name)
    settings = dict(old.settings), dict(new.settings)
    for name in dict.fromkeys([*settings[0], *settings[1]]):
        if settings[0].get(name) != settings[1].get(name):
            yield Change(name, settings[0].get(name, "default"), settings[1].get(name, "default"))
    if old.outputs != new.outputs:
        yield Change("output", ", ".join(old.outputs), ", ".join(new.outputs))
    if old.parameters != new.parameters:
        yield Change("parameters", f"{old.parameters:,}", f"{new.parameters:,}")
    if old.shared != new.shared:
        yield Change("weights", "shared" if old.shared else "its own", "shared" if new.shared else "its own")
    costs = _cost(old.flops, before), _cost(new.flops, after)
    if costs[0] != costs[1]:
        yield Change("FLOPs", *costs)
    if [names.get(source, source) for source in old.sources] != list(new.sources):
        yield Change("from", ", ".join(old.sources), ", ".join(new.sources))


def _title(change: RowChange) -> str:
    row = change.row
    plain = row.kind in ("input", "output", "parameter")
    return "  " * row.depth + (f"{row.kind} {row.name}" if plain else f"{row.name} ({row.type})")


def _told(row: Row) -> str:
    """A row that is in one model only."""
    settings = ", ".join(f"{name} = {value}" for name, value in row.settings)
    weights = "shared" if row.shared else f"{row.parameters:,} parameters" if row.parameters else ""
    parts = [", ".join(row.outputs), weights, settings]
    return "  ".join(part for part in parts if part)
