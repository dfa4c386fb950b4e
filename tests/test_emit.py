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


@pytest.mark.parametrize("argument, is_short", [
    ("where(x > 0, 0, x)", True), ("minimum(x, 0)", True), ("minimum(0, x)", True),
    ("x", False), ("where(x > 0, x, 0)", False), ("where(x > 1, 0, x)", False), ("where(x > 0, 1, x)", False),
    ("where(2 * x > 0, 0, x)", False), ("minimum(x, 1)", False), ("maximum(x, 0)", False)])
def test_expm1_of_what_is_not_above_0_takes_a_shorter_way(argument, is_short):
    fn = netc.compile(f"net 1\nmodel M(x: f32[N, 3]) -> f32[N, 3]:\n    return expm1({argument})\n")
    assert ("expm1_nonpositive_f32(" in fn.emit("numba", "predict")) == is_short
    x = np.array([[-np.inf, -200, -17], [-1, -0.3, -1e-30], [0.0, 1e-3, 3], [np.inf, np.nan, -0.0]], np.float32)
    np.testing.assert_allclose(fn(fn.init(), x), netc.compile(fn.source, target="numpy")(fn.init(), x), rtol=2e-7)


@pytest.mark.parametrize("name", ["elu", "selu"])
def test_exponential_units_take_it(name):
    fn = netc.compile(f"net 1\nmodel M(x: f32[N, 3]) -> f32[N, 3]:\n    return {name}(x)\n")
    assert "expm1_nonpositive_f32(" in fn.emit("numba", "predict")
