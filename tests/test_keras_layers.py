"""Every layer of the prelude against Keras over a grid of settings and shapes: values, gradients, states, order of
weights.

The grid runs in double precision through the interpreter; a sample of it runs compiled, in single precision, against
the interpreter.  ``pytest tests/test_keras_layers.py --errors`` prints the worst error of each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from oracle import Case, Joined, arguments, combinations, compare, compare_compiled, keras, torch

L = keras.layers
BOOLS = (True, False)
GRIDS: dict[str, Callable[[], Iterator[Case]]] = {}


def grid(function):
    """Registers a generator of cases under its name, which is the layer's."""
    GRIDS[function.__name__] = function
    return function


def several(name: str, make: Callable[[str], Iterator[Case]]) -> None:
    GRIDS[name] = lambda: make(name)


def dtype(**settings) -> dict:
    return {**settings, "dtype": "float64"}


# --- dense and plain ----------------------------------------------------------------------------------------------


@grid
def Dense():
    for s in combinations(
        "Dense",
        shape=((1, 5), (3, 1), (7, 6), (2, 3, 4), (1, 1, 1), (2, 3, 2, 5)),
        units=(1, 2, 9),
        activation=("linear", "relu", "tanh", "softmax"),
        use_bias=BOOLS,
    ):
        settings = {"activation": s["activation"], "use_bias": s["use_bias"]}
        yield Case(
            "Dense" + arguments(s["units"], **settings) + "(x)",
            {"x": s["shape"]},
            L.Dense(s["units"], **dtype(**settings)),
        )


@grid
def Embedding():
    for s in combinations("Embedding", shape=((1,), (5,), (1, 1), (3, 4), (2, 3, 2)), rows=(1, 2, 11), units=(1, 3)):
        yield Case(
            "Embedding" + arguments(s["rows"], s["units"]) + "(x)",
            {"x": s["shape"]},
            L.Embedding(s["rows"], s["units"], dtype="float64"),
            kinds={"x": f"i{s['rows']}"},
        )


@grid
def Flatten():
    for shape in combinations(
        "Flatten", n=(1, 2, 5), sizes=((), (1,), (4,), (3, 1), (2, 3), (2, 3, 2), (1, 1, 5), (4, 2, 1, 3))
    ):
        yield Case("Flatten()(x)", {"x": (shape["n"], *shape["sizes"])}, L.Flatten())


@grid
def Reshape():
    for s in combinations(
        "Reshape",
        n=(1, 3),
        sizes=(
            ((12,), (3, 4)),
            ((12,), (-1, 2)),
            ((3, 4), (12,)),
            ((3, 4), (4, -1)),
            ((2, 3, 4), (4, 3, 2)),
            ((2, 3, 4), (-1,)),
            ((1,), (1, 1)),
            ((5, 1), (-1, 5)),
            ((2, 2, 3), (3, -1, 2)),
            ((7,), (7, 1)),
            ((6, 2), (2, 3, 2)),
            ((1, 8), (2, 2, 2)),
        ),
    ):
        before, after = s["sizes"]
        yield Case(
            "Reshape" + arguments(*after) + "(x)", {"x": (s["n"], *before)}, lambda x, after=after: L.Reshape(after)(x)
        )


