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

from parity.adapted import Adapted
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
    def own_error(self) -> float | None:
        """How far the reference's float32 run is from its float64 run, relative to 1 + the largest value; None where it
        ran in float32 alone."""
        stated = self.metadata["fp32_vs_fp64_rel_dev"]
        return None if stated == "n/a" else float(stated)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it: ``part("grad.")`` are the gradients by parameter."""
        return {key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)}


def read(path: Path) -> Reference:
    with safe_open(path, "pt") as file:
        return Reference(path.stem, {key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118


def load(reference: Reference, adapted: Adapted) -> None:
    """Copy the reference's state into our module, every tensor of either into one place of the other.

    Raises:
        UsageError: a name of the reference or a value of ours that is left over, or a shape that is another one.
    """
    given = {**reference.part("param."), **reference.part("buffer.")}
    if mapped := {*adapted.names, *adapted.constants} ^ set(given):
        raise UsageError(f"{reference.name}: names {sorted(mapped)} are not mapped, or not in the file")
    ours = _tensors(adapted.module)
    written = {name: torch.zeros_like(tensor, dtype=torch.int64) for name, tensor in ours.items()}
    with torch.no_grad():
        for name in adapted.names:
            for slot in adapted.slots(name):
                place = slot.of(ours[slot.name])
                place.copy_(_shaped(slot.permute(given[name]), place, name))
                slot.of(written[slot.name]).add_(1)
    if wrong := [name for name, count in written.items() if not (count == 1).all()]:
        raise UsageError(f"{reference.name}: our {wrong} are not covered one to one")


def mismatches(reference: Reference, adapted: Adapted, dtype: torch.dtype = torch.float64) -> list[str]:
    """Run a loaded module in eval and in train mode; one line for every tensor that differs from the reference's.

    In float64 that proves the mathematics, in float32 that ours is as exact as the reference's own float32 run. Every
    tensor of the file must have been used, else that is a line, too.
    """
    comparison = _Comparison(reference, adapted, dtype)
    comparison.run("eval")
    comparison.run("train")
    comparison.buffers()
    return comparison.found + [f"{key}: nothing of ours was compared with it" for key in comparison.unread]


class _Comparison:
    """What of a file has not been read yet, and what was found to differ."""

    def __init__(self, reference: Reference, adapted: Adapted, dtype: torch.dtype) -> None:
        self.reference, self.adapted, self.dtype = reference, adapted, dtype
        self.module = adapted.module.to(dtype)
        self.unread = {k: t for k, t in reference.tensors.items() if not k.startswith(("param.", "buffer."))}
        self.input, self.cotangent = (self.unread.pop(key).to(dtype) for key in ("input", "grad_out"))
        self.found: list[str] = []

    def run(self, mode: str) -> None:
        """Outputs and gradients in a mode."""
        suffix = "_eval" if mode == "eval" else ""
        self.module.train(mode == "train")
        self.module.zero_grad(set_to_none=True)
        if mode == "eval":
            for name, output in self.adapted.aux.items():
                self.compare(f"aux_eval.{name}", output(self.input).detach())
        leaf = self.input.clone().requires_grad_()
        out = self.module(leaf)
        self.compare(f"output_{mode}", out)
        if mode == "eval" and "grad_input_eval" not in self.unread:
            return  # The file gives gradients in eval mode only where they are other ones; in train mode it must.
        out.backward(self.cotangent)
        self.compare(f"grad_input{suffix}", leaf.grad)
        for name in self.reference.part("param."):
            self.compare_parts(f"grad{suffix}.{name}", name, {k: p.grad for k, p in self.module.named_parameters()})

    def buffers(self) -> None:
        """The buffers that one forward in train mode has left."""
        ours = _tensors(self.module)
        for name in self.reference.part("buffer_after_train."):
            if name in self.adapted.constants:
                self.unread.pop(f"buffer_after_train.{name}")
            else:
                self.compare_parts(f"buffer_after_train.{name}", name, ours)

    def compare(self, key: str, ours: Tensor | None) -> None:
        theirs = self.unread.pop(key)
        if line := _difference(ours, theirs, self.tolerance(key)):
            self.found.append(f"{key}: {line}")

    def compare_parts(self, key: str, name: str, ours: Mapping[str, Tensor | None]) -> None:
        """A reference's tensor, or its gradient, with all the places that it has in ours."""
        theirs = self.unread.pop(key)
        for slot in self.adapted.slots(name):
            mine = ours[slot.name]
            part = None if mine is None else slot.of(mine)
            if line := _difference(part, slot.permute(theirs), self.tolerance(key)):
                self.found.append(f"{key}: {line}")

    def tolerance(self, key: str) -> dict[str, float]:
        """How near two right computations of a tensor are."""
        own = self.reference.own_error
        if own is None:
            return {"rtol": 1e-4, "atol": 1e-5}  # The reference itself ran in float32.
        if self.dtype == torch.float64:
            return {"rtol": 1e-5, "atol": 1e-6}  # The reference ran in float64; its file rounds to float32.
        # Two float32 evaluations in another order differ by a few times what the reference's own differs from float64,
        # which the file states relative to 1 + the largest value. A gradient that is zero by mathematics is what
        # rounding leaves of the others: gradients are measured by the largest of them.
        tensors, gradients = self.reference.tensors, ("grad.", "grad_eval.", "grad_input")
        alike = [name for name in tensors if name.startswith(gradients)] if key.startswith(gradients) else [key]
        largest = max(tensors[name].abs().max().item() for name in alike)
        return {"rtol": 1e-4, "atol": max(1e-5, 4 * own * (1 + largest))}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _difference(ours: Tensor | None, theirs: Tensor, close: Mapping[str, float]) -> str:
    """What differs, or nothing."""
    if ours is None:
        return "ours is missing"
    theirs = _shaped(theirs, ours, "result").to(ours.dtype)
    if torch.allclose(ours, theirs, **close):
        return ""
    error = (ours - theirs).abs().max().item()
    return f"largest difference {error:.2g}, largest value {theirs.abs().max().item():.2g}, atol {close['atol']:.2g}"


def _shaped(tensor: Tensor, like: Tensor, name: str) -> Tensor:
    """The tensor in the shape of another; only axes of size 1 may come or go."""
    if [n for n in tensor.shape if n != 1] != [n for n in like.shape if n != 1]:
        raise UsageError(f"{name!r} has shape {tuple(tensor.shape)}; ours has {tuple(like.shape)}")
    return tensor.reshape(like.shape)
