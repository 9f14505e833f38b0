"""Gather-Excite: timm's module, and the layers of the authors' Caffe networks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from parity.adapted import Adapted, Fault, layer_names
from saccade.attention.ge import GatherExcite
from saccade.errors import UsageError


def of_timm(
    *,
    channels: int,
    feat_size: int | list[int] | None = None,
    extra_params: bool = False,
    extent: int = 0,
    use_mlp: bool = True,
    rd_channels: int | None = None,
) -> Adapted:
    # timm's own default is a sixteenth, rounded to the nearest integer.
    width = rd_channels or max(1, int(channels / 16 + 0.5))
    module = GatherExcite(
        channels,
        gather="depthwise" if extra_params else "mean",
        excite="mlp" if use_mlp else "none",
        extent=extent or None,
        width=width,
        feature_size=_pair(feat_size),
        mlp_relu=False,
    )
    # A convolution, a norm and (but after the last) a ReLU for each step.
    steps = extent.bit_length() - 1 if extent else 1
    gather = {f"gather.{3 * i + j}": f"gather.{part}{i + 1}" for i in range(steps) for j, part in enumerate(_PARTS)}
    return Adapted(module, layer_names(gather | {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}, module))


_PARTS = ("conv", "norm")


def of_theta(*, channels: int, feat_size: list[int], kind: str = "GEP", reduction: int | None = None) -> Adapted:
    """No excite, so that ``reduction`` changes nothing."""
    if kind != "GEP":
        raise UsageError(f"`kind` (={kind!r}) must be 'GEP', the network of this file")
    return _official(channels, feat_size, "none", reduction)


def of_theta_plus(*, channels: int, feat_size: list[int], kind: str = "GEPP", reduction: int | None = None) -> Adapted:
    if kind != "GEPP":
        raise UsageError(f"`kind` (={kind!r}) must be 'GEPP', the network of this file")
    return _official(channels, feat_size, "mlp", reduction)


def _official(channels: int, feat_size: list[int], excite: str, reduction: int | None) -> Adapted:
    size = _pair(feat_size)
    module = GatherExcite(
        channels, gather="depthwise", excite=excite, reduction=16 if reduction is None else reduction, feature_size=size
    )
    theirs = {"gather.0": "gather", "gather.1": "gather_bn", "fc1": "down", "fc2": "up"}
    return Adapted(module, layer_names(theirs, module))


def _pair(size: int | list[int] | None) -> int | tuple[int, int] | None:
    return (size[0], size[1]) if isinstance(size, list) else size


def padded(module: GatherExcite, x: Tensor) -> Tensor:
    """Our module with a padded gather: a value for every position, each from a map shifted to it."""
    conv, norm = module.gather
    padding = tuple((size - 1) // 2 for size in conv.kernel_size)
    gathered = norm(F.conv2d(x, conv.weight, padding=padding, groups=module.channels))
    return x * F.interpolate(module.excited(gathered), size=x.shape[-2:])


TIMM = ("ge", "huggingface/pytorch-image-models (timm wheel)", "timm/layers/gather_excite.py")

ADAPTERS = {
    TIMM: of_timm,
    ("ge", "hujie-frank/GENet", "models/RN50-GEP.prototxt"): of_theta,
    ("ge", "hujie-frank/GENet", "models/RN50-GEPP.prototxt"): of_theta_plus,
}
FAULTS = {
    TIMM: Fault(
        "the depthwise gather of global extent pads the map, so that it does not gather to one value",
        # The distance on the stored file is 2.0, on values up to 2.9.
        distance=0.3,
        reproduce=padded,
    ),
}
