"""The benchmark's harness: processes with time limits, results compared before times, and what is reported."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

import netc
from netc.bench import measure as measuring
from netc.bench.measure import Row, Settings, Timing, difference, geometric_mean, measure
from netc.bench.models import ALL, MODELS
from netc.bench.peers import NETC, PEERS, Peer
from netc.bench.plot import svg
from netc.bench.process import PeerError, Process
from netc.bench.quiet import Watch, process_seconds, wait_for_quiet
from netc.bench.report import Report, against, milliseconds, summary
from netc.bench.sizes import installed_bytes
from netc.bench.worker import forget_peak, memory, timed
from netc.compiler.cli import main

PARAMETERS = {"tiny": 16, "mlp": 535_818, "inception": 1_090_761, "two_images": 1_092_761, "autoencoder": 28_241,
              "ticket": 1_392_097, "transformer": 1_859_648, "vae": 134_165, "gpt": 834_304, "digits": 17_226,
              "classifier": 125_834, "convnet": 56_714, "sentiment": 184_897, "topics": 164_228, "characters": 120_704,
              "dense_vae": 437_152}
SHORT = Settings(threads=1, turns=2, seconds=0.01, limit=60, patience=0)

# A peer that computes the tiny model by NumPy, and may misbehave when it is loaded or run.
FAKE = """
    import os, sys, time
    import numpy as np
    print("a line that is no answer")
    class Inference:
        def __init__(self, model, weights, inputs, threads):
            self.w, self.x = weights, inputs["x"]
            LOADING
        def run(self):
            h = np.maximum(self.x @ self.w["dense.kernel"] + self.w["dense.bias"], 0)
            self.y = 1 / (1 + np.exp(-(h @ self.w["dense_1.kernel"] + self.w["dense_1.bias"])))
        def outputs(self):
            return {"y": self.y + ERROR}
    Training = None
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Make a peer out of the fake: fake(name, loading statement, error of its results)."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    def make(name, loading="pass", error="0"):
        text = textwrap.dedent(FAKE).replace("LOADING", loading).replace("ERROR", error)
        (tmp_path / f"fake_{name}.py").write_text(text)
        return Peer(name, f"fake_{name}", "netc", jobs=("inference",))
    return make


@pytest.mark.parametrize("name", ALL)
def test_a_model_takes_what_is_drawn_for_it(name):
    fn = netc.compile(ALL[name].path)
    assert fn.layout.trainable_size == PARAMETERS[name]
    assert list(ALL[name].draw("inference", 2)) == list(fn.inputs)
    drawn = ALL[name].draw("training", 2)
    types = fn.inputs | fn.targets
    assert list(drawn) == list(types)
    for given, array in drawn.items():
        assert array.dtype == types[given].dtype.numpy and array.ndim == types[given].rank and len(array) == 2


@pytest.fixture
def task(tmp_path):
    """What a worker is told to load."""
    np.savez(tmp_path / "w.npz", **netc.compile(MODELS["tiny"].path).init())
    np.savez(tmp_path / "x.npz", **MODELS["tiny"].draw("inference", 3))
    return {"model": "tiny", "job": "inference", "weights": str(tmp_path / "w.npz"), "inputs": str(tmp_path / "x.npz")}


