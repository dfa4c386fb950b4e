"""``fn.explain()``; and that other sizes and other data compile nothing, for every example."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.compiler.types import evaluate
from netc.runtime import machine

EXAMPLES = [path for path in sorted((Path(netc.__file__).parent / "examples").glob("*.net"))
            if path.stem != "inception_block"]         # which is imported
SOURCE = """net 1
model Line(x: f32[N, 2]) -> (y: f32[N, 5]):
    y = Dense(5)(x)
train Line:
    input target: f32[N, 5]
    loss square = mean((y - target) ** 2)
    optimizer = sgd(lr = 0.1)
"""


def arrays(types, rng, **sizes):
    """Values that fit: small whole numbers for integers."""
    found = {}
    for name, type_ in types.items():
        shape = tuple(evaluate(size, sizes) for size in type_.shape)
        values = rng.integers(0, 2, shape) if type_.dtype.kind == "int" else rng.random(shape)
        found[name] = values.astype(type_.dtype.numpy)
    return found


def symbols_of(fn) -> set[str]:
    return {symbol for type_ in (*fn.inputs.values(), *fn.targets.values()) for size in type_.shape
            if not isinstance(size, int) for symbol in size.symbols}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_only_the_first_sizes_of_an_example_compile(path):
    fn = netc.compile(path)
    weights = fn.init()
    rng = np.random.default_rng(0)
    symbols = sorted(symbols_of(fn))
    trainer = fn.trainer(weights) if fn.model.optimizer is not None else None
    random = {"seed": 1} if fn.program("predict").uses_seed else {}
    before = None
    # A sequence must be long enough for its windows; one sample, several, and more than a tile has rows.
    for turn, batch in enumerate((4, 1, 9)):
        sizes = {symbol: batch if symbol == "N" else 6 + 5 * turn for symbol in symbols}
        if trainer is not None:
            trainer(arrays({**fn.inputs, **fn.targets}, rng, **sizes))
        fn(weights, arrays(fn.inputs, rng, **sizes), **random)
        if before is not None:
            assert machine.counts.total == before, sizes
        before = machine.counts.total
    for program in fn.explain().programs:
        assert len(program.sizes) == (3 if symbols else 1)


def test_the_text_of_an_explanation(tmp_path, monkeypatch):
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "_loaded", {})
    fn = netc.compile(SOURCE)
    assert str(fn.explain()) == ("model Line: elaborated by this process\n"
                                 "no program has been needed yet: each is compiled at its first use")
    assert fn.explain().compiled == 0
    fn(fn.init(), x=np.ones((3, 2), np.float32))
    fn(fn.init(), x=np.ones((8, 2), np.float32))
    found = fn.explain()
    kernels = len(found["predict"].pieces)
    assert found.compiled == found["predict"].count("compiled") == kernels
    text = re.sub(r"\d+\.\d+ s", "T", str(found))
    assert f"  {kernels} kernels: {kernels} compiled (T), 0 from the cache, 0 there already\n" in text
    assert "compiled, new: neither this process nor the cache had it\n    map 0 (T)" in text \
        and "contract f32 (T)" in text
    assert text.endswith("\n  1 other sizes compiled nothing: N = 8")
    # another function of this process, and then as another process would find it
    again = netc.compile(SOURCE)
    again(again.init(), x=np.ones((3, 2), np.float32))
    assert "model Line: from the cache\nprogram predict: " in str(again.explain())
    assert again.explain()["predict"].count("loaded") == kernels and again.explain().compiled == 0
    monkeypatch.setattr(machine, "_loaded", {})
    third = netc.compile(SOURCE)
    third(third.init(), x=np.ones((3, 2), np.float32))
    assert third.explain()["predict"].count("cached") == kernels
    assert f"0 compiled (0.0 s), {kernels} from the cache, 0 there already" in str(third.explain())


def test_a_program_that_has_not_run(tmp_path, monkeypatch):
    fn = netc.compile(SOURCE)
    fn.program("step")
    assert fn.explain()["step"].pieces is None
    assert "it has not run: nothing is compiled before" in str(fn.explain())


def test_without_a_cache_the_reason_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "file"))
    assert "the cache is not used: cannot be used: " in str(netc.compile(SOURCE).explain())


def test_the_oracle_compiles_nothing():
    fn = netc.compile(SOURCE, target="numpy")
    fn(fn.init(), x=np.ones((3, 2), np.float32))
    assert fn.explain().programs == () and fn.explain().compiled == 0
