"""Arrays from files and to files, which anybody may have written: nothing is unpickled, no header is trusted.

``.npz``, ``.safetensors``: arrays by name.  ``.npy``: one array.  ``.csv``: see ``table``.  A folder: a file NAME.npy
or NAME.csv for each array; ``.npy`` files are read from the disk as they are used.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import table
from .errors import InputError, listing
from .weights import LARGEST, read_tensors, write_atomically

FORMATS = ".npz, .npy, .csv, .safetensors, or a folder"


def load_arrays(path: str | os.PathLike, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of these names from a file or a folder.

    ``types``: name -> what has ``.dtype`` and ``.shape``, as ``fn.inputs``; only tables need them.  Raises InputError
    naming what is missing or damaged, OSError.
    """
    path = Path(path)
    reader = _read_folder if path.is_dir() else _READERS.get(path.suffix.lower())
    if reader is None:
        with open(path, "rb"):               # a file that is not there is that, not a wrong format
            raise InputError(f"{path}: arrays are read from {FORMATS}, not from "
                             f"{path.suffix or 'a file without an ending'}")
    return reader(path, types)


def _read_npz(path: Path, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            held = {name[:-4]: name for name in archive.namelist() if name.endswith(".npy")}
            _check_names(path, types, held)
            return {name: _read_member(archive, held[name], str(path)) for name in types}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path} is not a sound .npz file: {error} (make one with numpy.savez)") from None


def _check_names(path: Path, wanted: Iterable[str], held: Iterable[str]) -> None:
    held = list(held)
    missing = [name for name in wanted if name not in held]
    if missing:
        raise InputError(f"{path} has no array {listing(missing)}; it holds {listing(held)}")


def _read_member(archive: zipfile.ZipFile, member: str, shown: str) -> np.ndarray:
    """One array; what its header promises is compared with what the archive holds before it is allocated."""
    try:
        with archive.open(member) as file:
            shape, dtype = _header(file, f"`{member}` of {shown}")
            count = math.prod(shape)
            if count >= LARGEST or count * dtype.itemsize > archive.getinfo(member).file_size:
                raise InputError(f"`{member}` of {shown} claims the shape {list(shape)}, which it does not hold")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"`{member}` of {shown} cannot be read: {error}") from None


def _header(file, shown: str) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                   (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read_header is None:
        raise InputError(f"{shown} has the unknown format {version}")
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise InputError(f"{shown} holds Python objects, expected numbers")
    return shape, dtype


def _read_npy(path: Path, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if len(types) != 1:
        raise InputError(f"{path} holds one array, but {listing(types)} are wanted: put them in a folder, each in a "
                         f"file of its name, or in one .npz file")
    return {next(iter(types)): _map_npy(path)}


def _map_npy(path: Path) -> np.ndarray:
    """A view of the file, read as it is used."""
    try:
        with open(path, "rb") as file:
            shape, dtype = _header(file, str(path))
            count, room = math.prod(shape), os.fstat(file.fileno()).st_size - file.tell()
        if count >= LARGEST or count * dtype.itemsize > room:
            raise InputError(f"{path} claims the shape {list(shape)}, which it does not hold")
        # What is empty cannot be mapped.
        return np.asarray(np.load(path, mmap_mode="r" if count else None, allow_pickle=False))
    except (ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a sound .npy file: {error} (make one with numpy.save)") from None


def _read_safetensors(path: Path, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    tensors, _ = read_tensors(path)
    _check_names(path, types, tensors)
    return {name: tensors[name] for name in types}


def _read_folder(path: Path, types: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = {}
    for name, type_ in types.items():
        files = [path / f"{name}{ending}" for ending in (".npy", ".csv") if (path / f"{name}{ending}").is_file()]
        if len(files) != 1:
            held = sorted(file.name for file in path.iterdir() if file.suffix in (".npy", ".csv"))
            raise InputError(f"the folder {path} needs one file {name}.npy or {name}.csv; it has {listing(held)}"
                             if not files
                             else f"the folder {path} has both {files[0].name} and {files[1].name}: one must go")
        found[name] = _map_npy(files[0]) if files[0].suffix == ".npy" else table.read(files[0], {name: type_})[name]
    return found


_READERS: dict[str, Callable[[Path, Mapping[str, Any]], dict[str, np.ndarray]]] = {
    ".npz": _read_npz, ".npy": _read_npy, ".csv": table.read, ".safetensors": _read_safetensors}


# --- out --------------------------------------------------------------------------------------------------------------


def check_format(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Raises InputError unless arrays of these names can be written to a file of this ending, or a folder."""
    path, names = Path(path), list(names)
    if path.suffix.lower() not in _WRITERS and not _is_folder(path):
        raise InputError(f"{path}: arrays are written to {FORMATS}, not to {path.suffix}")
    if path.suffix.lower() == ".npy" and len(names) != 1:
        raise InputError(f"{path} takes one array, not {listing(names)}: write them to an .npz file or a folder")


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a file, in the format of its ending, or to a folder; each file is written atomically."""
    path = Path(path)
    check_format(path, arrays)
    if _is_folder(path):
        path.mkdir(exist_ok=True)
        for name, array in arrays.items():
            write_atomically(path / f"{name}.npy", _npy(array))
        return
    write_atomically(path, _WRITERS[path.suffix.lower()](arrays))


def _is_folder(path: Path) -> bool:
    return path.is_dir() or not path.suffix


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict[str, Any](arrays))
    return buffer.getvalue()


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save
    return save({name: np.array(array, order="C") for name, array in arrays.items()})


_WRITERS: dict[str, Callable[[Mapping[str, np.ndarray]], bytes]] = {
    ".npz": _npz, ".npy": lambda arrays: _npy(*arrays.values()), ".safetensors": _safetensors, ".csv": table.text}
