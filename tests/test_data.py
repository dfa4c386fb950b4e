"""Arrays from files of every format and from other libraries, and out again."""

from __future__ import annotations

import json
import os
import struct

import numpy as np
import pytest

import netc
from netc.inputs import convert
from netc.runtime.data import load_arrays, save_arrays
from netc.runtime.errors import InputError, WeightsError

SOURCE = """net 1
model M(x: f32[N, 2, 2], text: i32[N, T], flag: bool[N], scale: f32[N, 1]) -> (y: f32[N, 3], best: i32[N]):
    y = Dense(3)(reshape(x, (N, 4))) * scale + cast(sum(text, axis = 1, keepdims = true), f32)
    best = where(flag, argmax(y, axis = -1), 0)
"""
FORMATS = (".npz", ".safetensors", ".csv", "", "mixed")


@pytest.fixture(scope="module")
def fn():
    return netc.compile(SOURCE, target="numpy")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(5, 2, 2)).astype(np.float32), "text": rng.integers(0, 9, (5, 3)),
            "flag": np.array([True, False, True, True, False]), "scale": rng.random((5, 1)).astype(np.float32)}


def write(folder, ending, arrays):
    path = folder / f"data{ending}"
    if ending == "mixed":                         # a folder where someone has put a table among the arrays
        save_arrays(path, {name: array for name, array in arrays.items() if name != "text"})
        np.savetxt(path / "text.csv", arrays["text"], delimiter=",", fmt="%d")
        (path / "notes.txt").write_text("not ours")
    else:
        save_arrays(path, arrays)
    return path


@pytest.mark.parametrize("ending", FORMATS)
def test_arrays_come_back_as_they_were(fn, arrays, tmp_path, ending):
    path = write(tmp_path, ending, arrays)
    found = load_arrays(path, fn.inputs)
    assert list(found) == list(fn.inputs)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype.kind == array.dtype.kind
    want, got = fn(fn.init(), arrays), fn(fn.init(), found)
    assert np.array_equal(want.y, got.y) and np.array_equal(want.best, got.best)


def test_one_array_in_a_file_of_its_own(arrays, tmp_path):
    fn = netc.compile("net 1\nmodel M(x: f32[N, 2, 2]) -> f32[N]:\n    return sum(x, axis = (1, 2))\n", target="numpy")
    save_arrays(tmp_path / "x.npy", {"x": arrays["x"]})
    found = load_arrays(tmp_path / "x.npy", fn.inputs)["x"]
    np.testing.assert_array_equal(found, arrays["x"])
    assert not found.flags.writeable                    # the file itself, read as it is used
    np.testing.assert_array_equal(fn(fn.init(), found), fn(fn.init(), arrays["x"]))
    np.save(tmp_path / "none.npy", np.zeros((0, 2)))
    assert load_arrays(tmp_path / "none.npy", {"x": None})["x"].shape == (0, 2)


# --- tables -----------------------------------------------------------------------------------------------------------


