"""The example runs as its page says, on a made-up image folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "examples/finetune_flowers.py"
SMALL = ["--size", "32", "--batch", "14", "--host-epochs", "1", "--attention-epochs", "1", "--epochs", "1"]


def test_fine_tuning_starts_from_the_hosts_accuracy_and_ends_with_a_trained_factor_at_every_site(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = generator.integers(0, 226, (40, 40, 3))
            pixels[..., channel] += 30  # hard to tell, so that an accuracy is not 1 whatever the network does
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{number}.jpg")
    out = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), "--data", str(tmp_path), "--out", str(out), "--seeds", "1", *SMALL]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(out.read_text())
    (host,) = result["hosts"]
    assert list(result["variants"]) == ["none", "se", "cbam", "gam", "aaconv"]
    for variant in result["variants"].values():
        (run,) = variant["runs"]
        assert run["step_0"] == host["test"]
        assert len(run["alphas"]) == len(run["sites"])
        assert all(run["alphas"]), "each factor has left 0"
