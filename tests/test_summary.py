"""The summary: what is connected to what, what it costs, and which kernels it became."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.compiler import ops, programs
from netc.compiler.attribution import attribute
from netc.compiler.build import elaborate
from netc.compiler.fuse import fuse
from netc.compiler.graph_cost import FREE, flops, format_cost, short, total_flops
from netc.compiler.ir import is_tensor
from netc.compiler.outline import Box, outline
from netc.compiler.pipeline import optimize
from netc.compiler.plot import Picture
from netc.compiler.plot.model_view import model_view
from netc.compiler.summary import summarize
from netc.compiler.types import Dim

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = [path.stem for path in sorted(EXAMPLES.glob("*.net")) if path.stem != "inception_block"]
N, T = Dim.symbol("N"), Dim.symbol("T")


@cache
def example(name: str):
    path = EXAMPLES / f"{name}.net"
    return elaborate(path.read_text(encoding="utf-8"), str(path))


def rows(model, **settings):
    return {row.path: row for row in summarize(model, **settings).rows if row.kind in ("layer", "operation")}


def build(text: str):
    return elaborate("net 1\n" + text)


# --- against the table of the lecture that the example is from ------------------------------------------------------

INCEPTION = """
inception.branch_a f32[N, 16, 16, 10] 40 image
inception.conv2d f32[N, 32, 32, 10] 40 image
inception.conv2d_1 f32[N, 16, 16, 10] 910 conv2d
inception.conv2d_2 f32[N, 32, 32, 10] 40 image
inception.conv2d_3 f32[N, 16, 16, 10] 2510 conv2d_2
inception.max_pool2d f32[N, 32, 32, 3] 0 image
inception.conv2d_4 f32[N, 16, 16, 10] 40 max_pool2d
inception.concat f32[N, 16, 16, 40] 0 branch_a conv2d_1 conv2d_3 conv2d_4
inception_1.branch_a f32[N, 8, 8, 40] 1640 inception
inception_1.conv2d f32[N, 16, 16, 40] 1640 inception
inception_1.conv2d_1 f32[N, 8, 8, 40] 14440 conv2d
inception_1.conv2d_2 f32[N, 16, 16, 40] 1640 inception
inception_1.conv2d_3 f32[N, 8, 8, 40] 40040 conv2d_2
inception_1.max_pool2d f32[N, 16, 16, 40] 0 inception
inception_1.conv2d_4 f32[N, 8, 8, 40] 1640 max_pool2d
inception_1.concat f32[N, 8, 8, 160] 0 branch_a conv2d_1 conv2d_3 conv2d_4
flatten f32[N, 10240] 0 inception_1
dense f32[N, 100] 1024100 flatten
dense_1 f32[N, 20] 2020 dense
dense_2 f32[N, 1] 21 dense_1
"""


def test_inception_row_by_row():
    model = example("inception")
    found = rows(model)
    for line in INCEPTION.strip().splitlines():
        path, shape, parameters, *sources = line.replace(", ", ",").split()
        row = found.pop(path)
        assert row.outputs == (shape.replace(",", ", "),) and row.parameters == int(parameters), path
        assert row.sources == tuple(sources), path
    assert set(found) == {"inception", "inception_1"}          # the modules themselves, which Keras has no rows for
    assert found["inception_1"].parameters == 61_040 and found["inception_1"].sources == ("inception",)
    assert summarize(model).parameters == 1_090_761


# --- costs -----------------------------------------------------------------------------------------------------------


def test_costs_by_hand():
    found = rows(build("""
model M(x: f32[N, 9, 9, 3]) -> f32[N, 5]:
    return x |> Conv2D(4, 3, activation = relu) |> MaxPool2D(7) |> Flatten() |> Dense(5)
