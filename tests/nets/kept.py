"""Weights of torchvision without its downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models


def kept(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Random weights where torchvision looks for those that it has downloaded before."""
    monkeypatch.setenv("TORCH_HOME", str(folder))
    url = models.get_model_weights(name)["DEFAULT"].url
    state = models.get_model(name, weights=None).state_dict()
    (folder / "hub/checkpoints").mkdir(parents=True)
    torch.save(state, folder / "hub/checkpoints" / Path(url).name)
    return state
