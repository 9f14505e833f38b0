"""A comparison that is stopped, or whose processes are killed, ends with the numbers of one that never was."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from comparison.conftest import SMALL
from saccade.comparison.record import read_record
from saccade.comparison.trial import Trial, trial_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc, which this system has not"),
]

COMMAND = [sys.executable, "-m", "saccade.cli", "compare"]


def arguments(out: Path) -> list[str]:
    return [
        *("--model", SMALL["model"], "--attention", SMALL["attention"]),
        *("--seeds", str(SMALL["seeds"]), "--epochs", str(SMALL["epochs"]), "--out", str(out)),
    ]


def run(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments(out)], capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A comparison of which one trial has just ended."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, *arguments(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/8]"):
            break
    else:
        raise AssertionError(f"it ended before its first trial: {process.communicate()}")
    with process:
        yield out, process
        process.kill()


def workers(out: Path) -> dict[int, int]:
    """Worker processes of a comparison that are alive, with the number of the process that started each."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0") if folder.name.isdigit() else []
            if "saccade.comparison.worker" in words and str(out) in words:
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def forks(out: Path) -> list[int]:
    """Those of them that train: each was forked from the one that started first."""
    found = workers(out)
    return [process for process, parent in found.items() if parent in found]


def wait_for_no_workers(out: Path) -> None:
    deadline = time.monotonic() + 30
    while workers(out):
        assert time.monotonic() < deadline, "a worker outlived its comparison"
        time.sleep(0.1)


def scores(out: Path) -> dict[str, list[float]]:
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {variant["name"]: variant["scores"] for variant in results["variants"]}


def test_ctrl_c_saves_says_how_to_go_on_and_going_on_ends_the_same(started, finished):
    out, process = started
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "of 8 trials are saved. To go on: saccade compare --model" in stderr
    assert f"--out {out}" in stderr
    assert "Traceback" not in stderr
    wait_for_no_workers(out)
    assert not (out / "results.json").exists()
    again = run(out)
    assert again.returncode == 0, again.stderr
    assert "of them done before" in again.stdout
    assert scores(out) == scores(finished.folder)


def test_a_killed_worker_fails_its_trial_alone(started, finished):
    out, process = started
    os.kill(forks(out)[0], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1, stderr
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (failed,) = results["failed"]
    assert failed["reason"].startswith("its process was ended by signal 9, Killed (out of memory?)")
    assert f"failed: {failed['name']}, seed {failed['seed']}: its process was ended" in stdout
    missing = {(name, seed) for name, row in scores(out).items() for seed, score in enumerate(row) if score is None}
    assert missing == {(failed["name"], failed["seed"])}
    assert run(out).returncode == 0
    assert scores(out) == scores(finished.folder)


def test_where_the_process_that_starts_them_is_killed_it_says_how_to_go_on(started, finished):
    out, process = started
    (server,) = set(workers(out)) - set(forks(out))
    os.kill(server, signal.SIGKILL)
    for orphan in workers(out):  # what it started; left alone, they end their trials first
        with suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the process that starts the trials was ended by signal 9" in stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    wait_for_no_workers(out)
    assert run(out).returncode == 0
    assert scores(out) == scores(finished.folder)


def test_a_killed_comparison_leaves_no_process_and_goes_on_to_the_same_end(started, finished):
    out, process = started
    process.kill()
    process.wait()
    wait_for_no_workers(out)
    assert run(out).returncode == 0
    assert scores(out) == scores(finished.folder)


UNSHARED = ("unshare", "--user", "--map-root-user", "--mount")
CAN_MOUNT = (
    shutil.which("unshare") and subprocess.run([*UNSHARED, "true"], capture_output=True, check=False).returncode == 0
)


@pytest.mark.skipif(not CAN_MOUNT, reason="mounts a small disk, which this system allows no ordinary user")
def test_where_a_worker_fills_the_disk_its_trial_fails_and_with_room_it_goes_on(finished, tmp_path):
    """A disk with room for the first trials and not for all."""
    out, kept = tmp_path / "disk", tmp_path / "kept"
    out.mkdir()
    kept.mkdir()
    room = sum(file.stat().st_size for file in (finished.folder / "trials").rglob("*")) // 2048
    compared = shlex.join([*COMMAND, *arguments(out)])
    script = f"""
        mount -t tmpfs -o size={room}k tmpfs {out}
        {compared} > {kept}/full.out 2> {kept}/full.err; echo $? > {kept}/full.status
        mount -o remount,size=64m {out}
        {compared} > {kept}/again.out 2> {kept}/again.err; echo $? > {kept}/again.status
        cp {out}/results.json {kept}
    """
    subprocess.run([*UNSHARED, "sh", "-c", script], check=True, timeout=600)
    full, again = (
        {kind: (kept / f"{run}.{kind}").read_text() for kind in ("out", "err", "status")} for run in ("full", "again")
    )
    assert int(full["status"]) in (1, 2)
    assert "failed: " in full["out"]
    assert "Traceback" not in full["err"]
    assert "No space left on device" in full["out"] + full["err"]
    assert (int(again["status"]), "of them done before" in again["out"]) == (0, True), again["err"]
    assert scores(kept) == scores(finished.folder)


def test_a_full_disk_is_one_message_and_with_room_it_goes_on(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished.folder, out)
    (trial_folder(out, Trial("se", 1)) / "result.json").unlink()
    words = [
        *(sys.executable, "-m", "saccade.cli"),
        *shlex.split(read_record(out).asked.command(out))[1:],
        "--jobs",
        "1",
    ]

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # less than the images

    full = subprocess.run(words, capture_output=True, text=True, check=False, preexec_fn=little_room)
    assert full.returncode == 2
    [message] = [line for line in full.stderr.splitlines() if line.startswith("saccade: ")]
    assert "cannot be written" in message
    assert "run the same command again" in message
    subprocess.run(words, capture_output=True, check=True)
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (out, finished.folder))
    assert [each["scores"] for each in ours["variants"]] == [each["scores"] for each in theirs["variants"]]