"""))
    places = 7 * 7 * 4
    assert found["conv2d"].flops == N * (places * 2 * 27 + places + places)           # products, bias, relu
    assert found["conv2d"].bytes == N * 4 * (9 * 9 * 3 + places) + 4 * (27 * 4 + 4)
    assert found["max_pool2d"].flops == N * 4 * 49
    assert found["flatten"].flops == 0
    assert found["dense"].flops == N * (2 * 4 * 5 + 5)


def test_a_transposed_convolution_counts_no_inserted_zeros():
    found = rows(build("""
model M(x: f32[N, 7, 7, 3]) -> f32[N, 14, 14, 2]:
    return Conv2DTranspose(2, 3, strides = 2, padding = same, use_bias = false)(x)
"""))
    assert found["output" if "output" in found else "conv2d_transpose"].flops == N * 2 * (7 * 7 * 3) * 9 * 2


def test_a_scan_costs_its_turns():
    model = build("""
model M(x: f32[N, T, 3]) -> f32[N, 5]:
    return LSTM(5)(x)
""")
    row = rows(model)["lstm"]
    assert row.flops.symbols == {"N", "T"} and set(row.flops.terms) == {("N", "T")}
    products = 2 * 20 * (3 + 5)
    assert products < row.flops.terms["N", "T"] < products + 20 * 8


def test_layers_inside_a_scan_are_counted_once():
    model = build("""
model Cell(units: int)(h: f32[N, units], z: f32[N, D]) -> f32[N, units]:
    return Dense(units, tanh)(h + Dense(units)(z))

model M(x: f32[N, T, 8]) -> f32[N, 3]:
    cell = Cell(4)
    scan z in x along 1 carrying h = zeros(N, 4):
        h = cell(h, z)
    return Dense(3)(h)
""")
    found, whole = rows(model), summarize(model)
    assert found["cell.dense"].flops == T * N * (2 * 8 * 4 + 4)
    assert found["cell"].sources == ("x",) and found["dense"].sources == ("cell",)
    assert whole.flops == found["cell"].flops + found["dense"].flops
    scan = [kernel.name for kernel in attribute(model).kernels
            if any(value.op.name == "scan" for value in kernel.values)]
    assert scan and found["cell"].kernels == tuple(dict.fromkeys(f"→ {name}" for name in scan))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_total_is_that_of_the_graph(name):
    """Every node that the outputs need belongs to exactly one box, and the rows add up."""
    model = example(name)
    nodes = programs.predict(model).graph.nodes()
    assert summarize(model).flops == total_flops(node for node in nodes if node.op.name not in ("maximum", "minimum")
                                                 or node.dtype.kind == "float")
    box = outline(model)
    owned = [node for each in (box, *box.walk()) if each.layer for node in each.nodes]
    assert len(owned) == len(set(owned))


def test_sizes_and_samples():
    text = "model M(x: f32[N, T, 8]) -> f32[N, T, 3]:\n    return Dense(3)(x)\n"
    model = build(text)
    assert summarize(model).sizes == {"N": 1}
    dense = dict(zip(["", "dense"], [row for row in summarize(model).table() if "Dense" in row[0]] * 2))["dense"]
    assert dense[4] == "51*T"
    assert summarize(model, sizes={"N": 10, "T": 100}).to_dict()["flops"] == 51_000
    assert summarize(model).to_dict()["flops"] == "51*T"


def test_numbers_are_short():
    assert [short(number) for number in (0, 999, 1_000, 1_234_567, 999_600, 12_340, 2 ** 62)] == \
        ["0", "999", "1.00 k", "1.23 M", "1.00 M", "12.3 k", "4.61 E"]
    assert short(12, "B") == "12 B" and short(12_000, "B") == "12.0 kB" and short(-1500) == "-1.50 k"
    assert format_cost(N * T * 2_000_000 + 7 * T + 30, {"T": 3}) == "6.00 M*N + 51" and format_cost(0, {}) == ""
    assert format_cost(N * 2 + 3, {}, "B") == "2*N + 3 B" and format_cost(N * 2, {}, "B") == "2*N B"


@pytest.mark.parametrize("name", ops.PRIMITIVES)
def test_every_primitive_has_a_cost(name):
    """Nothing for what only moves or chooses; for the others at least an operation a result, where floats are in it."""
    for node, _ in list(ops.PRIMITIVES[name].sample(np.random.default_rng(0)))[:4]:
        node = node.args[0] if name == "scan" else node
        floats = any(value.dtype.kind == "float" for value in (node, *node.args) if is_tensor(value))
        assert flops(node) == 0 if name in FREE or name != "scan" and not floats else flops(node) >= 1


# --- sharing, folding, names ------------------------------------------------------------------------------------------


def test_a_second_call_is_marked():
    found = rows(example("two_images"))
    assert not found["features"].shared and found["features:1"].shared and "features:1.dense" not in found
    assert found["x"].sources == ("features", "features:1")
    assert found["features"].bytes == found["features:1"].bytes
    text = str(summarize(example("two_images")))
    assert text.count("shared") == sum(row.shared and bool(row.parameters) for row in found.values())
    assert "1,092,761 parameters" in text


def test_the_preludes_layers_are_folded_and_depth_opens_them():
    model = example("transformer")
    closed, opened = rows(model), rows(model, depth=3)
    assert "memory.embedding" in closed and "memory_1.attention" not in closed and closed["memory_1"].hidden == 13
    assert "memory_1.attention.query" in opened and opened["memory_1.attention.query"].sources == ("memory",)
    assert opened["y_1.cross_attention"].sources == ("self_norm", "memory_2", "seen")
    assert set(rows(model, depth=1)) == {path for path in closed if "." not in path}
    assert closed["memory_1"].flops == opened["memory_1"].flops


def test_a_tied_weight_is_a_connection():
    found = rows(build("""
