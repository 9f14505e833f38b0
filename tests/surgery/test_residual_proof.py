"""Residual sites of real hosts against what needs none of our graph: torch.export's, and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.surgery import AttachedEdit, Edit, Site, Survey, apply_edits
from saccade.surgery.residual import residual_junctions
from surgery.hosts import settle


def added_in_export(model: nn.Module, x: Tensor) -> Counter[str]:
    """The modules in which torch.export sees sums of two maps of one shape, and how many."""
    program = torch.export.export(model, (x,), strict=False)
    data = set(program.graph_signature.user_inputs)
    found: Counter[str] = Counter()
    for node in program.graph.nodes:
        sources = [source for source in node.all_input_nodes if source.name in data]
        if not sources:
            continue
        data.add(node.name)
        if node.op == "call_function" and str(node.target).startswith(("aten.add.", "aten.add_.")):
            shapes = [source.meta["val"].shape for source in sources]
            if len(shapes) == 2 and shapes[0] == shapes[1] == node.meta["val"].shape and len(shapes[0]) == 4:
                *_, (path, _) = node.meta["nn_module_stack"].values()
                found[path.partition("@")[0]] += 1
    return found


def made(name: str) -> nn.Module:
    library, _, name = name.rpartition(":")
    model = torchvision.models.get_model(name, weights=None) if library else timm.create_model(name)
    return settle(model)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "rexnet_100", "torchvision:regnet_y_400mf"]
)
def test_torch_export_sees_the_same_sums_as_the_trace(name: str) -> None:
    """An independent way to a graph, with the names of modules of its own: the same additions in the same modules."""
    model, x = made(name), torch.zeros(1, 3, 64, 96)
    seen = Survey(model, x)
    values, calls = seen.graph.values, seen.graph.trace.calls
    junctions = Counter(calls[values[each.value].call].path for each in residual_junctions(seen.graph))
    exported = added_in_export(model, x)
    assert sum(junctions.values()) > 5
    # In these hosts every sum of two maps is a residual junction.
    assert junctions == exported


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0


def same(_block: Any, x: Tensor) -> Tensor:
    return x


SHORTCUTS: dict[str, tuple[type[nn.Module], Callable[[Any, Tensor], Tensor]]] = {
    "resnet18": (
        timm.models.resnet.BasicBlock,
        lambda block, x: block.act2(x if block.downsample is None else block.downsample(x)),
    ),
    "mobilenetv3_small_100": (timm.models._efficientnet_blocks.InvertedResidual, same),
    "convnext_atto": (timm.models.convnext.ConvNeXtBlock, same),
    "rexnet_100": (
        timm.models.rexnet.LinearBottleneck,
        lambda block, x: F.pad(x, (0, 0, 0, 0, 0, block.out_channels - x.shape[1])),
    ),
    "torchvision:regnet_y_400mf": (
        torchvision.models.regnet.ResBottleneckBlock,
        lambda block, x: F.relu(x if block.proj is None else block.proj(x)),
    ),
    "torchvision:convnext_tiny": (torchvision.models.convnext.CNBlock, same),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_block_without_its_residual_site_is_its_shortcut(name: str) -> None:
    """What no graph is needed for: with the site's map times zero, every block computes exactly its shortcut."""
    cls, shortcut = SHORTCUTS[name]
    model = made(name)
    blocks = {path: module for path, module in model.named_modules() if isinstance(module, cls)}
    host = Survey(model, torch.zeros(1, 3, 64, 64))
    sites = {site.path: site for site in host.sites if site.kind == "residual"}
    owners = {path: next(block for block in blocks if path.startswith(f"{block}.")) for path in sites}
    assert len(set(owners.values())) == len(sites) > 5

    def zero(edit: Edit, site: Site, _module: nn.Module) -> nn.Module:
        return AttachedEdit(Zero(), edit, site.layout)

    apply_edits(host, [(Edit(path, "after", "zero", start="paper"), site) for path, site in sites.items()], zero)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for path in owners.values():
        blocks[path].register_forward_hook(
            lambda _, args, y, path=path: seen.update({path: (args[0].clone(), y.clone())})
        )
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
        for path, (x, y) in seen.items():
            assert torch.equal(y, shortcut(blocks[path], x)), path
    assert seen.keys() == set(owners.values())
