"""Training as a user runs it: checkpoints and resuming to the same bits, early stopping, logs, histories, other
optimisers."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import netc
from netc.runtime import checkpoint
from netc.runtime.history import History

# Everything that a checkpoint must hold: dropout draws, running statistics, a schedule, several losses.
SOURCE = """net 1
model Net(x: f32[N, 6]) -> (y: f32[N, 1], z: f32[N, 2]):
    h = x |> Dense(8, relu) |> BatchNorm() |> Dropout(0.3)
    y = Dense(1)(h)
    z = Dense(2)(h)
train Net:
    input target: f32[N, 1]
    loss   square = mean((y - target) ** 2)
    loss   size   = 0.1 * mean(z ** 2)
    metric worst  = max(abs(y - target))
    optimizer = adam(lr = cosine_decay(initial = 1e-2, decay_steps = 100))
"""


def data(samples=50, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 6)).astype(np.float32)
    return {"x": x, "target": x[:, :1] - 2 * x[:, 1:2] + rng.normal(size=(samples, 1)).astype(np.float32)}


SETTINGS = {"epochs": 6, "batch_size": 8, "validation": 0.2, "seed": 5}


@pytest.fixture(scope="module", params=["numpy", "cpu"])
def fn(request):
    return netc.compile(SOURCE, target=request.param)


@pytest.fixture(scope="module")
def whole(fn):
    return fn.fit(fn.init(1), data(), **SETTINGS)


class StopAt:
    """Stops in the middle of an epoch, as a Ctrl-C does."""

    def __init__(self, epoch, batch):
        self.at = epoch, batch

    def on_batch(self, told):
        return (told.epoch, told.batch) == self.at


def same(a, b):
    """Weights of equal bits."""
    return a.flat.tobytes() == b.flat.tobytes() and all(a[path].tobytes() == b[path].tobytes() for path in a)


def same_history(a, b):
    return a.epochs == b.epochs and all(np.array_equal(a.optimizer[path], b.optimizer[path]) for path in a.optimizer)


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_data_may_be_a_path(fn, whole, tmp_path, kind):
    path = tmp_path / ("data.npz" if kind == "npz" else "data")
    if kind == "npz":
        np.savez(path, **data())
    else:
        path.mkdir()
        for name, array in data().items():
            np.save(path / f"{name}.npy", array)
    for given in (path, str(path)):
        weights, history = fn.fit(fn.init(1), given, **SETTINGS)
        assert same(weights, whole[0]) and same_history(history, whole[1])
    assert fn.evaluate(weights, path) == fn.evaluate(weights, data())
    assert fn.fit(fn.init(1), path, **SETTINGS | {"validation": path})[1].epochs[0]["val_loss"] > 0
    with pytest.raises(netc.InputError, match="a tuple, or a path"):
        fn.fit(fn.init(1), 3)
    with pytest.raises(netc.InputError, match=r"arrays are read from \.npz, "):
        fn.fit(fn.init(1), __file__)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch, batch", [(1, 1), (3, 2), (3, 5), (6, 4)])
def test_resumed_training_ends_at_the_same_bits(fn, whole, tmp_path, epoch, batch):
    folder = tmp_path / "run"
    _, cut = fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(folder), StopAt(epoch, batch)], **SETTINGS)
    assert cut.interrupted and len(cut.epochs) == epoch - (batch < 5)
    resumed, history = fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(folder)], resume=folder, **SETTINGS)
    assert same(resumed, whole[0]) and same_history(history, whole[1]) and not history.interrupted
    again, _ = fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(folder)], resume=folder, **SETTINGS)
    assert same(again, whole[0])                            # there is nothing left to do


def test_the_weights_given_do_not_matter_when_resuming(fn, whole, tmp_path):
    fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(tmp_path), StopAt(2, 1)], **SETTINGS)
    resumed, _ = fn.fit(fn.init(9), data(), resume=tmp_path, **SETTINGS)
    assert same(resumed, whole[0])


def test_more_epochs_go_on_where_fewer_ended(fn, whole, tmp_path):
    fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(tmp_path)], **SETTINGS | {"epochs": 2})
    resumed, history = fn.fit(fn.init(1), data(), resume=tmp_path, **SETTINGS)
    assert same(resumed, whole[0]) and same_history(history, whole[1])


def test_early_stopping_is_resumed_too(fn, tmp_path):
    def stopping():
        return netc.EarlyStopping(patience=2, min_delta=0.05)
    settings = SETTINGS | {"epochs": 40}
    plain = stopping()
    want, full = fn.fit(fn.init(1), data(), callbacks=[plain], **settings)
    assert 2 < len(full.epochs) < 40 and full.stopped and not full.interrupted
    cut = len(full.epochs) - 1                              # its best epoch is behind it
    fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(tmp_path), stopping(), StopAt(cut, 2)], **settings)
    second = stopping()
    resumed, history = fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(tmp_path), second], resume=tmp_path,
                              **settings)
    assert same(resumed, want) and same_history(history, full) and history.stopped == full.stopped
    assert (second.best, second.best_epoch) == (plain.best, plain.best_epoch)
    again, ended = fn.fit(fn.init(1), data(), callbacks=[stopping()], resume=tmp_path, **settings)
    assert same(again, want) and ended.stopped and ended.epochs == full.epochs
    with pytest.raises(netc.InputError, match="class EarlyStopping, which is not among"):
        fn.fit(fn.init(1), data(), resume=tmp_path, **settings)


def test_files_come_and_go(fn, tmp_path):
    fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(tmp_path, every=2, keep=3, batches=3)],
           **SETTINGS | {"epochs": 3})
    names = [path.name for path in checkpoint.files(tmp_path)]
    assert names == ["epoch-0002.safetensors", "epoch-0002-batch-000003.safetensors", "epoch-0003.safetensors"]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert checkpoint.find(tmp_path).name == names[-1] and checkpoint.find(tmp_path / "none") is None
    (tmp_path / "epoch-x.safetensors").write_text("not ours")
    assert [path.name for path in checkpoint.files(tmp_path)] == names
    assert same(fn.load(checkpoint.find(tmp_path)), fn.fit(fn.init(1), data(), **SETTINGS | {"epochs": 3})[0])


def test_what_does_not_fit_is_refused(fn, tmp_path):
    fn.fit(fn.init(1), data(), callbacks=[netc.Checkpoint(tmp_path / "run")], **SETTINGS | {"epochs": 1})
    path = checkpoint.find(tmp_path / "run")
    for change, message in (({"batch_size": 4}, "`batch_size` was 8 and is 4"), ({"seed": 6}, "`seed` was 5 and is 6"),
                            ({"validation": 0.4}, "`validation samples` was 10 and is 20"),
                            ({"shuffle": False}, "`shuffle`")):
        with pytest.raises(netc.InputError, match=message):
            fn.fit(fn.init(1), data(), resume=path, **SETTINGS | change)
    other = netc.compile(SOURCE, target=fn.target, lr=1e-3)
    with pytest.raises(netc.InputError, match=r"its optimiser has changed; .* start anew from its weights"):
        other.fit(other.init(1), data(), resume=path, **SETTINGS)
    assert same(other.load(path), fn.load(path))
    renamed = netc.compile(SOURCE.replace("Net", "Other"), target=fn.target)
    with pytest.raises(netc.InputError, match="of the model `Net`, not of `Other`"):
        renamed.fit(renamed.init(1), data(), resume=path, **SETTINGS)
    fn.save(fn.init(), tmp_path / "w.safetensors")
    with pytest.raises(netc.WeightsError, match="is not a checkpoint"):
        fn.fit(fn.init(1), data(), resume=tmp_path / "w.safetensors", **SETTINGS)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(netc.WeightsError, match=r"damaged|not a safetensors"):
        fn.fit(fn.init(1), data(), resume=path, **SETTINGS)
    with pytest.raises(netc.InputError, match="`every` is 0"):
        netc.Checkpoint(tmp_path, every=0)


def test_a_process_that_is_killed_goes_on(tmp_path):
    """The command line, SIGKILL in the middle, the same file at the end."""
    (tmp_path / "net.net").write_text(SOURCE)
    np.savez(tmp_path / "d.npz", **data(1200))
    command = [sys.executable, "-m", "netc", "train", "net.net", "--data", "d.npz", "--target", "numpy",
               "--epochs", "5",
               "--batch-size", "16", "--validation", "0.1", "--patience", "3"]

    def run(*more):
        return subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run("--save", "whole").returncode == 0
    process = subprocess.Popen([*command, "--save", "killed", "--checkpoint", "run"], cwd=tmp_path,
                               stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(checkpoint.files(tmp_path / "run")) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.files(tmp_path / "run") and not (tmp_path / "killed").exists()
    done = run("--save", "resumed", "--checkpoint", "run", "--resume", "--log", "log.csv")
    assert done.returncode == 0 and "resuming from run/epoch-000" in done.stdout, done.stderr
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 6
    assert "starting afresh" in run("--save", "x", "--checkpoint", "empty", "--resume", "--epochs", "1").stdout


# --- early stopping ---------------------------------------------------------------------------------------------------


class Reported:
    """A trainer that only says what it is told to, and counts."""

    def __init__(self):
        self.weights = 0


def stopped_by(stopping, values, name="loss"):
    from netc.runtime.train import Progress
    for epoch, value in enumerate(values, 1):
        trainer = Reported()
        trainer.weights = epoch
        if stopping.on_epoch(Progress(epoch, 99, 1, 1, {name: value}, trainer)):
            return epoch
    return None


@pytest.mark.parametrize("settings, values, end, best", [
    ({}, [3, 2, 1, 1, 1, 1, 1, 1, 1], 8, 3),
    ({"patience": 1}, [3, 2, 1, 1.5], 4, 3),
    ({"patience": 2, "min_delta": 0.6}, [3, 2.5, 2.45, 2], 3, 1),
    ({"patience": 2, "mode": "max"}, [1, 2, 1, 3, 2, 2.5], 6, 4),
    ({"patience": 2}, [math.nan, math.nan, 3, 2, math.nan, math.nan], 6, 4),
    ({"patience": 3}, [3, 2, 1], None, 3),
])
def test_patience(settings, values, end, best):
    stopping = netc.EarlyStopping(**settings)
    assert stopped_by(stopping, values) == end and stopping.best_epoch == best and stopping.best_weights == best


def test_a_metric_is_better_when_it_is_larger():
    stopping = netc.EarlyStopping("val_accuracy", patience=2)
    assert stopped_by(stopping, [0.1, 0.5, 0.4, 0.5], "val_accuracy") == 4 and stopping.best == 0.5


def test_the_best_weights_come_back(fn):
    held, seen = data(20, seed=1), {}
    callbacks = [netc.EarlyStopping(patience=2), lambda told: seen.__setitem__(told.epoch, told.trainer.weights)]
    best, history = fn.fit(fn.init(1), data(), epochs=30, batch_size=8, seed=5, validation=held, callbacks=callbacks)
    number = history.best("val_loss")
    assert best == seen[number] and fn.evaluate(best, held)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    last, _ = fn.fit(fn.init(1), data(), epochs=30, batch_size=8, seed=5, validation=held,
                     callbacks=[netc.EarlyStopping(patience=2, restore_best=False)])
    assert last == seen[len(history.epochs)]


def test_wrong_settings_of_callbacks(fn):
    for attempt in (lambda: netc.EarlyStopping(patience=0), lambda: netc.EarlyStopping(mode="best"),
                    lambda: netc.Log("x.txt"),
                    lambda: netc.EarlyStopping(min_delta=-1)):
        with pytest.raises(netc.InputError):
            attempt()
    with pytest.raises(netc.InputError, match=r"watches `val_los`, which is not reported .did you mean `val_loss`"):
        fn.fit(fn.init(1), data(), callbacks=[netc.EarlyStopping("val_los")], **SETTINGS)


# --- logs and histories -----------------------------------------------------------------------------------------------


def test_logs_grow_with_the_epochs(fn, tmp_path):
    seen = []
    csv, log = tmp_path / "log.csv", tmp_path / "log.json"
    callbacks = [netc.Log(csv), netc.Log(log), lambda told: seen.append(len(csv.read_text().splitlines()))]
    _, history = fn.fit(fn.init(1), data(), callbacks=callbacks, **SETTINGS | {"epochs": 3})
    assert seen == [2, 3, 4]
    heading, *rows = csv.read_text().splitlines()
    assert heading == "epoch,loss,square,size,worst,val_loss,val_square,val_size,val_worst"
    assert [float(row.split(",")[1]) for row in rows] == history["loss"]       # every digit
    assert [epoch["val_worst"] for epoch in json.loads(log.read_text())] == history["val_worst"]


def sample_history():
    epochs = [{"loss": 2.0 / k, "kind": 1.0 / k, "accuracy": 1 - 1 / (k + 1), "val_loss": 3.0 / k}
              for k in range(1, 16)]
    return History(epochs, 1.5, losses=("kind",))


def test_a_history_in_other_forms():
    history = sample_history()
    table = history.to_dict()
    assert table["epoch"] == list(range(1, 16)) and table["loss"] == history["loss"]
    assert set(table) == {"epoch", *history.names}
    assert history.best("loss") == 15 and history.best("accuracy", "max") == 15
    assert json.loads(History([{"loss": math.nan}]).to_json()) == [{"epoch": 1, "loss": None}]
    assert history.to_csv().splitlines()[1] == "1,2.0,1.0,0.5,3.0"
    with pytest.raises(KeyError, match="did you mean `val_loss`"):
        history["val_los"]
    html = history._repr_html_()
    assert html.count("<svg") == 2 and "15 epochs in 1.5 s" in html and "…" in html
    assert "no epoch" in History()._repr_html_()


def test_panels_put_losses_together_and_metrics_apart():
    history = sample_history()
    assert history.panels() == {"loss": ["loss", "kind", "val_loss"], "accuracy": ["accuracy"]}
    assert history.panels(["accuracy"]) == {"accuracy": ["accuracy"]}
    with pytest.raises(netc.InputError, match="did you mean `accuracy`"):
        history.panels(["acuracy"])
    with pytest.raises(netc.InputError, match="nothing to plot"):
        History().panels()


def test_plot():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt
    figure = sample_history().plot()
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(drawn) == ["loss", "kind", "val_loss"] and list(drawn["kind"].get_ydata()) == sample_history()["kind"]
    assert drawn["val_loss"].get_linestyle() == "--" and drawn["val_loss"].get_color() == drawn["loss"].get_color()
    own = plt.figure().add_subplot()
    assert sample_history().plot(["loss"], axes=own) is own.figure and len(own.lines) == 2
    plt.close("all")


def test_without_matplotlib_plotting_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(netc.NetcError, match=r"pip install 'netc\[plot\]'"):
        sample_history().plot()


def test_chart_is_sound_svg():
    from xml.etree import ElementTree

    from netc.runtime.chart import lines, ticks
    for curves in ({"loss": [1.0, 0.5, math.nan, 0.2], "val_loss": [2, 1, math.inf, 0.5]}, {"<b>": [3.0]},
                   {"x": []}, {}):
        root = ElementTree.fromstring(lines("a < b", curves))
        assert root.tag.endswith("svg")
    assert ticks(0, 1) == [0.0, 0.5, 1.0] or ticks(0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    for low, high in ((0.001, 0.0013), (-5, 400), (1e-9, 2e-9)):
        assert 2 <= len(ticks(low, high)) <= 5 and all(low <= tick <= high * (1 + 1e-9) for tick in ticks(low, high))


# --- what comes of a bad step, another optimiser ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_traced_to_its_origin():
    source = SOURCE.replace("cosine_decay(initial = 1e-2, decay_steps = 100)", "1e30")
    fn = netc.compile(source, target="numpy")
    with pytest.raises(netc.NotFiniteError, match="the first value that is not finite is `"):
        fn.fit(fn.init(1), data(), epochs=3, batch_size=8, seed=5, check_finite=True)
    _, history = fn.fit(fn.init(1), data(), epochs=1, batch_size=8, seed=5)
    assert not math.isfinite(history["loss"][0])
    spoilt = data()
    spoilt["target"][7, 0] = np.nan
    calm = netc.compile(SOURCE, target="numpy")
    with pytest.raises(netc.NotFiniteError, match="is `target`"):
        calm.fit(calm.init(1), spoilt, epochs=1, batch_size=8, seed=5, check_finite=True, allow_nan=True)
    with pytest.raises(netc.InputError, match="`target` holds NaN in row 7"):
        calm.fit(calm.init(1), spoilt, epochs=1, batch_size=8, seed=5)


def test_the_optimiser_and_its_rate_can_be_given():
    def lines(**overrides):
        return netc.compile(SOURCE, target="numpy", **overrides).model.optimizer
    assert lines(optimizer="sgd(momentum = 0.9)").name == "sgd"
    assert lines(lr=1e-3).name == "adam"
    trained = [netc.compile(text, target="numpy", **overrides) for text, overrides in (
        (SOURCE, {"lr": 0.5}), (SOURCE, {"optimizer": "adam()", "lr": "0.5"}),
        (SOURCE, {"optimizer": "adam(1e-3)", "lr": "0.5"}),
        (SOURCE.replace("cosine_decay(initial = 1e-2, decay_steps = 100)", "0.5"), {}))]
    results = [fn.fit(fn.init(1), data(), epochs=1, batch_size=25, seed=1)[0] for fn in trained]
    assert all(same(result, results[0]) for result in results)
    bare = SOURCE[:SOURCE.index("    optimizer =")]
    assert netc.compile(bare, optimizer="rmsprop()", target="numpy").model.optimizer.name == "rmsprop"


@pytest.mark.parametrize("overrides, message", [
    ({"optimizer": "adm()"}, "<optimizer>:2:19: error.E0201.: `adm` is not defined"),
    ({"optimizer": "adam(rate = 1)"}, "adam has no setting `rate`"),
    ({"optimizer": "adam()\nconst y = 2"}, "one expression is expected"),
    ({"optimizer": "3"}, "must be an instance"),
    ({"optimizer": ")"}, "<optimizer>:2"),
    ({"optimizer": "adam", "lr": 1}, "takes no learning rate"),
    ({"lr": "fast"}, "<lr>:2:12: error.E0201.: `fast` is not defined"),
])
def test_wrong_optimisers(overrides, message):
    with pytest.raises(netc.CompileError, match=message):
        netc.compile(SOURCE, target="numpy", **overrides)


def test_a_model_without_a_train_block_has_no_optimiser_to_replace():
    with pytest.raises(netc.CompileError, match="no train block"):
        netc.compile("net 1\nmodel M(x: f32[N]) -> f32[N]:\n    return x\n", lr=1.0)
