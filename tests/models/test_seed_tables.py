"""The summaries of the examples hold every row that the figures they were taken from print: layer, shape, parameters,
connections."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest

from netc.compiler.build import elaborate
from netc.compiler.summary import Row, summarize

EXAMPLES = Path(__file__).parents[2] / "examples"


def model_of(source: str, model: str | None = None):
    """A model of an example, or of source text."""
    if "\n" in source:
        return elaborate(source, "case.net", model=model)
    path = EXAMPLES / f"{source}.net"
    return elaborate(path.read_text(encoding="utf-8"), str(path), model=model)


def table(model) -> list[tuple]:
    """(name, kind, shape without the batch, parameters, connected to) of each row; the last rows are the outputs."""
    return [(row.name, row.type, _sizes(row), row.parameters, row.sources) for row in rows(model)]


def rows(model) -> list[Row]:
    return [row for row in summarize(model, depth=9).rows if row.kind != "input"]


def _sizes(row: Row) -> tuple:
    """The shape without the batch, from its text."""
    sizes = re.fullmatch(r"\w+\[(.*)\]", row.outputs[0]).group(1).split(", ")[1:]
    return tuple(int(size) if size.isdecimal() else size for size in sizes)


# Our name -> the seed's: its table lists the layers of both modules by their depth, ours by the branches.
INCEPTION = {"branch_a": "convA", "conv2d": "convB0", "conv2d_1": "convB1", "conv2d_2": "convC0", "conv2d_3": "convC1",
             "max_pool2d": "MAX", "conv2d_4": "convD0", "concat": "concatenate"}
SEED_004 = """
convB0_i1   32,32,10  40       input
convC0_i1   32,32,10  40       input
MAX_i1      32,32,3   0        input
convA_i1    16,16,10  40       input
convB1_i1   16,16,10  910      convB0_i1
convC1_i1   16,16,10  2510     convC0_i1
convD0_i1   16,16,10  40       MAX_i1
concatenate_i1  16,16,40  0    convA_i1,convB1_i1,convC1_i1,convD0_i1
convB0_i2   16,16,40  1640     concatenate_i1
convC0_i2   16,16,40  1640     concatenate_i1
MAX_i2      16,16,40  0        concatenate_i1
convA_i2    8,8,40    1640     concatenate_i1
convB1_i2   8,8,40    14440    convB0_i2
convC1_i2   8,8,40    40040    convC0_i2
convD0_i2   8,8,40    1640     MAX_i2
concatenate_i2  8,8,160  0     convA_i2,convB1_i2,convC1_i2,convD0_i2
flatten     10240     0        concatenate_i2
D1          100       1024100  flatten
D2          20        2020     D1
output      1         21       D2
"""


def test_every_row_of_the_inception_network():
    ours, module = {}, ""
    names = {"image": "input", "inception": "concatenate_i1", "inception_1": "concatenate_i2", "flatten": "flatten",
             "dense": "D1", "dense_1": "D2", "dense_2": "output"}
    for name, kind, shape, count, sources in table(model_of("inception"))[:-1]:
        if kind == "Inception":
            module = "_i2" if name == "inception_1" else "_i1"
            continue                                           # the seed's modules are flat
        inner = name in INCEPTION and kind in ("Conv2D", "MaxPool2D", "concat")
        called = INCEPTION[name] + module if inner else names[name]
        ours[called] = (shape, count, tuple(INCEPTION[s] + module if inner and s in INCEPTION else names[s]
                                            for s in sources))
    theirs = {}
    for line in SEED_004.split("\n")[1:-1]:
        name, shape, count, sources = line.split()
        theirs[name] = (tuple(map(int, shape.split(","))), int(count), tuple(sources.split(",")))
    assert ours == theirs
    assert "1,090,761 parameters" in str(summarize(model_of("inception")))


def test_the_shared_sub_network_of_two_images():
    top = [row for row in table(model_of("two_images")) if row[0] in ("features", "features:1", "x", "dense",
                                                                      "dense_1")]
    assert top[0] == ("features", "Features", (100,), 1_088_720, ("first",))
    assert ("features:1", "Features", (100,), 1_088_720, ("second",)) in top
    assert top[-3:] == [("x", "concat", (200,), 0, ("features", "features:1")),
                        ("dense", "Dense", (20,), 4_020, ("x",)),
                        ("dense_1", "Dense", (1,), 21, ("dense",))]
    text = str(summarize(model_of("two_images")))
    assert re.search(r"^features:1 \(Features\) \+\d+ +f32\[N, 100\] +shared  second ", text, re.MULTILINE)
    assert "1,092,761 parameters" in text and text.count("(Inception)") == 2      # what is shared is told once


ENCODER = [("conv2d", "Conv2D", (26, 26, 16), 160), ("conv2d_1", "Conv2D", (24, 24, 32), 4640),
           ("max_pool2d", "MaxPool2D", (8, 8, 32), 0), ("conv2d_2", "Conv2D", (6, 6, 32), 9248),
           ("conv2d_3", "Conv2D", (4, 4, 16), 4624), ("global_max_pool2d", "GlobalMaxPool2D", (16,), 0)]
DECODER = [("reshape", "Reshape", (4, 4, 1), 0), ("conv2d_transpose", "Conv2DTranspose", (6, 6, 16), 160),
           ("conv2d_transpose_1", "Conv2DTranspose", (8, 8, 32), 4640), ("up_sample2d", "UpSample2D", (24, 24, 32), 0),
           ("conv2d_transpose_2", "Conv2DTranspose", (26, 26, 16), 4624),
           ("conv2d_transpose_3", "Conv2DTranspose", (28, 28, 1), 145)]


def test_the_autoencoder_and_its_two_models():
    for name, layers, total in (("Encoder", ENCODER, "18,672"), ("Decoder", DECODER, "9,569")):
        model = model_of("autoencoder", name)
        assert [row[:4] for row in table(model)[:-1]] == layers
        assert f"{total} parameters" in str(summarize(model))
    whole = table(model_of("autoencoder"))
    assert [row[:4] for row in whole[:-1]] == [("encoder", "Encoder", (16,), 18_672), *ENCODER,
                                               ("decoder", "Decoder", (28, 28, 1), 9_569), *DECODER]
    assert whole[7][4] == ("encoder",) and whole[-1][4] == ("decoder",)
    assert "28,241 parameters" in str(summarize(model_of("autoencoder")))


def test_skip_connections_and_the_way_to_the_decoder():
    found = {}
    for row in table(model_of("transformer")):
        found.setdefault(row[0], row)                          # the first encoder and the first decoder
    by_path = {row.path: row.sources for row in rows(model_of("transformer"))}
    assert found["attention_norm"][4] == ("add",) and by_path["memory_1.add"] == ("memory", "dropout")
    assert found["feedforward_norm"][4] == ("add_1",) and by_path["memory_1.add_1"] == ("attention_norm", "feedforward")
    assert found["self_norm"][4] == ("add",) and by_path["y_1.add"] == ("y", "dropout")
    assert found["cross_attention"][4] == ("self_norm", "memory_2", "seen") and by_path["seen"] == ("source",)
    assert found["cross_norm"][4] == ("add_1",) and by_path["y_1.add_1"] == ("self_norm", "dropout_1")


CLASH = """net 1