def test_a_peer_that_hangs_is_cut_off_with_all_that_it_started(fake, task, tmp_path):
    started = tmp_path / "started"
    peer = fake("hanging", "import subprocess; child = subprocess.Popen(['sleep', '600']); "
                           f"open({str(started)!r}, 'w').write(str(child.pid)); time.sleep(600)")
    process = Process(peer.module, 1)
    process.ask(60, "import")
    with pytest.raises(PeerError, match="cut off: no answer to `load` within 3 s"):
        process.ask(3, "load", **task)
    assert process.child.returncode is not None
    deadline = time.monotonic() + 10
    while is_running(int(started.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(started.read_text()))


def is_running(number: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return open(f"/proc/{number}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_peer_that_fails_or_dies_is_reported(fake, task):
    with Process(fake("failing", "raise MemoryError('no room')").module, 1) as process:
        process.ask(60, "import")
        with pytest.raises(PeerError, match="MemoryError: no room"):
            process.ask(60, "load", **task)
        assert process.ask(60, "memory")["peak"] > 0             # it goes on
    with Process(fake("dying", "print('last words', file=sys.stderr, flush=True); os._exit(3)").module, 1) as process:
        process.ask(60, "import")
        with pytest.raises(PeerError, match=r"died \(exit code 3\): last words"):
            process.ask(60, "load", **task)
    with Process("no_such_module", 1) as process, pytest.raises(PeerError, match="ModuleNotFoundError"):
        process.ask(60, "import")


def test_a_row_compares_and_times_and_survives_bad_peers(fake):
    peers = [fake("good"), fake("wrong", error="0.01"), fake("shapeless", error="np.zeros((2, 1, 1))"),
             fake("dying", "os.abort()")]
    row, other = measure(MODELS["tiny"], "inference", [3, 2], peers, SHORT)
    assert (row.batch, other.batch) == (2, 3)
    good, wrong = row.timings["good"], row.timings["wrong"]
    assert good.agrees and good.error is None and 0 < good.least <= good.low <= good.median <= good.high
    assert good.samples >= 6 and good.peak_memory > 2 ** 20 and good.first_seconds >= 0
    assert not wrong.agrees and wrong.median is not None and 1 < wrong.difference < 1e6
    assert row.timings["shapeless"].difference == math.inf
    assert row.timings["dying"].median is None
    assert "SIGABRT" in row.timings["dying"].error
    assert "SIGABRT" in other.timings["dying"].error        # it gets a second chance
    assert row.netc.difference == 0 and row.best is good and row.ahead == pytest.approx(good.median / row.netc.median)
    assert other.facts["work_flops"] == 2 * 3 * (3 * 3 + 3) and other.facts["parameters"] == 16
    assert len(row.speeds) == SHORT.turns and 0 < row.floor < other.floor < 1e-5


@pytest.mark.parametrize("job, names", [("inference", ("torch", "onnxruntime", "openvino")),
                                        ("training", ("torch", "jax"))])
def test_every_peer_that_is_here_gets_netcs_results(job, names):
    row, = measure(MODELS["tiny"], job, [5], [PEERS[name] for name in names if PEERS[name].installed], SHORT)
    assert row.netc.error is None and row.netc.median > 0
    for timing in row.timings.values():
        assert timing.error is None and timing.agrees, (timing.peer, timing.error, timing.difference)


def test_differences_are_in_units_of_the_tolerance():
    want = {"y": np.array([1.0, -4.0])}
    assert difference("inference", {"y": np.array([1.0, -4.0])}, want) == 0
    assert difference("inference", {"y": np.array([1.0, -4.004])}, want) == pytest.approx(10)
    assert difference("inference", {"y": np.array([1.0, np.nan])}, want) == math.inf
    assert difference("inference", {"z": np.array([1.0, -4.0])}, want) == math.inf
    slopes = {"gradient/a": np.array([3.0, 4.0]), "gradient/b": np.array([1e-9]), "losses": np.array([1.0, 2.0])}
    assert difference("training", {**slopes, "gradient/b": np.array([-1e-9])}, slopes) < 1e-2          # noise beside a
    assert difference("training", {**slopes, "gradient/a": np.array([3.0, 4.01])}, slopes) == pytest.approx(2)
    assert difference("training", {**slopes, "losses": np.array([1.0, 2.001])}, slopes) == pytest.approx(5)


def test_short_calls_are_timed_in_blocks():
    calls = []
    samples = timed(lambda: calls.append(1), 0.02)
    assert len(samples) >= 3 and len(calls) > 10 * len(samples) and max(samples) < 1e-3
    assert len(timed(lambda: time.sleep(0.02), 0.001)) == 3
    assert 0 < memory()["resident"] <= memory()["peak"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_memory_of_the_check_does_not_count():
    large = np.ones(1 << 23)
    with_array = memory()["peak"]
    del large
    forget_peak()
    assert memory()["peak"] < with_array - (1 << 25)


def test_disturbed_turns_are_repeated_and_the_quietest_count(monkeypatch):
    told = iter([(0.004, 0.5), (0.001, 0.01), (0.005, 0.6), (0.002, 0.02)])
    monkeypatch.setattr(measuring, "wait_for_quiet", lambda share, deadline: None)
    monkeypatch.setattr(measuring, "PAUSE", 0)
    race = measuring._Race.__new__(measuring._Race)
    race.surveyor = None
    race.peers, race.model, race.job, race.told = [NETC], MODELS["tiny"], "inference", lambda text: None
    race.settings = Settings(turns=2, patience=60)
    race.processes = {"netc": type("Silent", (), {"ask": lambda self, *a, **k: {"peak": 5}})()}

    def turn(name):
        seconds, other = next(told)
        return measuring.Turn([seconds], other)

    race._turn = turn
    row = Row("tiny", "inference", 1, {"netc": Timing("netc")})
    race._time(row)
    assert (row.netc.samples, row.netc.least, row.netc.high) == (2, 0.001, pytest.approx(0.0019))
    assert row.netc.disturbance == pytest.approx(0.015) and row.netc.peak_memory == 5 and not list(told)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
def test_what_others_take_is_seen():
    code = "import time; e = time.time() + 0.6\nwhile time.time() < e: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        time.sleep(0.1)
        blind, knowing = Watch(os.getpid()), Watch(other.pid)
        time.sleep(0.4)
        seen, unseen = blind.disturbance(), knowing.disturbance()
    assert seen > unseen + 0.4 / (os.cpu_count() or 1) * 0.5 and process_seconds(2 ** 30) is None
    started = time.monotonic()
    wait_for_quiet(0.0, started + 0.1)
    wait_for_quiet(1.0, started + 60)
    assert time.monotonic() - started < 5


def rows():
    facts = {"work_flops": 2_000_000, "flops": 3_000_000, "bytes": 4_000_000, "parameters": 10, "arena": 3 * 2 ** 20,
             "live": 2 * 2 ** 20, "peak_flops": 1e9, "bandwidths": [[10, 1e9]]}
    speeds = [{"flops": flops, "bandwidth": 28e4} for flops in (0.5e9, 1e9, 1e9)]
    def timing(name, seconds, **more):
        return Timing(name, None, seconds, 0.9 * seconds, 1.1 * seconds, 0.8 * seconds, 9, first_seconds=1.0,
                      peak_memory=2 ** 20, **more)
    found = [Row("mlp", job, batch, {"netc": timing("netc", 0.004, difference=0.0),
                                     "torch": timing("torch", 0.008, difference=0.5),
                                     "netc, 1 thread": timing("netc, 1 thread", 0.006, difference=0.0),
                                     "jax": timing("jax", 0.002, difference=7.0),
                                     "openvino": Timing("openvino", "cut off: no answer")}, dict(facts), speeds)
             for job in ("inference", "training") for batch in (1, 32)]
    return found


def test_a_report_as_text_and_as_data():
    report = Report(SHORT, rows(), {"torch": "2"}, {"torch": 3 * 2 ** 20}, {"processor": "P"})
    assert report.rows[0].floor == pytest.approx(0.002) and report.rows[2].floor == pytest.approx(0.003)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.shown(), highlight=False)
    text = console.export_text()
    assert "4.00 ±10%" in text and "8.00 ±10%" in text and "2.00 ±10% differs" in text and "cut off" in text
    assert "geometric mean against the best peer of each row: 2.00x" in text and "2.0x" in text and "torch 3" in text
    assert "mlp training 32: openvino: cut off" in text and "mlp inference 1: jax: results differ by 7 times" in text
    assert "1.50x" in text and "1.50" in text               # the speedup, the arena over the live bytes
    data = json.loads(report.to_json())
    assert data["ahead"] == {"inference": pytest.approx(2), "training": pytest.approx(2)}
    assert data["rows"][0]["timings"]["torch"]["median"] == 0.008 and data["rows"][0]["best"] == "torch"


def test_a_figure():
    root = ElementTree.fromstring(svg(rows()))
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    titles = [element.text for circle in circles for element in circle]
    assert len(titles) == 4 * 3 and any("netc: 4 ms, 2x the floor" in title for title in titles)      # jax differs
    x = {title.split(":")[0]: float(circle.get("cx")) for circle in circles for title in [c.text for c in circle]}
    assert x["netc"] < x["torch"]
    assert ElementTree.fromstring(svg([])) is not None


def test_numbers():
    assert geometric_mean([2, 8, None]) == pytest.approx(4) and geometric_mean([None]) is None
    assert [milliseconds(s) for s in (4.7e-6, 2.31e-4, 0.0123, None)] == ["0.0047", "0.231", "12.3", "-"]
    assert installed_bytes("numpy") > 2 ** 20 and installed_bytes("netc") > installed_bytes("numpy")


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["bench", *arguments])
        return ended.value.code or 0, *capsys.readouterr()
    return run


def test_the_command(command, tmp_path):
    code, out, err = command("--models", "tiny", "--batches", "2", "--jobs", "inference", "--peers", "netc", "--quick",
                             "--threads", "1", "--scaling", "--patience", "0", "--json", "r.json", "--svg", "r.svg")
    assert code == 0 and "GFLOP/s" in out and "tiny" in out
    assert err.startswith("tiny inference 2: netc 0.") and err.count("\n") == 1
    assert json.loads((tmp_path / "r.json").read_text())["rows"][0]["timings"]["netc"]["median"] > 0
    assert (tmp_path / "r.svg").read_text().startswith("<svg")
    code, _, err = command("--against", "r.svg")
    assert code == 2 and "r.svg is not the JSON of a run" in err


def test_a_row_of_netc_alone_and_one_that_failed_are_shown():
    lone, failed = rows()[:2]
    lone.timings = {"netc": lone.netc}
    failed.timings = {"netc": Timing("netc", "died (SIGSEGV): "), "torch": failed.timings["torch"]}
    failed.facts = {}
    for shown in ([lone], [failed], [lone, failed]):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(Report(SHORT, shown).shown())
        assert "mlp" in console.export_text() and svg(shown) and "mlp inference" in summary(shown[0])
    assert failed.ahead is None and failed.speedup is None


def test_ctrl_c_reports_what_there_is(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "netc", "bench", "--models", "tiny", "--peers", "netc", "--quick", "--patience", "0",
         "--batches", "1,2,3,4,5,6,7,8,9", "--jobs", "inference", "--json", str(tmp_path / "r.json")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("tiny inference 1: netc")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "interrupted" in err and "tiny" in out and "Traceback" not in err
    assert 1 <= len(json.loads((tmp_path / "r.json").read_text())["rows"]) < 9


def test_a_run_is_set_against_an_earlier_one():
    earlier = json.loads(Report(SHORT, rows()).to_json())["rows"]
    now = rows()
    now[0].timings["netc"].median = 0.002
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(against(now, earlier[:2]))
    text = console.export_text()
    first, second = (line.split() for line in text.splitlines()[1:3])
    assert first == ["inference", "mlp", "1", "4.00", "2.00", "2.00x", "2.0x", "1.0x"]
    assert second == ["inference", "mlp", "32", "4.00", "4.00", "1.00x", "2.0x", "2.0x"] and "training" not in text


def test_a_disturbed_measurement_is_made_again(monkeypatch):
    from netc.bench import quiet
    others = iter([0.0, 10.0, 10.0, 10.0, 10.0, 50.0])          # of three measurements, the second is alone
    monkeypatch.setattr(quiet, "_others", lambda: next(others))
    monkeypatch.setattr(quiet, "wait_for_quiet", lambda share, deadline: None)
    results = iter("abc")
    assert quiet.undisturbed(lambda: next(results), 0.05, 60) == "b"
    assert quiet.undisturbed(lambda: next(results), 0.05, 0) == "c"         # no patience


def test_a_second_process_compiles_nothing(command, tmp_path):
    code, out, _ = command("--compile", "--quick", "--models", "tiny", "--jobs", "inference", "--json",
                           "s.json", "--patience", "0")
    start, = json.loads((tmp_path / "s.json").read_text())["starts"]
    assert code == 0 and start["error"] is None and "import netc" in out
    assert start["counts"]["cold"][0] > 0 and start["counts"]["warm"][0] == 0
    assert start["counts"]["other batch"] == start["counts"]["warm"]
    assert start["memory"]["cold"] > start["memory"]["warm"] > 2 ** 20
    assert 0 < start["warm"] < start["cold"] and start["import_seconds"] > 0
    assert start["counts"]["after others"] == start["counts"]["cold"] and start["after_others"] > 0    # it is the first
    commands = json.loads((tmp_path / "s.json").read_text())["commands"]
    assert [one["command"] for one in commands] == ["check", "summary", "fmt --check"]
    assert all(one["cold"] > 0 and one["warm"] > 0 and f"netc {one['command']}" in out for one in commands)


@pytest.mark.parametrize("arguments, message", [
    (["--models", "tiny,huge"], "there is no 'huge'"), (["--models", "digits"], "digits is only for --compile"),
    (["--models", "topics"], "topics is only for --compile"),
    (["--batches", "1,x"], "not a list of numbers"),
    (["--jobs", "sleeping"], "there is no 'sleeping'"), (["--peers", "tensorflow"], "there is no 'tensorflow'")])
def test_wrong_usage(command, arguments, message):
    code, _, err = command(*arguments)
    assert code == 2 and message in err


def test_the_package_is_a_command():
    done = subprocess.run([sys.executable, "-m", "netc.bench", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Compare speed and memory" in done.stdout
