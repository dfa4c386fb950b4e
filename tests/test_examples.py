"""The examples elaborate, with the sizes that the figures that they were taken from give."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest

from netc.compiler.build import elaborate

EXAMPLES = Path(__file__).parents[1] / "examples"

PROGRAMS = [path for path in sorted(EXAMPLES.glob("*.net")) if path.stem != "inception_block"]      # which is imported

# parameters of the model that is compiled when none is named
PARAMETERS = {
    "digits": 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10,
    "pure_mlp": 16,
    "conv_dense": 448 + 28 * 28 * 16 * 10 + 10,
    "sequential": 61,
    "classifier": 41,
    "ticket": 2 * 640_000 + 98_816 + 12_416 + 173 + 692,
    "autoencoder": 28_241,
    "inception": 1_090_761,
    "two_images": 1_092_761,
    "vae": 69_076 + 65_089,
    "subclassed": 2_762,
    "shared_dense": 100_100,
    "instrumented": 1_090_761,
    "resnet": 272_474,              # of its 274,042 variables 1,568 are running means and variances
    "gpt": 124_672,
    "gru": 54_476,
    "unet": 29_481,
}


def example(name: str, model: str | None = None):
    path = EXAMPLES / f"{name}.net"
    return elaborate(path.read_text(encoding="utf-8"), str(path), model=model)


def size(variables) -> int:
    return sum(prod(variable.type.shape) for variable in variables)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_example_elaborates(path):
    model = elaborate(path.read_text(encoding="utf-8"), str(path))
    assert model.inference.outputs
    assert model.warnings == ()


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_model_of_an_example_elaborates(path):
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"^model (\w+)\(\w+: [fi]\d\d\[", text, re.MULTILINE):
        assert elaborate(text, str(path), model=name).name == name


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    assert size(example(name).parameters) == PARAMETERS[name]


@pytest.mark.parametrize("name, model, count", [
    ("weights", "Large", 7_861), ("weights", "Linear", 15), ("weights", "Binary", 17), ("sequential", "Functional", 61),
    ("sequential", "Assembled", 61), ("subclassed", "MLP", 2_762), ("subclassed", "Mistake", 5_524),
    ("gradient_ascent", "Ascent", 1_409), ("pure_mlp", "Forward", 0)])
def test_parameter_count_of_another_model(name, model, count):
    assert size(example(name, model).parameters) == count


def test_autoencoder_is_its_encoder_and_its_decoder():
    assert size(example("autoencoder", "Encoder").parameters) == 18_672
    assert size(example("autoencoder", "Decoder").parameters) == 9_569


def test_two_images_share_their_features():
    model = example("two_images")
    shared = [variable for variable in model.parameters if variable.path.startswith("features.")]
    assert size(shared) == 1_088_720
    assert "features.inception_1.branch_b" in model.inference.values


def test_weight_paths_are_paths_of_bindings():
    paths = [variable.path for variable in example("ticket").parameters]
    assert paths == ["embedding.embeddings", "lstm.kernel", "lstm.recurrent", "lstm.bias", "embedding_1.embeddings",
                     "lstm_1.kernel", "lstm_1.recurrent", "lstm_1.bias", "priority.kernel", "priority.bias",
                     "department.kernel", "department.bias"]


def test_losses_and_outputs_are_named():
    model = example("vae")
    assert list(model.training.losses) == ["reconstruction", "kl"]
    assert list(model.training.outputs) == ["reconstruction", "z_mean", "z_log_var"]
    assert model.uses_seed


def test_an_l2_setting_joins_the_loss():
    assert len(example("inception").training.penalties) == 14
