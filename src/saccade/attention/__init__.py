"""The mechanisms: one file each, pure functions first, then a thin module, its paper as data."""
