"""A golden file, and the comparison of one of our modules with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from saccade.errors import UsageError


@dataclass(frozen=True)
class Reference:
    """What a reference implementation computed, and with which settings."""

    name: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def source(self) -> tuple[str, str, str]:
        return self.metadata["module"], self.metadata["repo"], self.metadata["path"]

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.metadata["config"])

    @property
    def is_wrong(self) -> bool:
        """Whether the file documents a fault of its reference, as its metadata says."""
        return self.metadata["parity_target"].startswith("no")

    @property
    def own_error(self) -> float:
        """How far the reference's float32 run is from its float64 run, relative to 1 + the largest value."""
        stated = self.metadata["fp32_vs_fp64_rel_dev"]
        return 0.0 if stated == "n/a" else float(stated)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it: ``part("grad.")`` are the gradients by parameter."""
        return {key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


def read(path: Path) -> Reference:
    with safe_open(path, "pt") as file:
        return Reference(path.stem, {key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118


def load(reference: Reference, module: nn.Module, names: Mapping[str, str]) -> None:
    """Copy the reference's state into our module; ``names`` maps every reference name to one of ours, one to one.

    Raises:
        UsageError: a name of the reference or a tensor of ours that is left over, or a shape that is another one.
    """
    given = {**reference.part("param."), **reference.part("buffer.")}
    ours = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    if set(names) != set(given):
        raise UsageError(
            f"{reference.name}: names {sorted(set(names) ^ set(given))} are not mapped, or not in the file"
        )
    if sorted(names.values()) != sorted(ours):
        raise UsageError(f"{reference.name}: our {sorted(set(names.values()) ^ set(ours))} are not covered one to one")
    with torch.no_grad():
        for name, tensor in given.items():
            ours[names[name]].copy_(_shaped(tensor, ours[names[name]], name))


def mismatches(reference: Reference, module: nn.Module, names: Mapping[str, str]) -> list[str]:
    """Run a loaded module in eval and in train mode; one line for every tensor that differs from the reference's.

    Every tensor of the file must have been used, else that is a line, too.
    """
    unread = {key: t for key, t in reference.tensors.items() if not key.startswith(("param.", "buffer."))}
    found: list[str] = []

    def compare(key: str, ours: Tensor | None) -> None:
        theirs = unread.pop(key)
        if line := _difference(ours, theirs, reference.own_error):
            found.append(f"{key}: {line}")

    x, cotangent = unread.pop("input"), unread.pop("grad_out")
    for mode in ("eval", "train"):
        module.train(mode == "train")
        module.zero_grad(set_to_none=True)
        leaf = x.clone().requires_grad_()
        out = module(leaf)
        compare(f"output_{mode}", out)
        suffix = "_eval" if mode == "eval" else ""
        if mode == "eval" and "grad_input_eval" not in unread:
            continue  # The file gives gradients in eval mode only where they are other ones; in train mode it must.
        out.backward(cotangent)
        compare(f"grad_input{suffix}", leaf.grad)
        parameters = dict(module.named_parameters())
        for name in reference.part("param."):
            compare(f"grad{suffix}.{name}", parameters[names[name]].grad)
    buffers = dict(module.named_buffers())
    for name in reference.part("buffer_after_train."):
        compare(f"buffer_after_train.{name}", buffers[names[name]])
    return found + [f"{key}: nothing of ours was compared with it" for key in unread]


def _difference(ours: Tensor | None, theirs: Tensor, own_error: float) -> str:
    """What differs, or nothing."""
    if ours is None:
        return "ours is missing"
    theirs = _shaped(theirs, ours, "result").to(ours.dtype)
    # Two float32 evaluations in another order differ by a few times what one of them differs from float64.
    atol = max(1e-5, 4 * own_error)
    if torch.allclose(ours, theirs, rtol=1e-4, atol=atol):
        return ""
    error = (ours - theirs).abs().max().item()
    return f"largest difference {error:.2g}, largest value {theirs.abs().max().item():.2g}, atol {atol:.2g}"


def _shaped(tensor: Tensor, like: Tensor, name: str) -> Tensor:
    """The tensor in the shape of another; only axes of size 1 may come or go."""
    if [n for n in tensor.shape if n != 1] != [n for n in like.shape if n != 1]:
        raise UsageError(f"{name!r} has shape {tuple(tensor.shape)}; ours has {tuple(like.shape)}")
    return tensor.reshape(like.shape)
