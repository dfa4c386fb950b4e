"""Every example against the same model in Keras: outputs, losses, gradients, new states; and training where a text
trains.

``pytest tests/models --errors`` prints the worst relative error of each model.
"""

from __future__ import annotations

import numpy as np
import pytest
from batches import CASES
from keras_models import TWINS, keras, losses, ops, torch, vae_losses
from tolerances import ERRORS, relative_error, tolerance

import netc

# Keras 3.15 over PyTorch converts its tensors by an __array__ of an older form.
pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
              pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")]

TRAINED = [name for name, twin in TWINS.items() if twin.loss]


def check(name: str, what: str, error: float, detail: str = "") -> None:
    ERRORS.add("model", name, what, error)
    assert error <= tolerance(what, "f32"), f"{name}: {what} {detail} is off by {error:.1e}"


def test_every_model_has_a_twin():
    assert list(TWINS) == list(CASES)


@pytest.mark.parametrize("name", TWINS)
def test_outputs(name):
    twin = TWINS[name]
    ERRORS.count("model", name)
    ours, theirs = twin.case.outputs(), twin.outputs()
    if name == "gradient_ascent":
        ours, theirs = ours[:1], theirs[:1]                    # a Keras model gives no gradients; see below
    assert len(ours) == len(theirs)
    for output, expected in zip(ours, theirs):
        assert output.dtype == np.float32
        check(name, "forward", relative_error(output, expected.detach().numpy()))


@pytest.mark.parametrize("name", TWINS)
def test_parameters(name):
    twin = TWINS[name]
    model, layout = twin.keras(), twin.case.function().layout
    assert layout.trainable_size == sum(variable.value.numel() for variable in model.trainable_variables)
    assert layout.size == model.count_params()
    assert twin.case.function().weights_from(model.get_weights(), twin.order) == twin.case.weights()


@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients(name):
    twin = TWINS[name]
    found, gradient, states = twin.case.function().losses_and_grad(twin.case.weights(), twin.case.data,
                                                                   **twin.case.seed)
    expected, slopes, after = twin.loss_and_gradient()
    check(name, "forward", relative_error(found["loss"], expected), "of the loss")
    # Where a gradient vanishes exactly (a bias before a normalisation), both sides are rounding errors of what
    # cancelled.
    floor = 1e-2 * max(float(np.abs(slopes[path]).max()) for path in twin.case.function().parameters)
    for path in twin.case.function().parameters:
        check(name, "gradient", relative_error(gradient[path], slopes[path], floor), f"of {path}")
    for path, value in states.items():
        check(name, "forward", relative_error(value, after[path]), f"of the new {path}")


# --- what the texts do with their models ----------------------------------------------------------------------------


def test_get_weights_as_keras_gives_them_flat_and_as_a_list():
    """Seed 000, example 2: the weights of a Keras model as one flat vector."""
    twin = TWINS["pure_mlp"]
    weights_list = twin.keras().get_weights()
    flattened = np.concatenate([w.flatten() for w in weights_list])
    fn, forward = twin.case.function(), twin.case.compile(model="Forward")
    x = twin.case.batch()["x"]
    want = twin.keras()(x).detach().numpy()
    for got in (fn(fn.weights_from(weights_list), x), fn(fn.weights_from(flattened), x),
                forward(forward.init(), weights=flattened, x=x)):
        check("pure_mlp", "forward", relative_error(got, want))


def test_weights_go_back_to_keras():
    twin = TWINS["inception"]
    model = keras.models.clone_model(twin.keras())
    model.set_weights(twin.case.weights().to_arrays(twin.order))
    got = model(twin.case.batch()["image"]).detach().numpy()
    np.testing.assert_array_equal(got, twin.outputs()[0].detach().numpy())


def test_variables_and_tensors_are_inputs():
    """Seed 001: a forward pass on a variable of the framework, and on a batch assembled of several."""
    twin = TWINS["sequential"]
    fn, w = twin.case.function(), twin.case.weights()
    x = np.random.default_rng(0).random((2, 10)).astype(np.float32)
    variable, tensor = keras.Variable(x), torch.tensor(x)
    want = twin.keras()(tensor).detach().numpy()
    for value in (variable.value.detach(), tensor, x, x.tolist()):
        check("sequential", "forward", relative_error(fn(w, value), want))
    assembled = twin.case.compile(model="Assembled")
    first, second = tensor[:1], tensor[1:]
    got = assembled(assembled.weights_from(list(w.values())), first, second)
    check("sequential", "forward", relative_error(got, twin.keras()(torch.cat([first, second])).detach().numpy()))


def fit_both(twin, optimizer, loss, data, targets, epochs, **options):
    """(our weights, our history, Keras' weights as ours, Keras' history) after the same training from the same
    weights."""
    fn = twin.case.function()
    model = keras.models.clone_model(twin.keras())
    model.set_weights(twin.case.weights().to_arrays(twin.order))
    model.compile(optimizer=optimizer, loss=loss, **options)
    names = list(fn.inputs)
    told = model.fit([data[name] for name in names] if len(names) > 1 else data[names[0]], targets, epochs=epochs,
                     batch_size=32, shuffle=False, verbose=0)
    w, history = fn.fit(twin.case.weights(), data, epochs=epochs, batch_size=32, shuffle=False)
    return w, history, fn.weights_from(model.get_weights(), twin.order), told.history


