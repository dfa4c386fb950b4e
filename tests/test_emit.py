"""What a model became, printed: every stage, down to the code that is linked."""

from __future__ import annotations

import numpy as np
import pytest

import netc

SOURCE = """net 1
model Line(x: f32[N, 2]) -> (y: f32[N, 4]):
    y = Dense(4)(x)
train Line:
    input target: f32[N, 4]
    loss square = mean((y - target) ** 2)
    optimizer = sgd(lr = 0.1)
"""


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE)


def test_the_source_is_the_text(fn, tmp_path):
    assert fn.source == SOURCE
    (tmp_path / "line.net").write_text(SOURCE)
    assert netc.compile(tmp_path / "line.net").source == SOURCE


def test_the_stages_of_a_program(fn):
    assert "Model(name='Line'" in fn.emit("ast") and "contract" in fn.emit("graph")
    assert "gradient" in fn.emit("graph", "step") or "weights" in fn.emit("graph", "step")
    assert fn.emit() == fn.emit("numba") and "def kernel(bases, args, begin, end):" in fn.emit()
    assert len(fn.emit("numba", "step")) > len(fn.emit("numba"))
    for wrong in (("soup", "predict"), ("graph", "soup")):
        with pytest.raises(netc.ModelError, match=r"there is no .* 'soup'"):
            fn.emit(*wrong)
    with pytest.raises(netc.InputError, match="no size `M`"):
        fn.emit("asm", sizes={"M": 3})


def test_machine_code_is_that_which_runs(fn):
    from llvmlite.binding import parse_assembly

    from netc.runtime import machine
    from netc.runtime.builders import build
    from netc.runtime.listing import listing, texts_of
    fn(fn.init(), np.ones((8, 2), np.float32))
    runner = fn.program("predict").executable.bind({"N": 8}).runner
    texts = texts_of(runner.steps.tolist(), runner.args.tolist())
    assert texts[0] == "contract f32" and any(text.startswith("tile f32 ") for text in texts) \
        and "def kernel" in texts[-1]
    assembly, llvm = fn.emit("asm", sizes={"N": 8}), fn.emit("llvm", sizes={"N": 8})
    for text in texts:
        made = build(text)
        assert made.content == build(text).content                     # equal texts give equal code
        assert f"\n{made.symbol}:" in assembly and f"@{made.symbol}(" in llvm
        assert machine.emit_code(parse_assembly(listing(text, "llvm"))) == made.content
    assert assembly.count("\n# ") >= len(texts) - 1 and "tile f32" in assembly
