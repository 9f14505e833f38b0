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

from saccade._api import apply_plan, plan_of
from saccade._files import whole, write_text
from saccade._seeds import derive_seed
from saccade.comparison.record import Record, with_optim
from saccade.comparison.request import Request, Variant
from saccade.data import ImageData
from saccade.errors import DataError
from saccade.nets.places import add_attention
from saccade.surgery import Plan
from saccade.training import TrainSettings, predict
from saccade.training.build import as_the_weights_know, build_host

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
    """The network of a trial before training; ``model`` is the host where it is another than the request's."""
    host = build_host(model or request.model, data, seed, pretrained=request.pretrained)
    image = torch.zeros(1, *data.shape)
    if variant.plan is not None:
        return apply_plan(host, Plan.from_json(variant.plan), example_input=image, inplace=True)
    if variant.attention is None:
        return host
    return add_attention(
        host,
        variant.attention,
        at=variant.at,
        options=variant.options,
        start=variant.start or "paper",
        example_input=image,
        inplace=True,
    )


def trial_folder(out: Path, trial: Trial) -> Path:
    """Where a trial lives. A name with options becomes a plain file name, made unique by a hash."""
    plain = re.sub(r"[^A-Za-z0-9.=_-]+", "_", trial.variant).strip("_.")
    if plain != trial.variant:
        plain += f"-{derive_seed(trial.variant):016x}"[:9]
    if trial.candidate is None:
        return out / "trials" / f"{plain}-{trial.seed}"
    return out / "tuning" / f"{plain}-{trial.candidate}"


def run_trial(
    record: Record, trial: Trial, data: ImageData, out: Path, on_epoch: Callable[[dict[str, Any]], None]
) -> float:
    """Train, write the checkpoint, read it back and score it on the test images. The result is written last.

    A try of the tuning leaves no checkpoint, and its score is that of the last epoch on the validation images.
    """
    from saccade.training.fit import Epoch, Machine, fit

    request, variant, seed = record.asked, record.asked.variant(trial.variant), trial.seed
    folder = trial_folder(out, trial)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    model = build_variant(request, variant, data, seed, record.model(variant))
    data = as_the_weights_know(request.model, model, data) if request.pretrained else data
    settings = record.settings(variant)
    if trial.candidate is not None:
        settings = candidates(request)[trial.candidate]
    epochs: list[dict[str, Any]] = []

    def note(epoch: Epoch) -> None:
        epochs.append(epoch.as_dict())
        write_text(folder / METRICS, "".join(json.dumps(entry) + "\n" for entry in epochs))
        on_epoch(epochs[-1])

    fit(model, data, settings, seed, note, machine=Machine(accelerator="cpu"))
    if trial.candidate is None:
        _save_checkpoint(model, folder / CHECKPOINT)
        model.load_state_dict(load_file(folder / CHECKPOINT))
        named = predict(model, data, "test")
        with whole(folder / f"{PREDICTIONS}.safetensors") as file:
            save_file({PREDICTIONS: named.to(torch.int32)}, file)
        score = float((named == data.test.labels).double().mean())
    else:
        score = epochs[-1]["val_accuracy"]
    result = {"schema": SCHEMA, "variant": variant.name, "seed": seed, "score": score}
    write_text(folder / RESULT, json.dumps(result) + "\n")
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


def read_result(out: Path, trial: Trial) -> float | None:
    """The score of a trial, or None where it is not finished."""
    path = trial_folder(out, trial) / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_bytes())
    except ValueError:
        result = None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise DataError(f"{path} is not a result of schema {SCHEMA!r}; remove it, and its trial is run again")
    return result["score"]


def read_metrics(out: Path, trial: Trial) -> list[dict[str, Any]]:
    """What was recorded of every epoch of a trial."""
    path = trial_folder(out, trial) / METRICS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def read_predictions(out: Path, trial: Trial) -> Tensor:
    """The class that a finished trial's network gave to every test image."""
    return load_file(trial_folder(out, trial) / f"{PREDICTIONS}.safetensors")[PREDICTIONS]


def _save_checkpoint(model: nn.Module, path: Path) -> None:
    tensors: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with whole(path) as file:
        save_file(tensors, file, {"plan": plan_of(model).to_json()})
