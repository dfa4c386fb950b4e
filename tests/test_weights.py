"""Weights: the flat vector and its views, and their files."""

from __future__ import annotations

import copy
import json
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from netc.runtime import weights as storage
from netc.runtime.errors import WeightsError
from netc.runtime.weights import LARGEST, Layout, Weights

ROWS = [("encoder.kernel", "float32", (3, 2), True), ("encoder.bias", "float32", (2,), True),
        ("scale", "float32", (), True), ("mean", "float32", (2,), False), ("count", "int32", (), False)]


@pytest.fixture
def layout():
    return Layout.of("float32", ROWS)


@pytest.fixture
def w(layout):
    return Weights(layout, np.arange(layout.size, dtype=np.float32), {"count": np.int32(7)})


def test_the_flat_vector_and_the_views_are_the_same_memory(w):
    assert w.flat.shape == (11,) and w.flat.dtype == np.float32
    assert w["encoder.kernel"].shape == (3, 2) and np.shares_memory(w["encoder.kernel"], w.flat)
    np.testing.assert_array_equal(w["encoder.bias"], [6, 7])
    assert w["scale"].shape == () and w["scale"] == 8
    assert w["count"].dtype == np.int32 and w["count"] == 7
    assert w.trainable_count == 9


def test_weights_are_a_mapping_in_the_models_order(w):
    assert list(w) == [row[0] for row in ROWS] and len(w) == 5 and "scale" in w and "nothing" not in w
    assert set(dict(w)) == set(w)
    with pytest.raises(KeyError, match=r"did you mean `encoder.bias`"):
        w["encoder.bia"]


def test_nothing_can_be_written(w):
    for array in (w.flat, *w.values()):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(TypeError):
        w["scale"] = 1


def test_a_given_vector_is_copied(layout):
    vector = np.zeros(layout.size, np.float32)
    w = Weights(layout, vector)
    vector[:] = 5
    assert not w.flat.any() and vector.flags.writeable


@pytest.mark.parametrize("order", (slice(None, None, 2), slice(None, None, -1)), ids=("spread", "reversed"))
def test_a_vector_that_is_handed_over_becomes_contiguous(layout, order):
    """Kernels read it from its address on."""
    vector = np.arange(2.0 * layout.size, dtype=np.float32)[order][:layout.size]
    w = Weights(layout, vector, copy=False)
    assert w.flat.flags.c_contiguous and w.flat.tolist() == vector.tolist()


def test_what_lies_apart_becomes_contiguous():
    layout = Layout.of("float32", [("table", "int32", (2, 3), False)])
    table = np.arange(6, dtype=np.int32).reshape(2, 3)
    for given in (np.asfortranarray(table), np.repeat(table, 2, axis=1)[:, ::2]):
        for w in (Weights.of(layout, {"table": given}), Weights(layout, [], {"table": given})):
            assert w["table"].flags.c_contiguous and w["table"].tolist() == table.tolist()


def test_replace_gives_new_weights(w):
    new = w.replace({"encoder.bias": [1, 2], "count": 9})
    np.testing.assert_array_equal(new["encoder.bias"], [1, 2])
    assert new["count"] == 9 and w["count"] == 7 and w["encoder.bias"][0] == 6
    np.testing.assert_array_equal(new["encoder.kernel"], w["encoder.kernel"])


@pytest.mark.parametrize("values, message", [
    ({"encoder.biass": [1, 2]}, "did you mean `encoder.bias`"),
    ({"encoder.bias": [1, 2, 3]}, r"`encoder.bias` has shape \[3\], expected \[2\]"),
    ({"encoder.kernel": np.zeros((2, 3))}, "transposed"),
    ({"count": 1.5}, "has dtype float64, expected int32"),
    ({"scale": 1j}, "complex"),
])
def test_replace_refuses(w, values, message):
    with pytest.raises(WeightsError, match=message):
        w.replace(values)


def test_with_flat_converts_and_checks(w):
    new = w.with_flat(np.linspace(0, 1, 11))
    assert new.flat.dtype == np.float32 and new["count"] == 7
    with pytest.raises(WeightsError, match=r"has shape \[3\], expected \[11\]"):
        w.with_flat(np.zeros(3))


