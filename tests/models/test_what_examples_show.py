"""What each example is there to show, apart from numbers equal to Keras': purity, sharing, reported losses, inner
values, masks."""

from __future__ import annotations

import re

import numpy as np
import pytest
from batches import CASES, EXAMPLES

import netc

RNG = np.random.default_rng


def example(name: str, model: str | None = None, **options) -> netc.Function:
    return netc.compile(EXAMPLES / f"{name}.net", model=model, **options)


# --- pure functions of weights and inputs (seed 000, 001) -----------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_call_gives_the_same_bits_and_changes_nothing(name):
    case = CASES[name]
    inputs = {key: value.copy() for key, value in case.inputs.items()}
    before, given = case.weights().copy(), {key: value.copy() for key, value in inputs.items()}
    first, second = (case.function()(case.weights(), inputs, **case.seed) for _ in range(2))
    for one, other in zip(*(result if isinstance(result, tuple) else (result,) for result in (first, second))):
        assert one.tobytes() == other.tobytes() and not np.shares_memory(one, other)
    assert case.weights() == before
    assert all(inputs[key].tobytes() == given[key].tobytes() for key in inputs)


@pytest.mark.parametrize("name", ["pure_mlp", "ticket", "vae"])
def test_a_step_gives_the_same_bits_and_changes_nothing(name):
    case = CASES[name]
    fn, w = case.function(), case.weights()
    data = {key: value.copy() for key, value in case.data.items()}
    state = fn.init_optimizer()
    before, kept = w.copy(), {key: value.copy() for key, value in state.items()}
    results = [fn.step(w, state, data, **case.seed) for _ in range(2)]
    gradients = [fn.value_and_grad(w, data, **case.seed) for _ in range(2)]
    assert results[0][0].flat.tobytes() == results[1][0].flat.tobytes() and results[0][2] == results[1][2]
    assert gradients[0][0] == gradients[1][0] and gradients[0][1] == gradients[1][1]
    assert w == before and all(np.array_equal(state[key], kept[key]) for key in state)
    assert all(data[key].tobytes() == value.tobytes() for key, value in case.data.items())


def test_the_function_reshapes_one_flat_vector():
    forward, model = example("pure_mlp", "Forward"), example("pure_mlp")
    vector, x = RNG(42).random(16, np.float32), np.array([[1, 2, 3]], np.float32)
    got = forward(forward.init(), vector, x)
    assert not forward.parameters and got.shape == (1, 1)
    want = np.maximum(x @ vector[:9].reshape(3, 3) + vector[9:12], 0) @ vector[12:15].reshape(3, 1) + vector[15:]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    w = model.weights_from(vector)
    assert w.flat.tobytes() == vector.tobytes()
    np.testing.assert_array_equal(model(w, x), got)


def test_a_line_of_layers_is_the_graph_and_rows_do_not_depend_on_their_batch():
    line, graph, assembled = (example("sequential", model) for model in ("Sequential", "Functional", "Assembled"))
    w = CASES["sequential"].weights()
    assert list(line.variables.values()) == list(graph.variables.values())
    first, second = RNG(0).random((2, 1, 10)).astype(np.float32)
    batch = np.concatenate([first, second])
    whole = line(w, batch)
    np.testing.assert_array_equal(graph(graph.weights_from(w.to_arrays()), batch), whole)
    np.testing.assert_array_equal(assembled(assembled.weights_from(w.to_arrays()), first, second), whole)
    np.testing.assert_array_equal(np.concatenate([line(w, first), line(w, second)]), whole)


# --- named weights (seed 002) -----------------------------------------------------------------------------------------


def test_weights_are_read_by_name():
    fn = example("weights", "Large")
    w = fn.init(0)
    assert {path: value.shape for path, value in w.items()} == {
        "dense.kernel": (784, 10), "dense.bias": (10,), "dense_1.kernel": (10, 1), "dense_1.bias": (1,)}
    assert w["dense.kernel"][0:5, 0:5].shape == (5, 5) and not w["dense.bias"].any()
    assert w["dense.kernel"].std() == pytest.approx((2 / 794) ** 0.5, rel=0.03)          # Glorot's uniform


def test_weights_are_replaced_by_name():
    fn = example("weights", "Linear")
    w = fn.init(0)
    kernel, bias = np.arange(1, 11, dtype=np.float32).reshape(2, 5), np.linspace(0.1, 0.5, 5, dtype=np.float32)
    new = w.replace({"dense.kernel": kernel, "dense.bias": bias})
    np.testing.assert_array_equal(new["dense.kernel"], kernel)
    np.testing.assert_allclose(fn(new, [[1, -1]]), [kernel[0] - kernel[1] + bias], rtol=1e-6)
    assert not np.array_equal(w["dense.kernel"], kernel)
    with pytest.raises(netc.WeightsError, match=r"`dense.bias` has shape \[4\], expected \[5\]"):
        w.replace({"dense.bias": bias[1:]})


