"""One trial: one variant trained once with one seed, its checkpoint, and the score of that checkpoint on the test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saccade._api import augment, plan_of
from saccade._seeds import derive_seed
from saccade.attention.catalog import mechanism
from saccade.comparison.request import Request, Variant
from saccade.data import ImageData
from saccade.errors import DataError
from saccade.nets import build_model
from saccade.report.results import write_atomic
from saccade.training import accuracy

SCHEMA = "saccade.trial/1"
METRICS, CHECKPOINT, RESULT, ERROR = "metrics.jsonl", "checkpoint.safetensors", "result.json", "error.txt"


def build_variant(request: Request, variant: Variant, data: ImageData, seed: int) -> nn.Module:
    """The network of a trial before training.

    The host is built under the seed and attention under another one derived from it, so that all variants of a seed
    share the host's weights.
    """
    torch.manual_seed(derive_seed(seed, "host"))
    model = build_model(request.model, in_channels=data.shape[0], num_classes=len(data.classes))
    if variant.attention is None:
        return model
    torch.manual_seed(derive_seed(seed, "attention"))
    return augment(
        model,
        variant.attention,
        at=places(variant, model),
        options=variant.options,
        start=variant.start,
        example_input=torch.zeros(1, *data.shape),
        inplace=True,
    )


def places(variant: Variant, model: nn.Module) -> list[str]:
    """The kinds of site, paths or globs of a variant: the user's, else the usual ones of this kind of attention."""
    if variant.at is not None or variant.attention is None:
        return variant.at or []
    if mechanism(variant.attention).paper.kind != "conv":
        return ["residual"]
    return [getattr(model, "default_conv", "conv")]


def trial_folder(out: Path, variant: str, seed: int) -> Path:
    """Where a trial lives. A name with options becomes a plain file name, made unique by a hash."""
    plain = re.sub(r"[^A-Za-z0-9.=_-]+", "_", variant).strip("_.")
    if plain != variant:
        plain += f"-{derive_seed(variant):016x}"[:9]
    return out / "trials" / f"{plain}-{seed}"


def run_trial(
    request: Request, variant: Variant, seed: int, data: ImageData, out: Path, on_epoch: Callable[[Any], None]
) -> float:
    """Train, write the checkpoint, read it back and score it on the test images. The result is written last."""
    from saccade.training.fit import Epoch, Machine, fit

    folder = trial_folder(out, variant.name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    model = build_variant(request, variant, data, seed)
    epochs: list[dict[str, Any]] = []

    def record(epoch: Epoch) -> None:
        epochs.append(epoch.as_dict())
        write_atomic(folder / METRICS, "".join(json.dumps(entry) + "\n" for entry in epochs))
        on_epoch(epoch)

    fit(model, data, request.settings, seed, record, machine=Machine(accelerator="cpu"))
    _save_checkpoint(model, folder / CHECKPOINT)
    score = accuracy(load_trial(request, variant, seed, data, out), data, "test")
    result = {"schema": SCHEMA, "variant": variant.name, "seed": seed, "score": score}
    write_atomic(folder / RESULT, json.dumps(result) + "\n")
    return score


def load_trial(request: Request, variant: Variant, seed: int, data: ImageData, out: Path) -> nn.Module:
    """The trained network of a finished trial, from its checkpoint."""
    model = build_variant(request, variant, data, seed)
    model.load_state_dict(load_file(trial_folder(out, variant.name, seed) / CHECKPOINT))
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def read_result(out: Path, variant: str, seed: int) -> float | None:
    """The score of a trial, or None where it is not finished."""
    path = trial_folder(out, variant, seed) / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_bytes())
    except ValueError:
        result = None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise DataError(f"{path} is not a result of schema {SCHEMA!r}; remove it, and its trial is run again")
    return result["score"]


def read_metrics(out: Path, variant: str, seed: int) -> list[dict[str, Any]]:
    """What was recorded of every epoch of a trial."""
    path = trial_folder(out, variant, seed) / METRICS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _save_checkpoint(model: nn.Module, path: Path) -> None:
    tensors: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, {"plan": plan_of(model).to_json()})
    temporary.replace(path)
