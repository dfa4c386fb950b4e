"""What training reports: losses and metrics by epoch, as numbers, a table, a file, a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

import numpy as np

from .errors import InputError, NetcError, listing, nearest
from .records import dataclass
from .weights import write_atomically

VALIDATION = "val_"             # before the names of what is measured on validation data


@dataclass
class History:
    """Losses and metrics by epoch, each the mean over the epoch's samples; ``history["loss"]`` is a list.

    ``seconds`` counts those of the runs before, where training was resumed; ``stopped`` says why it ended before its
    last epoch, "" where it did not; ``optimizer`` is the optimiser's state at the end; ``losses`` are the names of the
    losses, what is reported beside them are metrics.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False           # Ctrl-C, or a callback said so: the last epoch may be cut short
    stopped: str = ""
    optimizer: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    losses: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> list[float]:
        if name not in self.names:
            raise KeyError(f"nothing called `{name}` was reported{nearest(name, self.names)}")
        return [epoch.get(name, float("nan")) for epoch in self.epochs]

    @property
    def names(self) -> list[str]:
        """What was reported, in the order of first reporting."""
        return list(dict.fromkeys(name for epoch in self.epochs for name in epoch))

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's numbers; empty if none ended."""
        return self.epochs[-1] if self.epochs else {}

    def best(self, name: str, mode: str = "min") -> int:
        """The number of the epoch, from 1, with the least (``mode`` "max": the largest) value of a name."""
        values = [value if mode == "min" else -value for value in self[name]]
        return 1 + min(range(len(values)), key=lambda k: (math.isnan(values[k]), values[k]))

    # --- out

    def to_dict(self) -> dict[str, list]:
        """A column a name, and "epoch": what ``pandas.DataFrame`` takes."""
        return {"epoch": list(range(1, len(self.epochs) + 1))} | {name: self[name] for name in self.names}

    def to_csv(self, path: str | os.PathLike | None = None) -> str:
        """A line an epoch as CSV text; with ``path``, written to that file too, atomically."""
        table = self.to_dict()
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(table)
        writer.writerows([_cell(value) for value in row] for row in zip(*table.values()))
        if path is not None:
            write_atomically(path, out.getvalue().encode())
        return out.getvalue()

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """A list of an object an epoch as JSON text; with ``path``, written to that file too, atomically.  What is no
        finite number is null."""
        rows = [{"epoch": number} | {name: value if math.isfinite(value) else None for name, value in epoch.items()}
                for number, epoch in enumerate(self.epochs, 1)]
        text = "[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n]\n"
        if path is not None:
            write_atomically(path, text.encode())
        return text

    # --- pictures

    def plot(self, names: Iterable[str] | None = None, axes: Any = None):
        """Curves by epoch: a matplotlib Figure (extra ``[plot]``), one panel for the losses and one for each metric.

        ``names``: these curves only; their validation curves come with them.  ``axes``: draw all into this one instead.
        """
        panels = self.panels(names)
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise NetcError("plotting needs matplotlib: pip install 'netc[plot]'") from None
        if axes is None:
            figure, grid = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.4), squeeze=False,
                                        layout="constrained")
            places = list(grid[0])
        else:
            figure, places = axes.figure, [axes] * len(panels)
        epochs = range(1, len(self.epochs) + 1)
        for place, (title, curves) in zip(places, panels.items()):
            for name in curves:
                dashed = name.startswith(VALIDATION)
                base = curves.index(name.removeprefix(VALIDATION)) if dashed \
                    and name.removeprefix(VALIDATION) in curves else 0
                colour = f"C{base if dashed else curves.index(name)}"
                place.plot(epochs, self[name], "--" if dashed else "-", color=colour, label=name,
                           marker="o" if len(self.epochs) == 1 else None)
            place.set_xlabel("epoch")
            if axes is None:
                place.set_title(title)
            place.grid(alpha=0.3)
            place.legend()
            place.xaxis.get_major_locator().set_params(integer=True)
        return figure

    def panels(self, names: Iterable[str] | None = None) -> dict[str, list[str]]:
        """The curves of each panel: all losses together, each metric by itself, validation beside training."""
        if not self.epochs:
            raise InputError("no epoch has ended: there is nothing to plot")
        unknown = [name for name in names or () if name not in self.names]
        if unknown:
            raise InputError(f"nothing called {listing(unknown)} was reported{nearest(unknown[0], self.names)}; "
                             f"there are {listing(self.names)}")
        plain = [name for name in self.names if not name.startswith(VALIDATION)]
        chosen = plain if names is None else list(names)
        losses = [name for name in chosen if name.removeprefix(VALIDATION) in ("loss", *self.losses)]
        panels = {"loss": losses} if losses else {}
        panels |= {name: [name] for name in chosen if name not in losses}
        return {title: [*curves, *(VALIDATION + name for name in curves if VALIDATION + name in self.names
                                   and VALIDATION + name not in curves)] for title, curves in panels.items()}

    def _repr_html_(self) -> str:
        """The curves, and the first and last epochs as a table, for a notebook."""
        from . import chart, html
        if not self.epochs:
            return html.block("no epoch has ended", "")
        heading = ("epoch", *self.names)
        rows = [(str(number), *(f"{epoch[name]:.5g}" if name in epoch else "" for name in self.names))
                for number, epoch in enumerate(self.epochs, 1)]
        if len(rows) > 12:
            rows = [*rows[:5], ("…",) * len(heading), *rows[-5:]]
        title = f"{len(self.epochs)} epochs in {self.seconds:.1f} s" + (f": {self.stopped}" if self.stopped else "")
        drawn = "".join(chart.lines(title, {name: self[name] for name in curves})
                        for title, curves in self.panels().items())
        return html.block(title, drawn + html.table(heading, rows, range(len(heading))))


def _cell(value: float | int) -> str:
    """A number that reads back as the same number."""
    return repr(value)
