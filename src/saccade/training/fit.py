"""Train a classifier. The loop is Lightning's; this is what goes into it."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._seeds import derive_seed
from saccade.data import ImageData, TrainBatches
from saccade.errors import TrialError
from saccade.training.evaluate import accuracy
from saccade.training.settings import TrainSettings


@dataclass(frozen=True)
class Epoch:
    """What is known of an epoch at its end."""

    epoch: int
    train_loss: float
    val_accuracy: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit(
    model: nn.Module,
    data: ImageData,
    settings: TrainSettings,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> None:
    """Train ``model`` in place on the training images.

    Batches depend on ``seed`` and the epoch alone; what a step draws (dropout) on ``seed`` and the step. ``on_epoch``
    is told of every epoch, with the accuracy on the validation images.

    Raises:
        TrialError: the loss is no longer a number.
    """
    batches = TrainBatches(data, settings.batch_size, seed)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # Lightning's own announcements of the machine are not for the reader of a comparison.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=settings.epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        # Lightning's own use of a name that torch renames; nothing that a user could change.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        trainer.fit(_Classifier(model, data, settings, seed, on_epoch), train_dataloaders=batches)


class _Classifier(LightningModule):
    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        settings: TrainSettings,
        seed: int,
        on_epoch: Callable[[Epoch], None] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.settings = settings
        self.seed = seed
        self.on_epoch = on_epoch
        self._losses: list[Tensor] = []
        self._started = 0.0

    def configure_optimizers(self) -> Any:
        settings = self.settings
        optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_cosine(steps, settings.warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self._losses = []
        self._started = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_number: int) -> Tensor:
        torch.manual_seed(derive_seed(self.seed, "step", self.global_step))
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        self._losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        seconds = time.perf_counter() - self._started
        loss = torch.stack(self._losses).mean().item()
        if not math.isfinite(loss):
            raise TrialError(f"the training loss became {loss} in epoch {self.current_epoch + 1}")
        if self.on_epoch is not None:
            self.on_epoch(Epoch(self.current_epoch + 1, loss, accuracy(self.model, self.data, "val"), seconds))


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """The learning rate's factor at a step: a rise over the first share ``warmup`` of the steps, then half a cosine."""
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
