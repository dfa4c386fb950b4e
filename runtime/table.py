"""Arrays from CSV tables and to them: a row a sample, a heading that says which column is what.

An array of one number a sample is the column of its name; one of several is the columns NAME.0, NAME.1, ... (also
NAME_0 or NAME[0], from 0 or 1 on), or, where all other arrays have found their columns, the columns that are left, in
their order.
"""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError, listing, nearest


def read(path: Path, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of these names and types.  Raises InputError naming the line, the column, what was expected;
    OSError."""
    heading, skipped = _heading(path)
    if heading is None:
        return _without_heading(path, types)
    chosen = _columns(path, heading, types)
    used = sorted({column for columns in chosen.values() for column in columns})
    values = _numbers(path, heading, used, skipped)
    place = {column: position for position, column in enumerate(used)}
    return {name: _shaped(path, name, values[:, [place[column] for column in columns]], types[name],
                          [heading[column] for column in columns], skipped) for name, columns in chosen.items()}


def _heading(path: Path) -> tuple[list[str] | None, int]:
    """The names of the columns, None where the first line is numbers; and how many lines are to be skipped."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = next(csv.reader(file), None)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a table of UTF-8 text: {error}") from None
    if not first:
        raise InputError(f"{path} is empty")
    names = [name.strip() for name in first]
    if all(_is_number(name) for name in names):
        return None, 0
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has two columns {listing(twice)}")
    return names, 1


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _without_heading(path: Path, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if len(types) != 1:
        raise InputError(f"{path} has no heading, so that its columns could be told apart: its first line must name "
                         f"them, as "
                         f"{', '.join(example for name, type_ in types.items() for example in _examples(name, type_))}")
    (name, type_), = types.items()
    with open(path, encoding="utf-8-sig", newline="") as file:
        count = len(next(csv.reader(file)))
    heading = [f"{number}" for number in range(1, count + 1)]
    return {name: _shaped(path, name, _numbers(path, heading, list(range(count)), 0), type_, heading, 0)}


# --- which columns ----------------------------------------------------------------------------------------------------


def width(type_: Any) -> int | None:
    """Numbers a sample; None where that depends on the data."""
    sizes = type_.shape[1:]
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None


def _columns(path: Path, heading: Sequence[str], types: Mapping[str, Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, type_ in types.items():
        if not type_.shape:
            raise InputError(f"`{name}` is one number for all samples, which a table cannot hold: use an .npz file")
        columns = _named(name, heading)
        if columns:
            found[name] = columns
    rest = [column for column in range(len(heading)) if not any(column in columns for columns in found.values())]
    missing = [name for name in types if name not in found]
    if len(missing) == 1 and width(types[missing[0]]) != 1 and _fits(types[missing[0]], len(rest)):
        found[missing[0]] = rest
    elif missing:
        examples = ", ".join(example for name in missing for example in _examples(name, types[name]))
        left = [heading[column] for column in rest]
        raise InputError(f"{path} has no columns for {listing(missing)}{nearest(missing[0], left)}: {examples} would "
                         f"be such; not used are {listing(left)}")
    for name, columns in found.items():
        if not _fits(types[name], len(columns)):
            raise InputError(f"{path} has {len(columns)} columns for `{name}`, expected {width(types[name])} "
                             f"({types[name]})")
    return {name: found[name] for name in types}


def _named(name: str, heading: Sequence[str]) -> list[int]:
    """The column of the name, or the numbered ones in their order."""
    if name in heading:
        return [heading.index(name)]
    pattern = re.compile(re.escape(name) + r"(?:\.(\d+)|_(\d+)|\[(\d+)\])")
    numbered = {}
    for column, title in enumerate(heading):
        match = pattern.fullmatch(title)
        if match:
            numbered[int(next(filter(None, match.groups())))] = column
    first = min(numbered, default=0)
    if first > 1 or sorted(numbered) != list(range(first, first + len(numbered))):
        return []
    return [numbered[number] for number in sorted(numbered)]


def _fits(type_: Any, count: int) -> bool:
    if width(type_) is None:
        return len(type_.shape) == 2 and count > 0           # [N, T]: as many as there are
    return count == width(type_)


def _examples(name: str, type_: Any) -> list[str]:
    count = width(type_)
    if count == 1:
        return [name]
    return [f"{name}.0", f"{name}.1", "..."] if count is None else [f"{name}.0", "...", f"{name}.{count - 1}"]


# --- numbers ----------------------------------------------------------------------------------------------------------


def _numbers(path: Path, heading: Sequence[str], columns: list[int], skipped: int) -> np.ndarray:
    """The columns as float64, [rows, columns]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)            # of a table without rows, of which we speak below
            values = np.loadtxt(path, delimiter=",", skiprows=skipped, usecols=columns, ndmin=2, dtype=np.float64,
                                quotechar='"', comments=None, encoding="utf-8-sig")
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: {_explained(path, error, heading, columns, skipped)}") from None
    if not values.size:
        raise InputError(f"{path} has no row below its heading")
    return values


def _explained(path: Path, error: Exception, heading: Sequence[str], columns: list[int], skipped: int) -> str:
    """The first line that cannot be read: its number, its column, what stands there."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for number, row in enumerate(reader):
            if number < skipped or not row:
                continue
            if len(row) <= max(columns):
                return f"line {reader.line_num} has {len(row)} columns, expected {len(heading)}"
            for column in columns:
                if not _is_number(row[column].strip()):
                    shown = f"{row[column].strip()!r} is no number" if row[column].strip() else "there is nothing"
                    return f"line {reader.line_num}, column `{heading[column]}`: {shown}"
    return str(error)


def _shaped(path: Path, name: str, values: np.ndarray, type_: Any, titles: Sequence[str], skipped: int) -> np.ndarray:
    """The columns as an array of the wanted kind and rank."""
    if not _fits(type_, values.shape[1]):
        raise InputError(f"{path} has {values.shape[1]} columns for `{name}`, expected {width(type_)} ({type_})")
    if type_.dtype.kind != "float":
        allowed = (values == np.trunc(values)) & (np.abs(values) < 2 ** 53)
        if type_.dtype.kind == "bool":
            allowed = (values == 0) | (values == 1)
        if not allowed.all():
            row, column = np.argwhere(~allowed)[0]
            wanted = "0 or 1" if type_.dtype.kind == "bool" else "a whole number"
            raise InputError(f"{path}: row {row + 1}, column `{titles[column]}`: {values[row, column]:g} is not "
                             f"{wanted}, which `{name}` ({type_}) needs")
    values = values.astype(np.int64 if type_.dtype.kind == "int" else type_.dtype.numpy)
    sizes = type_.shape[1:] if width(type_) is not None else values.shape[1:]
    return values.reshape(len(values), *sizes)


# --- out --------------------------------------------------------------------------------------------------------------


def text(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A table of arrays of equally many rows, as ``read`` reads them; each number with all its digits."""
    counts = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or None in counts.values():
        raise InputError(f"a table holds arrays of equally many rows, not "
                         f"{', '.join(f'{name} {a.shape}' for name, a in arrays.items())}: write an .npz file")
    columns, heading = [], []
    for name, array in arrays.items():
        flat = array.reshape(len(array), -1)
        flat = flat.astype(np.int8) if flat.dtype == bool else flat
        single = array.ndim == 1 or flat.shape[1] == 1
        heading += [name] if single else [f"{name}.{number}" for number in range(flat.shape[1])]
        columns += [column.tolist() if column.dtype.kind != "f" else [repr(value.item()) if value.dtype == np.float64
                                                                      else str(value)
                    for value in column] for column in flat.T]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(zip(*columns))
    return out.getvalue().encode()
