"""Add attention to a trained network and fine-tune it: attention first, then all.

    python examples/finetune_flowers.py --data FOLDER --out results.json

FOLDER holds an image folder, CLASS/*.jpg, or several, such as train/CLASS/*.jpg and val/CLASS/*.jpg, which are pooled.
For each seed a small network of timm is trained on a part of the training images. It is the host: each variant starts
from its weights, adds one kind of attention by an identity start, so that nothing changes at step 0, and is
fine-tuned on all training images. The control is the host itself, fine-tuned for as many epochs on the same batches.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn

import saccade

VARIANTS: dict[str, dict[str, Any]] = {
    "none": {},  # the control
    "se": {"attention": "se"},  # at="residual" is the default: the end of each residual branch
    "cbam": {"attention": "cbam"},
    "gam": {"attention": "gam"},
    # Attention between all pairs of positions is dearest on large maps, so it goes where they are smallest.
    "aaconv": {"attention": "aaconv", "at": "conv", "stages": "deepest:2"},
}
# Common values, the same for all variants, tuned for none of them.
SCRATCH_LR, HOST_LR, ATTENTION_LR, WEIGHT_DECAY = 3e-3, 3e-4, 3e-3, 0.05
HOST, ATTENTION, ALL = range(3)  # the stages of training; each has batches of its own
Data = tuple[Tensor, Tensor]  # images (N, 3, H, W) of bytes, labels (N)


def load_images(folder: Path, size: int) -> tuple[Tensor, Tensor, list[str]]:
    """All images below a folder, in memory; an image's class is the folder that it lies in."""
    paths = sorted(folder.rglob("*.jpg"))
    if not paths:
        raise SystemExit(f"there is no CLASS/*.jpg in {folder}")
    classes = sorted({path.parent.name for path in paths})
    images = [np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path in paths]
    labels = [classes.index(path.parent.name) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels), classes


def split(images: Tensor, labels: Tensor, seed: int) -> dict[str, Data]:
    """70 % train, 10 % val, 20 % test by the seed; the host sees 60 % of train."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, val = int(0.7 * len(order)), int(0.8 * len(order))
    parts = {"host": order[: int(0.6 * train)], "train": order[:train], "val": order[train:val], "test": order[val:]}
    return {name: (images[index], labels[index]) for name, index in parts.items()}


def normalised(images: Tensor) -> Tensor:
    """Bytes as numbers about 0."""
    return (images.float() / 255 - 0.5) / 0.25


def batches(data: Data, size: int, *key: int) -> Iterator[Data]:
    """Batches in random order, flipped and shifted at random: a function of the key, whatever was drawn before."""
    images, labels = data
    generator = torch.Generator().manual_seed(sum(part * 1000**place for place, part in enumerate(key)))
    order = torch.randperm(len(labels), generator=generator)
    for index in order.tensor_split(-(-len(order) // size)):
        x, (height, width) = normalised(images[index]), images.shape[-2:]
        flip = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
        top, left = torch.randint(0, 9, (2,), generator=generator).tolist()
        yield nn.functional.pad(x, (4, 4, 4, 4), "reflect")[..., top : top + height, left : left + width], labels[index]


@torch.no_grad()
def logits(model: nn.Module, data: Data) -> Tensor:
    """What a network says to each image, in eval mode."""
    model.eval()
    return torch.cat([model(normalised(images)) for images in data[0].split(100)])


def accuracy(model: nn.Module, data: Data) -> float:
    """The fraction of images that a network names rightly."""
    return (logits(model, data).argmax(dim=1) == data[1]).double().mean().item()


def fit(model: nn.Module, data: Data, args: argparse.Namespace, seed: int, stage: int, host_lr: float | None) -> None:
    """Train a network; with no `host_lr` only its attention."""
    host, attention = saccade.host_parameters(model), saccade.attention_parameters(model)
    for parameter in host:
        parameter.requires_grad_(host_lr is not None)
    rates = [(p, ATTENTION_LR) for p in attention] + [(p, host_lr) for p in host if host_lr is not None]
    # No weight decay on what has one dimension: biases, scales, and the factors `alpha` that blend attention in.
    groups = [{"params": [p], "lr": lr, "weight_decay": WEIGHT_DECAY if p.ndim > 1 else 0.0} for p, lr in rates]
    optimizer = torch.optim.AdamW(groups)
    epochs = (args.host_epochs, args.attention_epochs, args.epochs)[stage]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(data[1]) // args.batch))
    for epoch in range(epochs):
        model.train()
        for module in model.modules():
            # In train mode a BatchNorm moves its running statistics, and so the host, though no parameter trains.
            # Those that came with attention (gam has some) do train, and stay in train mode.
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        for x, y in batches(data, args.batch, epoch, stage, seed):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()


def finetune(name: str, path: Path, parts: dict[str, Data], args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One variant with one seed: from the host's file to the accuracies after each stage."""
    train, val, test = parts["train"], parts["val"], parts["test"]
    host = saccade.load(path)  # the file names its host: timm builds it again
    before = logits(host, test)
    torch.manual_seed(seed)  # draws the attention's weights
    # An example of the images tells the size of all maps.
    model = saccade.augment(host, **VARIANTS[name], example_input=normalised(test[0][:1])) if VARIANTS[name] else host
    assert torch.equal(logits(model, test), before), "identity start: the same numbers, bit for bit"
    run: dict[str, Any] = {"seed": seed, "step_0": accuracy(model, test)}
    start = time.perf_counter()
    # The control has no attention to train. So that it gets as many steps as the others, it trains whole in both.
    fit(model, train, args, seed, ATTENTION, HOST_LR if name == "none" else None)
    if name != "none":
        assert torch.equal(logits(saccade.strip(model), test), before), "the host stood still"
    run["attention"], run["attention_val"] = accuracy(model, test), accuracy(model, val)
    fit(model, train, args, seed, ALL, HOST_LR)
    run["seconds"] = round(time.perf_counter() - start, 1)
    run["all"], run["all_val"] = accuracy(model, test), accuracy(model, val)
    run["alphas"] = [round(p.item(), 4) for key, p in model.named_parameters() if key.endswith(".alpha")]
    tuned = path.with_name("tuned")
    saccade.save(model, tuned)
    assert torch.equal(logits(saccade.load(tuned), test), logits(model, test)), "the file is the network"
    sites = [edit.site for edit in saccade.plan_of(model).edits]
    return run | {"parameters": sum(p.numel() for p in model.parameters()), "sites": sites}


