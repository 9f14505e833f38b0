"""Hosts by name: timm's, torchvision's, our own, a function in a user's file."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from saccade._checks import check_options, nearest
from saccade._specs import parse_spec
from saccade.errors import UsageError
from saccade.nets.cifar_resnet import CifarResNet
from saccade.nets.mnasnet import mnasnet_a1
from saccade.nets.networks import NETWORKS
from saccade.nets.residual_attention import ResidualAttentionNet
from saccade.nets.wide_resnet import WideResNet

NETS: dict[str, Callable[..., nn.Module]] = {
    "cifar_resnet": CifarResNet,
    "wide_resnet": WideResNet,
    "mnasnet_a1": mnasnet_a1,
    "residual_attention": ResidualAttentionNet,
}
LIBRARIES = ("timm", "torchvision", "saccade")
NUMBERS = itertools.count()  # of the files that were run: a second run of one is another module


@dataclass(frozen=True)
class Host:
    """A network by name: its library (``"file"`` for a function in a file), its name there, what it is built with."""

    library: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Host:
        """Read ``resnet18``, ``timm:resnet18``, ``torchvision:resnet18``, ``saccade:cifar_resnet`` or
        ``path/to/file.py:function``, each with or without options such as ``(depth=20)``."""
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"`model` (={text!r}) must be {FORMS}")
        named, bracket, rest = text.partition("(")
        try:
            options = parse_spec(f"options({rest}", "model").options if bracket else {}
        except UsageError:  # it speaks of what was put together here, and the user wrote something else
            raise UsageError(f"`model` (={text!r}) must be {FORMS}") from None
        library, colon, name = named.rpartition(":")
        if library.endswith(".py"):
            return cls("file", named, options)
        if colon and (library not in LIBRARIES or not name):
            raise UsageError(f"`model` (={text!r}) must be {FORMS}{nearest(library, LIBRARIES)}")
        return cls(library or "timm", name, options)

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        name = self.name if self.library == "file" else f"{self.library}:{self.name}"
        return f"{name}({options})" if options else name

    def sized(self, image_size: int | None) -> Host:
        """A paper's network for images of that side, unless its options say one; any other host as it is."""
        if image_size is None or self.library != "saccade" or self.name not in NETWORKS:
            return self
        return replace(self, options={"image_size": image_size} | self.options)

    def fingerprint(self) -> str | None:
        """Of the file that a host comes from; None where it comes from a library."""
        if self.library != "file":
            return None
        return hashlib.sha256(_file_of(self).read_bytes()).hexdigest()[:16]

    def build(self, *, pretrained: bool = False) -> nn.Module:
        """The network.

        Raises:
            UsageError: an unknown name, with the nearest; an option that the network does not take.
        """
        make = {"timm": _timm, "torchvision": _torchvision, "saccade": _saccade, "file": _from_file}[self.library]
        return make(self, pretrained)


FORMS = (
    "a timm name (resnet18), torchvision:NAME, saccade:NAME or path/to/file.py:function, with options as in (depth=20)"
)


def _timm(host: Host, pretrained: bool) -> nn.Module:
    import timm

    if not timm.is_model(host.name):
        known = timm.list_models()
        raise UsageError(f"`model` (={host.name!r}) is no model of timm {timm.__version__}{nearest(host.name, known)}")
    return _called(host, timm.create_model, host.name, pretrained=pretrained)