@grid
def Permute():
    for s in combinations(
        "Permute",
        n=(1, 2),
        sizes=((3, 4, 2), (1, 5, 2), (4, 1, 1)),
        order=((1, 2, 3), (2, 1, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (1, 3, 2)),
    ):
        yield Case(
            "Permute" + arguments(*s["order"]) + "(x)",
            {"x": (s["n"], *s["sizes"])},
            lambda x, order=s["order"]: L.Permute(order)(x),
        )


@grid
def RepeatVector():
    for s in combinations("RepeatVector", batch=(1, 2, 5), size=(1, 3, 4), n=(1, 2, 7)):
        yield Case(
            "RepeatVector" + arguments(s["n"]) + "(x)",
            {"x": (s["batch"], s["size"])},
            lambda x, n=s["n"]: L.RepeatVector(n)(x),
        )


@grid
def Dropout():
    """In inference; in training the masks are another generator's: see test_keras_state.py."""
    for s in combinations(
        "Dropout",
        shape=((1, 4), (3, 5), (2, 3, 4), (1, 1, 2, 3)),
        rate=(0.0, 0.1, 0.5, 0.9),
        layer=("Dropout", "SpatialDropout", "GaussianNoise"),
    ):
        keras_layer = {"Dropout": L.Dropout, "GaussianNoise": L.GaussianNoise}.get(s["layer"], L.Dropout)
        yield Case(
            s["layer"] + arguments(s["rate"]) + "(x)",
            {"x": s["shape"]},
            lambda x, make=keras_layer, rate=s["rate"]: make(rate)(x),
        )


# --- activations --------------------------------------------------------------------------------------------------

ACTIVATIONS = (
    "linear",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "softplus",
    "softsign",
    "log_sigmoid",
    "hard_sigmoid",
    "hard_silu",
    "mish",
    "exponential",
    "softmax",
    "log_softmax",
    "sigmoid",
    "tanh",
)


def activation(name: str):
    for s in combinations(
        name, shape=((1, 1), (1, 7), (4, 5), (2, 3, 4), (3, 1, 2, 2)), scale=(0.01, 1.0, 3.0, 30.0), twice=BOOLS
    ):
        text = f"Activation({name})(x)" if s["twice"] else f"x |> {name}"
        yield Case(text, {"x": s["shape"]}, getattr(keras.activations, name), scale=s["scale"])


for _name in ACTIVATIONS:
    several(_name, activation)


@grid
def activations_with_settings():
    settings = (
        ("leaky_relu(alpha = 0.01)", lambda x: keras.activations.leaky_relu(x, 0.01)),
        ("elu(alpha = 0.5)", lambda x: keras.activations.elu(x, 0.5)),
        ("gelu(approximate = true)", lambda x: keras.activations.gelu(x, approximate=True)),
        ("softmax(axis = 1)", lambda x: keras.activations.softmax(x, axis=1)),
        ("log_softmax(axis = 0)", lambda x: keras.activations.log_softmax(x, axis=0)),
    )
    for s in combinations(
        "activations with settings",
        which=tuple(range(len(settings))),
        shape=((1, 3), (4, 5), (2, 3, 4)),
        scale=(1.0, 10.0),
    ):
        text, reference = settings[s["which"]]
        yield Case(f"x |> {text}", {"x": s["shape"]}, reference, scale=s["scale"])


# --- convolution --------------------------------------------------------------------------------------------------

PLACES = {1: ((1,), (5,), (8,), (13,)), 2: ((1, 1), (5, 4), (7, 8), (6, 9)), 3: ((3, 3, 3), (4, 5, 3), (5, 4, 6))}
WINDOWS = {1: (1, 2, 3, 5, (4,)), 2: (1, 2, 3, 5, (2, 3), (3, 1)), 3: (1, 2, 3, (2, 3, 1))}
STRIDES = {1: (1, 2, 3, (4,)), 2: (1, 2, 3, (2, 1), (1, 3)), 3: (1, 2, (1, 2, 1), (2, 1, 3))}
DILATIONS = {1: (1, 2, (3,)), 2: (1, 2, (2, 1), (1, 3)), 3: (1, 2, (1, 2, 1))}


def each(value, rank: int) -> tuple:
    return value if isinstance(value, tuple) else (value,) * rank


def fits(rank: int):
    """What Keras accepts: a window inside the axes, and no strides together with dilation."""

    def valid(places, kernel, strides, dilation, padding, channels=1, groups=1, filters=1, **_) -> bool:
        if max(each(strides, rank)) > 1 and max(each(dilation, rank)) > 1:
            return False
        if channels % groups or filters % groups:
            return False
        reach = [(k - 1) * d + 1 for k, d in zip(each(kernel, rank), each(dilation, rank))]
        return padding != "valid" or all(r <= n for r, n in zip(reach, places))

    return valid


def convolution(name: str):
    rank = int(name[4])
    paddings = ("valid", "same", "causal") if rank == 1 else ("valid", "same")
    for s in combinations(
        name,
        fits(rank),
        places=PLACES[rank],
        kernel=WINDOWS[rank],
        strides=STRIDES[rank],
        dilation=DILATIONS[rank],
        padding=paddings,
        channels=(1, 2, 6),
        filters=(1, 2, 6),
        groups=(1, 2, 3),
        batch=(1, 3),
        activation=("linear", "relu", "elu"),
        use_bias=BOOLS,
        count=30,
    ):
        shared = {
            "strides": s["strides"],
            "padding": s["padding"],
            "activation": s["activation"],
            "use_bias": s["use_bias"],
            "groups": s["groups"],
        }
        yield Case(
            name + arguments(s["filters"], s["kernel"], dilation=s["dilation"], **shared) + "(x)",
            {"x": (s["batch"], *s["places"], s["channels"])},
            getattr(L, name)(s["filters"], s["kernel"], dilation_rate=s["dilation"], **dtype(**shared)),
        )


for _rank in (1, 2, 3):
    several(f"Conv{_rank}D", convolution)


def depthwise(name: str):
    rank = int(name[-2])
    first = "Separable" in name

    def valid(strides, **s) -> bool:  # Keras hands one stride to both axes of a depthwise layer
        return fits(rank)(strides=strides, **s) and len(set(each(strides, rank))) == 1

    for s in combinations(
        name,
        valid,
        places=PLACES[rank],
        kernel=WINDOWS[rank],
        strides=STRIDES[rank],
        dilation=DILATIONS[rank],
        padding=("valid", "same"),
        channels=(1, 2, 5),
        filters=(1, 4),
        multiplier=(1, 2, 3),
        batch=(1, 3),
        activation=("linear", "tanh"),
        use_bias=BOOLS,
    ):
        own = (s["filters"],) if first else ()
        shared = {
            "strides": s["strides"],
            "padding": s["padding"],
            "activation": s["activation"],
            "use_bias": s["use_bias"],
        }
        yield Case(
            name + arguments(*own, s["kernel"], multiplier=s["multiplier"], dilation=s["dilation"], **shared) + "(x)",
            {"x": (s["batch"], *s["places"], s["channels"])},
            getattr(L, name)(
                *own, s["kernel"], depth_multiplier=s["multiplier"], dilation_rate=s["dilation"], **dtype(**shared)
            ),
        )


for _name in ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"):
    several(_name, depthwise)


def transposed(name: str):
    rank = int(name[4])

    def valid(strides, dilation, **_) -> bool:
        return max(each(strides, rank)) == 1 or max(each(dilation, rank)) == 1

    for s in combinations(
        name,
        valid,
        places=PLACES[rank],
        kernel=WINDOWS[rank],
        strides=STRIDES[rank],
        dilation=DILATIONS[rank],
        padding=("valid", "same"),
        channels=(1, 2, 3),
        filters=(1, 2, 4),
        batch=(1, 2),
        activation=("linear", "relu"),
        use_bias=BOOLS,
        count=30,
    ):
        shared = {
            "strides": s["strides"],
            "padding": s["padding"],
            "activation": s["activation"],
            "use_bias": s["use_bias"],
        }
        yield Case(
            name + arguments(s["filters"], s["kernel"], dilation=s["dilation"], **shared) + "(x)",
            {"x": (s["batch"], *s["places"], s["channels"])},
            getattr(L, name)(s["filters"], s["kernel"], dilation_rate=s["dilation"], **dtype(**shared)),
        )


for _rank in (1, 2, 3):
    several(f"Conv{_rank}DTranspose", transposed)


# --- pooling and sizes --------------------------------------------------------------------------------------------


def inner_average(size: tuple, strides: tuple) -> Callable:
    """The mean of what is inside of each window.  Keras over PyTorch counts the filler too, where it is uneven; over
    TensorFlow and JAX it does not.
    """
    pool = getattr(torch.nn.functional, f"avg_pool{len(size)}d")

    def average(x):
        filler = []
        for n, k, s in zip(x.shape[1:-1], size, strides):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            filler = [total // 2, total - total // 2] + filler
        x = x.movedim(-1, 1)
        inside = [pool(torch.nn.functional.pad(t, filler), size, strides) for t in (x, torch.ones_like(x))]
        return (inside[0] / inside[1]).movedim(1, -1)

    return average


def pooling(name: str):
    rank = int(name[-2])
    keras_name = name.replace("Avg", "Average").replace("Pool", "Pooling")

    def valid(places, size, padding, **_) -> bool:
        return padding == "same" or all(w <= n for w, n in zip(each(size, rank), places))

    for s in combinations(
        name,
        valid,
        places=PLACES[rank],
        size=WINDOWS[rank],
        strides=(None, *STRIDES[rank]),
        padding=("valid", "same"),
        channels=(1, 3),
        batch=(1, 2),
    ):
        settings = {"strides": s["strides"], "padding": s["padding"]}
        layer = getattr(L, keras_name)(s["size"], **dtype(**settings))
        if "Avg" in name and s["padding"] == "same":
            layer = inner_average(each(s["size"], rank), each(s["strides"] or s["size"], rank))
        yield Case(
            name + arguments(s["size"], **settings) + "(x)", {"x": (s["batch"], *s["places"], s["channels"])}, layer
        )


def global_pooling(name: str):
    rank = int(name[-2])
    keras_name = name.replace("Avg", "Average").replace("Pool", "Pooling")
    for s in combinations(
        name, places=(*PLACES[rank], (1,) * rank, (2,) * rank), keepdims=BOOLS, channels=(1, 3), batch=(1, 2)
    ):
        yield Case(
            name + arguments(keepdims=s["keepdims"]) + "(x)",
            {"x": (s["batch"], *s["places"], s["channels"])},
            getattr(L, keras_name)(keepdims=s["keepdims"], dtype="float64"),
        )


for _kind in ("Max", "Avg"):
    for _rank in (1, 2, 3):
        several(f"{_kind}Pool{_rank}D", pooling)
        several(f"Global{_kind}Pool{_rank}D", global_pooling)


def sized(name: str):
    kind, rank = name[:-2], int(name[-2])
    keras_kind = {"UpSample": "UpSampling", "ZeroPad": "ZeroPadding", "Crop": "Cropping"}[kind]
    pairs = {
        1: ((0, 1), (1, 0), (2, 1)),
        2: (((0, 1), (2, 0)), ((1, 1), (0, 0))),
        3: (((0, 1), (1, 0), (1, 1)), ((0, 0), (1, 0), (0, 1))),
    }[rank]
    plain = (0, 1, 2) if rank == 1 else (0, 1, tuple(range(rank)))
    amounts = (
        (1, 2, 3, *(((1, 2, 3)[:rank], (2, 1, 2)[:rank]) if rank > 1 else ()))
        if kind == "UpSample"
        else (*plain, *pairs)
    )
    places = {1: ((4,), (5,), (9,)), 2: ((4, 5), (6, 3), (5, 5)), 3: ((4, 5, 6), (5, 5, 5))}[rank]

    def valid(places, amount, **_) -> bool:
        return kind != "Crop" or min(places) > 2 * max(max(each(a, 2)) for a in each(amount, rank))

    for s in combinations(name, valid, places=places, amount=amounts, channels=(1, 2, 3), batch=(1, 3)):
        keras_amount = (
            s["amount"][0] if rank == 1 and kind == "UpSample" and isinstance(s["amount"], tuple) else s["amount"]
        )
        yield Case(
            name + arguments(s["amount"]) + "(x)",
            {"x": (s["batch"], *s["places"], s["channels"])},
            getattr(L, f"{keras_kind}{rank}D")(keras_amount, dtype="float64"),
        )


for _kind in ("UpSample", "ZeroPad", "Crop"):
    for _rank in (1, 2, 3):
        several(f"{_kind}{_rank}D", sized)


# --- recurrence ---------------------------------------------------------------------------------------------------


def recurrent(name: str):
    for s in combinations(
        name,
        shape=((1, 1, 1), (3, 1, 4), (1, 6, 2), (2, 5, 3), (4, 3, 1)),
        units=(1, 3, 4),
        return_sequences=BOOLS,
        go_backwards=BOOLS,
        use_bias=BOOLS,
        activation=("tanh", "relu"),
        recurrent_activation=("sigmoid", "softsign"),
    ):
        settings = {key: s[key] for key in ("activation", "use_bias", "return_sequences", "go_backwards")}
        if name != "SimpleRNN":
            settings["recurrent_activation"] = s["recurrent_activation"]
        yield Case(
            name + arguments(s["units"], **settings) + "(x)",
            {"x": s["shape"]},
            getattr(L, name)(s["units"], **dtype(**settings)),
            declared={"x": f"N, T, {s['shape'][-1]}"},
        )


for _name in ("SimpleRNN", "LSTM", "GRU"):
    several(_name, recurrent)

MERGES = {"concat": "concat", "sum": "plus", "mul": "times", "ave": "middle"}
MERGE_TEXT = "def plus(a, b) = a + b\n\ndef times(a, b) = a * b\n\ndef middle(a, b) = (a + b) / 2\n"


@grid
def Bidirectional():
    for s in combinations(
        "Bidirectional",
        layer=("SimpleRNN", "LSTM", "GRU"),
        shape=((1, 1, 2), (2, 5, 3), (3, 4, 1)),
        units=(1, 3),
        return_sequences=BOOLS,
        merge=tuple(MERGES),
    ):
        inner = getattr(L, s["layer"])(s["units"], **dtype(return_sequences=s["return_sequences"]))
        yield Case(
            f"Bidirectional({s['layer']}, {s['units']}, {str(s['return_sequences']).lower()}, {MERGES[s['merge']]})(x)",
            {"x": s["shape"]},
            L.Bidirectional(inner, merge_mode=s["merge"], dtype="float64"),
            declared={"x": f"N, T, {s['shape'][-1]}"},
            preamble=MERGE_TEXT,
        )


# --- attention ----------------------------------------------------------------------------------------------------


class Attention(Joined):
    """keras.layers.MultiHeadAttention(x, memory, mask) under the conditions of our call."""

    def __init__(self, causal: bool, *args, **settings):
        super().__init__(
            {"attention": L.MultiHeadAttention(*args, **dtype(**settings))},
            lambda x, memory=None, *_: {"attention": (x, x if memory is None else memory)},
            lambda parts, x, memory=None, mask=None: parts["attention"](
                x, x if memory is None else memory, attention_mask=mask, use_causal_mask=causal
            ),
        )


@grid
def MultiHeadAttention():
    def valid(causal, memory, mask, **_) -> bool:
        return memory is not None or mask is None

    for s in combinations(
        "MultiHeadAttention",
        valid,
        x=((1, 1, 4), (2, 5, 6), (3, 3, 1)),
        memory=(None, (1, 3), (4, 5)),
        mask=(None, "full", "row"),
        heads=(1, 2, 3),
        key_dim=(1, 3),
        value_dim=(None, 2),
        output_dim=(None, 5),
        causal=BOOLS,
        use_bias=BOOLS,
    ):
        inputs, kinds = {"x": s["x"]}, {}
        text = "(x, x)"
        if s["memory"] is not None:
            inputs["memory"], text = (s["x"][0], *s["memory"]), "(x, memory)"
            if s["mask"] is not None:
                inputs["mask"], kinds = (s["x"][0], s["x"][1] if s["mask"] == "full" else 1, s["memory"][0]), MASK
                text = "(x, memory, mask)"
        settings = {"value_dim": s["value_dim"], "use_bias": s["use_bias"]}
        layer = Attention(s["causal"], s["heads"], s["key_dim"], output_shape=s["output_dim"], **settings)
        yield Case(
            "MultiHeadAttention"
            + arguments(s["heads"], s["key_dim"], output_dim=s["output_dim"], causal=s["causal"], **settings)
            + text,
            inputs,
            layer,
            kinds,
        )


def transformer_parts(s, cross: bool) -> dict:
    def attention():
        return L.MultiHeadAttention(s["heads"], s["width"] // s["heads"], dtype="float64")

    def norm():
        return L.LayerNormalization(epsilon=1e-5, dtype="float64")

    parts = {"self": attention(), "self_norm": norm()}
    if cross:
        parts |= {"cross": attention(), "cross_norm": norm()}
    parts |= {
        "wide": L.Dense(s["inner"], activation=s["activation"], dtype="float64"),
        "narrow": L.Dense(s["width"], dtype="float64"),
        "last_norm": norm(),
    }
    if s["normalize_first"]:  # weights in the order of their making: the norm comes before what it feeds
        order = ["self_norm", "self", *(("cross_norm", "cross") if cross else ()), "last_norm", "wide", "narrow"]
        parts = {name: parts[name] for name in order}
    return parts


def transformer_shapes(cross: bool, s) -> Callable:
    def shapes(x, memory=None, *_):
        wide = (*x[:-1], s["inner"])
        found = {"self": (x, x), "self_norm": (x,), "wide": (x,), "narrow": (wide,), "last_norm": (x,)}
        return found | ({"cross": (x, memory), "cross_norm": (x,)} if cross else {})

    return shapes


def transformer_call(s, causal: bool, cross: bool) -> Callable:
    def call(p, x, memory=None, mask=None):
        def feedforward(h):
            return p["narrow"](p["wide"](h))

        own = None if cross else mask
        if s["normalize_first"]:
            a = p["self_norm"](x)
            h = x + p["self"](a, a, attention_mask=own, use_causal_mask=causal)
            h = h + p["cross"](p["cross_norm"](h), memory, attention_mask=mask) if cross else h
            return h + feedforward(p["last_norm"](h))
        h = p["self_norm"](x + p["self"](x, x, attention_mask=own, use_causal_mask=causal))
        h = p["cross_norm"](h + p["cross"](h, memory, attention_mask=mask)) if cross else h
        return p["last_norm"](h + feedforward(h))

    return call


MASK = {"mask": "b"}
TRANSFORMER = {
    "width": (2, 6),
    "heads": (1, 2),
    "inner": (1, 5),
    "activation": ("relu", "gelu"),
    "normalize_first": BOOLS,
    "masked": BOOLS,
}


@grid
def TransformerEncoder():
    for s in combinations("TransformerEncoder", batch=(1, 2), length=(1, 4), causal=BOOLS, **TRANSFORMER):
        inputs = {"x": (s["batch"], s["length"], s["width"])}
        settings = {"activation": s["activation"], "normalize_first": s["normalize_first"], "causal": s["causal"]}
        call = transformer_call(s, s["causal"], False)
        if s["masked"]:
            inputs["mask"] = (s["batch"], s["length"], s["length"])

            def call(p, x, mask, call=call):
                return call(p, x, None, mask)

        yield Case(
            "TransformerEncoder"
            + arguments(s["inner"], s["heads"], **settings)
            + ("(x, mask)" if s["masked"] else "(x)"),
            inputs,
            Joined(transformer_parts(s, False), transformer_shapes(False, s), call),
            MASK,
        )


@grid
def TransformerDecoder():
    for s in combinations("TransformerDecoder", batch=(1, 2), length=(1, 4), memory=(1, 3), **TRANSFORMER):
        inputs = {"x": (s["batch"], s["length"], s["width"]), "memory": (s["batch"], s["memory"], s["width"])}
        if s["masked"]:
            inputs["mask"] = (s["batch"], 1, s["memory"])
        settings = {"activation": s["activation"], "normalize_first": s["normalize_first"]}
        yield Case(
            "TransformerDecoder"
            + arguments(s["inner"], s["heads"], **settings)
            + ("(x, memory, none, mask)" if s["masked"] else "(x, memory)"),
            inputs,
            Joined(transformer_parts(s, True), transformer_shapes(True, s), transformer_call(s, True, True)),
            MASK,
        )


# --- normalisation ------------------------------------------------------------------------------------------------

SHAPES = ((1, 4), (3, 6), (2, 3, 4), (1, 1, 2), (2, 3, 2, 6), (2, 2, 3, 2, 4))


@grid
def LayerNorm():
    for s in combinations("LayerNorm", shape=SHAPES, eps=(1e-3, 1e-6), center=BOOLS, scale=BOOLS):
        yield Case(
            "LayerNorm" + arguments(s["eps"], s["center"], s["scale"]) + "(x)",
            {"x": s["shape"]},
            L.LayerNormalization(epsilon=s["eps"], center=s["center"], scale=s["scale"], dtype="float64"),
        )


@grid
def RMSNorm():
    for s in combinations("RMSNorm", shape=SHAPES, eps=(1e-6, 1e-3), scale=(1.0, 0.01)):
        yield Case(
            "RMSNorm" + arguments(s["eps"]) + "(x)",
            {"x": s["shape"]},
            L.RMSNormalization(epsilon=s["eps"], dtype="float64"),
            scale=s["scale"],
        )


@grid
def BatchNorm():
    for s in combinations(
        "BatchNorm", shape=SHAPES, momentum=(0.99, 0.5), eps=(1e-3, 1e-5), center=BOOLS, scale=BOOLS, training=BOOLS
    ):
        yield Case(
            "BatchNorm" + arguments(s["momentum"], s["eps"], s["center"], s["scale"]) + "(x)",
            {"x": s["shape"]},
            L.BatchNormalization(
                momentum=s["momentum"], epsilon=s["eps"], center=s["center"], scale=s["scale"], dtype="float64"
            ),
            training=s["training"],
        )


@grid
def GroupNorm():
    def valid(shape, groups, **_) -> bool:
        return shape[-1] % max(groups, 1) == 0

    for s in combinations(
        "GroupNorm", valid, shape=SHAPES, groups=(1, 2, 3, -1), eps=(1e-3, 1e-5), center=BOOLS, scale=BOOLS
    ):
        yield Case(
            "GroupNorm" + arguments(s["groups"], s["eps"], s["center"], s["scale"]) + "(x)",
            {"x": s["shape"]},
            L.GroupNormalization(s["groups"], epsilon=s["eps"], center=s["center"], scale=s["scale"], dtype="float64"),
        )


# --- the tests ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
@pytest.mark.parametrize("name", GRIDS)
def test_layer_equals_keras(name):
    compare("layer", name, GRIDS[name])


# What differs in its kernels, compiled.
COMPILED = {
    "Dense": ("Dense(9, tanh)(x)", (7, 6)),
    "Conv2D": ("Conv2D(4, (3, 2), strides = 2, padding = same, groups = 2, activation = relu)(x)", (2, 9, 7, 4)),
    "DepthwiseConv2D": ("DepthwiseConv2D(3, multiplier = 2, dilation = 2)(x)", (2, 9, 7, 3)),
    "Conv2DTranspose": ("Conv2DTranspose(4, 3, strides = 2, padding = same)(x)", (2, 5, 4, 3)),
    "MaxPool2D": ("MaxPool2D(3, strides = 2, padding = same)(x)", (2, 8, 7, 3)),
    "AvgPool2D": ("AvgPool2D(3, strides = 2, padding = same)(x)", (2, 8, 7, 3)),
    "LSTM": ("LSTM(3, return_sequences = true)(x)", (2, 5, 4)),
    "GRU": ("GRU(3, go_backwards = true)(x)", (2, 5, 4)),
    "MultiHeadAttention": ("MultiHeadAttention(2, 3, causal = true)(x, x)", (2, 5, 4)),
    "LayerNorm": ("LayerNorm()(x)", (3, 5, 8)),
    "BatchNorm": ("BatchNorm()(x)", (6, 5, 4)),
    "GroupNorm": ("GroupNorm(2)(x)", (3, 5, 5, 4)),
    "all activations": (f"concat({', '.join(f'{name}(x)' for name in ACTIVATIONS)})", (40, 7)),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_layer_equals_the_interpreter(name):
    text, shape = COMPILED[name]
    compare_compiled("layer", name, Case(text, {"x": shape}, training=name == "BatchNorm"))
