"""What large maps take, in processes of their own: Python, PyTorch and the inputs included."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import pathlib, sys, torch
from saccade.ops import relative_attention_2d
pathlib.Path("/proc/self/clear_refs").write_text("5")  # a new process begins with its parent's peak
side, backward = int(sys.argv[1]), sys.argv[2] == "backward"
shapes = [(1, 1, side, side, 20)] * 2 + [(1, 1, side, side, 16)] + [(2 * side - 1, 20)] * 2
tensors = [torch.randn(shape, requires_grad=backward) for shape in shapes]
out = relative_attention_2d(*tensors)
if backward:
    out.sum().backward()
assert out.isfinite().all()
status = pathlib.Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read as Linux tells them")
@pytest.mark.parametrize(("side", "mode", "gib"), [(224, "forward", 1.5), (96, "backward", 1.0)])
def test_large_maps_need_no_square_of_memory(side: int, mode: str, gib: float) -> None:
    """All logits of 224 x 224 would take 9.4 GiB, of 96 x 96 0.3 GiB, several times over with gradients."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(side), mode], check=True, capture_output=True, text=True)
    assert float(done.stdout) < gib
