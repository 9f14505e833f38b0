"""What ``saccade compare`` does with its options."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import yaml

import saccade
from saccade._checks import nearest
from saccade.cli.progress import make_progress
from saccade.cli.tables import print_comparison
from saccade.errors import UsageError


def run_comparison(given: dict[str, Any], typed: set[str], config: Path | None) -> int:
    """Run a comparison and print it; the exit status.

    Args:
        given: every option, with its default where it was not typed.
        typed: the names of those that were.
        config: a file of options; what was typed wins.
    """
    asked: dict[str, Any] = given | {"seeds": read_seeds(given["seeds"])}
    if config is not None:
        asked |= {name: value for name, value in read_config(config).items() if name not in typed}
    progress = make_progress()
    try:
        with progress:
            comparison = saccade.compare(**asked, on_setting=progress.on_setting, on_event=progress.on_event)
    except KeyboardInterrupt:
        print(f"\nstopped; {progress.saved}", file=sys.stderr)
        return 130
    print_comparison(comparison.results, comparison.report)
    return 1 if comparison.results.failed else 0


def read_config(path: Path) -> dict[str, Any]:
    """The arguments of a comparison from a YAML file, of which JSON is a kind; nothing in it is run.

    Raises:
        UsageError: a file that cannot be read, or a name that is no argument, with the nearest.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"`config` (={str(path)!r}) cannot be read: {error}") from None
    known = [name for name in inspect.signature(saccade.compare).parameters if not name.startswith("on_")]
    if not isinstance(content, dict):
        raise UsageError(f"`config` (={str(path)!r}) must hold names and values, such as `epochs: 6`")
    if unknown := [name for name in content if name not in known]:
        raise UsageError(
            f"`config` (={str(path)!r}): there is no {unknown[0]!r}{nearest(str(unknown[0]), known)}; "
            f"there are {', '.join(known)}"
        )
    return content


def read_seeds(text: str) -> int | list[int]:
    """``5`` is a count, ``0,3`` and ``7,`` are seeds."""
    try:
        numbers = [int(part) for part in text.split(",") if part]
    except ValueError:
        raise UsageError(f"`seeds` (={text!r}) is neither a count nor numbers separated by commas") from None
    return numbers if "," in text or not numbers else numbers[0]
