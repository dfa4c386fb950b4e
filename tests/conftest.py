"""What tests of several files share."""

from __future__ import annotations

import pytest

from netc.compiler.cli import main


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
