"""The command line: parsing and printing, nothing else. Commands load what they need when they run."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``saccade``. A user's mistake is one message and exit status 2, a training that failed one and status 1;
    anything else unforeseen is a traceback."""
    from saccade.cli.commands import app
    from saccade.errors import SaccadeError, TrialError

    try:
        app()
    except SaccadeError as error:
        print(f"saccade: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, TrialError) else 2)
