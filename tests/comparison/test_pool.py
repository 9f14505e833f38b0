"""Worker processes that die cost a trial, never the comparison."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from saccade.comparison import worker as module
from saccade.comparison.pool import Event, _Server, _Worker, run_trials
from saccade.comparison.trial import Trial

# The module alone, without the package around it: what is tested here needs none of that, and importing it is slow.
SERVER = """
import os, runpy, sys, time
module = runpy.run_path({module!r})

def work(slot):
    for task in module["follow"](os.fdopen(slot.tasks)):
        {work}

module["keep"]([module["Slot"](*map(int, words.split(","))) for words in sys.argv[1:]], work)
"""
FINISH = """os.write(slot.events, b'{"event": "finished", "score": 1.0}\\n')"""
KILLED = "its process was ended by signal 9, Killed (out of memory?)"
Serve = Callable[[str], tuple[_Worker, _Server]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A worker that does what a line of code does with a task."""
    made: list[tuple[_Worker, _Server]] = []

    def serve(work: str) -> tuple[_Worker, _Server]:
        worker, code = _Worker(), SERVER.format(module=module.__file__, work=work)
        made.append((worker, _Server([worker], [sys.executable, "-c", code])))
        return made[-1]

    yield serve
    for worker, server in made:
        worker.end()
        server.end()
        worker.close()
        server.close()


def outcome(worker: _Worker, server: _Server) -> Event:
    *_, last = worker._run(Trial("se", 0), server)
    return last


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline, "the trial was never begun"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ("sys.exit('out of luck')", "its process ended with status 1: SystemExit: out of luck"),
        ("print('what it says', flush=True); os._exit(3)", "its process ended with status 3: what it says"),
        ("os._exit(0)", "its process ended with status 0"),
        ("os.kill(os.getpid(), 9)", KILLED),
    ],
)
def test_a_process_that_dies_fails_its_trial_with_the_reason(serve, work, reason):
    event = outcome(*serve(work))
    assert (event.kind, event.detail["reason"]) == ("failed", reason)


def test_another_takes_its_place_and_is_not_blamed_for_what_it_wrote(serve, tmp_path):
    tries = tmp_path / "tries"
    worker, server = serve(
        f"n = os.path.getsize({str(tries)!r}); open({str(tries)!r}, 'a').write('.');"
        f"n == 0 and sys.exit('out of luck'); n == 1 and os._exit(3); {FINISH}"
    )
    tries.touch()
    assert outcome(worker, server).detail["reason"].endswith("out of luck")
    assert outcome(worker, server).detail["reason"] == "its process ended with status 3"
    assert outcome(worker, server).detail == {"score": 1.0}


def test_where_the_server_dies_a_trial_under_way_ends_and_the_next_fails(serve, tmp_path):
    begun, go = tmp_path / "begun", tmp_path / "go"
    wait = f"while not os.path.exists({str(go)!r}): time.sleep(0.01)"
    worker, server = serve(f"open({str(begun)!r}, 'w')\n        {wait}\n        {FINISH}; os._exit(0)")
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(outcome, worker, server)
        wait_for(begun)
        server.process.kill()
        server.process.wait()
        go.touch()
        assert ending.result().detail == {"score": 1.0}
    assert outcome(worker, server).detail["reason"] == KILLED


def test_a_process_ends_in_the_middle_of_a_trial_when_it_is_told_to(serve, tmp_path):
    begun = tmp_path / "begun"
    worker, server = serve(f"open({str(begun)!r}, 'w'); time.sleep(3600)")
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(outcome, worker, server)
        wait_for(begun)
        worker.end()
        server.process.wait(timeout=30)
        assert ending.result().kind == "failed"
    with pytest.raises(ProcessLookupError):  # none of its group is left
        os.killpg(server.process.pid, 0)


def test_a_server_that_does_not_end_is_ended(serve):
    worker, server = serve("pass\nwhile True: time.sleep(1)")  # at the module's level, as an import that never ends
    worker.end()
    server.end()
    assert server.process.returncode == -9


def test_files_in_the_users_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)
    _, failed = run_trials([Trial("se", 0)], tmp_path / "no comparison", tmp_path / "no images", 1)
    assert "the wrong queue" not in failed.detail["reason"]
    assert "comparison.json" in failed.detail["reason"]


def test_no_comparison_is_run_where_processes_cannot_fork(tmp_path):
    code = """
import os; del os.fork
from pathlib import Path
from saccade.comparison.pool import run_trials
from saccade.comparison.trial import Trial
from saccade.errors import UsageError
try: list(run_trials([Trial('se', 0)], Path('.'), Path('.'), 1))
except UsageError as error: print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    assert "WSL" in said
