"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path, by: str = "") -> Iterator[Path]:
    """A temporary path to write to, which takes the place of ``path`` at the end: a reader sees the old or the new.

    What a killed process left is written over; ``by`` keeps apart those that write the same file at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{by}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file of text."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def is_temporary(path: Path) -> bool:
    """Whether a killed process may have left it."""
    return path.name.startswith(".") and path.name.endswith(".tmp")