model Block(x: f32[N, K]) -> f32[N, K]:
    return x |> Dense(K, relu) |> Dense(K)

model Outer(x: f32[N, 4]) -> f32[N, 4]:
    h = Dense(4)
    y = x |> h |> Dense(4) |> Block()
    return h(y) + y + sum(h.kernel)
"""


def test_a_name_is_never_taken_for_another():
    names = [(row.name, row.sources) for row in rows(model_of(CLASH))]
    assert names == [("h", ("x",)), ("dense", ("h",)), ("block", ("dense",)), ("dense", ("/dense",)),
                     ("dense_1", ("dense",)), ("h:1", ("block",)), ("output", ("h:1", "block", "h.kernel")),
                     ("output", ("output",))]


@pytest.mark.parametrize("name", sorted({path.stem for path in EXAMPLES.glob("*.net")} - {"inception_block"}))
def test_every_example_has_a_summary_without_loose_ends(name):
    model = model_of(name)
    text = str(summarize(model))
    assert all(line == line.rstrip() for line in text.split("\n"))
    inputs = {layer.prefix: layer.inputs for layer in model.layers}
    for row in rows(model):
        drawn = row.kind == "parameter" or row.type.startswith("random")
        assert row.sources or drawn or row.kind == "layer" and _reads_no_input(inputs[row.path]), row
    assert f"{sum(prod(v.type.shape) for v in model.parameters):,} parameters" in text


def _reads_no_input(values) -> bool:
    """A position table is looked up at iota: it is connected to nothing."""
    from netc.compiler.ir import topological
    return not any(node.op.name == "input" for node in topological(values))
