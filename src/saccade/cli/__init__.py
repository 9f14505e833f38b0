"""The command line: parsing and printing, nothing else. Commands load what they need when they run."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``saccade``. A user's mistake is one message and exit status 2; anything else unforeseen is a traceback."""
    from saccade.cli.commands import app
    from saccade.errors import SaccadeError

    try:
        app()
    except SaccadeError as error:
        print(f"saccade: {error}", file=sys.stderr)
        sys.exit(2)