model M(text: i32[N, T]) -> (logits: f32[N, T, 7]):
    embedding = Embedding(7, 4)
    h = LayerNorm()(embedding(text))
    logits = h @ transpose(embedding.embeddings)
"""))
    assert found["logits"].sources == ("h", "embedding.embeddings") and found["logits"].type == "matmul"


def test_operations_are_called_by_the_functions_that_make_them():
    found = rows(build("""
model M(x: f32[N, 4], y: f32[N, 4]) -> (a: f32[N, 4], b: f32[N, 4]):
    h = relu(Dense(4)(x)) + y
    a = softmax(h)
    b = Dense(4)(x[:, ::-1])
"""))
    assert found["h"].type == "relu, +" and found["h"].sources == ("dense", "y")
    assert found["a"].type == "softmax" and found["a"].sources == ("h",)
    assert found["b"].sources == ("x",)                    # a reversal alone makes no box


def test_the_body_s_own_parameter_is_a_row():
    model = build("""
model Block(x: f32[N, 4]) -> f32[N, 4]:
    param shift: f32[4] = zeros
    return Dense(4)(x + shift)

model M(x: f32[N, 4]) -> f32[N, 4]:
    return Block()(x)
""")
    summary = summarize(model)
    shift = next(row for row in summary.rows if row.kind == "parameter")
    assert shift.path == "block.shift" and shift.parameters == 4 and rows(model)["block.add"].sources == ("x", "shift")


# --- kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_following_the_layers_changes_no_kernel(name):
    model = example(name)
    found = attribute(model)
    alone = fuse(optimize(programs.predict(model).graph).outputs)
    assert found.fusion.stored == alone.stored and found.fusion.outputs == alone.outputs
    computed = {value for kernel in found.kernels for value in kernel.values}
    for value in set(alone.stored) - computed:
        # made with its window_argmax, or by its pieces, each in its place
        assert value.op.name == "window_take" or value.op.name == "concat" and computed.issuperset(value.args)
    assert all(kernel.layers for kernel in found.kernels if kernel.values)
    layers = [layer for layer in model.layers if layer.path
              and any(found.images.get(v) is not None for v in layer.outputs)]
    ended = [layer for layer in layers if found.end(layer.outputs)]
    assert len(ended) >= 0.8 * len(layers)                 # not those that are only looked through, such as Reshape


def test_the_kernels_of_a_layer():
    found = rows(build("""
