"""Relative attention: every backend against plain attention without positions, the floor, and the materialised forms.

``uv run python benchmarks/relative_attention.py`` runs the backends' tests, refuses to time on red, and writes
benchmarks/results/relative_attention.json (``..._cuda.json`` on a GPU). Times are medians over rounds in which all take
turns, ratios are those of medians to plain attention's. Memory is the peak above the inputs, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import write_result
from torch import Tensor
from torch.nn import functional as F

from saccade.ops import relative_attention_2d
from saccade.ops.relative_attention.reference import position_logits

ROUNDS = 5
THREADS = 2
# B, N, H, W, d, dv
CASES = {
    "ResNet-50, 14 x 14": (8, 8, 14, 14, 20, 8),
    "28 x 28": (4, 8, 28, 28, 20, 8),
    "WRN, 32 x 32": (4, 8, 32, 32, 20, 4),
    "32 x 32, d = dv = 64": (1, 8, 32, 32, 64, 64),
    "RetinaNet, 64 x 64": (1, 4, 64, 64, 20, 16),
    "RetinaNet, 80 x 80": (1, 2, 80, 80, 20, 16),
}
MODES = ("forward", "forward + backward")
MEASURED_IN_MEMORY = ("WRN, 32 x 32", "RetinaNet, 64 x 64")


def make_inputs(case: str, device: str, dtype: torch.dtype) -> list[Tensor]:
    """The tensors q, k, v, rel_h, rel_w."""
    batch, heads, height, width, depth, value_depth = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (batch, heads, height, width, depth),
        (batch, heads, height, width, depth),
        (batch, heads, height, width, value_depth),
        (2 * height - 1, depth),
        (2 * width - 1, depth),
    )
    return [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]


def plain(q: Tensor, k: Tensor, v: Tensor, _rel_h: Tensor, _rel_w: Tensor) -> Tensor:
    """PyTorch's attention without positions, keys or values padded to equal depth: the floor."""
    depth = max(q.shape[-1], v.shape[-1])
    queries, keys, values = (F.pad(x.flatten(2, 3), (0, depth - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(queries, keys, values, scale=q.shape[-1] ** -0.5)[..., : v.shape[-1]]


def sdpa_with_mask(q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor, rel_w: Tensor) -> Tensor:
    """PyTorch's attention with all position logits as its mask."""
    scale = q.shape[-1] ** -0.5
    vertical, horizontal = position_logits(q * scale, rel_h, rel_w)
    mask = (vertical[..., :, None] + horizontal[..., None, :]).flatten(-2)
    queries, keys, values = (x.flatten(2, 3) for x in (q, k, v))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)


def by(backend: str) -> Callable[..., Tensor]:
    """One of ours."""
    return lambda *tensors: relative_attention_2d(*tensors, backend=backend)


IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "plain": plain,
    "reference": by("reference"),
    "SDPA with mask": sdpa_with_mask,
    "folded": by("folded"),
    "blocked": by("blocked"),
    "triton": by("triton"),
}


def names_on(device: str) -> list[str]:
    """The implementations that run there."""
    absent = "blocked" if device == "cuda" else "triton"
    return [name for name in IMPLEMENTATIONS if name != absent]


def run(name: str, mode: str, tensors: list[Tensor]) -> None:
    """Once; the plain form has no gradient for the tables."""
    if mode == "forward":
        with torch.no_grad():
            IMPLEMENTATIONS[name](*tensors)
        return
    out = IMPLEMENTATIONS[name](*tensors)
    torch.autograd.grad(out, tensors[:3] if name == "plain" else tensors, torch.ones_like(out))


def time_round(case: str, mode: str, device: str, dtype: torch.dtype) -> dict[str, float]:
    """Milliseconds of each implementation in turn."""
    tensors = make_inputs(case, device, dtype)
    seen: dict[str, float] = {}
    for name in names_on(device):
        run(name, mode, tensors)  # so that no one pays for what the one before did to caches and memory
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        run(name, mode, tensors)
        if device == "cuda":
            torch.cuda.synchronize()
        seen[name] = 1e3 * (time.perf_counter() - begin)
    return seen


def measure_memory(case: str, mode: str, name: str, device: str, dtype: str) -> float:
    """MiB above the inputs, in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps([case, mode, name, device, dtype])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def child(case: str, mode: str, name: str, device: str, dtype: str) -> float:
    """The memory of one run, MiB."""
    torch.set_num_threads(THREADS)
    tensors = make_inputs(case, device, getattr(torch, dtype))
    small = [x[:, :, :2, :2].contiguous() if x.dim() == 5 else x[:3].contiguous() for x in tensors]
    run(name, mode, [x.detach().requires_grad_() for x in small])  # what libraries need once
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(name, mode, tensors)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # The peak that getrusage gives is that of the parent, too, whose pages a new process has for a moment.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kib()
    run(name, mode, tensors)
    return (peak_kib() - before) / 1024


def peak_kib() -> int:
    """The most memory that this process has had since its peak was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure_times(device: str, dtype: torch.dtype) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """By case, mode and implementation: median, least and most milliseconds, the median's ratio to plain attention's.

    All cases in turn, several times over, so that a spell in which the machine is busy does not fall on one of them.
    """
    rounds = [{(c, m): time_round(c, m, device, dtype) for c in CASES for m in MODES} for _ in range(ROUNDS)]
    result: dict[str, dict[str, dict[str, dict[str, float]]]] = {case: {} for case in CASES}
    for case, mode in rounds[0]:
        times = {name: [one[case, mode][name] for one in rounds] for name in names_on(device)}
        floor = statistics.median(times["plain"])
        result[case][mode] = {
            name: {
                "ms": round(statistics.median(seen), 2),
                "least": round(min(seen), 2),
                "most": round(max(seen), 2),
                "to_plain": round(statistics.median(seen) / floor, 2),
            }
            for name, seen in times.items()
        }
    return result


def main() -> None:
    """Test, measure, write."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tests = Path(__file__).parents[1] / "tests" / "ops"
    if subprocess.run([sys.executable, "-m", "pytest", "-q", str(tests)], check=False).returncode:
        sys.exit("the tests are red: nothing is timed")
    torch.set_num_threads(THREADS)
    dtype = "bfloat16" if device == "cuda" else "float32"
    results = measure_times(device, getattr(torch, dtype))
    for case in MEASURED_IN_MEMORY:
        for mode, entries in results[case].items():
            for name, entry in entries.items():
                entry["mib"] = round(measure_memory(case, mode, name, device, dtype), 1)
    for case, modes in results.items():
        for mode, entries in modes.items():
            print(f"{case}, {mode}: {', '.join(f'{name} {entry}' for name, entry in entries.items())}")
    path = write_result(
        "relative_attention" if device == "cpu" else "relative_attention_cuda",
        ("saccade", "torch"),
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        dtype=dtype,
        threads=THREADS,
        rounds=ROUNDS,
        unit="median milliseconds; ratio to plain attention without positions; peak MiB above the inputs",
        cases={case: dict(zip(("B", "N", "H", "W", "d", "dv"), shape, strict=True)) for case, shape in CASES.items()},
        gpu="this file" if device == "cuda" else "not measured",
        results=results,
    )
    print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        print(child(*json.loads(arguments.child)))
    else:
        main()
