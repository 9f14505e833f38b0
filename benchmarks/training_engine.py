"""What the training engine costs beside the same loop written bare in PyTorch, and how fast its loader is.

``uv run python benchmarks/training_engine.py`` writes benchmarks/results/training_engine.json. Leave the machine alone
meanwhile. Both loops take the same batches of the same images through the same network; they run in turns, so that what
else the machine does falls on both.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import write_result
from torch import nn

from saccade.data import AugmentSettings, ImageData, Split, TrainBatches
from saccade.nets import CifarResNet
from saccade.training import OptimSettings, ScheduleSettings, TrainSettings
from saccade.training.fit import Folder, fit
from saccade.training.optim import make_factor

EPOCHS, BATCH, ROUNDS = 2, 128, 7  # some 40 ms a step
AUGMENTS = {
    "mirror": AugmentSettings(),
    "crop and mirror": AugmentSettings(crop=4),
    "crop, mirror and erase": AugmentSettings(crop=4, erase=0.25),
    "mirror and trivial": AugmentSettings(policy="trivial"),
}


def main() -> None:
    """Measure both and write the file."""
    torch.set_num_threads(1)
    data = noise(8000)
    times: dict[str, list[tuple[float, float]]] = {"bare": [], "engine": [], "engine, with checkpoints": []}
    for _ in range(ROUNDS):
        for name, loop in (("bare", bare), ("engine", engine), ("engine, with checkpoints", saving)):
            wall, cpu = time.perf_counter(), time.process_time()
            loop(network(), data)
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    steps = EPOCHS * (len(data.train) // BATCH)
    loops = {name: loop_result(runs, times["bare"], steps) for name, runs in times.items()}
    path = write_result(
        "training_engine", ("saccade", "torch", "lightning"),
        network="CifarResNet(8, stem_stride=2)", images="32 x 32 x 3", batch_size=BATCH, steps=steps, rounds=ROUNDS,
        threads=1, loops=loops, loader=loader(data),
    )  # fmt: skip
    print(path.read_text(encoding="utf-8"))


def network() -> nn.Module:
    """The small ResNet, with the same weights every time."""
    torch.manual_seed(0)
    return CifarResNet(8, stem_stride=2, num_classes=10)


def noise(count: int) -> ImageData:
    """Images in memory."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    train, one = Split(images, torch.arange(count) % 10), Split(images[:10], torch.arange(10))
    return ImageData("noise", [str(n) for n in range(10)], train, one, one)


def bare(model: nn.Module, data: ImageData) -> None:
    """The loop as one writes it, over the same batches."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    batches = TrainBatches(data, BATCH, 0)
    factor = make_factor(ScheduleSettings(), EPOCHS * len(batches))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    model.train()
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        losses = []
        for images, labels in batches:
            loss = nn.functional.cross_entropy(model(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        float(torch.stack(losses).mean())


def engine(model: nn.Module, data: ImageData) -> None:
    """Ours."""
    fit(model, data, TrainSettings(epochs=EPOCHS, batch_size=BATCH, optim=OptimSettings(lr=0.1)), 0)


def saving(model: nn.Module, data: ImageData) -> None:
    """Ours with a folder: a checkpoint every 50 steps and at each epoch's end, and metrics."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainSettings(epochs=EPOCHS, batch_size=BATCH, optim=OptimSettings(lr=0.1))
        fit(model, data, settings, 0, folder=Folder(Path(folder), save_every=50))


def loop_result(runs: list[tuple[float, float]], bares: list[tuple[float, float]], steps: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are of each round's own pair."""
    return {
        "wall_ms_per_step": round(1000 * median(wall for wall, _ in runs) / steps, 2),
        "cpu_ms_per_step": round(1000 * median(cpu for _, cpu in runs) / steps, 2),
        "wall_over_bare": [round(a / b, 4) for (a, _), (b, _) in zip(runs, bares, strict=True)],
        "median_wall_over_bare": round(median(a / b for (a, _), (b, _) in zip(runs, bares, strict=True)), 4),
        "median_cpu_over_bare": round(median(a / b for (_, a), (_, b) in zip(runs, bares, strict=True)), 4),
    }


def loader(data: ImageData) -> dict[str, Any]:
    """Images per second of the loader alone and of a training step alone, one thread each."""
    images, labels = next(iter(TrainBatches(data, BATCH, 0)))  # pyright: ignore[reportGeneralTypeIssues]
    model = network().train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def step() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()

    model_rate = BATCH / median(seconds(step) for _ in range(30))
    result: dict[str, Any] = {"model_images_per_second": round(model_rate)}
    for name, settings in AUGMENTS.items():
        batches = TrainBatches(data, BATCH, 0, settings)
        rate = BATCH * len(batches) / median(seconds(lambda batches=batches: list(batches)) for _ in range(9))
        result[name] = {"images_per_second": round(rate), "over_model": round(rate / model_rate, 1)}
    return result


def seconds(work: Any) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
