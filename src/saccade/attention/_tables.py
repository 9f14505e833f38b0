"""Relative tables as parameters, and checkpoints whose tables are of another size."""

# L a length of the map, H or W; d depth of a key

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from saccade.ops import resize_relative_table


def relative_tables(feature_size: tuple[int, int], depth: int) -> tuple[nn.Parameter, nn.Parameter]:
    """The tables of vertical and horizontal offsets, (2L - 1, d), from N(0, 1/d)."""
    height, width = (nn.Parameter(torch.randn(2 * size - 1, depth) * depth**-0.5) for size in feature_size)
    return height, width


def resize_relative_tables(state: dict[str, Any], names: dict[str, Tensor]) -> None:
    """Bring the tables of a state to the size of those that they are to be loaded into, in place, and say so.

    ``names`` are the keys of the state with the tables of the model. A table of the same size stays as it is; one of
    another depth is left for ``load_state_dict`` to refuse.
    """
    for key, ours in names.items():
        theirs = state.get(key)
        if isinstance(theirs, Tensor) and theirs.shape[1:] == ours.shape[1:] and len(theirs) != len(ours):
            size = (len(ours) + 1) // 2
            state[key] = resize_relative_table(theirs, size)
            made_for = (len(theirs) + 1) // 2
            warnings.warn(
                f"{key} was made for a length of {made_for} and is read at {size} by resize_relative_table",
                stacklevel=2,
            )


class RelativeTables(nn.Module):
    """A module with ``rel_h`` and ``rel_w``, which loads a state of another feature size."""

    rel_h: nn.Parameter | None
    rel_w: nn.Parameter | None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        tables = {f"{prefix}rel_h": self.rel_h, f"{prefix}rel_w": self.rel_w}
        resize_relative_tables(state_dict, {key: table for key, table in tables.items() if table is not None})
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
