"""The cache on disk: bytes by key, in the user's cache folder, believed only with our own signature.

An entry is one file, named by its key: a header, a keyed BLAKE2b of (key, payload), the payload.  The key of the
signature is a secret that lies in the folder, readable by its owner alone; an entry that was planted, altered, renamed,
cut short or torn does not verify and is treated as absent.  Files are written under another name and then renamed, so
readers never see half of one; nothing is forced to the disk, since what a power cut tears does not verify either.
Whatever goes wrong here costs a compilation, never an error.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import time
import warnings
from pathlib import Path

from .digest import blake2b, compare_digest
from .records import dataclass

MAGIC = b"netc cache 1\n"
SIGNATURE_BYTES = 32
DEFAULT_LIMIT = 512             # MiB; the least recently used entries go first
STALE_SECONDS = 3600            # a temporary file older than this was left by a process that died
TOUCH_SECONDS = 3600            # an entry's time of use is noted this often
EVICT_EVERY = 64                # entries written by a process between two looks at the folder's size
EVICT_SECONDS = 600             # a process looks at its first entry, too, unless one has looked this lately

# Only files of these names are ever removed: the folder may be one that holds other things too.
_ENTRY = re.compile(r"[0-9a-f]{48}")
_TEMPORARY = re.compile(r"tmp-[0-9a-f]+-[0-9a-f]{16}")
# A link, a pipe or the like is none of ours; neither may opening one wait.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def key_of(*parts: str | bytes) -> str:
    """The key that these texts stand for, in this order; a path among them may hold bytes that are no UTF-8."""
    digest = blake2b(digest_size=24)
    for part in parts:
        content = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def folder_path() -> Path | None:
    """Where the cache is: ``NETC_CACHE_DIR``, or the platform's folder for caches; None where there is no such
    place."""
    chosen = os.environ.get("NETC_CACHE_DIR")
    if chosen:
        return Path(chosen).absolute()
    from platformdirs import user_cache_dir
    found = Path(user_cache_dir("netc", appauthor=False))
    return found if found.is_absolute() else None       # a user without a home


def limit() -> int:
    """The largest size of the cache in bytes: ``NETC_CACHE_LIMIT`` in MiB, or the default; 0 keeps nothing."""
    return _limit(os.environ.get("NETC_CACHE_LIMIT", "")) * 2**20


@functools.lru_cache(maxsize=4)
def _limit(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    if text:
        warnings.warn(f"NETC_CACHE_LIMIT={text} is not a whole number of MiB: {DEFAULT_LIMIT} is used", stacklevel=2)
    return DEFAULT_LIMIT


# --- the folder and its secret ------------------------------------------------------------------------------------


def _open() -> tuple[Path, bytes] | None:
    """The folder and its secret; None where no cache can be kept."""
    path = folder_path()
    if path is None:
        return None
    secret = _look(path).secret
    return (path, secret) if secret is not None else None


@dataclass(frozen=True)
class _Look:
    """A folder's secret, or why it is not used."""

    secret: bytes | None
    fault: str | None = None


@functools.lru_cache(maxsize=4)
def _look(path: Path) -> _Look:
    """Open a folder, which is made if it is not there; one that others could have written to is refused with a
    warning."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fault = _fault(path.stat())
        if fault is None:
            return _Look(_secret(path))
        warnings.warn(f"the cache folder {path} {fault}: it is not used", stacklevel=2)
        return _Look(None, fault)
    except OSError as error:        # read-only or full: work goes on without a cache
        return _Look(None, f"cannot be used: {error.strerror or error}")


def _fault(status: os.stat_result) -> str | None:
    """Why a file cannot be trusted to be our own; None if it can."""
    if hasattr(os, "geteuid"):
        if status.st_uid != os.geteuid():
            return "belongs to another user"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return "can be written by others (`chmod go-w` mends that)"
    return None


def _secret(path: Path) -> bytes:
    place = path / "secret"
    for _ in range(5):
        try:
            found = _read(place, private=True)
            if found is not None and len(found) == SIGNATURE_BYTES:
                return found
            place.unlink()          # cut short, or not ours: what it signed is lost, and no harm done
        except FileNotFoundError:
            pass                    # there is none, or another process was first
        made = _write_beside(path, os.urandom(SIGNATURE_BYTES))
        try:
            os.link(made, place)        # fails if another process was first: then its secret counts
        except FileExistsError:
            pass
        except OSError:                 # a file system without links: the last one counts
            os.replace(made, place)
        made.unlink(missing_ok=True)
    raise OSError(f"no secret can be kept in {path}")


def _read(place: Path, private: bool = False) -> bytes | None:
    """The content of a plain file that nobody else could have written (``private``: nor read); None for any other
    file."""
    try:
        descriptor = os.open(place, _READ)
    except FileNotFoundError:
        raise
    except OSError:                 # a link, or closed to us
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        shared = private and os.name == "posix" and status.st_mode & 0o077
        return None if shared or not stat.S_ISREG(status.st_mode) or _fault(status) else file.read()


def _write_beside(path: Path, content: bytes) -> Path:
    """A new file in the folder, only its owner's, with this content."""
    made = path / f"tmp-{os.getpid():x}-{os.urandom(8).hex()}"
    descriptor = os.open(made, _CREATE, 0o600)
    try:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(descriptor, rest):]
        finally:
            os.close(descriptor)
    except BaseException:               # a full disk, or Ctrl-C
        made.unlink(missing_ok=True)
        raise
    return made


