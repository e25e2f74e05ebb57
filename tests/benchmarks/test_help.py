"""Every command says its flags when it is asked."""

import re
import runpy
import sys

import pytest

from helpers import ROOT

COMMANDS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "quickstart", "docs", "tests")
    for path in (ROOT / folder).glob("*.py")
    if re.search(r"\n    (parser = argparse\.ArgumentParser|run_study)\(", path.read_text(encoding="utf-8"))
    and path.name != "study.py"  # parses for the studies
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str((ROOT / command).parent))
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / command), run_name="__main__")
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_there_are_commands():
    assert len(COMMANDS) > 12
