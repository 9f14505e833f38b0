"""Controls: the host alone, given as much compute as the dearest variant takes. Is attention more?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from saccade.comparison.record import ControlSetting
from saccade.comparison.request import Request
from saccade.data import ImageData
from saccade.errors import UsageError
from saccade.nets import build_model
from saccade.nets.hosts import Host
from saccade.profiling.macs import count_macs
from saccade.report.results import Measured

# Options by which hosts are wider, with what they are by default: of ours, of torchvision's mobile networks, of its
# ResNets, of timm's.
WIDTHS = {"widths": (16, 32, 64), "width_mult": 1.0, "width_per_group": 64, "base_width": 64}
STEP, WIDEST = 1 / 16, 4.0


def settle(request: Request, data: ImageData, costs: Mapping[str, Measured]) -> dict[str, ControlSetting]:
    """What every control that was asked for is, from the step times measured before the first trial.

    The dearest variant's training step takes ``ratio`` times the baseline's: ``longer`` trains the baseline for that
    many times the epochs, rounded up; ``wider`` is the narrowest host with that many times the MACs.
    """
    steps = {each.name: step for each in request.variants if (step := costs[each.name].train_step_ms) is not None}
    baseline = request.variants[0].name
    base_macs = costs[baseline].macs
    assert base_macs is not None, "the baseline was measured"
    dearest = max(steps, key=lambda name: steps[name])
    ratio = max(1.0, steps[dearest] / steps[baseline])
    settings: dict[str, ControlSetting] = {}
    for control in request.controls:
        epochs, model = request.settings.epochs, request.model
        if control.control == "longer":
            epochs = math.ceil(round(epochs * ratio, 6))
        else:
            model = wider(model, data, ratio, base_macs)
        settings[control.name] = ControlSetting(model=model, epochs=epochs, dearest=dearest, ratio=ratio)
    return settings


def wider(model: str, data: ImageData, ratio: float, base: int) -> str:
    """The name of the narrowest host with at least ``ratio`` times the ``base`` MACs of ``model``.

    Raises:
        UsageError: a host without a width, or none that is wide enough.
    """
    host = Host.parse(model)
    option = next((option for option in WIDTHS if _widens(host, option, data, base)), None)
    if option is None:
        raise UsageError(
            f"`control` (='wider'): {model} has no width that is known ({', '.join(WIDTHS)}); use control='longer'"
        )
    factor = 1.0
    while factor <= WIDEST:
        name = _scaled(host, option, factor)
        if _macs(name, data) >= ratio * base:
            return name
        factor += STEP
    raise UsageError(f"`control` (='wider'): {model} would have to be over {WIDEST:g} times as wide; use 'longer'")


def _widens(host: Host, option: str, data: ImageData, base: int) -> bool:
    try:
        return _macs(_scaled(host, option, 2.0), data) > base
    except Exception:  # noqa: BLE001  libraries refuse an option in ways of their own
        return False


def _scaled(host: Host, option: str, factor: float) -> str:
    width = host.options.get(option, WIDTHS[option])
    if isinstance(width, (tuple, list)):
        scaled = tuple(round(each * factor) for each in width)
    else:
        scaled = width * factor if isinstance(width, float) else round(width * factor)
    return str(replace(host, options=host.options | {option: scaled}))


def _macs(model: str, data: ImageData) -> int:
    """Of one image, counted without numbers where the network can be built without."""
    try:
        return _counted(model, data, "meta")
    except Exception:  # noqa: BLE001  a constructor or forward that reads values fails on meta in any way
        return _counted(model, data, "cpu")


def _counted(model: str, data: ImageData, device: str) -> int:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        channels, side, _ = data.shape
        host = build_model(model, in_channels=channels, num_classes=len(data.classes), image_size=side)
        return count_macs(host, torch.zeros(1, *data.shape))
