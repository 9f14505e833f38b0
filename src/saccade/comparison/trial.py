"""One trial: one variant trained once with one seed, its checkpoint, and the score of that checkpoint on the test."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saccade._api import apply_plan, augment, plan_of
from saccade._seeds import derive_seed
from saccade.comparison.record import Record, with_optim
from saccade.comparison.request import Request, Variant
from saccade.data import ImageData
from saccade.errors import DataError
from saccade.nets.build import build_model, pretrained_statistics
from saccade.nets.places import usual_place
from saccade.report.results import write_atomic
from saccade.surgery import Plan
from saccade.training import TrainSettings, predict

SCHEMA = "saccade.trial/1"
METRICS, CHECKPOINT, RESULT, ERROR = "metrics.jsonl", "checkpoint.safetensors", "result.json", "error.txt"
PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Trial:
    """One training: a variant with a seed, or one try of its tuning."""

    variant: str
    seed: int
    candidate: int | None = None


def build_variant(
    request: Request, variant: Variant, data: ImageData, seed: int, model: str | None = None
) -> nn.Module:
    """The network of a trial before training; ``model`` is the host where it is another than the request's.

    The host is built under the seed and attention under another one derived from it, so that all variants of a seed
    share the host's weights.
    """
    torch.manual_seed(derive_seed(seed, "host"))
    host = build_model(
        model or request.model, in_channels=data.shape[0], num_classes=len(data.classes), pretrained=request.pretrained
    )
    torch.manual_seed(derive_seed(seed, "attention"))
    image = torch.zeros(1, *data.shape)
    if variant.plan is not None:
        return apply_plan(host, Plan.from_json(variant.plan), example_input=image, inplace=True)
    if variant.attention is None:
        return host
    usual, most = usual_place(variant.attention, host)
    return augment(
        host,
        variant.attention,
        at=variant.at or usual,
        options=variant.options,
        start=variant.start or "paper",
        max_positions=None if variant.at else most,
        example_input=image,
        inplace=True,
    )


def as_the_host_saw(request: Request, model: nn.Module, data: ImageData) -> ImageData:
    """The images, normalised as those were that a pretrained host's weights come from."""
    statistics = pretrained_statistics(request.model, model) if request.pretrained else None
    known = statistics is not None and len(statistics[0]) == data.shape[0]
    return data.normalised_by(*statistics) if statistics is not None and known else data


def trial_folder(out: Path, variant: str, seed: int, candidate: int | None = None) -> Path:
    """Where a trial lives. A name with options becomes a plain file name, made unique by a hash."""
    plain = re.sub(r"[^A-Za-z0-9.=_-]+", "_", variant).strip("_.")
    if plain != variant:
        plain += f"-{derive_seed(variant):016x}"[:9]
    return out / "trials" / f"{plain}-{seed}" if candidate is None else out / "tuning" / f"{plain}-{candidate}"


def run_trial(record: Record, trial: Trial, data: ImageData, out: Path, on_epoch: Callable[[Any], None]) -> float:
    """Train, write the checkpoint, read it back and score it on the test images. The result is written last.

    A try of the tuning leaves no checkpoint, and its score is that of the last epoch on the validation images.
    """
    from saccade.training.fit import Epoch, Machine, fit

    request, variant, seed = record.asked, record.asked.variant(trial.variant), trial.seed
    folder = trial_folder(out, variant.name, seed, trial.candidate)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    model = build_variant(request, variant, data, seed, record.model(variant))
    data = as_the_host_saw(request, model, data)
    settings = record.settings(variant)
    if trial.candidate is not None:
        settings = candidates(request)[trial.candidate]
    epochs: list[dict[str, Any]] = []

    def note(epoch: Epoch) -> None:
        epochs.append(epoch.as_dict())
        write_atomic(folder / METRICS, "".join(json.dumps(entry) + "\n" for entry in epochs))
        on_epoch(epoch)

    fit(model, data, settings, seed, note, machine=Machine(accelerator="cpu"))
    if trial.candidate is None:
        _save_checkpoint(model, folder / CHECKPOINT)
        named = predict(load_trial(record, trial, data, out), data, "test")
        _save_whole({PREDICTIONS: named.to(torch.int32)}, folder / f"{PREDICTIONS}.safetensors")
        score = float((named == data.test.labels).double().mean())
    else:
        score = epochs[-1]["val_accuracy"]
    result = {"schema": SCHEMA, "variant": variant.name, "seed": seed, "score": score}
    write_atomic(folder / RESULT, json.dumps(result) + "\n")
    return score


def candidates(request: Request) -> list[TrainSettings]:
    """What each variant's tuning tries, the same for all: what was asked for, then random learning rates and weight
    decays around it, uniform in their logarithms (a factor of 10 down to 3 up, and of 10 both ways)."""
    settings, tried = request.settings, []
    for number in range(request.tune):
        draws = random.Random(derive_seed("tune", number))
        lr, decay = (10 ** draws.uniform(*reach) if number else 1.0 for reach in ((-1, 0.5), (-1, 1)))
        tried.append(with_optim(settings, settings.optim.lr * lr, settings.optim.weight_decay * decay))
    return tried


def load_trial(record: Record, trial: Trial, data: ImageData, out: Path) -> nn.Module:
    """The trained network of a finished trial, from its checkpoint."""
    variant = record.asked.variant(trial.variant)
    fresh = record.asked.model_copy(update={"pretrained": False})  # its weights are in the checkpoint
    model = build_variant(fresh, variant, data, trial.seed, record.model(variant))
    model.load_state_dict(load_file(trial_folder(out, variant.name, trial.seed) / CHECKPOINT))
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def read_result(out: Path, variant: str, seed: int, candidate: int | None = None) -> float | None:
    """The score of a trial, or None where it is not finished."""
    path = trial_folder(out, variant, seed, candidate) / RESULT
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


def read_predictions(out: Path, variant: str, seed: int) -> Tensor:
    """The class that a finished trial's network gave to every test image."""
    return load_file(trial_folder(out, variant, seed) / f"{PREDICTIONS}.safetensors")[PREDICTIONS]


def _save_checkpoint(model: nn.Module, path: Path) -> None:
    tensors: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    _save_whole(tensors, path, {"plan": plan_of(model).to_json()})


def _save_whole(tensors: dict[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, about)
    temporary.replace(path)
