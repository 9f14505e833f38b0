"""Checkpoints of a run: written whole or not at all, read without running code."""

from __future__ import annotations

import csv
import io
import json
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from saccade._files import whole
from saccade.errors import DataError, UsageError

LOG = logging.getLogger("saccade")
SCHEMA = "saccade.checkpoint/1"
LAST, BEST, METRICS = "last.ckpt", "best.ckpt", "metrics.csv"
MOST_NAMED, MOST_SHOWN = 3, 60  # differences between two runs, characters of each
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
        self.last = folder / LAST
        self.about = about
        self.every = every
        self.best = -1.0
        self.rows: list[dict[str, Any]] = []
        self._interrupted = False
        self._handler: Any = None

    @contextmanager
    def claimed(self, trainer: Trainer) -> Iterator[Path | None]:
        """Keep the folder for this run while it lasts; gives the checkpoint to go on from.

        Raises:
            DataError: a checkpoint that cannot be read.
            UsageError: a folder that holds another run, or in which another process is training.
        """
        self.about = self.about | {"processes": trainer.world_size}
        lock = FileLock(self.folder / ".lock", blocking=False)
        try:
            if trainer.is_global_zero:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock.acquire()
        except Timeout:
            raise UsageError(f"`out` (={str(self.folder)!r}): another process trains there; choose another") from None
        try:
            if self.last.exists():
                self._check_same(read_checkpoint(self.last)["saccade"])
                yield self.last
            else:
                yield None
        finally:
            lock.release()

    def _check_same(self, there: dict[str, Any]) -> None:
        now = {"schema": SCHEMA, **self.about}
        was, versions = {**there}, there.get("versions")
        if was.pop("versions", None) != now.pop("versions", None):
            LOG.warning("%s was written with %s: it may not end as it would have there", self.last, versions)
        if differs := list(differences(was, json.loads(json.dumps(now)))):
            raise UsageError(
                f"`out` (={str(self.folder)!r}) holds another run: {'; '.join(differs[:MOST_NAMED])}; choose another "
                "folder, or go on with what it was begun with"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.rows = state_dict["best"], state_dict["rows"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["saccade"] = {"schema": SCHEMA, **self.about}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and "recipe" in self.about:
            write_whole(self.folder / "recipe.json", (json.dumps(self.about["recipe"], indent=2) + "\n").encode())
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
        # The best first: a run that is killed between the two does the epoch again, and writes it again.
        if better:
            self._save(trainer, pl_module, BEST)
        self._save(trainer, pl_module, LAST)
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


def differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """Where two descriptions of a run are not the same, as ``optim.lr is 0.1 there, 0.05 here``."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            yield from differences(there.get(key), here.get(key), f"{path}.{key}".removeprefix("."))
    elif there != here:
        was, now = (text if len(text) < MOST_SHOWN else f"{text[:MOST_SHOWN]}..." for text in map(repr, (there, here)))
        yield f"{path} is {was} there, {now} here"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is never half there.

    Raises:
        DataError: no room, or a folder that cannot be written.
    """
    try:
        with whole(path) as file:
            file.write_bytes(content)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error}; what was there before is whole. Make room or choose another folder, "
            "and run the same command again"
        ) from error


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
