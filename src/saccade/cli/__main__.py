"""``python -m saccade.cli``."""

from saccade.cli import main

if __name__ == "__main__":
    main()
