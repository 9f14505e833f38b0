"""Every mechanism of the catalogue goes into a network, in the paper's form and from the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import saccade
from saccade.errors import UsageError
from surgery.hosts import cifar, images

NO_IDENTITY_START = {"stn"}
# coordconv starts from the host's filters, with zeros for the coordinates; stn near the warp that moves nothing.
BEGINS_NEAR_THE_HOST = {"coordconv", "stn"}
NAMES = [name for name in saccade.list_attention() if saccade.describe(name).kind != "norm"]


def place(name: str) -> str:
    return "layer3.*.conv1" if saccade.describe(name).kind == "conv" else "layer3.*.bn2"


def augmented(host: nn.Module, name: str, start: str) -> nn.Module:
    return saccade.augment(host, name, at=place(name), start=start, example_input=images())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_IDENTITY_START])
def test_an_identity_start_computes_what_the_host_did(name: str) -> None:
    host = cifar()
    new = augmented(host, name, "identity")
    assert torch.equal(new(images()), host(images()))
    assert torch.equal(saccade.strip(new)(images()), host(images()))


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_form_runs_and_comes_off(name: str) -> None:
    host = cifar()
    new = augmented(host, name, "paper")
    assert new(images()).isfinite().all()
    sites = [module for module in new.modules() if isinstance(module, nn.Module) and hasattr(module, "paper")]
    assert sites
    if any(site.starts_as_identity for site in sites):
        assert torch.equal(new(images()), host(images()))
    elif name not in BEGINS_NEAR_THE_HOST:
        assert not torch.allclose(new(images()), host(images()), atol=1e-4)
    assert torch.equal(saccade.strip(new)(images()), host(images()))


def test_what_cannot_be_done_yet_says_so() -> None:
    with pytest.raises(UsageError, match="'iebn' takes a normalisation's place, which augment cannot do yet"):
        saccade.augment(cifar(), "iebn", at="*.bn2", example_input=images())
    with pytest.raises(UsageError, match="'stn' has no identity start yet; give start='paper'"):
        augmented(cifar(), "stn", "identity")
