"""The papers' networks by name."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from saccade._api import augment
from saccade._checks import check_choice, check_int, keyword_options, nearest
from saccade._specs import parse_spec
from saccade.attention.catalog import mechanism
from saccade.errors import UsageError
from saccade.nets.build import build_for
from saccade.nets.hosts import NETS, Host
from saccade.nets.networks import NETWORKS, Network

# What timm and our other functions call what has another name here.
OTHER_NAMES = {"pretrained": "pretrained_host", "in_chans": "in_channels"}
# How timm and we tell that a host does not take an option.
REFUSED = re.compile(r"(?:no option|unexpected keyword argument) '(\w+)'")


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
        num_classes: outputs; 1000 by default for networks of ImageNet, 100 for those of CIFAR; 0 for the pooled
            features.
        in_channels: of the images.
        image_size: the side of the images, for mechanisms that have a size (the relative tables of ``aaconv`` and
            ``bot``); by default that of the paper's data, 224 or 32. Other sizes run all the same.
        pretrained_host: the host with its library's weights.
        start: ``"paper"``, or ``"identity"``: the network computes what its host does, until it is trained. By default
            the paper's form, with a pretrained host the identity.
        stages: ``"deepest:N"``: of the network's places only those with the N smallest sizes of map, as the AAConv
            paper goes from the deepest stage outwards while memory lasts; by default all.
        **options: of the mechanism, instead of the network's: ``create_model("aa_resnet50", kappa=0.5, upsilon=0.5)``;
            what the mechanism does not have goes to the host: ``create_model("aa_resnet50", drop_path_rate=0.1)``.

    Raises:
        UsageError: an unknown name, with the nearest; an option that neither the mechanism nor the host has; weights
            that the host's library does not have.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        hint = nearest(str(name).lower(), NETWORKS)
        raise UsageError(f"`name` (={name!r}) is no network of ours{hint}; saccade list --networks shows them")
    for other in OTHER_NAMES.keys() & options.keys():
        right, value = OTHER_NAMES[other], options[other]
        raise UsageError(f"`{other}` (={value!r}) has another name here: create_model({name!r}, {right}={value!r})")
    network = NETWORKS[name]
    side = network.image_size if image_size is None else image_size
    classes = network.num_classes if num_classes is None else num_classes
    check_int("image_size", side, at_least=8)
    check_int("in_channels", in_channels)
    check_int("num_classes", classes, at_least=0)
    start = ("identity" if pretrained_host else "paper") if start is None else start
    check_choice("start", start, ("paper", "identity"))
    specs = {place: parse_spec(text, "attention") for place, text in network.attention.items()}
    known = {option for spec in specs.values() for option in keyword_options(mechanism(spec.name))}
    own = {option: value for option, value in options.items() if option in known}
    others = {option: value for option, value in options.items() if option not in known}
    host = _host(name, network, others, in_channels=in_channels, num_classes=classes, pretrained=pretrained_host)
    if not specs:
        if stages is not None:
            raise UsageError(f"`stages` (={stages!r}) cannot be taken: {name} has no attention of ours at sites")
        return host
    places = {place: str(replace(spec, options=spec.options | own)) for place, spec in specs.items()}
    image = torch.zeros(1, in_channels, side, side)
    return augment(host, at=places, start=start, stages=stages, example_input=image, inplace=True)


def list_networks() -> list[str]:
    """The names that :func:`create_model` takes."""
    return list(NETWORKS)


def _host(name: str, network: Network, options: dict[str, Any], *, pretrained: bool, **sizes: int) -> nn.Module:
    host = Host.parse(network.host)
    if pretrained and not _has_weights(host):
        raise UsageError(
            f"`pretrained_host` (=True): there are no weights of {host}, the host of {name}; leave it out, and the "
            "network is trained from its initialisation"
        )
    try:
        return build_for(replace(host, options=host.options | options), pretrained=pretrained, **sizes)
    except UsageError as error:
        refused = REFUSED.search(str(error))
        if refused is None or refused[1] not in options:
            raise
        raise UsageError(_without(name, network, host, refused[1])) from error


def _has_weights(host: Host) -> bool:
    import timm

    return host.library == "timm" and timm.is_model_pretrained(host.name)


def _without(name: str, network: Network, host: Host, option: str) -> str:
    """That neither the mechanism nor the host has an option."""
    with torch.device("meta"):
        net = NETS[host.name] if host.library == "saccade" else type(host.build())
    taken = [each for each in inspect.signature(net).parameters if each not in ("in_channels", "num_classes")]
    told = f"its host {host} does not take it"
    if host.library == "saccade":
        told += f": the host's are {', '.join(taken)}"
    if not network.attention:
        return f"{name} has no attention, and so no option {option!r}{nearest(option, taken)}, and {told}"
    names = dict.fromkeys(parse_spec(text, "attention").name for text in network.attention.values())
    known = {each: list(keyword_options(mechanism(each))) for each in names}
    hint = nearest(option, [*(each for options in known.values() for each in options), *taken])
    listed = "; ".join(f"{each}'s options are {', '.join(options) or 'none'}" for each, options in known.items())
    return f"{name} has no option {option!r}{hint}: {listed}, and {told}"
