"""What our networks for small images share: three stages, a head, and the names that timm's networks give these."""

# B batch, C channels, H W the map

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saccade._checks import check_int
from saccade.errors import UsageError

# Of CIFAR-10's training images, in units of 0..1.
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Classifier(nn.Module, ABC):
    """A network of stages ``layer1`` to ``layer3`` with global average pooling and a linear layer ``fc`` behind them.

    A network builds its layers and then calls ``_finish``; it has a ``forward_features`` of its own, and in ``config``
    what builds it again, but for the classes.
    """

    def _finish(self, channels: Sequence[int], in_channels: int, num_classes: int, *, stride: int = 1) -> None:
        """Add the head and initialise. ``channels`` are those of the stages, ``stride`` that of the first one's map."""
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_features = channels[-1]
        self.reset_classifier(num_classes)
        self.feature_info = [
            {"module": f"layer{number}", "num_chs": width, "reduction": stride * 2 ** (number - 1)}
            for number, width in enumerate(channels, 1)
        ]
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": (in_channels, 32, 32),
            "num_classes": num_classes,
            "first_conv": "conv1",
            "classifier": "fc",
            # Without them timm takes ImageNet's.
            "mean": MEAN if in_channels == 3 else (0.5,) * in_channels,
            "std": DEVIATION if in_channels == 3 else (0.5,) * in_channels,
        }
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new last layer in the place of ``fc``; of 0 classes, one that gives the pooled features."""
        check_int("num_classes", num_classes, at_least=0)
        like = next(self.parameters())
        self.num_classes = num_classes
        self.fc = (
            nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        )
        self.fc.train(self.training)

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """The last map: (B, in_channels, H, W) -> (B, C, H', W')."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From the last map: (B, C, H', W') -> (B, num_classes), or with ``pre_logits`` the pooled features, (B, C)."""
        x = torch.flatten(self.avgpool(x), 1)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def per_stage(depth: int, each: int, beside: int, rule: str) -> int:
    """n of a network of ``each * n + beside`` layers, as its ``rule`` says."""
    check_int("depth", depth)
    count = max(1, round((depth - beside) / each))
    if depth != each * count + beside:
        raise UsageError(f"`depth` (={depth}) must be {rule}; depth={each * count + beside} is nearest")
    return count
