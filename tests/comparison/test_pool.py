"""Worker processes that die cost a trial, never the comparison."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from saccade.comparison.pool import _Worker
from saccade.comparison.trial import Trial


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[_Worker]:
    worker = _Worker(tmp_path / "no comparison", tmp_path / "no images")
    yield worker
    worker.end()


def process(worker: _Worker, code: str) -> subprocess.Popen[str]:
    """A process in the place of the worker's own."""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=worker.log, text=True
    )


def test_a_process_that_died_between_two_trials_fails_the_next(worker):
    worker.process = process(worker, "")
    worker.process.wait()
    started, failed = worker._run(Trial("se", 0))
    assert (started.kind, failed.kind) == ("started", "failed")
    assert failed.detail["reason"] == "its process ended with status 0"


def test_a_process_is_not_blamed_for_what_one_before_it_wrote(worker):
    reasons = []
    for code in ("import sys; sys.exit('out of luck')", "input(); import os; os._exit(3)"):
        worker.process = process(worker, code)
        *_, failed = worker._run(Trial("se", 0))
        reasons.append(failed.detail["reason"])
    assert reasons == ["its process ended with status 1: out of luck", "its process ended with status 3"]


def test_files_in_the_users_folder_are_not_imported(worker, tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)
    *_, failed = worker._run(Trial("se", 0))
    assert "the wrong queue" not in failed.detail["reason"]
    assert "comparison.json" in failed.detail["reason"]


def test_a_worker_that_was_never_started_ends(tmp_path):
    _Worker(tmp_path, tmp_path).end()
