"""What happens in a step and at the end of an epoch. The loop is Lightning's."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._api import host_parameters
from saccade._seeds import derive_seed
from saccade.data import ImageData, TrainBatches
from saccade.data.augment import mix_of
from saccade.errors import TrialError, UsageError
from saccade.surgery import host_modules, replaced_by
from saccade.training.average import Average
from saccade.training.evaluate import Evaluation, count_right, logits
from saccade.training.optim import make_factor, make_optimiser
from saccade.training.settings import TrainSettings

LOG = logging.getLogger("saccade")
CHECK_EVERY = 100  # steps; to look at a loss makes a GPU wait


@dataclass(frozen=True)
class Epoch:
    """What is known of an epoch at its end."""

    epoch: int
    train_loss: float
    val_accuracy: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Learner(LightningModule):
    """A classifier with its settings and its batches.

    What a step draws (dropout, mixup) is f(seed, epoch, batch), so that nothing needs to be kept of a generator.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        settings: TrainSettings,
        seed: int,
        *,
        workers: int = 0,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.settings = settings
        self.seed = seed
        self.workers = workers
        self.on_epoch = on_epoch
        self.on_batch = on_batch
        self.average = None if settings.ema is None else Average(model, settings.ema)
        self.last: Epoch | None = None
        self._factor: Callable[[int], float] = lambda step: 1.0
        self._losses: list[Tensor] = []
        self._started = time.perf_counter()
        self.doing = ""  # something else than training
        self.evaluation: Evaluation | None = None
        self._host = _all_but_classifier(model, len(data.classes)) if settings.attention_first else []
        self._mix = mix_of(settings.augment, len(data.classes))

    @property
    def evaluated(self) -> nn.Module:
        """The network that counts: the average of the weights, if one is kept."""
        return self.model if self.average is None else self.average.module

    @property
    def place(self) -> str:
        """Where the training is, for messages: epoch, batch, step, learning rate."""
        return self.doing or self._place_of(len(self._losses))

    def setup(self, stage: str) -> None:
        # Made here, where the process knows which of how many it is.
        self.batches = TrainBatches(
            self.data, self.settings.batch_size, self.seed, self.settings.augment,
            workers=self.workers, rank=self.trainer.global_rank, world=self.trainer.world_size,
        )  # fmt: skip

    def train_dataloader(self) -> TrainBatches:
        return self.batches

    def configure_optimizers(self) -> Any:
        optimiser = make_optimiser(self.model, self.settings.optim)
        # Not the trainer's estimate: to ask for it makes the loader before a checkpoint's state can reach it.
        self._factor = make_factor(self.settings.schedule, self.settings.epochs * self._steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        self._set_modes()  # a run that goes on within an epoch does not begin one
        self._losses = [loss.to(self.device) for loss in self._losses]  # read from a checkpoint on the CPU
        self._started = time.perf_counter()

    def on_train_epoch_start(self) -> None:
        self._losses = []
        self._started = time.perf_counter()
        self._set_modes()

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        done = self.current_epoch * len(self.batches) + number
        # Several processes see other images, and draw other numbers.
        _seed_step(derive_seed(self.seed, "step", done, *filter(None, [self.trainer.global_rank])), self.device)
        images, labels = batch
        if self._mix is not None:
            images, labels = self._mix(images, labels)
        loss = F.cross_entropy(self.model(images), labels, label_smoothing=self.settings.augment.smoothing)
        self._losses.append(loss.detach())
        return loss * self._weight(number)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._attention_alone:
            # Not frozen: which parameters have a gradient is fixed once by distributed training.
            for parameter in self._host:
                parameter.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            # Here, before any callback can save: a checkpoint holds the average of its own step.
            self.average.update(self.model)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % CHECK_EVERY == 0:
            self._losses = list(self.checked_losses())
        if self.on_batch is not None and self.trainer.is_global_zero:
            batches = len(self.batches)
            self.on_batch(self.current_epoch * batches + batch_idx + 1, self.settings.epochs * batches)

    def on_train_epoch_end(self) -> None:
        loss = self.checked_losses().mean().item()
        seconds = time.perf_counter() - self._started
        self.last = Epoch(self.current_epoch + 1, loss, self._val_accuracy(), seconds)
        if self.batches.skipped:
            LOG.warning(
                "%d images of epoch %d are left out: they cannot be read", self.batches.skipped, self.last.epoch
            )
            self.batches.skipped = 0
        if self.on_epoch is not None and self.trainer.is_global_zero:
            self.on_epoch(self.last)

    def checked_losses(self) -> Tensor:
        """The losses of the epoch so far, of several processes their means.

        Raises:
            TrialError: a loss that was no number, with step and learning rate; the same one in every process.
        """
        losses = torch.stack(self._losses).float() if self._losses else torch.zeros(0, device=self.device)
        losses = torch.as_tensor(self.trainer.strategy.reduce(losses, reduce_op="mean"))
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            number = int(bad[0])
            raise TrialError(f"the training loss became {losses[number].item()} in {self._place_of(number)}")
        return losses

    def check_weights(self) -> None:
        """That a checkpoint would be of use: a loss can be the last finite one.

        Raises:
            TrialError: a weight that is no number.
        """
        bad = next((name for name, value in self.model.named_parameters() if not bool(value.isfinite().all())), None)
        if bad is not None:
            raise TrialError(
                f"the weights {bad!r} became infinite or no numbers in {self._place_of(len(self._losses) - 1)}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = self.checked_losses()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._losses = list(checkpoint["losses"])

    def _place_of(self, batch: int) -> str:
        batch = max(0, batch)
        step = self.current_epoch * self._steps + batch // self.settings.accumulate
        factor = self._factor(step)
        groups = self.trainer.optimizers[0].param_groups if self.trainer.optimizers else []
        rates = ", ".join(dict.fromkeys(f"{group['initial_lr'] * factor:.3g}" for group in groups))
        return f"epoch {self.current_epoch + 1}, batch {batch + 1} (step {step + 1}, learning rate {rates})"

    def _val_accuracy(self) -> float:
        """Each process takes its share of the images, with the statistics that the first one has seen."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if world > 1:
            for buffer in self.evaluated.buffers():
                torch.distributed.broadcast(buffer, 0)
        self.doing = f"the validation after epoch {self.current_epoch + 1}"
        with self.trainer.precision_plugin.val_step_context():
            given, labels = logits(
                self.evaluated, self.data, "val", batch_size=self.settings.batch_size, workers=self.workers,
                rank=rank, world=world,
            )  # fmt: skip
        self.doing = ""
        counted = torch.tensor(count_right(given, labels), device=self.device)
        right, images = torch.as_tensor(self.trainer.strategy.reduce(counted, reduce_op="sum")).tolist()
        return right / images

    @property
    def _steps(self) -> int:
        """Of the optimiser, in an epoch."""
        return math.ceil(len(self.batches) / self.settings.accumulate)

    def _weight(self, batch: int) -> float:
        """Lightning divides by ``accumulate``; the last step of an epoch may have fewer batches than that."""
        rest = len(self.batches) % self.settings.accumulate
        return self.settings.accumulate / rest if batch >= len(self.batches) - rest else 1.0

    @property
    def _attention_alone(self) -> bool:
        return self.current_epoch < self.settings.attention_first

    def _set_modes(self) -> None:
        self.model.train()
        if self._attention_alone:
            for module in host_modules(self.model).values():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and replaced_by(module) is None:
                    module.training = False  # alone: attention that it holds goes on learning


def _seed_step(seed: int, device: torch.device) -> None:
    """torch.manual_seed, without the half millisecond that it takes to prepare devices that are not in use."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _all_but_classifier(model: nn.Module, classes: int) -> list[nn.Parameter]:
    """The host's parameters but those of its last layer with as many outputs as there are classes."""
    host = {id(parameter): parameter for parameter in host_parameters(model)}
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    layers = [layer for layer in layers if layer.weight.shape[0] == classes and id(layer.weight) in host]
    if not layers:
        raise UsageError(
            f"`attention_first`: {type(model).__name__} has no layer with {classes} outputs, so that its classifier, "
            "which learns with attention, is not known; set attention_first=0"
        )
    for parameter in layers[-1].parameters():
        del host[id(parameter)]
    return list(host.values())
