"""The one BatchNorm that mechanisms use inside themselves."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that also trains on a single value per channel (batch 1 on a 1 x 1 map).

    One value has no variance, so that step is normalised by the running statistics, which it leaves as they are.
    Everywhere else this is ``torch.nn.BatchNorm2d``.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)
