"""Train a classifier: what goes into Lightning's loop, on this machine or many."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from torch import nn

from saccade.data import ImageData
from saccade.errors import TrialError, UsageError
from saccade.training.checkpoints import AtomicIO, Saver
from saccade.training.evaluate import evaluate
from saccade.training.learner import Epoch, Learner
from saccade.training.settings import TrainSettings

CPU_MEMORY = "DefaultCPUAllocator"  # of the message of PyTorch's CPU allocator, an ordinary RuntimeError


@dataclass(frozen=True)
class Machine:
    """On what a run runs. ``workers`` and loggers change no number; the rest does, by rounding at least."""

    accelerator: str = "auto"
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
    test: bool = False,
) -> Learner:
    """Train ``model`` in place on the training images.

    Batches depend on ``seed`` and the epoch alone; what a step draws (dropout) on ``seed`` and the step. ``on_epoch``
    is told of every epoch, with the accuracy on the validation images; ``on_batch`` how many of how many batches are
    done. With ``test``, the first process evaluates the network on the test images at the end.

    Returns:
        The learner: its ``evaluated`` is the network that counts, its ``evaluation`` what it does on the test images.

    Raises:
        TrialError: the loss is no longer a number; memory ran out.
        DataError: a checkpoint or an image that cannot be read, a folder that cannot be written.
        UsageError: what the machine cannot do; a folder that holds another run, or one that is under way.
        KeyboardInterrupt: as it says; what was done is saved.
    """
    machine = machine or Machine()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    # Lightning's own announcements of the machine are not for the reader of a comparison.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    learner = Learner(model, data, settings, seed, workers=machine.workers, on_epoch=on_epoch, on_batch=on_batch)
    if machine.compile:
        model.compile()
    saver = None if folder is None else Saver(folder.path, folder.about | _numbers_of(machine), folder.save_every)
    trainer = make_trainer(settings, machine, saver)
    with warnings.catch_warnings(), ExitStack() as stack:
        resumed = None if saver is None else stack.enter_context(saver.claimed(trainer))
        stack.enter_context(_told(learner, trainer, saver))
        # Lightning's own use of a name that torch renames; nothing that a user could change.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        # Whether to use more workers is measured, not guessed from the number of cores.
        warnings.filterwarnings("ignore", r".*does not have many workers.*", UserWarning)
        trainer.fit(learner, ckpt_path=resumed, weights_only=True)
        if test and trainer.is_global_zero:
            learner.to(trainer.strategy.root_device)  # Lightning ends on the CPU
            learner.doing = "the evaluation on the test images"
            learner.evaluation = evaluate(
                learner.evaluated, data, "test", batch_size=settings.batch_size, workers=machine.workers
            )
    return learner


def _numbers_of(machine: Machine) -> dict[str, Any]:
    """What of the machine decides numbers, beside how many processes there are."""
    return {
        "compile": machine.compile,
        "sync_batchnorm": machine.sync_batchnorm,
        "versions": {name: version(name) for name in ("saccade", "torch", "lightning")},
    }


@contextmanager
def _told(learner: Learner, trainer: Trainer, saver: Saver | None) -> Iterator[None]:
    """What can go wrong, in one message that says what to do."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except TrialError as error:
        kept = f"; {saver.last} is the last good checkpoint" if saver is not None and saver.last.exists() else ""
        another = "" if saver is None else ", in another folder"
        raise TrialError(f"{error}; a lower optim.lr or a longer schedule.warmup may help{another}{kept}") from error
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


def make_trainer(settings: TrainSettings, machine: Machine, saver: Saver | None) -> Trainer:
    """Lightning's trainer for these settings on this machine; with a saver it keeps checkpoints."""
    # A run goes on from its last checkpoint alone; Lightning would look for one of Slurm's in the working folder.
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    try:
        trainer = Trainer(
            default_root_dir=os.devnull,
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
            callbacks=[] if saver is None else [saver],
            plugins=[AtomicIO(), *slurm],
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=saver is not None,
            num_sanity_val_steps=0,
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise UsageError(f"Lightning cannot run this: {error}") from error
    started = int(os.environ["WORLD_SIZE"]) if TorchElasticEnvironment.detect() else trainer.world_size
    if started != trainer.world_size:
        raise UsageError(
            f"`devices` (={machine.devices}) x `num_nodes` (={machine.num_nodes}) is {trainer.world_size}, but "
            f"torchrun has started {started} processes, which would each train alone; give --devices and --num-nodes "
            "what torchrun has as --nproc-per-node and --nnodes"
        )
    if machine.sync_batchnorm and isinstance(trainer.accelerator, CPUAccelerator):
        raise UsageError("`sync_batchnorm` (=True) needs GPUs: PyTorch has no synchronised BatchNorm on the CPU")
    return trainer