def difference(runs: list[dict[str, Any]], control: list[dict[str, Any]], stage: str) -> dict[str, float]:
    """Mean over seeds of variant minus control, and its paired 95 % t interval, which needs two seeds."""
    values = [run[stage] - other[stage] for run, other in zip(runs, control, strict=True)]
    mean, half = float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def main() -> None:
    """Train hosts, fine-tune all variants from them, tell what came of it."""
    parser = argparse.ArgumentParser(description="Add attention to a trained network and fine-tune it.")
    parser.add_argument("--data", type=Path, required=True, help="an image folder: CLASS/*.jpg")
    parser.add_argument("--out", type=Path, help="where to write the results, as JSON")
    numbers = {"seeds": 3, "size": 64, "batch": 32, "host-epochs": 12, "attention-epochs": 2, "epochs": 3}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--model", default="test_resnet", help="the host, by its name in timm")
    parser.add_argument("--note", help="a sentence to keep with the results")
    args = parser.parse_args()
    images, labels, classes = load_images(args.data, args.size)
    hosts: list[dict[str, float]] = []
    variants: dict[str, Any] = {name: {"options": VARIANTS[name], "runs": []} for name in VARIANTS}
    for seed in range(args.seeds):
        parts = split(images, labels, seed)
        torch.manual_seed(seed)
        host = timm.create_model(args.model, num_classes=len(classes))
        fit(host, parts["host"], args, seed, HOST, SCRATCH_LR)
        hosts.append({"seed": seed, "test": accuracy(host, parts["test"]), "val": accuracy(host, parts["val"])})
        print(f"seed {seed}: host {hosts[-1]['test']:.3f}")
        with tempfile.TemporaryDirectory() as folder:
            saccade.save(host, Path(folder, "host"))
            for name, variant in variants.items():
                run = finetune(name, Path(folder, "host"), parts, args, seed)
                variant["runs"].append(run)
                print(f"  {name:7}", *(f"{key} {run[key]:.3f}" for key in ("step_0", "attention", "all")), flush=True)
    print(f"\n{'':8}{'parameters':>12}{'step 0':>8}{'attention':>11}{'all':>7}{'all - none, 95 % interval':>32}")
    for name, variant in variants.items():
        control, runs, told = variants["none"]["runs"], variant["runs"], ""
        if name != "none" and args.seeds > 1:
            variant["difference"] = {stage: difference(runs, control, stage) for stage in ("attention", "all")}
            told = "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**variant["difference"]["all"])
        step_0, attention, end = (np.mean([run[key] for run in runs]) for key in ("step_0", "attention", "all"))
        print(f"{name:8}{runs[0]['parameters']:12,}{step_0:8.3f}{attention:11.3f}{end:7.3f}{told:>32}")
    if args.out:
        settings = {key: value for key, value in vars(args).items() if key not in ("data", "out")}
        counts = {name: len(labels) for name, (_, labels) in parts.items()}
        result = {"settings": settings, "images": counts, "classes": classes, "hosts": hosts, "variants": variants}
        result["machine"] = {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
        result["versions"] = {name: version(name) for name in ("saccade", "torch", "timm")}
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
