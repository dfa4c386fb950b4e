"""The cache on disk: bytes by key, in the user's cache folder, believed only with our own signature.

An entry is one file, named by its key: a header, a keyed BLAKE2b of (key, payload), the payload.  The key of the
signature is a secret that lies in the folder, readable by its owner alone; an entry that was planted, altered, cut short or
torn does not verify and is treated as absent.  Files are written under another name and then renamed, so readers never
see half of one.  Whatever goes wrong here costs a compilation, never an error.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"netc cache 1\n"
SIGNATURE_BYTES = 32
DEFAULT_LIMIT = 512 * 2**20     # bytes; the least recently used entries go first
STALE_SECONDS = 3600            # a temporary file older than this was left by a process that died
TOUCH_SECONDS = 24 * 3600       # an entry's time of use is noted this often


def folder_path() -> Path:
    """Where the cache is: ``NETC_CACHE_DIR``, or the platform's folder for caches."""
    chosen = os.environ.get("NETC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_dir
    return Path(user_cache_dir("netc", appauthor=False))


def limit() -> int:
    """The largest size of the cache in bytes: ``NETC_CACHE_LIMIT`` in MiB, or the default."""
    value = os.environ.get("NETC_CACHE_LIMIT", "")
    return int(value) * 2**20 if value.isdigit() else DEFAULT_LIMIT


@functools.lru_cache(maxsize=4)
def _open(path: Path) -> bytes | None:
    """The secret of a folder that may be used, made if it is not there; None, with a warning, if it may not."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            warnings.warn(f"the cache folder {path} can be written by others: it is not used", stacklevel=2)
            return None
        return _secret(path)
    except OSError:
        return None             # read-only or full: work goes on without a cache


def _secret(path: Path) -> bytes:
    place = path / "secret"
    for _ in range(3):
        try:
            found = place.read_bytes()
            if len(found) == SIGNATURE_BYTES:
                return found
            place.unlink()      # cut short: what it signed is lost, and no harm done
        except FileNotFoundError:
            pass
        made = _write_beside(path, secrets.token_bytes(SIGNATURE_BYTES))
        try:
            os.link(made, place)        # fails if another process was first: then its secret counts
        except FileExistsError:
            pass
        finally:
            made.unlink()
    raise OSError(f"no secret can be kept in {path}")


def _write_beside(path: Path, content: bytes) -> Path:
    """A new file in the folder, only its owner's, with this content, on the disk."""
    descriptor, name = tempfile.mkstemp(prefix="tmp-", dir=path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        os.unlink(name)
        raise
    return Path(name)


def _signature(secret: bytes, key: str, payload: bytes) -> bytes:
    return hashlib.blake2b(key.encode() + b"\0" + payload, key=secret, digest_size=SIGNATURE_BYTES).digest()


def get(key: str) -> bytes | None:
    """What was put under a key (hexadecimal digits); None if nothing was, or nothing that can be believed."""
    path = folder_path()
    secret = _open(path)
    if secret is None:
        return None
    place = path / key
    try:
        content = place.read_bytes()
    except OSError:
        return None
    start = len(MAGIC) + SIGNATURE_BYTES
    payload = content[start:]
    if content[:len(MAGIC)] != MAGIC or not hmac.compare_digest(content[len(MAGIC):start], _signature(secret, key, payload)):
        return None
    _touch(place)
    return payload


def _touch(place: Path) -> None:
    """Note that an entry is used, now and then."""
    try:
        if abs(time.time() - place.stat().st_mtime) > TOUCH_SECONDS:
            os.utime(place)
    except OSError:
        pass                    # another process removed it, or the folder is read-only: only its age is lost


def put(key: str, payload: bytes) -> None:
    """Keep bytes under a key; where that cannot be, nothing happens."""
    path = folder_path()
    secret = _open(path)
    if secret is None:
        return
    try:
        made = _write_beside(path, MAGIC + _signature(secret, key, payload) + payload)
        try:
            os.replace(made, path / key)
        except OSError:
            made.unlink()
            raise
        _evict(path)
    except OSError:
        return                  # a full disk or a read-only folder: the entry is compiled again next time


_written = 0


def _evict(path: Path) -> None:
    """Every 64 entries written: remove the least recently used beyond the limit, and what dead processes left."""
    global _written
    _written += 1
    if _written % 64 != 1:
        return
    now, total = time.time(), 0
    for entry in sorted(_entries(path), key=lambda entry: -entry.used):
        total += entry.size
        dead = entry.temporary and now - entry.used > STALE_SECONDS
        if dead or (total > limit() and not entry.temporary):
            entry.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Entry:
    path: Path
    size: int
    used: float
    temporary: bool


def _entries(path: Path) -> list[Entry]:
    found = []
    for item in os.scandir(path):
        if item.name == "secret" or not item.is_file(follow_symlinks=False):
            continue
        try:
            status = item.stat()
        except FileNotFoundError:       # removed meanwhile
            continue
        found.append(Entry(Path(item.path), status.st_size, status.st_mtime, item.name.startswith("tmp-")))
    return found


def info() -> dict[str, object]:
    """Folder, number of entries, their bytes, and the limit."""
    path = folder_path()
    entries = [entry for entry in _entries(path) if not entry.temporary] if path.is_dir() else []
    return {"folder": str(path), "entries": len(entries), "bytes": sum(entry.size for entry in entries),
            "limit": limit(), "usable": _open(path) is not None}


def clear() -> int:
    """Remove every entry; how many there were."""
    path = folder_path()
    entries = _entries(path) if path.is_dir() else []
    for entry in entries:
        entry.path.unlink(missing_ok=True)
    return len(entries)
