"""Options that commands share, and what they do with them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

MODEL = click.option("--model", metavar="NAME", help="The model; without it, the one that is trained, or the last.")
PRECISION = click.option("--precision", type=click.Choice(["f32", "f64"]), default="f32", show_default=True)
TARGET = click.option("--target", type=click.Choice(["cpu", "numba", "cuda", "numpy"]), default="cpu",
                      show_default=True, help="numba is the same by Numba, cuda an NVIDIA GPU, numpy the slow oracle.")
SEED = click.option("--seed", type=click.IntRange(-2 ** 63, 2 ** 63 - 1), default=0, show_default=True)
THREADS = click.option("--threads", type=click.IntRange(1), help="Threads; without it, one a core.")
SIZES = click.option("--size", "sizes", multiple=True, metavar="SYMBOL=NUMBER",
                     help="A value for a symbol; may be repeated.")
FILE = click.argument("file", type=click.Path(path_type=Path))
FILES = click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))


def compile_file(file: Path, model=None, outputs=None, target="cpu", precision="f32", threads=None, **overrides):
    from ...function import compile
    if threads is not None:
        from ...runtime.pool import set_threads
        set_threads(threads)
    return compile(file, model=model, outputs=outputs, target=target, precision=precision, **overrides)


def read_file(file: Path, model: str | None, precision: str):
    """A file's model, to be looked at: for the target "numpy", so that nothing prepares to compile its kernels."""
    return compile_file(file, model, target="numpy", precision=precision)


def read_model(file: Path, model: str | None, precision: str):
    """The same without what calls it, and so without NumPy: of a command that shows what there is and ends.  A new
    model is not kept, which takes as long as to elaborate it."""
    from ..kept_models import elaborate
    from ..source import read_source
    return elaborate(*read_source(file), keeps=False, model=model, precision=precision, settings={}, optimizer=None,
                     lr=None)


def net_files(paths: Iterable[Path], stdin: bool = False) -> list[Path]:
    """The files that are named, and every .net file below the folders that are, hidden folders left out.

    Raises NetcError for a folder without any, OSError for what is not there.
    """
    from ...runtime.errors import NetcError
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            below = [file for file in sorted(path.rglob("*.net")) if file.is_file()
                     and not any(part.startswith(".") for part in file.relative_to(path).parts)]
            if not below:
                raise NetcError(f"{path}: no .net file in this folder")
            found.update(dict.fromkeys(below))
        elif path.exists() or (stdin and path == Path("-")):
            found[path] = None
        else:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return list(found)


def echo_error(message: str) -> None:
    """A message on the error output, marked as an error; a name or a path in it may hold anything."""
    echo_aside(message if message.startswith(("error", "warning")) or "error[" in message else f"error: {message}")


def echo_aside(text: str) -> None:
    """Text on the error output; what the terminal cannot show is written as an escape."""
    encoding = sys.stderr.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=True)


def save_path(file: Path, save: Path | None, *read: Path) -> Path:
    """Where the weights go; refused now, not after an hour of training, where that is no place to write to."""
    target = save if save is not None else Path(file.with_suffix(".safetensors").name)
    check_target(target, file, *read)
    return target


def check_target(target: Path, *read: Path | None) -> None:
    """Refuses a place that cannot be written to, and one that would overwrite what the command reads."""
    folder = target.resolve().parent
    if target.suffix == ".net" or target.resolve() in [path.resolve() for path in read if path is not None]:
        raise OSError(f"cannot write {target}: it is what this command reads, or a model file")
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OSError(f"cannot write {target}: "
                      f"{'it is a folder' if target.is_dir() else f'no writable folder {folder}'}")


def sizes_of(given: tuple[str, ...], model) -> dict[str, int]:
    """What ``--size`` says of a Model's symbols, checked."""
    from ..types import symbols
    known = sorted({name for leaf in model.inputs for size in leaf.shape for name in symbols(size)})
    sizes = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in known or not number.isdecimal() or int(number) < 1:
            raise click.BadParameter(f"{text!r} is no SYMBOL=NUMBER; the symbols are {', '.join(known) or 'none'}",
                                     param_hint="--size")
        sizes[name] = int(number)
    return sizes
