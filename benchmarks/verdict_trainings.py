"""Verdicts on real trainings whose truth is known: the same attention twice, one that was harmed, one that must help.

``uv run python benchmarks/verdict_trainings.py`` writes benchmarks/results/verdict_trainings.json. **A/A**: 20
comparisons of a small ResNet with SE and the same with SE, attention drawn by other seeds, on the same host weights and
batches; no difference is there to be found. **Harm**: a comparison by ``saccade.compare`` in which the trainings of one
variant saw a fifth of their labels replaced. **Help**: a comparison on images of two striped patches far apart; the
class is whether the stripes of both run the same way. No convolution of its host sees both, and what they see of each
adds up to the same in both classes; attention over positions sees both.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result
from PIL import Image

import saccade
from saccade._seeds import derive_seed
from saccade.comparison.record import read_record
from saccade.comparison.statistics import paired_difference, verdict
from saccade.comparison.trial import Trial, run_trial
from saccade.data import ImageData, Split, load_data
from saccade.nets import CifarResNet
from saccade.training import OptimSettings, TrainSettings, accuracy
from saccade.training.fit import Machine, fit

MODEL = "saccade:cifar_resnet(depth=8, stem_stride=2, widths=(8, 16, 32))"
COMPARISONS, SEEDS, EPOCHS, MARGIN, NOISE = 20, 3, 2, 0.5, 0.2


def main() -> None:
    """All three, and the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=2)
    asked = parser.parse_args()
    path = write_result(
        "verdict_trainings", ("saccade", "torch", "lightning", "scipy"),
        same=same(asked.at_once), harm=harm(), help=helped(),
    )  # fmt: skip
    print(path.read_text(encoding="utf-8"))


def same(at_once: int) -> dict[str, Any]:
    """20 comparisons of SE with itself."""
    seeds = range(COMPARISONS * SEEDS)
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) as pool:
        first, second = (list(pool.map(trained, seeds, [name] * len(seeds))) for name in ("a", "b"))
    words: list[str] = []
    for start in range(0, len(seeds), SEEDS):
        ours, theirs = first[start : start + SEEDS], second[start : start + SEEDS]
        words.append(verdict(paired_difference(ours, theirs), MARGIN))
    return {
        "what": f"SE in {MODEL}, {EPOCHS} epochs of the sample, {SEEDS} seeds each",
        "verdicts": {word: words.count(word) for word in sorted(set(words))},
        "claimed_what_is_not_so": sum(word in {"helps", "hurts"} for word in words),
        "scores": {"a": first, "b": second},
    }


def trained(seed: int, name: str) -> float:
    """Accuracy on the test images of SE whose weights are drawn for that name."""
    torch.set_num_threads(1)
    data = load_data("sample")
    torch.manual_seed(derive_seed(seed, "host"))
    host = CifarResNet(8, stem_stride=2, widths=(8, 16, 32), in_channels=1)
    torch.manual_seed(derive_seed(seed, "attention", name))
    model = saccade.augment(host, "se", start="paper", example_input=torch.zeros(1, *data.shape), inplace=True)
    settings = TrainSettings(epochs=EPOCHS, optim=OptimSettings(lr=0.1))
    fit(model, data, settings, seed, machine=Machine(accelerator="cpu"))
    return accuracy(model, data, "test")


def harm() -> dict[str, Any]:
    """A comparison whose trainings of SE have been made beforehand, with noise in their labels."""
    asked = {"model": MODEL, "attention": "none,eca,se", "seeds": 5, "epochs": EPOCHS, "margin": MARGIN}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        # A comparison that ends before its first trial has settled everything.
        with suppress(KeyboardInterrupt):
            saccade.compare(**asked, out=out, on_setting=_stop)
        record, noisy = read_record(out), noised(load_data("sample"))
        for seed in record.asked.seeds:
            run_trial(record, Trial("se", seed), noisy, out, lambda _: None)
        results = json.loads((saccade.compare(**asked, out=out).folder / "results.json").read_text(encoding="utf-8"))
    return {"what": f"compare {asked}, a share of {NOISE} of the labels of se's trainings replaced", **told(results)}


HOST = """
from torch import nn

def small(in_channels, num_classes):
    def layer(before, after, stride):
        return [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    layers = [*layer(in_channels, 16, 2), *layer(16, 32, 1), *layer(32, 32, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes))
"""


def helped() -> dict[str, Any]:
    """A comparison on images whose class is a relation of two places."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "host.py").write_text(HOST)
        draw_pairs(folder / "pairs")
        asked = {
            "attention": [{"attention": "aaconv", "at": "3"}, {"attention": "se", "at": "6"}],
            "seeds": 5, "epochs": 10, "margin": MARGIN,
        }  # fmt: skip
        made = saccade.compare(f"{folder}/host.py:small", f"imagefolder:{folder}/pairs", **asked, out=folder / "out")
        results = json.loads((made.folder / "results.json").read_text(encoding="utf-8"))
    return {
        "what": f"compare {asked}: three convolutions that see 11 of 32 pixels, patches 10 and more apart",
        **told(results),
    }


def draw_pairs(root: Path) -> None:
    """Grey noise with a striped patch at the left and one at the right; the class says if both are striped alike."""
    generator = np.random.default_rng(0)
    across = np.broadcast_to(np.tile([0.0, 0.0, 160.0, 160.0], 2), (8, 8))
    for part, count in (("train", 800), ("val", 100), ("test", 400)):
        for name in ("different", "same"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                image, upright = generator.uniform(0, 60, (32, 32)), bool(generator.integers(2))
                for left, turned in (
                    (generator.integers(3), upright),
                    (generator.integers(21, 25), upright ^ (name == "different")),
                ):
                    top = generator.integers(25)
                    image[top : top + 8, left : left + 8] += across if turned else across.T
                Image.fromarray(image.astype(np.uint8)).save(root / part / name / f"{number}.png")


def told(results: dict[str, Any]) -> dict[str, Any]:
    """Of every variant the scores and what follows from them."""
    names = ("name", "scores", "mean", "difference", "verdict")
    return {"variants": [{name: each[name] for name in names} for each in results["variants"]]}


def noised(data: ImageData) -> ImageData:
    """The images, a share of the training labels drawn anew."""
    generator = torch.Generator().manual_seed(derive_seed("noise"))
    labels = data.train.labels
    drawn = torch.randint(0, len(data.classes), labels.shape, generator=generator)
    wrong = torch.rand(len(labels), generator=generator) < NOISE
    return replace(data, train=Split(data.train.images, torch.where(wrong, drawn, labels)))


def _stop(_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