def _torchvision(host: Host, pretrained: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models()
    if host.name not in known:
        raise UsageError(f"`model` (={host.name!r}) is no model of torchvision{nearest(host.name, known)}")
    takes = inspect.signature(models.get_model_builder(host.name)).parameters
    backbone = {"weights_backbone": None} if "weights_backbone" in takes else {}
    if not pretrained:
        return _called(host, models.get_model, host.name, weights=None, **backbone)
    # torchvision gives weights only with the classes that they were trained on.
    classes = host.options.get("num_classes")
    options = {name: value for name, value in host.options.items() if name != "num_classes"}
    model = _called(replace(host, options=options), models.get_model, host.name, weights="DEFAULT", **backbone)
    trained = len(models.get_model_weights(host.name)["DEFAULT"].meta["categories"])
    return model if classes in (None, trained) else _with_classes(host, model, trained, classes)


def _with_classes(host: Host, model: nn.Module, trained: int, classes: int) -> nn.Module:
    """The network with new layers where it gives one number for each of the ``trained`` classes."""
    heads = [
        (path, layer)
        for path, layer in model.named_modules()
        if (isinstance(layer, nn.Linear) and layer.out_features == trained)
        or (isinstance(layer, nn.Conv2d) and layer.out_channels == trained)
    ]
    if not heads:
        raise UsageError(
            f"`model` (={str(host)!r}): no layer of it gives {trained} classes, so that its head cannot be replaced by "
            f"one of {classes}; build and train it yourself, or without pretrained weights"
        )
    for path, layer in heads:
        if isinstance(layer, nn.Linear):
            head = nn.Linear(layer.in_features, classes, layer.bias is not None)
        else:
            given = (layer.in_channels, classes, layer.kernel_size, layer.stride, layer.padding)
            head = nn.Conv2d(*given, bias=layer.bias is not None)  # pyright: ignore[reportArgumentType]
        model.set_submodule(path, head)
    return model


def _saccade(host: Host, pretrained: bool) -> nn.Module:
    if host.name not in (*NETS, *NETWORKS):
        raise UsageError(
            f"`model` (={str(host)!r}) is no network of ours{nearest(host.name, [*NETS, *NETWORKS])}; there are "
            f"{', '.join(NETS)}, and what saccade list --networks prints"
        )
    if host.name in NETWORKS:
        from saccade.nets.create import create_model  # which builds its hosts by their names

        return create_model(host.name, pretrained_host=pretrained, **host.options)
    if pretrained:
        raise UsageError(f"`pretrained` (=True): there are no weights of {host}")
    net = NETS[host.name]
    options = dict(host.options)
    depth = {"depth": options.pop("depth")} if "depth" in options else {}
    check_options(host.name, net, options)
    return net(**depth, **options)


def _from_file(host: Host, pretrained: bool) -> nn.Module:
    path, function = _file_of(host), host.name.rpartition(":")[2]
    with _on_path(path.resolve().parent):
        made_by = _run(path)
        make = made_by.get(function)
        if not callable(make):
            hint = nearest(function, [name for name, value in made_by.items() if callable(value)])
            raise UsageError(f"`model` (={host.name!r}): {path} has no function {function!r}{hint}")
        model = _called(host, make, **({"pretrained": True} if pretrained else {}))
    if not isinstance(model, nn.Module):
        raise UsageError(f"`model` (={host.name!r}) must give an nn.Module; it gave {type(model).__name__}")
    return model


def _file_of(host: Host) -> Path:
    path = Path(host.name.rpartition(":")[0])
    if not path.is_file():
        raise UsageError(f"`model` (={host.name!r}): there is no file {path}")
    return path


@contextlib.contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """What lies in the folder can be imported, as when Python runs a file there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have changed the path itself
            sys.path.remove(str(folder))


def _run(path: Path) -> dict[str, Any]:
    """What a file defines. It runs under a module name of its own, by which dataclasses and pickle find it."""
    name = f"_saccade_host_{next(NUMBERS)}_{path.stem}"
    spec: Any = importlib.util.spec_from_file_location(name, path)  # never None where a name ends in .py
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return vars(module)


def _called(host: Host, make: Any, *args: Any, **given: Any) -> Any:
    try:
        return make(*args, **given, **host.options)
    except TypeError as error:
        raise UsageError(f"`model` (={str(host)!r}) cannot be built: {error}") from error
