"""What every test runs under: the cores shared fairly among the workers, the same random numbers on every run."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from hypothesis import settings

# Every xdist worker would start one torch thread per core, and so would the processes that tests start. Set in the
# environment: it is read when torch is first imported, costs nothing where it is not, and child processes inherit it.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

# Started in the background by a script, this process ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A change that breaks nothing must pass: examples are drawn the same way each time, and a busy machine is no failure.
settings.register_profile("saccade", derandomize=True, deadline=None)
settings.load_profile("saccade")


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Tests that draw from torch's global generator see the same numbers, alone or after others, on any worker."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
