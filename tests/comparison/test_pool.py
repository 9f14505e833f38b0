"""Worker processes that die cost a trial, never the comparison."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from saccade.comparison import compare
from saccade.comparison import worker as module
from saccade.comparison.pool import Event, Pool, run_trial
from saccade.comparison.processes import Server, Worker
from saccade.comparison.trial import Trial
from saccade.data import load_data
from saccade.errors import TrialError, UsageError

# The module alone, without the package around it: what is tested here needs none of that, and importing it is slow.
SERVER = """
import json, os, runpy, signal, subprocess, sys, time
module = runpy.run_path({module!r})

def work(slot):
    for task in module["tasks"](os.fdopen(slot.tasks)):
        seed = task["trial"]["seed"]
        {work}
        told = {{"id": task["id"], "event": "finished", "score": seed}}
        os.write(slot.events, (json.dumps(told) + chr(10)).encode())

{before}
module["supervise"]([module["Slot"](*map(int, words.split(","))) for words in sys.argv[1:]], work)
"""
KILLED = f"was ended by signal 9, {signal.strsignal(9)} (out of memory?)"
Serve = Callable[..., tuple[list[Worker], Server]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Workers that do what a line of code does with a task, and finish it; with code that runs before they start."""
    with ExitStack() as stack:

        def serve(work: str, *, before: str = "", count: int = 1) -> tuple[list[Worker], Server]:
            workers = [Worker() for _ in range(count)]
            for worker in workers:
                stack.callback(worker.close)
            code = SERVER.format(module=module.__file__, work=work, before=before)
            return workers, stack.enter_context(Server(workers, [sys.executable, "-c", code]))

        yield serve


@pytest.fixture
def aside() -> Iterator[Callable[..., Future[Event]]]:
    """What runs a trial aside and gives its last event, or raises; a test that fails must not wait for it."""
    pool = ThreadPoolExecutor(4)
    yield lambda *args: pool.submit(outcome, *args)
    pool.shutdown(wait=False)


def outcome(worker: Worker, server: Server, seed: int = 0) -> Event:
    *_, last = run_trial(Trial("se", seed), worker, server)
    return last


def wait_for(there: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def forks(server: Server) -> list[int]:
    listed = [file.read_text() for file in Path(f"/proc/{server.process.pid}/task").glob("*/children")]
    return [int(pid) for pid in " ".join(listed).split()]


def of_group(server: Server) -> list[int]:
    """The processes of its group that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == server.process.pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        ("sys.exit('out of luck')", "its process ended with status 1: SystemExit: out of luck"),
        ("print('what it says'); sys.exit(0)", "its process ended with status 1: SystemExit: 0"),
        ("print('what it says', flush=True); os._exit(3)", "its process ended with status 3: what it says"),
        ("os._exit(0)", "its process ended with status 0"),
        ("os.kill(os.getpid(), 9)", f"its process {KILLED}"),
        ("os.write(slot.events, b'{\"id\":'); os._exit(0)", "its process ended with status 0"),
    ],
)
def test_a_process_that_dies_fails_its_trial_with_the_reason(serve, work, reason):
    (worker,), server = serve(work)
    event = outcome(worker, server)
    assert (event.kind, event.detail["reason"]) == ("failed", reason)


def test_another_takes_its_place_and_is_not_blamed_for_what_it_wrote(serve):
    (worker,), server = serve("seed == 0 and sys.exit('out of luck'); seed == 1 and os._exit(3)")
    assert outcome(worker, server, 0).detail["reason"].endswith("out of luck")
    assert outcome(worker, server, 1).detail["reason"] == "its process ended with status 3"
    assert outcome(worker, server, 2).detail == {"score": 2}


def test_events_are_of_their_own_trial_where_a_process_died_before_it_read_its_task(serve):
    (worker,), server = serve("pass")
    wait_for(lambda: len(forks(server)) == 1)
    (first,) = forks(server)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: forks(server) not in ([], [first]))
    assert outcome(worker, server, 0).detail["reason"] == f"its process {KILLED}"
    assert [outcome(worker, server, seed).detail for seed in (1, 2)] == [{"score": 1}, {"score": 2}]


def test_where_the_server_dies_the_comparison_is_told_and_no_process_is_left(serve, aside, tmp_path):
    (first, second), server = serve(f"open({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w'); time.sleep(3600)", count=2)
    ending = [aside(worker, server) for worker in (first, second)]
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    server.process.kill()
    server.process.wait()
    os.kill(int(next(tmp_path.iterdir()).name), signal.SIGKILL)
    told = f"the process that starts the trials {KILLED.replace('(', '.').replace(')', '.').replace('?', '.')}"
    wait_for(lambda: any(each.done() for each in ending))
    with pytest.raises(TrialError, match=told):
        next(each for each in ending if each.done()).result()
    server.__exit__()
    wait_for(lambda: of_group(server) == [])


@pytest.mark.parametrize(
    "work",
    [
        "time.sleep(3600)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "os.system('sleep 3600 &'); time.sleep(3600)",
        "subprocess.Popen(['sleep', '3600']); time.sleep(3600)",
        "os.fork() or time.sleep(3600); time.sleep(3600)",
    ],
)
def test_processes_and_what_they_started_end_in_the_middle_of_a_trial(serve, aside, work, tmp_path):
    begun = tmp_path / "begun"
    (worker,), server = serve(f"open({str(begun)!r}, 'w'); {work}")
    ending = aside(worker, server)
    wait_for(begun.exists)
    server.__exit__()
    with pytest.raises(TrialError, match="the process that starts the trials was ended by signal 9"):
        ending.result(timeout=30)
    wait_for(lambda: of_group(server) == [])


def test_processes_end_in_the_middle_of_a_trial_when_nobody_is_there_to_tell_tasks(serve, tmp_path):
    """As where the comparison was killed: the pipe's end is closed, and nothing else is done."""
    begun = tmp_path / "begun"
    (worker,), server = serve(f"open({str(begun)!r}, 'w'); time.sleep(3600)")
    worker.tasks.write('{"id": 1, "trial": {"seed": 0}}\n')
    wait_for(begun.exists)
    worker.tasks.close()
    assert server.process.wait(timeout=30) == 0
    assert of_group(server) == []


def test_a_server_that_still_imports_is_ended(serve):
    _, server = serve("pass", before="time.sleep(3600)")
    began = time.monotonic()
    server.__exit__()
    assert server.process.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 30


def test_no_descriptor_is_left_open(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="no more processes"), Pool(tmp_path, load_data("sample"), 2) as pool:
        list(pool.run([Trial("se", 0), Trial("se", 1)]))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_files_in_the_users_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)
    with Pool(tmp_path / "none", load_data("sample"), 1) as pool:
        *_, last = pool.run([Trial("se", 0)])
    assert re.match(r"FileNotFoundError: .*comparison\.json", last.detail["reason"])


def test_no_comparison_is_begun_where_processes_cannot_fork(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "fork")
    with pytest.raises(UsageError, match="WSL"):
        compare(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
