"""Every stage of the pipeline as text, for ``netc emit``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from .diagnostics import Span
from .programs import Program

STAGES = ("ast", "graph", "grad", "simplified", "fused", "loops", "numba", "llvm", "asm", "cuda", "ptx")


def format_tree(value: Any, indent: int = 0) -> str:
    """A syntax tree: a line a node, its fields below it; spans are left out."""
    lines: list[str] = []
    pending: list[tuple[str, Any, int]] = [("", value, indent)]
    while pending:                                   # not recursive: a tree may be deeper than Python's stack
        label, current, depth = pending.pop()
        pad = "  " * depth + label
        if is_dataclass(current) and not isinstance(current, type):
            parts = [(field.name, getattr(current, field.name)) for field in fields(current)
                     if not isinstance(getattr(current, field.name), Span)]
            plain = [f"{name}={part!r}" for name, part in parts if not _is_tree(part)]
            lines.append(f"{pad}{type(current).__name__}({', '.join(plain)})")
            below = [(f"{name}: ", part, depth + 1) for name, part in parts if _is_tree(part)]
        elif isinstance(current, tuple):
            lines.append(f"{pad}({len(current)})")
            below = [("", part, depth + 1) for part in current]
        else:
            lines.append(f"{pad}{current!r}")
            below = []
        pending += reversed(below)
    return "\n".join(lines)


def _is_tree(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type) or isinstance(value, tuple) and any(map(_is_tree, value))


def format_stage(program: Program, stage: str, sizes: Mapping[str, int]) -> str:
    """A program at one stage after elaboration.  ``sizes``: of its symbols; machine code depends on them a little,
    since the tiles of products are chosen by size."""
    from .text import format_graph
    if stage in ("graph", "grad"):
        return format_graph(program.graph)
    from .pipeline import compile_graph, optimize
    if stage == "simplified":
        return format_graph(optimize(program.graph, program.trains))
    if stage == "fused":
        from .fuse import format_fusion, fuse
        return format_fusion(fuse(optimize(program.graph, program.trains).outputs))
    if stage in ("cuda", "ptx"):
        return _format_cuda(compile_graph(program.graph, program.layout, "cuda", trains=program.trains), stage, sizes)
    executable = compile_graph(program.graph, program.layout, "cpu", program.replaced, program.trains)
    if stage == "loops":
        return executable.format_loops()
    if stage == "numba":
        return "\n\n".join(f"# {label}\n{source}" for label, source in executable.kernels())
    return _format_machine_code(executable, stage, sizes)


def _format_cuda(executable, stage: str, sizes: Mapping[str, int]) -> str:
    """What a GPU would run, kernel by kernel, as source for numba-cuda or as PTX, for which no GPU is needed."""
    kernels = executable.all_kernels(sizes)
    if stage == "cuda":
        return "\n\n".join(f"# {label}\n{source}" for label, source in kernels)
    from ..runtime.cuda.door import ptx
    return "\n\n".join(f"// {label}\n{ptx(source)}" for label, source in kernels)


def _format_machine_code(executable, form: str, sizes: Mapping[str, int]) -> str:
    """What is linked and run, kernel by kernel, in LLVM's language or as assembly."""
    from ..runtime.listing import listing, texts_of
    runner = executable.bind(sizes).runner
    names = {text: name for name, text in executable.kernels()}
    mark = {"llvm": ";", "asm": "#"}[form]
    return "\n\n".join(f"{mark} {names.get(text, text)}\n{listing(text, form)}"
                       for text in texts_of(runner.steps.tolist(), runner.args.tolist()))