def test_equality_copies_and_pickles(w):
    for other in (w.copy(), copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert other == w and not np.shares_memory(other.flat, w.flat)
    assert w != w.replace({"scale": 0}) and w != w.replace({"count": 0}) and w != "w"
    with pytest.raises(TypeError):
        hash(w)


def test_the_text_shows_shapes_and_totals(w):
    text = repr(w)
    assert "9 parameters, 3 of state" in text and "encoder.kernel  float32[3, 2]" in text


def test_absurd_sizes_are_refused_before_anything_is_allocated():
    with pytest.raises(WeightsError, match="1,000,000,000,000 elements"):
        Layout.of("float32", [("huge", "float32", (10 ** 6, 10 ** 6), True)])
    with pytest.raises(WeightsError, match="elements"):
        Layout.of("float32", [(f"w{k}", "float32", (LARGEST // 2,), True) for k in range(3)])


# --- files ------------------------------------------------------------------------------------------------------


def test_a_file_gives_the_same_weights_back(w, tmp_path):
    path = tmp_path / "w.safetensors"
    storage.save(w, path, "Model")
    loaded = storage.load(w.layout, path)
    assert loaded == w and os.listdir(tmp_path) == ["w.safetensors"]


def test_other_tools_read_the_file(w, tmp_path):
    from safetensors.numpy import load_file
    storage.save(w, tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    assert set(tensors) == set(w)
    np.testing.assert_array_equal(tensors["encoder.kernel"], w["encoder.kernel"])


def test_a_failed_save_leaves_the_old_file(w, tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    storage.save(w, path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.save(w.replace({"scale": 0}), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_link_is_followed(w, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage.save(w, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and storage.load(w.layout, tmp_path / "real") == w


def test_the_umask_decides_who_may_read(w, tmp_path):
    storage.save(w, tmp_path / "w")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("rows, message", [
    (ROWS[1:], "unknown to the model: `encoder.kernel`"),
    ([*ROWS, ("extra", "float32", (2,), True)], "missing from the file: `extra`"),
    ([("encoder.kernel", "float32", (2, 3), True), *ROWS[1:]],
     r"is float32\[3, 2\] in the file, the model has float32\[2, 3\]"),
    ([*ROWS[:-1], ("count", "int64", (), False)], r"`count` is int32\[\] in the file"),
])
def test_a_file_of_another_model_is_refused(w, tmp_path, rows, message):
    storage.save(w, tmp_path / "w")
    with pytest.raises(WeightsError, match=message):
        storage.load(Layout.of("float32", rows), tmp_path / "w")


def _file(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


@pytest.mark.parametrize("content", [
    b"", b"abc", b"\x80\x04K\x01.", _file(b"{}", length=10 ** 15), _file(b"[1, 2]"), _file(b"{nonsense"),
    _file(b'{"a": 1}'), _file(b"[" * 100_000), _file(b'{"encoder.kernel": {"dtype": "F32", "shape": ["x"]}}'),
])
def test_what_is_no_safetensors_file_is_refused(layout, tmp_path, content):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError):
        storage.load(layout, tmp_path / "w")


def test_a_damaged_file_is_refused(w, tmp_path):
    storage.save(w, tmp_path / "w")
    content = (tmp_path / "w").read_bytes()
    for damaged in (content[:-4], content + b"1234"):
        (tmp_path / "w").write_bytes(damaged)
        with pytest.raises(WeightsError, match="damaged"):
            storage.load(w.layout, tmp_path / "w")


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path):
    header = json.dumps({"huge": {"dtype": "F32", "shape": [10 ** 6, 10 ** 6], "data_offsets": [0, 4 * 10 ** 12]}})
    (tmp_path / "w").write_bytes(_file(header.encode()))
    with pytest.raises(WeightsError, match="does not fit the model"):
        storage.load(Layout.of("float32", [("huge", "float32", (4,), True)]), tmp_path / "w")


def test_equal_weights_give_equal_files(tmp_path):
    """In other processes too, whose hash tables run in other orders."""
    code = ("import sys; import numpy as np; from netc.runtime.weights import Layout, Weights, save;"
            "layout = Layout.of('float32', [(f'v{k}', 'float32', (2,), True) for k in range(9)]);"
            "save(Weights(layout, np.arange(18)), sys.argv[1], 'M')")
    for name in ("a", "b", "c"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, timeout=60)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
