"""Checkpoints of a run: written whole or not at all, read without running code."""

from __future__ import annotations

import csv
import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from saccade.errors import DataError

SCHEMA = "saccade.checkpoint/1"
LAST, BEST, METRICS = "last.ckpt", "best.ckpt", "metrics.csv"
COLUMNS: tuple[str, ...] = ("epoch", "step", "lr", "train_loss", "val_accuracy")


class AtomicIO(TorchCheckpointIO):
    """Writes whole files only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())


class Saver(Checkpoint):
    """Keeps a run's folder: the last checkpoint, the best on validation, and a row of metrics for each epoch.

    Lightning calls it after all else that happens at a batch's or an epoch's end, so that what it saves is whole.
    Ctrl-C is heard there too: the step is finished and saved, then the run stops; a second one stops it at once.
    """

    def __init__(self, folder: Path, about: dict[str, Any], every: int | None = None) -> None:
        self.folder = folder
        self.about = about
        self.every = every
        self.best = -1.0
        self.rows: list[dict[str, Any]] = []
        self._interrupted = False
        self._handler: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.rows = state_dict["best"], state_dict["rows"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["saccade"] = {"schema": SCHEMA, **self.about}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Rows that a killed run wrote after its last checkpoint come again.
        self._write_rows(trainer)
        # Several processes would stop at different steps, and wait for each other.
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._hear)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A run that went on from an epoch's last batch would never see the epoch's end, which saves anyway.
        if trainer.is_last_batch or trainer.fit_loop._should_accumulate():
            return
        if self._interrupted or (self.every and trainer.global_step % self.every == 0):
            self._save(trainer, pl_module, LAST)
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        epoch = pl_module.last
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = (epoch.epoch, trainer.global_step, rate, epoch.train_loss, epoch.val_accuracy)
        self.rows.append(dict(zip(COLUMNS, row, strict=True)))
        for logger in trainer.loggers:
            logger.log_metrics(self.rows[-1], step=trainer.global_step)
        if better := epoch.val_accuracy > self.best:
            self.best = epoch.val_accuracy
        self._write_rows(trainer)
        self._save(trainer, pl_module, LAST)
        if better:
            self._save(trainer, pl_module, BEST)
        if self._interrupted:
            raise KeyboardInterrupt

    def _save(self, trainer: Trainer, learner: Any, name: str) -> None:
        learner.check_weights()
        trainer.save_checkpoint(self.folder / name)

    def _hear(self, number: int, frame: Any) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, self._handler)

    def _write_rows(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_whole(self.folder / METRICS, text.getvalue().encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never half there.

    Raises:
        DataError: no room, or a folder that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error}; what was there before is whole. Make room or choose another folder, "
            "and run the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that :class:`Saver` wrote.

    Raises:
        DataError: no such file, one that is cut short, or one of another program.
    """
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(f"{path} cannot be read as a checkpoint: {error}") from error
    about = content.get("saccade") if isinstance(content, dict) else None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise DataError(f"{path} is no checkpoint of saccade train: it has no description of schema {SCHEMA!r}")
    return content
