"""What is left of a run that is killed, or whose disk is full? crash_study.py asks the same a hundred times."""

import os

import crash_study

from sparsification import atomic_io as saving


def test_killed_runs_leave_nothing_half_written_and_end_with_the_same_weights(tmp_path):
    counts = crash_study.study(tmp_path, kills=3)
    assert counts["kills"] == 3


def test_folders_are_not_opened_on_windows(tmp_path, monkeypatch):
    def open_as_windows_does(path, flags):
        if path.is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags)

    real = os.open
    monkeypatch.setattr(saving.os, "open", open_as_windows_does)
    monkeypatch.setattr(saving, "WINDOWS", True)
    (tmp_path / "new" / "inner").mkdir(parents=True)
    (tmp_path / "new" / "inner" / "file").write_text("whole")
    saving.atomic_replace(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final" / "inner" / "file").read_text() == "whole"