def test_ticket_trains_as_in_keras_and_reports_each_loss():
    """Seed 003: RMSprop, two outputs, losses weighted by 1.0 and 0.2."""
    rng = np.random.default_rng(0)
    data = {"title": rng.integers(10_000, size=(96, 5)), "body": rng.integers(10_000, size=(96, 9)),
            "tags": rng.integers(2, size=(96, 12)).astype("float32"), "priority_target": rng.random((96, 1)),
            "department_target": rng.integers(2, size=(96, 4))}
    w, history, theirs, told = fit_both(
        TWINS["ticket"], keras.optimizers.RMSprop(1e-3),
        [losses.BinaryCrossentropy(from_logits=True), losses.CategoricalCrossentropy(from_logits=True)],
        data, [data["priority_target"].astype("f"), data["department_target"].astype("f")], 3, loss_weights=[1.0, 0.2])
    for name, expected in (("loss", told["loss"]), ("priority", told["priority_loss"]),
                           ("department", 0.2 * np.array(told["department_loss"]))):
        assert relative_error(np.array(history[name]), np.array(expected)) <= tolerance("losses", "f32"), name
    for path in w:
        assert relative_error(w[path], theirs[path]) <= tolerance("losses", "f32"), path


def test_weights_after_training_are_keras_own():
    """Seed 002, example 3: 2-4-1, Adam on binary crossentropy, 100 points."""
    rng = np.random.default_rng(0)
    data = {"x": rng.random((100, 2)).astype("f"), "label": rng.integers(0, 2, (100, 1)).astype("f")}
    w, history, theirs, told = fit_both(TWINS["weights_binary"], "adam", "binary_crossentropy", data, data["label"], 20,
                                        metrics=["accuracy"])
    assert relative_error(np.array(history["loss"]), np.array(told["loss"])) <= tolerance("losses", "f32")
    assert w != TWINS["weights_binary"].case.weights()
    for path in w:
        assert relative_error(w[path], theirs[path]) <= tolerance("losses", "f32"), path


def test_the_three_losses_of_the_vae():
    """Seed 003: total, reconstruction and kl, as the text's train_step computes them."""
    twin = TWINS["vae"]
    found, _, _ = twin.case.function().losses_and_grad(twin.case.weights(), twin.case.data, **twin.case.seed)
    expected = vae_losses([output.detach() for output in twin.outputs()],
                          ops.convert_to_tensor(twin.case.batch()["image"]))
    assert set(found) == set(expected) == {"loss", "reconstruction", "kl"}
    for name, value in expected.items():
        check("vae", "forward", relative_error(found[name], value.item()), f"of {name}")


def test_saliency_is_the_gradient_by_the_image():
    twin = TWINS["gradient_ascent"]
    image = torch.tensor(twin.case.batch()["image"], requires_grad=True)
    want, = torch.autograd.grad(twin.keras()(image)[0].sum(), image)
    check("gradient_ascent", "gradient", relative_error(twin.case.outputs()[1], want.numpy()), "by the image")


@pytest.mark.parametrize("unit", [2, 5])
def test_ascent_climbs_where_keras_climbs(unit):
    """Ten steps along the normalised gradient of one filter's mean activation, its borders left out."""
    twin = TWINS["gradient_ascent"]
    ascent = twin.case.compile(model="Ascent", settings={"unit": unit})
    ours, image = twin.case.batch()["image"], torch.tensor(twin.case.batch()["image"])
    w = ascent.weights_from(twin.keras().get_weights())
    for _ in range(10):
        excitement, ours = ascent(w, ours)
        image = image.detach().requires_grad_()
        activation = twin.keras()(image)[1][:, 2:-2, 2:-2, unit].mean(dim=(1, 2))
        slope, = torch.autograd.grad(activation.sum(), image)
        image = image + slope / (slope.square().sum(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-7)
        check("gradient_ascent", "gradient", relative_error(excitement, activation.detach().numpy()),
              "of the excitement")
    check("gradient_ascent", "gradient", relative_error(ours, image.detach().numpy()), "of the image climbed to")


def test_inner_tensors_are_those_of_keras():
    """Seed 004: the response of every layer, without retraining and with the weights that are there."""
    twin = TWINS["inception"]
    model = twin.keras()
    names = {"inception": "concatenate_i1", "inception_1": "concatenate_i2", "dense": "D1", "dense_1": "D2",
             "probability": "output"}
    labels = {"branch_a": "convA", "conv2d": "convB0", "conv2d_1": "convB1", "conv2d_2": "convC0", "conv2d_3": "convC1",
              "max_pool2d": "MAX", "conv2d_4": "convD0"}
    names |= {f"{module}.{ours}": f"{theirs}_{short}" for module, short in (("inception", "i1"), ("inception_1", "i2"))
              for ours, theirs in labels.items()}
    looking = twin.case.compile(outputs=list(names))
    values = looking(twin.case.weights(), twin.case.inputs)
    inside = keras.Model(model.inputs, [model.get_layer(name).output for name in names.values()])
    for path, value, expected in zip(names, values, inside([twin.case.batch()["image"]])):
        check("inception", "forward", relative_error(value, expected.detach().numpy()), f"of {path}")


def test_attention_masks_are_keras_masks():
    """Padding and the future change nothing in Keras either: the decoder's masks are the same."""
    twin = TWINS["transformer"]
    batch = {name: value.copy() for name, value in twin.case.inputs.items()}
    batch["target"][:, -1] = 7
    got = twin.case.function()(twin.case.weights(), batch)
    want = twin.keras()([torch.tensor(batch["source"]), torch.tensor(batch["target"])]).detach().numpy()
    check("transformer", "forward", relative_error(got, want))
    before = twin.case.outputs()[0]
    np.testing.assert_array_equal(got[:, :-1], before[:, :-1])
    assert not np.array_equal(got[:, -1], before[:, -1])


def test_a_list_in_keras_order_without_its_order_says_so():
    twin = TWINS["inception"]
    with pytest.raises(netc.WeightsError, match="another order: give `order`"):
        twin.case.function().weights_from(twin.keras().get_weights())
