"""What was compiled for a function's programs, what came from the cache, and why."""

from __future__ import annotations

from collections.abc import Sequence

from .records import dataclass

COMPILED, CACHED, LOADED = "compiled", "cached", "loaded"
WHY = {COMPILED: "new: neither this process nor the cache had it",
       CACHED: "the cache had it: an earlier process compiled it",
       LOADED: "this process had it already, for another program"}


@dataclass(frozen=True)
class Piece:
    """One piece of machine code of a program.  ``origin`` is COMPILED, CACHED or LOADED; ``seconds`` is what compiling
    it took, None unless COMPILED."""

    name: str
    text: str                       # what stands for it: a kernel's source, or the name of a piece of the runtime
    origin: str
    seconds: float | None


@dataclass(frozen=True)
class ProgramExplanation:
    """A program that was compiled.  ``is_kept``: its steps came from the cache, they were not derived from the model
    anew.  ``pieces`` is None as long as it has not run; ``sizes`` are the sizes that it ran with, of which only the
    first may compile anything, but on a GPU (``on_device``), where the tiles of products are chosen by size."""

    name: str
    is_kept: bool
    steps: int
    pieces: tuple[Piece, ...] | None
    sizes: tuple[dict[str, int], ...]
    on_device: bool = False

    def count(self, origin: str) -> int:
        return sum(piece.origin == origin for piece in self.pieces or ())

    def __str__(self) -> str:
        head = (f"program {self.name}: {self.steps} steps, "
                f"{'from the cache' if self.is_kept else 'lowered by this process'}")
        if self.pieces is None:
            return f"{head}; it has not run: nothing is compiled before"
        seconds = sum(piece.seconds or 0 for piece in self.pieces)
        lines = [head, (f"  {len(self.pieces)} kernels: {self.count(COMPILED)} compiled ({seconds:.1f} s), "
                        f"{self.count(CACHED)} from the cache, {self.count(LOADED)} there already")]
        for origin, why in WHY.items():
            names = [piece.name + (f" ({piece.seconds:.2f} s)" if piece.seconds is not None else "")
                     for piece in self.pieces if piece.origin == origin]
            if names:
                lines += [f"  {origin}, {why}", *_wrapped(names)]
        sizes = [", ".join(f"{symbol} = {size}" for symbol, size in found.items()) for found in self.sizes if found]
        if self.on_device and len(sizes) > 1:
            lines.append(f"  {len(sizes)} sizes, whose products may take other tiles: {'; '.join(sizes)}")
        elif len(sizes) > 1:
            lines.append(f"  {len(sizes) - 1} other sizes compiled nothing: {'; '.join(sizes[1:])}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """What happened to the programs of a function, in the order of their first use; ``str()`` of it is a text.

    ``is_kept``: the model came from the cache, its file was not elaborated anew.  ``cache_fault``: why the cache is not
    used, None where it is.
    """

    model: str
    is_kept: bool
    programs: tuple[ProgramExplanation, ...]
    cache_fault: str | None

    @property
    def compiled(self) -> int:
        """How many kernels were compiled."""
        return sum(program.count(COMPILED) for program in self.programs)

    def __getitem__(self, name: str) -> ProgramExplanation:
        return next(program for program in self.programs if program.name == name)

    def __str__(self) -> str:
        lines = [f"model {self.model}: {'from the cache' if self.is_kept else 'elaborated by this process'}"]
        if self.cache_fault is not None:
            lines.append(f"the cache is not used: {self.cache_fault}")
        lines += map(str, self.programs)
        if not self.programs:
            lines.append("no program has been needed yet: each is compiled at its first use")
        return "\n".join(lines)

    __repr__ = __str__


def _wrapped(names: Sequence[str], width: int = 118) -> list[str]:
    lines = ["   "]
    for name in names:
        if len(lines[-1]) + len(name) + 2 > width:
            lines.append("   ")
        lines[-1] += f" {name},"
    lines[-1] = lines[-1].rstrip(",")
    return lines