def test_weights_before_and_after_training():
    fn = example("weights")
    rng = RNG(0)
    data = {"x": rng.random((100, 2)), "label": rng.integers(0, 2, (100, 1)).astype(float)}
    before = fn.init(0)
    kept = before.copy()
    after, history = fn.fit(before, data, epochs=100)
    assert history["cross_entropy"][-1] < history["cross_entropy"][0] and before == kept
    assert {path: value.shape for path, value in after.items()} == {
        "dense.kernel": (2, 4), "dense.bias": (4,), "dense_1.kernel": (4, 1), "dense_1.bias": (1,)}
    assert all(not np.array_equal(after[path], before[path]) for path in after)


# --- several inputs and outputs, nesting (seed 003) -------------------------------------------------------------------


def ticket_data(samples: int, title: int, body: int) -> dict:
    rng = RNG(0)
    return {"title": rng.integers(10_000, size=(samples, title)), "body": rng.integers(10_000, size=(samples, body)),
            "tags": rng.integers(2, size=(samples, 12)).astype("float32"), "priority_target": rng.random((samples, 1)),
            "department_target": rng.integers(2, size=(samples, 4))}


def test_ticket_takes_data_in_any_form_and_reports_each_loss():
    fn = CASES["ticket"].function()
    data, w = ticket_data(64, 5, 7), CASES["ticket"].weights()
    by_name, history = fn.fit(w, data, epochs=2)
    for same in (tuple(data.values()), list(data.values())):
        again, told = fn.fit(w, same, epochs=2)
        assert again == by_name and told.epochs == history.epochs
    assert set(history.last) == {"loss", "priority", "department"}
    for epoch in history.epochs:
        assert epoch["loss"] == pytest.approx(epoch["priority"] + epoch["department"], rel=1e-6)
    unweighted = 5 * fn.evaluate(w, data)["department"]
    two = data["department_target"].astype(np.float64)
    logits = fn(w, {name: data[name] for name in fn.inputs}).department.astype(np.float64)
    by_hand = -(two * (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))).sum(-1).mean()
    assert unweighted == pytest.approx(by_hand, rel=1e-5)


def test_ticket_reads_titles_and_bodies_of_any_length():
    case = CASES["ticket"]
    for title, body in ((1, 1), (3, 12)):
        data = ticket_data(2, title, body)
        result = case.function()(case.weights(), {name: data[name] for name in case.function().inputs})
        assert result.priority.shape == (2, 1) and result.department.shape == (2, 4)


def test_the_parts_of_the_autoencoder_are_models_too():
    case = CASES["autoencoder"]
    w, img = case.weights(), case.batch()["img"]
    encoder, decoder = (example("autoencoder", name) for name in ("Encoder", "Decoder"))
    parts = [fn.weights_from({path: w[f"{name}.{path}"] for path in fn.variables})
             for name, fn in (("encoder", encoder), ("decoder", decoder))]
    code = encoder(parts[0], img)
    assert code.shape == (3, 16)
    np.testing.assert_array_equal(decoder(parts[1], code), case.outputs()[0])
    assert encoder.layout.size + decoder.layout.size == case.function().layout.size


