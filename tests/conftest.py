"""What every test runs under: one thread of torch, the same random numbers on every run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Maps in tests are tiny: a second thread gains nothing, and on a busy machine the two wait for each other. Set in the
# environment: it is read when torch is first imported, costs nothing where it is not, and child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU the CUDA kernels run in Triton's interpreter, which reads this as it is first imported.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

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
