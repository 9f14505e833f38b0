"""Augmented networks in files: safetensors with the plan beside the weights. No file can run code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade._api import apply_plan, plan_of
from saccade._files import whole
from saccade.errors import DataError, UsageError
from saccade.nets.hosts import Host
from saccade.nets.recognise import recognise
from saccade.surgery import Plan, set_aside, unwrapped

SCHEMA = "saccade.model/1"
# What a file may say of its host: libraries, and of each the options that recognise writes.
OPTIONS = {
    "timm": {"num_classes", "in_chans"},
    "torchvision": {"num_classes"},
    "saccade": {
        "depth",
        "block",
        "widths",
        "stem_stride",
        "width",
        "drop_rate",
        "drop_path_rate",
        "widen",
        "shortcut",
        "dropout",
        "in_channels",
        "num_classes",
    },
}
SIZES = {"num_classes", "in_chans"}


def save(model: nn.Module, path: str | Path) -> None:
    """Write an augmented network, or a plain one: weights, the plan of its edits, and the name of its host.

    The weights are all of them: also those of a convolution in whose place an augmented one stands, which
    :func:`saccade.strip` puts back. The file is safetensors; it is written to a temporary name and renamed.

    Args:
        model: any network. A host of timm, torchvision or saccade is named in the file, if the library builds the same
            by that name; :func:`load` asks for any other.
        path: of the file.

    Raises:
        UsageError: an edit that something removed; a folder as ``path``.
        DataError: a place that cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    model = unwrapped(model)
    host = recognise(model)
    about = {
        "schema": SCHEMA,
        "plan": json.loads(plan_of(model).to_json()),
        "host": None if host is None else {"library": host.library, "name": host.name, "options": host.options},
    }
    path = Path(path)
    if not path.name or path.is_dir():
        raise UsageError(f"`path` (={str(path)!r}) must name a file; it is a folder")
    try:
        with whole(path, by=f".{os.getpid()}") as file:  # all processes of a distributed training may save
            save_file(_contents(model), str(file), metadata={"saccade": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def load(path: str | Path, host: nn.Module | str | None = None, *, example_input: Any = None) -> nn.Module:
    """Read a network that :func:`save` wrote: the host, its attention, all weights in their types.

    What requires no gradient and other states of a training are not in the file.

    Args:
        path: of the file.
        host: the plain host, or its name (``"torchvision:resnet18"``); needed where the file names none. A module is
            copied, not changed.
        example_input: as of :func:`saccade.augment`, for a host that takes no image of the usual size.

    Raises:
        DataError: no such file, or one of another format or schema.
        UsageError: a host that the file does not name, or one to which plan or weights do not fit.
    """
    from safetensors.torch import load_file

    path = Path(path)
    about = _about(path)
    if host is None:
        if about["host"] is None:
            raise UsageError(
                f"{path} does not name its host, since no library builds it by name; give it: "
                "saccade.load(path, host=model)"
            )
        host = _named_host(about["host"], path)
    elif isinstance(host, str):
        host = Host.parse(host).build()
    try:
        plan = Plan.from_json(json.dumps(about["plan"]))
    except UsageError as error:
        raise DataError(f"{path}: {error}") from error
    model = apply_plan(host, plan, example_input=example_input)
    _fill(model, load_file(str(path)), path)
    return model


def _named_host(named: Any, path: Path) -> nn.Module:
    """The host that a file names: of a library, by what :func:`save` writes. Never a file of code."""
    fits = (
        isinstance(named, dict)
        and named.keys() == {"library", "name", "options"}
        and isinstance(named["library"], str)
        and named["library"] in OPTIONS
        and isinstance(named["name"], str)
        and isinstance(named["options"], dict)
    )
    if not fits or not set(named["options"]) <= OPTIONS[named["library"]]:
        raise DataError(f"{path} names its host in a way that saccade.save does not: {named!r}")
    for option in SIZES & named["options"].keys():
        value = named["options"][option]
        if type(value) is not int or value < 0:
            raise DataError(
                f"{path} names its host with `{option}` (={value!r}), which must be an integer of at least 0"
            )
    host = Host(**named)
    try:
        return host.build()
    except Exception as error:  # a library fails in its own way at what it cannot build
        raise DataError(
            f"{path} names as its host {host}, which cannot be built here: {error}; if you have that network, "
            "saccade.load(path, host=model)"
        ) from error


def _state(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a file by name: the network's, then those of the host's modules that others stand in for."""
    aside = {
        f"{path}.{name}": tensor
        for path, module in set_aside(model).items()
        for name, tensor in module.state_dict(keep_vars=True).items()
    }
    return {**model.state_dict(keep_vars=True), **aside}


def _contents(model: nn.Module) -> dict[str, Tensor]:
    """What is written: each tensor once, under its first name, and in memory of its own, as safetensors needs it."""
    named = _state(model)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in named.items()
        if first[id(tensor)] == name
    }


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load the tensors of a file; of a tensor that stands in several places, one is enough."""
    own = _state(model)
    there = {id(own[name]) for name in state if name in own}
    missing = [name for name, tensor in own.items() if id(tensor) not in there]
    unknown = [name for name in state if name not in own]
    other = [name for name in state if name in own and own[name].shape != state[name].shape]
    if wrong := (missing or unknown or other):
        what = "lacks" if missing else "has, and the network has not," if unknown else "has of another shape"
        raise UsageError(f"the weights of {path} do not fit this host: the file {what} {', '.join(wrong[:5])}")
    for name, tensor in state.items():
        own[name].data = own[name].data.to(tensor.dtype)
        own[name].data.copy_(tensor)


def _about(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DataError(f"{path} is no safetensors file: {error}") from error
    try:
        about = json.loads(metadata.get("saccade", "null"))
    except json.JSONDecodeError:
        about = None
    if not isinstance(about, dict) or about.get("schema") != SCHEMA or not {"plan", "host"} <= about.keys():
        raise DataError(f"{path} was not written by saccade.save: it has no description of schema {SCHEMA!r}")
    return about
