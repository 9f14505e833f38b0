"""The papers' networks by name, here and in timm."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import nn

from saccade._api import augment
from saccade._checks import check_choice, check_int, nearest
from saccade._specs import Spec, parse_spec
from saccade.attention.catalog import check_mechanism
from saccade.errors import UsageError
from saccade.nets.build import build_model
from saccade.nets.networks import NETWORKS, Network


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
    pretrained_host: bool = False,
    start: str | None = None,
    stages: str | None = None,
    **options: Any,
) -> nn.Module:
    """A network of a paper, such as ``aa_resnet50``; ``saccade list --networks`` shows them with the papers' figures.

    Args:
        name: of the network.
        num_classes: outputs; 1000 by default for networks of ImageNet, 100 for those of CIFAR.
        in_channels: of the images.
        image_size: the side of the images, for mechanisms that have a size (the relative tables of ``aaconv`` and
            ``bot``); by default that of the paper's data, 224 or 32. Other sizes run all the same.
        pretrained_host: the host with its library's weights.
        start: ``"paper"``, or ``"identity"``: the network computes what its host does, until it is trained. By default
            the paper's form, with a pretrained host the identity.
        stages: ``"deepest:N"``: of the network's places only those with the N smallest sizes of map, as the AAConv
            paper goes from the deepest stage outwards while memory lasts; by default all.
        **options: of the mechanism, instead of the network's: ``create_model("aa_resnet50", kappa=0.5, upsilon=0.5)``.

    Raises:
        UsageError: an unknown name, with the nearest; an option that the mechanism does not have.
    """
    if name not in NETWORKS:
        raise UsageError(f"`name` (={name!r}) is no network of ours{nearest(str(name), NETWORKS)}")
    network = NETWORKS[name]
    side = network.image_size if image_size is None else image_size
    check_int("image_size", side, at_least=8)
    start = ("identity" if pretrained_host else "paper") if start is None else start
    check_choice("start", start, ("paper", "identity"))
    places = _places(name, network, options)
    classes = network.num_classes if num_classes is None else num_classes
    host = build_model(network.host, in_channels=in_channels, num_classes=classes, pretrained=pretrained_host)
    if not places:
        if stages is not None:
            raise UsageError(f"`stages` (={stages!r}) cannot be taken: {name} has no attention of ours at sites")
        return host
    image = torch.zeros(1, in_channels, side, side)
    return augment(host, at=places, start=start, stages=stages, example_input=image, inplace=True)


def list_networks() -> list[str]:
    """The names that :func:`create_model` takes."""
    return list(NETWORKS)


def _places(name: str, network: Network, options: dict[str, Any]) -> dict[str, str]:
    if options and not network.attention:
        raise UsageError(f"{name} has no attention, and so no option {next(iter(options))!r}")
    places = {}
    for place, text in network.attention.items():
        spec = parse_spec(text, "attention")
        changed = Spec(spec.name, spec.options | options)
        check_mechanism(changed.name, changed.options)
        places[place] = str(changed)
    return places


def register_networks() -> None:
    """Make the networks known to ``timm.create_model``, under the same names, once timm is there."""
    if "timm" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Registers as soon as somebody has imported timm: to import it for that takes seconds, and few need it."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                _register()

            spec.loader.exec_module = load_and_register
        return spec


def _register() -> None:
    from timm.models import register_model

    for name in NETWORKS:
        register_model(_entry(name))


def _entry(name: str) -> Any:
    """A function as timm calls it."""

    def make(
        pretrained: bool = False,
        *,
        num_classes: int | None = None,
        in_chans: int = 3,
        features_only: bool = False,
        out_indices: tuple[int, ...] | None = None,
        **options: Any,
    ) -> nn.Module:
        if pretrained:
            raise UsageError(f"there are no trained weights of {name}; pretrained_host=True gives the host its own")
        options = {key: value for key, value in options.items() if not key.startswith(("pretrained_cfg", "cache_dir"))}
        model = create_model(name, num_classes=num_classes, in_channels=in_chans, **options)
        return _features(model, out_indices) if features_only else model

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"saccade.create_model({name!r})"
    return make


def _features(model: nn.Module, out_indices: tuple[int, ...] | None) -> nn.Module:
    """The maps of the stages, as timm's networks give them."""
    from timm.models._features import FeatureHookNet

    indices = out_indices or tuple(range(len(model.feature_info)))  # pyright: ignore[reportArgumentType]
    return FeatureHookNet(model, out_indices=indices)
