"""Mechanisms and maps for tests: random in every parameter and statistic, so that no zero hides a fault."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
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
            elif name.endswith(".u"):  # of a power iteration
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return module


def build(name: str, channels: int, **options: Any) -> nn.Module:
    """A mechanism of the catalogue with random parameters, in eval mode."""
    return randomise(saccade.create_attention(name, channels, **options)).eval()


def maps(*shape: int, seed: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Variant:
    """A mechanism with options, written as a call; by default the mechanism as it comes."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None  # of the only map that it takes

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.name}({given})" if given else self.name

    def build(self, channels: int) -> nn.Module:
        return build(self.name, channels, **self.options)

    def sizes(self, *sizes: tuple[int, int]) -> list[tuple[int, int]]:
        """Those of a test, or the one that this variant takes."""
        return list(sizes) if self.size is None else [self.size]


# Options that change the computation and not only a width. They fit any even number of channels from 4.
VARIANTS = [
    Variant("gam", {"groups": 2, "reduction": 2}),
    Variant("gam", {"pool": True}),
    Variant("gam", {"padding_mode": "replicate"}),
    Variant("bam", {"combine": "product", "norm_last": False}),
    Variant("cbam", {"spatial": "authors", "pools": ("avg", "max", "lp", "lse")}),
    Variant("ge", {"gather": "depthwise", "excite": "mlp", "extent": 4}),
    Variant("ge", {"gather": "depthwise", "feature_size": (7, 5)}, size=(7, 5)),
    Variant("ge", {"extent": 2}),
    Variant("gc", {"fuse": "add+mul"}),
    Variant("gc", {"pooling": "mean", "fuse": "mul"}),
    Variant("nonlocal", {"pairwise": "embedded_gaussian", "subsample": True, "subsample_input": True}),
    Variant("nonlocal", {"pairwise": "gaussian", "subsample": True}),
    Variant("nonlocal", {"pairwise": "dot_product", "subsample": True}),
    Variant("nonlocal", {"pairwise": "concatenation", "subsample": True, "norm": False}),
    Variant("sagan", {"value_reduction": 2, "pool": True, "spectral_norm": True}),
    Variant("sagan", {"value_reduction": None, "bias": True}),
    Variant("psa", {"layout": "sequential", "form": "authors"}),
    Variant("psa", {"layout": "parallel", "form": "authors"}),
    Variant("bot", {"kv_heads": 2, "positions": "absolute"}),
    Variant("bot", {"kv_heads": 1, "scale_positions": False, "feature_size": (7, 5)}),
    Variant("halo", {"block_size": 4, "halo_size": 1, "proj": True}),
    Variant("lambda", {"context": None, "feature_size": (7, 5), "intra_depth": 2}),
    Variant("sk", {"split_input": True}),
    Variant("aaconv", {"heads": 4, "dk": 8, "dv": 4, "kv_heads": 2, "downsample": 2}),
    Variant("stn", {"transform": "attention", "padding_mode": "reflection"}),
    Variant("stn", {"padding_mode": "border"}),
    Variant("residual_mask", {"activation": "spatial"}),
    Variant("residual_mask", {"activation": "channel", "depth": 2}),
    Variant("gala", {"form": "code"}),
    Variant("eca", {"shared": False}),
]
ALL = [*map(Variant, saccade.list_attention()), *VARIANTS]
every_variant = pytest.mark.parametrize("variant", ALL, ids=str)
