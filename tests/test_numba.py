"""The target "numba": that it gives the same bits (numba_bits.py), and what is said of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from beside import Beside

import netc
from netc.runtime import numba_backend

ONE = "net 1\nmodel One(x: f32[N]) -> f32[N]:\n    return 2 * x + 1\n"
BITS = Beside(([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "numba_bits.py"], {}))


@pytest.mark.slow
@pytest.mark.beside(BITS)
def test_all_is_the_same_bits():
    done, = BITS.results()
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_function_of_it_is_whole():
    fn = netc.compile(ONE, target="numba")
    w, x = fn.init(), np.arange(3.0, dtype=np.float32)
    for _ in range(2):                      # the second call takes the short way
        np.testing.assert_array_equal(fn.bind(w)(x), fn(w, x))
    assert fn.profile(batch=3).program == "predict" and "model One" in str(fn.explain())


def test_the_command_line_takes_it(tmp_path, netc_command):
    (tmp_path / "one.net").write_text(ONE)
    np.savez(tmp_path / "x.npz", x=np.arange(3.0))
    code, out, _ = netc_command("run", tmp_path / "one.net", "--data", tmp_path / "x.npz", "--target", "numba")
    assert code == 0 and "[1. 3. 5.]" in out
    (text,) = (text for _, text in netc.compile(ONE).program("predict").executable.kernels())
    assert text in numba_backend.loaded()


def test_what_numba_cannot_compile_is_said():
    with pytest.raises(netc.ModelError, match=r"Numba \d\S* cannot compile a kernel: .*soup.* The target \"cpu\""):
        numba_backend.codes(["def kernel(bases, args, begin, end):\n    soup(1)\n"])


def test_only_this_target_imports_numba_and_says_where_it_is_missing():
    code = (f"import sys; sys.modules['numba'] = None; import netc\nfn = netc.compile({ONE!r})\n"
            "print(fn(fn.init(), x=[1.0]), fn.profile().program)\n"
            f"try: netc.compile({ONE!r}, target='numba')\nexcept netc.ModelError as error: print(error)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    values, error = done.stdout.splitlines()
    assert values == "[3.] predict"
    assert error.startswith("the target \"numba\" needs the package numba (pip install 'numba>=0.61'), which cannot be")
