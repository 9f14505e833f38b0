"""Mechanisms and maps for tests: random in every parameter and statistic, so that no zero hides a fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import saccade


def randomise(module: nn.Module, seed: int = 1) -> nn.Module:
    """Give every parameter and every running statistic a random value; variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module


def build(name: str, channels: int, **options: Any) -> nn.Module:
    """A mechanism of the catalogue with random parameters, in eval mode."""
    return randomise(saccade.create_attention(name, channels, **options)).eval()


def maps(*shape: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
