"""Switchable excitation: the attention alone, or the authors' whole bottleneck with it."""

from __future__ import annotations

import torch

import saccade
from parity.adapted import Adapted
from saccade.attention.eca import eca_kernel_size
from saccade.attention.sem import OPERATORS, SwitchableExcitation
from saccade.errors import UsageError
from saccade.nets import Bottleneck

NAMES = {
    "switch_fc.weight": "decision.weight",
    "switch_fc.bias": "decision.bias",
    "fc1.weight": "operators.fc.fc1.weight",
    "fc1.bias": "operators.fc.fc1.bias",
    "fc2.weight": "operators.fc.fc2.weight",
    "fc2.bias": "operators.fc.fc2.bias",
    "conv.weight": "operators.cnn.conv.weight",
    "w1": "operators.ie.gamma",
    "b1": "operators.ie.beta",
}


def of_authors(
    *,
    C: int | None = None,  # noqa: N803  the file's own key
    hidden: int | None = None,
    k: int | None = None,
    switch_num: int = 3,
    inplanes: int | None = None,
    planes: int | None = None,
) -> Adapted:
    """The attention alone (``C``), or the authors' whole bottleneck (``planes``): our block with sem put at its bn3."""
    if switch_num != len(OPERATORS):
        raise UsageError(f"`switch_num` (={switch_num}) must be {len(OPERATORS)}, the number of sem's operators")
    channels = C if planes is None else planes * Bottleneck.expansion
    if channels is None or C not in (None, channels):
        raise UsageError(f"a sem file must give `C` (={C}) or `planes` (={planes}), C being 4 planes")
    if k is not None and k != eca_kernel_size(channels):
        raise UsageError(f"`k` (={k}) must be {eca_kernel_size(channels)} for {channels} channels")
    width = hidden or max(1, round(channels / 16))
    if planes is not None:
        return _bottleneck(inplanes, planes, width)
    return Adapted(SwitchableExcitation(channels, width=width), NAMES)


def _bottleneck(inplanes: int | None, planes: int, width: int) -> Adapted:
    channels = planes * Bottleneck.expansion
    if inplanes != channels:
        raise UsageError(f"`inplanes` (={inplanes}) must be {channels}: a block without a projection")
    options = {"width": width}
    example = torch.zeros(1, channels, 8, 8)
    block = Bottleneck(channels, planes, stride=1)
    names = {name: name for name in block.state_dict()}
    block = saccade.augment(block, "sem", at="bn3", start="paper", options=options, example_input=example)
    return Adapted(block, names | {theirs: f"bn3.saccade.sem.attention.{ours}" for theirs, ours in NAMES.items()})


ADAPTERS = {("sem", "Qrange-group/SEM", "models/sem.py"): of_authors}
