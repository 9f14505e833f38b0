"""Train a classifier: what goes into Lightning's loop, on this machine or many."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import nn

from saccade.data import ImageData
from saccade.errors import TrialError, UsageError
from saccade.training.checkpoints import LAST, AtomicIO, Saver, read_checkpoint
from saccade.training.learner import Epoch, Learner
from saccade.training.settings import TrainSettings

CPU_MEMORY = "DefaultCPUAllocator"  # of the message of PyTorch's CPU allocator, an ordinary RuntimeError


@dataclass(frozen=True)
class Machine:
    """On what a run runs. ``workers``, ``compile`` and loggers change no number by more than rounding."""

    accelerator: str = "cpu"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    sync_batchnorm: bool = False
    """BatchNorm over the batches of all processes (GPUs only)."""
    workers: int = 0
    """Processes that make batches ahead."""
    compile: bool = False
    loggers: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Folder:
    """Where a run keeps its checkpoints; one that is there already is gone on with."""

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint says of itself."""
    save_every: int | None = None
    """Steps between checkpoints within an epoch."""


def fit(
    model: nn.Module,
    data: ImageData,
    settings: TrainSettings,
    seed: int,
    on_epoch: Callable[[Epoch], None] | None = None,
    *,
    machine: Machine | None = None,
    folder: Folder | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Learner:
    """Train ``model`` in place on the training images.

    Batches depend on ``seed`` and the epoch alone; what a step draws (dropout) on ``seed`` and the step. ``on_epoch``
    is told of every epoch, with the accuracy on the validation images; ``on_batch`` how many of how many batches are
    done.

    Returns:
        The learner: its ``evaluated`` is the network that counts.

    Raises:
        TrialError: the loss is no longer a number; memory ran out.
        DataError: a checkpoint or an image that cannot be read, a folder that cannot be written.
        UsageError: what the machine cannot do.
        KeyboardInterrupt: as it says; what was done is saved.
    """
    machine = machine or Machine()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # Lightning's own announcements of the machine are not for the reader of a comparison.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    learner = Learner(model, data, settings, seed, workers=machine.workers, on_epoch=on_epoch, on_batch=on_batch)
    if machine.compile:
        model.compile()
    last = None if folder is None else folder.path / LAST
    resumed = last if last is not None and last.exists() else None
    if resumed is not None:
        read_checkpoint(resumed)
    trainer = _trainer(settings, machine, folder)
    with warnings.catch_warnings(), _told(learner, trainer, last):
        # Lightning's own use of a name that torch renames; nothing that a user could change.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        # Whether to use more workers is measured, not guessed from the number of cores.
        warnings.filterwarnings("ignore", r".*does not have many workers.*", UserWarning)
        trainer.fit(learner, ckpt_path=resumed, weights_only=True)
    return learner


@contextmanager
def _told(learner: Learner, trainer: Trainer, last: Path | None) -> Iterator[None]:
    """What can go wrong, in one message that says what to do."""
    kept = f"; {last} is the last good checkpoint" if last is not None else ""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except TrialError as error:
        raise TrialError(f"{error}; a lower optim.lr or a longer schedule.warmup may help{kept}") from error
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and CPU_MEMORY not in str(error):
            raise
        size, accumulate = learner.settings.batch_size, learner.settings.accumulate
        raise TrialError(
            f"out of memory in {learner.place}: lower batch_size (={size}), with accumulate={2 * accumulate} for the "
            f"same step, or image_size, or set precision=bf16-mixed; the system says: {str(error).splitlines()[0]}"
        ) from error
    except SystemExit:
        # Lightning ends the process where it is interrupted, deaf to a second time.
        if not trainer.interrupted:
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def _trainer(settings: TrainSettings, machine: Machine, folder: Folder | None) -> Trainer:
    try:
        return Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.num_nodes,
            strategy=machine.strategy,
            precision=settings.precision,
            max_epochs=settings.epochs,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip,
            logger=list(machine.loggers) or False,
            log_every_n_steps=1,
            callbacks=[] if folder is None else [Saver(folder.path, folder.about, folder.save_every)],
            plugins=[AtomicIO()],
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=folder is not None,
            num_sanity_val_steps=0,
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UsageError(f"Lightning cannot run this: {error}") from error