def test_the_transformer_sees_no_future_and_no_padding():
    case = CASES["transformer"]
    fn, w, before = case.function(), case.weights(), case.outputs()[0]
    later = {name: value.copy() for name, value in case.inputs.items()}
    later["target"][:, 3:] = 1
    np.testing.assert_array_equal(fn(w, later)[:, :3], before[:, :3])
    assert not np.array_equal(fn(w, later)[:, 3:], before[:, 3:])
    longer = dict(case.inputs, source=np.pad(case.inputs["source"], ((0, 0), (0, 4))))
    np.testing.assert_allclose(fn(w, longer), before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_a_training_step_of_ones_own_is_fit():
    """The text's train_step: gradient of the total loss, one update, three losses reported."""
    fn = CASES["vae"].function()
    images = RNG(0).random((20, 28, 28, 1)).astype(np.float32)
    w = start = fn.init(0)
    optimizer, told = fn.init_optimizer(), []
    for k in range(6):
        batch = images[8 * (k % 3):8 * (k % 3) + 8]
        losses, gradient, _ = fn.losses_and_grad(w, batch, seed=netc.step_seed(5, k))
        assert fn.value_and_grad(w, batch, seed=netc.step_seed(5, k))[1] == gradient
        w, optimizer = fn.update(w, optimizer, gradient)
        told.append(losses)
    fitted, history = fn.fit(start, {"image": images}, epochs=2, batch_size=8, shuffle=False, seed=5)
    assert w == fitted and w != start
    assert all(set(losses) == {"loss", "reconstruction", "kl"} for losses in told)
    for epoch, three in zip(history.epochs, (told[:3], told[3:])):
        for name, value in epoch.items():
            assert value == pytest.approx(np.average([losses[name] for losses in three], weights=[8, 8, 4]), rel=1e-6)


def test_the_vae_samples_from_an_explicit_seed():
    case = CASES["vae"]
    fn, w, image = case.function(), case.weights(), case.batch()["image"]
    one, same, other = (fn(w, image, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.reconstruction, same.reconstruction)
    assert not np.array_equal(one.reconstruction, other.reconstruction)
    np.testing.assert_array_equal(one.z_mean, other.z_mean)
    with pytest.raises(netc.InputError, match="give `seed`"):
        fn(w, image)


def test_ascent_finds_an_image_that_excites_the_unit():
    w = CASES["gradient_ascent"].weights()
    start = RNG(0).random((2, 32, 32, 3)).astype(np.float32)
    for unit in (2, 5):
        ascent = example("gradient_ascent", "Ascent", settings={"unit": unit, "rate": 2.0})
        image, told = start, []
        for _ in range(8):
            excitement, image = ascent(w, image)          # the trained model's weights: both are made of one Classifier
            told.append(excitement)
        assert (np.diff(told, axis=0) > 0).all() and (told[-1] > 2 * told[0]).all()
        np.testing.assert_allclose(np.sqrt(((image - start) ** 2).sum(axis=(1, 2, 3))), 16, rtol=0.2)


def test_parts_that_are_made_in_each_call_are_seen_in_the_summary():
    shared, mistake = (str(example("subclassed", model).summary()) for model in ("Twins", "Mistake"))
    assert re.search(r"^mlp:1 .*shared", shared, re.MULTILINE) and "2,762 parameters" in shared
    assert "shared" not in mistake and "5,524 parameters" in mistake
    assert len(re.findall(r"^mlp.* 2,762 ", mistake, re.MULTILINE)) == 2 and "mlp_1" in mistake
    case, wrong = CASES["subclassed"], CASES["subclassed_mistake"]
    both = wrong.function().weights_from(2 * case.weights().to_arrays())
    inputs = case.inputs
    np.testing.assert_array_equal(wrong.function()(both, inputs), case.function()(case.weights(), inputs))


# --- Inception, shared layers, inner values (seed 004) ----------------------------------------------------------------


def test_two_images_go_through_one_network():
    case = CASES["two_images"]
    fn = example("two_images", outputs=["features", "features:1", "output"])
    one, two = case.inputs.values()
    found = fn(case.weights(), one, two)
    swapped = fn(case.weights(), two, one)
    np.testing.assert_array_equal(found[0], swapped[1])
    np.testing.assert_array_equal(found[1], swapped[0])
    alone = example("two_images", "Features")
    w = alone.weights_from({path: case.weights()[f"features.{path}"] for path in alone.variables})
    np.testing.assert_array_equal(alone(w, one), found[0])


def test_gradients_of_both_inputs_change_a_shared_layer():
    """d/dw f(g(a; w), g(b; w)) is the sum of the gradients of two layers with equal weights."""
    text = (EXAMPLES / "shared_dense.net").read_text()
    apart = netc.compile(text.replace("dense(second)", "Dense(100, elu)(second)"), precision="f64", target="numpy")
    shared = netc.compile(text, precision="f64", target="numpy")
    case = CASES["shared_dense"]
    assert (shared.layout.size, apart.layout.size) == (100_100, 200_200)
    _, whole = shared.value_and_grad(shared.weights_from(case.weights().to_arrays()), case.data)
    _, parts = apart.value_and_grad(apart.weights_from(2 * case.weights().to_arrays()), case.data)
    kernels = [value for path, value in parts.items() if path.endswith("kernel")]
    assert all(np.abs(kernel).max() > 0 for kernel in kernels)
    np.testing.assert_allclose(whole["dense.kernel"], sum(kernels), rtol=1e-9, atol=1e-15)


def test_any_inner_value_of_a_trained_model_without_second_weights():
    case = CASES["instrumented"]
    trained, _ = case.function().fit(case.weights(), case.data, epochs=1, batch_size=3)
    paths = ["everything.first", "everything.second", "everything.code", "everything.second.branch_b", "probability"]
    looking = case.compile(outputs=paths)
    assert looking.layout == case.function().layout                     # the very same weights, no copy
    values = looking(trained, case.batch()["image"])
    assert [value.shape[1:] for value in values] == [(16, 16, 40), (8, 8, 160), (100,), (8, 8, 40), (1,)]
    np.testing.assert_array_equal(values[-1], case.function()(trained, case.batch()["image"]))
    np.testing.assert_array_equal(values[3], values[1][..., 40:80])     # a branch is a stretch of its module's channels
    inner = case.compile(model="Everything")
    w = inner.weights_from({path: trained[f"everything.{path}"] for path in inner.variables})
    for value, expected in zip(values, (inner(w, case.batch()["image"])[k] for k in (1, 2, 3))):
        np.testing.assert_array_equal(value, expected)
    with pytest.raises(netc.ModelError, match=r"did you mean `everything\.first`"):
        case.compile(outputs=["everything.firts"])


def test_inception_with_the_maximum_of_each_channel():
    fn = CASES["inception_pooled"].function()
    assert fn.layout.trainable_size == 82_761
    assert re.search(r"^global_max_pool2d .*f32\[N, 160\] +inception_1", str(fn.summary()), re.MULTILINE)
    assert re.search(r"^dense .*f32\[N, 100\] +16,100 +global_max_pool2d", str(fn.summary()), re.MULTILINE)


def test_the_l2_regulariser_joins_the_loss():
    case = CASES["inception"]
    losses, _, _ = case.function().losses_and_grad(case.weights(), case.data)
    kernels = [value.astype(np.float64) for path, value in case.weights().items() if path.endswith("kernel")]
    assert len(kernels) == 15
    weighed = sum(np.square(kernel).sum() for kernel in kernels[:-1])      # the last layer has none
    assert losses["loss"] - losses["cross_entropy"] == pytest.approx(1e-4 * weighed, rel=1e-4)


# --- beyond -----------------------------------------------------------------------------------------------------------


def test_gpt_reads_from_left_to_right_and_ties_its_table():
    case = CASES["gpt"]
    fn, w, before = case.function(), case.weights(), case.outputs()[0]
    changed = case.batch()["text"].copy()
    changed[:, 6:] = 65
    np.testing.assert_array_equal(fn(w, changed)[:, :6], before[:, :6])
    tables = [path for path, type_ in fn.parameters.items() if 256 in type_.shape
              and path.endswith(("embeddings", "kernel"))
              and type_.shape == (256, 64) and "feedforward" not in path]
    # one table; no layer of its own for the output
    assert tables == ["embedding.embeddings"]
    _, gradient = fn.value_and_grad(w, case.data)
    unread = np.setdiff1d(np.arange(256), case.batch()["text"])
    assert np.abs(gradient["embedding.embeddings"][unread]).max() > 0     # as the output layer it learns of every byte


def test_the_tagger_reads_both_ways_and_counts_no_padding():
    case = CASES["gru"]
    fn, w, before = case.function(), case.weights(), case.outputs()[0]
    text = case.batch()["text"].copy()
    text[0, -1] = 1 + text[0, -1] % 900
    assert np.abs(fn(w, text)[0, 0] - before[0, 0]).max() > 0             # the last word is seen at the first
    np.testing.assert_array_equal(fn(w, text)[1:], before[1:])
    tag = case.batch()["tag"].copy()
    tag[1, 3:] = (tag[1, 3:] + 1) % 12                                    # where the text is padding
    assert fn.evaluate(w, dict(case.data, tag=tag)) == fn.evaluate(w, case.data)


def test_the_residual_network_learns_and_keeps_running_means():
    case = CASES["resnet"]
    fn, w = case.function(), case.weights()
    trained, history = fn.fit(w, case.data, epochs=6, batch_size=3)
    assert history["loss"][-1] < history["loss"][0]
    moved = [path for path in fn.states if not np.array_equal(trained[path], w[path])]
    assert moved == list(fn.states) and len(moved) == 42


def test_the_u_net_learns_a_mask():
    case = CASES["unet"]
    image = case.batch()["image"]
    data = {"image": image, "target": (image > 0.5).astype(np.float32)}
    _, history = case.function().fit(case.weights(), data, epochs=12, batch_size=2)
    assert history["dice"][-1] < 0.8 * history["dice"][0] and history["accuracy"][-1] > history["accuracy"][0]
