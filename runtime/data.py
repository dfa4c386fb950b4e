"""Arrays from ``.npz`` files, which anybody may have written: nothing is unpickled, no header is trusted."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from typing import Iterable

import numpy as np

from .errors import InputError, listing
from .weights import LARGEST


def load_arrays(path: str | os.PathLike, names: Iterable[str]) -> dict[str, np.ndarray]:
    """These arrays of an ``.npz`` file.  Raises InputError naming what is missing or damaged, OSError."""
    shown = os.fspath(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            held = {name[:-4]: name for name in archive.namelist() if name.endswith(".npy")}
            missing = [name for name in names if name not in held]
            if missing:
                raise InputError(f"{shown} has no array {listing(missing)}; it holds {listing(held)}")
            return {name: _read(archive, held[name], shown) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{shown} is not a sound .npz file: {error} (make one with numpy.savez)") from None


def _read(archive: zipfile.ZipFile, member: str, shown: str) -> np.ndarray:
    """One array; what its header promises is compared with what the archive holds before it is allocated."""
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                           (2, 0): np.lib.format.read_array_header_2_0}.get(version)
            if read_header is None:
                raise InputError(f"`{member}` of {shown} has the unknown format {version}")
            shape, _, dtype = read_header(file)
            count = math.prod(shape)
            if dtype.hasobject:
                raise InputError(f"`{member}` of {shown} holds Python objects, expected numbers")
            if count >= LARGEST or count * dtype.itemsize > archive.getinfo(member).file_size:
                raise InputError(f"`{member}` of {shown} claims the shape {list(shape)}, which it does not hold")
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"`{member}` of {shown} cannot be read: {error}") from None


def save_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Write an ``.npz`` file, atomically."""
    import io

    from .weights import write_atomically
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