model M(x: f32[N, 4], y: f32[N, 3]) -> f32[N, 11]:
    return concat(Dense(8, relu)(x), y)
"""))
    *own, into = found["dense"].kernels
    assert own[0] == "product" and into in {f"→ {name}" for name in found["output"].kernels}
    assert len(found["output"].kernels) == 2                       # each piece is computed, or copied, into its place


# --- as text, JSON, HTML ----------------------------------------------------------------------------------------------


def test_text_is_aligned_and_plain():
    lines = str(summarize(example("ticket"))).splitlines()
    assert lines[0] == "model Ticket" and all(line == line.rstrip() for line in lines)
    assert len(set(lines[3])) == 1 and len(lines[3]) >= max(map(len, lines[4:17])) - 2
    assert "losses: priority, department" in lines and "optimiser: rmsprop" in lines


def test_json_holds_every_row():
    summary = summarize(example("vae"))
    data = json.loads(json.dumps(summary.to_dict()))
    assert len(data["rows"]) == len(summary.rows) and data["parameters"] == 134_165
    z = next(row for row in data["rows"] if row["path"] == "z")
    noise = next(row for row in data["rows"] if row["path"] == "noise")
    assert z["connected_to"] == ["encoder", "noise"] and noise["type"] == "random normal"
    conv = next(row for row in data["rows"] if row["path"] == "encoder.conv2d")
    assert conv["settings"]["filters"] == "32" and conv["where"].endswith("vae.net:6:18")


def test_html_escapes():
    fn = netc.compile(EXAMPLES / "digits.net", target="numpy")
    html = fn._repr_html_()
    assert "<table" in html and "dense (Dense)" in html and "9,610 parameters" not in html
    assert f"{fn.layout.trainable_size:,} parameters" in html
    weights = fn.init(0)._repr_html_()
    assert "dense.kernel" in weights and "float32[64, 128]" in weights
    from netc.runtime.html import block, table
    assert "&lt;b&gt;" in table(["<b>"], [["<i>"]]) and "<i>" not in table(["a"], [["<i>"]])
    assert "&lt;b&gt;" in block("<b>", "", ["<b>"]) and "<b>" not in block("<b>", "", ["<b>"])


def test_the_summary_of_a_model_without_anything():
    text = str(summarize(build("model M(x: f32[3]) -> f32[3]:\n    return 2 * x\n")))
    assert "0 parameters" in text and "3 FLOPs in 1 kernels" in text


@pytest.mark.parametrize(("layer", "path", "outputs", "sources"), [
    # a scan of several results is one operation, which all of them come from
    ("", "scan", ("f32[N, 3]", "f32[T, N, 3]", "f32[T, N, 3]"), [("scan",), ("scan",), ("scan",)]),
    # around layers there is no scan to be seen, only what is computed in a turn
    ("        h = Dense(3)(h)\n", "gs", ("f32[N, T, 3]",), [("h",), ("gs",), ("h",)])])
def test_a_scan_that_gives_several_values(layer, path, outputs, sources):
    model = build("model M(x: f32[N, T, 3]) -> (a: f32[N, T, 2], b: f32[N, T, 2], c: f32[N, 2]):\n"
                  "    scan z in x along 1 carrying h = zeros(N, 3) collecting h as hs, g as gs:\n"
                  f"        h = 0.5 * h + z\n{layer}        g = h * z\n"
                  "    a = Dense(2)(hs)\n    b = Dense(2)(gs)\n    c = Dense(2)(h)\n")
    found = rows(model)
    assert found[path].outputs == outputs and [found[name].sources for name in "abc"] == sources
    assert {arrow.output for arrow in outline(model).arrows
            if isinstance(arrow.source, Box) and arrow.source.path == path} == set(range(len(outputs)))
    assert "</svg>" in Picture(model_view(model)).write()
