"""What tests of several files share, and settings of the whole suite."""

from __future__ import annotations

import os
import tempfile

import beside
import pytest

from netc.compiler import pipeline
from netc.compiler.cli import main
from netc.compiler.verify import verify

# Tests leave the user's cache alone, and keep one of their own between runs: compiling all kernels anew takes minutes.
_user = os.getuid() if hasattr(os, "getuid") else "user"
os.environ.setdefault("NETC_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"netc-test-cache-{_user}"))

os.environ.setdefault("KERAS_BACKEND", "torch")        # read when Keras is imported


def pytest_addoption(parser):
    parser.addoption("--errors", action="store_true",
                     help="print the worst error of every layer and optimiser against Keras")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("beside") is not None)


def pytest_runtestloop(session):
    if session.config.option.collectonly:
        return
    for item in session.items:
        is_skipped = any(marker.args[0] for marker in item.iter_markers("skipif"))
        for marker in item.iter_markers("beside"):
            if not is_skipped:
                marker.args[0].start()


def pytest_unconfigure():
    beside.stop()


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--errors"):
        from tolerances import ERRORS
        terminalreporter.write_line(ERRORS.format())


@pytest.fixture(autouse=True, scope="session")
def graphs_are_verified():
    """Every graph that a test makes code of is checked."""
    original = pipeline.prepare

    def prepare(graph):
        made = original(graph)
        verify(made)
        return made
    pipeline.prepare = prepare
    yield
    pipeline.prepare = original


@pytest.fixture
def netc_command(capsys):
    """Run a command in this process: (exit code, output, errors)."""
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return ended.value.code or 0, captured.out, captured.err
    return run