# --- entries ------------------------------------------------------------------------------------------------------


def _signature(secret: bytes, key: str, payload: bytes) -> bytes:
    signer = blake2b(key.encode() + b"\0", key=secret, digest_size=SIGNATURE_BYTES)
    signer.update(payload)
    return signer.digest()


def get(key: str) -> bytes | None:
    """What was put under a key of ``key_of``; None if nothing was, or nothing that can be believed."""
    opened = _open()
    if opened is None:
        return None
    path, secret = opened
    try:
        content = _read(path / key) or b""
    except OSError:
        return None
    start = len(MAGIC) + SIGNATURE_BYTES
    payload = content[start:]
    signature = _signature(secret, key, payload)
    if content[:len(MAGIC)] != MAGIC or not compare_digest(content[len(MAGIC):start], signature):
        return None
    _touch(path / key)
    return payload


def _touch(place: Path) -> None:
    """Note that an entry is used, now and then."""
    try:
        if abs(time.time() - place.stat().st_mtime) > TOUCH_SECONDS:
            os.utime(place)
    except OSError:
        pass                    # another process removed it, or the folder is read-only: only its age is lost


def put(key: str, payload: bytes) -> None:
    """Keep bytes under a key of ``key_of``; where that cannot be, nothing happens."""
    opened = _open() if limit() else None
    if opened is None:
        return
    path, secret = opened
    try:
        made = _write_beside(path, MAGIC + _signature(secret, key, payload) + payload)
        try:
            os.replace(made, path / key)
        except OSError:
            made.unlink(missing_ok=True)
            raise
        _evict(path)
    except OSError:
        return                  # a full disk or a read-only folder: the entry is compiled again next time


_written = 0


def _evict(path: Path) -> None:
    """Now and then: remove the least recently used entries beyond the limit, and what dead processes left."""
    global _written
    _written += 1
    secret = path / "secret"            # its time is that of the last look, which takes long where there is much
    is_due = _written % EVICT_EVERY == 0 or _written == 1 and abs(time.time() - secret.stat().st_mtime) > EVICT_SECONDS
    if not is_due:
        return
    os.utime(secret)
    total = 0
    for entry in sorted(_entries(path), key=lambda entry: -entry.used):
        total += entry.size
        if entry.is_dead or (total > limit() and not entry.temporary):
            _remove(entry.path)


@dataclass(frozen=True)
class Entry:
    """A file of the cache; ``used`` is when, in seconds, and 0 where the clock was wrong."""

    path: Path
    size: int
    used: float
    temporary: bool
    is_dead: bool


def _entries(path: Path) -> list[Entry]:
    found, now = [], time.time()
    for item in os.scandir(path):
        temporary = _TEMPORARY.fullmatch(item.name) is not None
        try:
            if not (temporary or _ENTRY.fullmatch(item.name)) or not item.is_file(follow_symlinks=False):
                continue
            status = item.stat(follow_symlinks=False)
        except OSError:                 # removed meanwhile
            continue
        # A time in the future, of a clock that has been set back since, says nothing about when the entry was used.
        used = status.st_mtime if status.st_mtime <= now + TOUCH_SECONDS else 0.0
        dead = temporary and abs(now - status.st_mtime) > STALE_SECONDS
        found.append(Entry(Path(item.path), status.st_size, used, temporary, dead))
    return found


def _remove(place: Path) -> bool:
    try:
        place.unlink()
    except OSError:                     # removed meanwhile, or not ours to remove
        return False
    return True


@dataclass(frozen=True)
class Info:
    """``folder`` is None where there is no place for one; ``fault`` says why it is not used, None if it is; sizes in
    bytes."""

    folder: Path | None
    fault: str | None
    entries: int
    size: int
    limit: int


def info() -> Info:
    """Where the cache is and what it holds."""
    path = folder_path()
    entries = [entry for entry in _list(path) if not entry.temporary]
    fault = _look(path).fault if path is not None else "there is no home folder; NETC_CACHE_DIR can name a place"
    return Info(path, fault, len(entries), sum(entry.size for entry in entries), limit())


def clear() -> int:
    """Remove every entry, and what dead processes left; how many entries there were.  Processes that run keep what
    they have loaded."""
    entries = [entry for entry in _list(folder_path()) if entry.is_dead or not entry.temporary]
    return sum(_remove(entry.path) and not entry.temporary for entry in entries)


def _list(path: Path | None) -> list[Entry]:
    try:
        return _entries(path) if path is not None else []
    except OSError:                     # no such folder
        return []
