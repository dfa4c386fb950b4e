"""What a process does before its first result: nothing that it could leave.  What it takes is measured by
``netc bench --compile``; here is counted what it depends on."""

from __future__ import annotations

import ast
import re

import pytest
from llvmlite import binding as llvm

from netc.runtime import native, scalar, tile_code
from netc.runtime.translate import Definition

ROWS = """def kernel(bases, args, begin, end):
    b0 = buffer_f32(bases, args, 0)
    b1 = buffer_f32(bases, args, 2)
    b2 = buffer_f32(bases, args, 4)
    n0 = args[6]
    n1 = args[7]
    for u0 in range(begin, end):
        total1 = float32(0.0)
        for r1 in range(n0):
            v1 = b0[r1 + n1 * u0]
            v2 = add_any_order(total1, v1)
            total1 = v2
        b1[u0] = total1
        v3 = b1[u0]
        total2 = float32(0.0)
        for r2 in range(n0):
            v4 = b0[r2 + n1 * u0]
            v5 = v4 - v3
            v6 = add_any_order(total2, v5)
            total2 = v6
        b2[u0] = total2
"""


def vector_loops(level: int) -> list[str]:
    defined = Definition(ast.parse(ROWS).body[0], scalar.namespace())
    module = str(native.compile_module(defined, native.KERNEL, "kernel", level))
    return re.findall(r"^(vector\.body[^:]*):", module, re.MULTILINE)


def test_loops_are_compiled_once_each():
    assert len(vector_loops(scalar.level_of(ROWS))) == 2 < len(vector_loops(3))


@pytest.mark.parametrize(("line", "level"), [
    ("v6 = b0[i2 + n1 * q1 if g5 else 0]", 3), ("if g5:", 3), ("for w4 in range(3):", 3), ("v9 = v7 if v6 else v8", 2),
    ("for i1 in range(n0):", 2)])
def test_what_is_guarded_or_unrolled_is_worth_copies(line, level):
    assert scalar.level_of(f"def kernel(bases, args, begin, end):\n    {line}\n") == level


@pytest.mark.parametrize(("rows", "vectors", "last", "panel"), [(6, 2, 0, 0), (6, 2, 1, 0), (1, 8, 0, 2)])
@pytest.mark.parametrize("asks", [0, 1])
def test_a_tile_has_one_innermost_loop(rows, vectors, last, panel, asks):
    module = str(llvm.parse_bitcode(tile_code.build_tile("f32", rows, vectors, last, panel, asks).bitcode))
    products = re.findall(r"call <\d+ x float> @llvm\.fma", module)
    assert len(products) == rows * vectors