def table(folder, text):
    (folder / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / "t.csv"


TWO = "net 1\nmodel M(x: f32[N, 3], k: i32[N]) -> f32[N]:\n    return sum(x, axis = 1) + k\n"


@pytest.mark.parametrize("text", [
    "x.0,x.1,x.2,k\n1,2,3,4\n5,6.5,-7e1,8\n",
    "k,x_2,x_1,x_0\n4,3,2,1\n8,-70,6.5,5\n",
    "x[1],x[2],k,x[3]\n1,2,4,3\n5,6.5,8,-70\n",
    "red,green,k,blue\r\n1,2,4,3\r\n5,6.5,8,-70\r\n",
    '\ufeff"a, b",c, k ,"d ""e"""\n"1",2,4,3\n\n5, 6.5 ,8,-70',
])
def test_columns_find_their_arrays(tmp_path, text):
    types = netc.compile(TWO, target="numpy").inputs
    found = load_arrays(table(tmp_path, text), types)
    np.testing.assert_array_equal(found["x"], [[1, 2, 3], [5, 6.5, -70]])
    np.testing.assert_array_equal(found["k"], [4, 8])
    assert found["k"].dtype == np.int64


def test_a_table_without_a_heading_is_one_array(tmp_path):
    types = netc.compile("net 1\nmodel M(x: f32[N, T]) -> f32[N, T]:\n    return x\n", target="numpy").inputs
    np.testing.assert_array_equal(load_arrays(table(tmp_path, "1,2\n3,4\n"), types)["x"], [[1, 2], [3, 4]])


@pytest.mark.parametrize("text, message", [
    ("", "is empty"),
    ("x.0,x.1,x.2,k\n", "no row below its heading"),
    ("1,2,3,4\n", "has no heading.*x.0, ..., x.2, k"),
    ("x.0,x.1,x.2\n1,2,3\n", "no columns for `k`: k would be such; not used are none"),
    ("x.0,x.1,x.2,kind\n1,2,3,4\n", "no columns for `k`"),
    ("a,b,k\n1,2,3\n", "no columns for `x`: x.0, ..., x.2 would be such; not used are `a`, `b`"),
    ("x.0,x.1,k\n1,2,3\n", "2 columns for `x`, expected 3"),
    ("x.0,x.1,x.2,k\n1,2,3,4\n1,2,old,4\n", "line 3, column `x.2`: 'old' is no number"),
    ("x.0,x.1,x.2,k\n1,,3,4\n", "line 2, column `x.1`: there is nothing"),
    ("x.0,x.1,x.2,k\n1,2,3,4\n1,2\n", "line 3 has 2 columns, expected 4"),
    ("x.0,x.1,x.2,k\n1,2,3,4\n1,2,3,0.5\n", "row 2, column `k`: 0.5 is not a whole number"),
    ("x.0,x.1,x.2,k,k\n1,2,3,4,4\n", "two columns `k`"),
    (b"x.0,\xff\n", "not a table of UTF-8 text"),
])
def test_faulty_tables(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_arrays(table(tmp_path, text), netc.compile(TWO, target="numpy").inputs)


def test_numbers_of_a_table_keep_all_their_digits(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32) * 1e-3
    precise = np.random.default_rng(1).normal(size=50)
    save_arrays(tmp_path / "o.csv", {"a": values, "b": precise})
    rows = np.loadtxt(tmp_path / "o.csv", delimiter=",", skiprows=1)
    assert np.array_equal(rows[:, 0].astype(np.float32), values[:, 0]) and np.array_equal(rows[:, 1], precise)


# --- what cannot be read or written -----------------------------------------------------------------------------------


def broken(folder, kind):
    if kind == "text":
        (folder / "d.npy").write_text("no array")
    elif kind == "objects":
        np.save(folder / "d.npy", np.array([{}], object), allow_pickle=True)
    elif kind == "short":
        np.save(folder / "d.npy", np.zeros(1000))
        os.truncate(folder / "d.npy", 500)
    elif kind == "tensors":
        (folder / "d.safetensors").write_text("no tensors")
        return folder / "d.safetensors"
    elif kind == "ending":
        (folder / "d.txt").write_text("1")
        return folder / "d.txt"
    elif kind == "other":
        header = json.dumps({"y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        (folder / "d.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        return folder / "d.safetensors"
    elif kind == "folder":
        (folder / "d").mkdir()
        np.save(folder / "d" / "z.npy", np.zeros(1))
        return folder / "d"
    elif kind == "both":
        (folder / "d").mkdir()
        np.save(folder / "d" / "x.npy", np.zeros(1))
        (folder / "d" / "x.csv").write_text("1\n")
        return folder / "d"
    return folder / "d.npy"


@pytest.mark.parametrize("kind, error, message", [
    ("text", InputError, "not a sound .npy file"), ("objects", InputError, "Python objects"),
    ("short", InputError, "does not hold"),
    ("tensors", WeightsError, "not a safetensors file"),
    ("ending", InputError, "are read from .npz, .npy, .csv, .safetensors"),
    ("other", InputError, "no array `x`; it holds `y`"),
    ("folder", InputError, "needs one file x.npy or x.csv; it has `z.npy`"),
    ("both", InputError, "both x.npy and x.csv"), ("none", FileNotFoundError, "d.npy")])
def test_what_cannot_be_read_is_named(tmp_path, kind, error, message):
    types = netc.compile("net 1\nmodel M(x: f32[N]) -> f32[N]:\n    return x\n", target="numpy").inputs
    with pytest.raises(error, match=message):
        load_arrays(broken(tmp_path, kind), types)


def test_what_cannot_be_written_is_named(tmp_path):
    two = {"a": np.zeros(3), "b": np.zeros(2)}
    for name, message in (("o.txt", "written to"), ("o.npy", "takes one array"), ("o.csv", "equally many rows")):
        with pytest.raises(InputError, match=message):
            save_arrays(tmp_path / name, two)
    assert not any(tmp_path.iterdir())
    with pytest.raises(InputError, match="holds one array, but `a`, `b` are wanted"):
        load_arrays(tmp_path / "x.npy", {"a": None, "b": None})


def test_the_command_line_takes_and_gives_every_format(fn, arrays, tmp_path, monkeypatch, capsys):
    from netc.compiler.cli import main
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.net").write_text(SOURCE)
    for ending in (".npz", ".csv", ""):
        write(tmp_path, ending, arrays)
        for out in ("o.npz", "o.csv", "o.safetensors", f"out{ending[1:]}"):
            with pytest.raises(SystemExit) as ended:
                main(["run", "m.net", "--target", "numpy", "--data", f"data{ending}", "--save", out])
            assert not ended.value.code, capsys.readouterr().err
            found = load_arrays(out, fn.outputs)
            np.testing.assert_array_equal(found["y"], fn(fn.init(0), arrays).y)
    with pytest.raises(SystemExit):
        main(["run", "m.net", "--target", "numpy", "--data", "data.npz", "--save", "o.txt"])
    assert "arrays are written to" in capsys.readouterr().err


# --- other libraries --------------------------------------------------------------------------------------------------


class Offers:
    """An object that has one protocol and nothing else."""

    def __init__(self, protocol, array):
        self._array = array
        if protocol == "interface":
            self.__array_interface__ = array.__array_interface__


class OffersArray(Offers):
    def __array__(self, dtype=None, copy=None):
        return self._array


class OffersDLPack(Offers):
    def __dlpack__(self, **settings):
        return self._array.__dlpack__(**settings)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_any_protocol_is_taken_without_a_copy():
    x = np.random.default_rng(0).random((3, 4), np.float32)
    type_ = netc.compile("net 1\nmodel M(x: f32[N, 4]) -> f32[N, 4]:\n    return x\n", target="numpy").inputs["x"]
    for value in (Offers("interface", x), OffersArray("array", x), OffersDLPack("dlpack", x), memoryview(x)):
        assert convert("x", value, type_).ctypes.data == x.ctypes.data
        doubled = type(value)("other", x.astype(np.float64)) if isinstance(value, (OffersArray, OffersDLPack)) else None
        if doubled is not None:
            np.testing.assert_array_equal(convert("x", doubled, type_), x)


class OnGpu:
    device = "cuda:0"

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


class Odd:
    def __array__(self, dtype=None, copy=None):
        raise KeyError("odd")


@pytest.mark.parametrize("value, message", [
    (OnGpu(), "it is on the device cuda:0; bring it to the CPU first"), (Odd(), "no array of numbers.*'odd'"),
    (np.ma.zeros((2, 4)), "masked")])
def test_what_is_no_array_is_said_so(value, message):
    fn = netc.compile("net 1\nmodel M(x: f32[N, 4]) -> f32[N, 4]:\n    return Dense(4)(x)\n", target="numpy")
    with pytest.raises(InputError, match=message):
        fn(fn.init(), value)
    with pytest.raises(WeightsError, match=message):
        fn.init().replace({"dense.kernel": value})


def test_torch_in_and_out():
    torch = pytest.importorskip("torch")
    fn = netc.compile("net 1\nmodel M(x: f32[N, 4]) -> f32[N, 3]:\n    return Dense(3)(x)\n", target="numpy")
    w, x = fn.init(), torch.arange(8, dtype=torch.float32).reshape(2, 4)
    assert convert("x", x, fn.inputs["x"]).ctypes.data == x.data_ptr()
    want = fn(w, x.numpy())
    for same in (x, x.double(), x.half(), x.int(), x.t().contiguous().t()):
        np.testing.assert_allclose(fn(w, same), want, rtol=1e-6)
    for wrong, message in ((x.requires_grad_(), r"`.detach\(\)`"), (x.detach().bfloat16(), r"`.float\(\)`"),
                           (x.detach().to("meta"), "on the device meta"), (x.detach().to_sparse(), "[Ss]parse")):
        with pytest.raises(InputError, match=message):
            fn(w, wrong)
    out = torch.from_dlpack(want)
    assert out.data_ptr() == want.ctypes.data and out.shape == (2, 3)
    assert fn.weights_from([torch.tensor(value) for value in w.values()]) == w
    assert torch.equal(torch.from_dlpack(np.array(w.flat)), torch.tensor(w.flat))


def test_jax_in_and_out():
    jax = pytest.importorskip("jax")
    fn = netc.compile("net 1\nmodel M(x: f32[N, 4]) -> f32[N, 3]:\n    return Dense(3)(x)\n", target="numpy")
    w, x = fn.init(), jax.numpy.arange(8, dtype="float32").reshape(2, 4)
    want = fn(w, np.asarray(x))
    np.testing.assert_array_equal(fn(w, x), want)
    np.testing.assert_allclose(fn(w, x.astype("bfloat16")), want, rtol=1e-2)
    assert np.array_equal(jax.numpy.from_dlpack(want), want)
