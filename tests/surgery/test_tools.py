"""Other libraries' tools on an augmented network: what they do to edits is told, and strip gives the host back."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
import torchvision
from timm.layers import freeze_batch_norm_2d
from timm.utils import reparameterize_model
from timm.utils.model import freeze
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import saccade
from attention.builders import maps
from saccade.errors import UsageError
from surgery.hosts import augmented, cifar, images, set_alpha, settle

REMEDY = r"Convert, freeze or fuse the host first, then augment it: saccade.strip\(model\) takes off what is left"
SMALL = maps(2, 3, 64, 64)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@contextmanager
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def frozen_in_part(model: nn.Module) -> nn.Module:
    freeze(model, ["layer1", "layer2"])
    return model


def by_hand(model: nn.Module) -> nn.Module:
    model.set_submodule("layer1.0.bn2", nn.BatchNorm2d(8))
    return model


def without(model: nn.Module) -> nn.Module:
    del model.layer1[0].bn2
    return model


def headless(model: nn.Module) -> nn.Module:
    model.layer1 = nn.Identity()
    return model


def childless(model: nn.Module) -> nn.Module:
    del model.layer1[0].bn2.saccade
    return model


GONE = "'se' at 'layer1.0.bn2' is gone: something put a new {} in the module's place"
NOWHERE = "'se' at 'layer1.0.bn2' is gone: the model has no such module now"
REMOVERS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "SyncBatchNorm": (
        nn.SyncBatchNorm.convert_sync_batchnorm,
        "the edits at 'layer1.0.bn2' no longer run: something made it a new SyncBatchNorm",
    ),
    "freeze_batch_norm_2d": (freeze_batch_norm_2d, GONE.format("FrozenBatchNorm2d")),
    "freeze": (frozen_in_part, GONE.format("FrozenBatchNorm2d")),
    "replaced by hand": (by_hand, GONE.format("BatchNorm2d")),
    "deleted": (without, NOWHERE),
    "a part deleted": (headless, NOWHERE),
}


@pytest.mark.parametrize("tool", REMOVERS)
def test_a_tool_that_removes_an_edit_is_told_with_what_to_do(tool: str) -> None:
    remove, message = REMOVERS[tool]
    model = remove(augmented(cifar(), "se"))
    with pytest.raises(UsageError, match=f"{re.escape(message)}.*{REMEDY}"):
        saccade.plan_of(model)
    if tool != "deleted":  # nothing more can be run
        with pytest.raises(UsageError, match=f"{re.escape(message)}.*{REMEDY}"):
            saccade.augment(model, "sem", at="layer3.0.bn2", example_input=images())
    stripped = saccade.strip(model)
    assert len(saccade.plan_of(stripped)) == 0
    assert not [key for key in stripped.state_dict() if "saccade" in key]


def test_an_edit_whose_child_was_deleted_is_told() -> None:
    with pytest.raises(UsageError, match=rf"'se' at 'layer1.0.bn2' is gone.*{REMEDY}"):
        saccade.plan_of(childless(augmented(cifar(), "se")))


@pytest.mark.parametrize("tool", ["SyncBatchNorm", "freeze_batch_norm_2d", "freeze"])
def test_what_the_message_says_to_do_works(tool: str) -> None:
    convert, _ = REMOVERS[tool]
    assert len(saccade.plan_of(augmented(convert(saccade.strip(augmented(cifar(), "se"))), "se"))) == 3


REPARAMETERISED = ["repvgg_a0", "mobileone_s0"]


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_an_edit_in_a_branch_that_is_fused_away_is_told(name: str) -> None:
    host = timm.create_model(name, num_classes=10).eval()
    at = next(site.path for site in saccade.find_sites(host, SMALL) if site.kind == "norm")
    model = reparameterize_model(saccade.augment(host, "se", at=at, example_input=SMALL))
    with pytest.raises(UsageError, match=f"'se' at '{at}' is gone: the model has no such module now. {REMEDY}"):
        saccade.plan_of(model)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_an_edit_at_a_blocks_output_survives_the_fusing_of_its_branches(name: str) -> None:
    host = settle(timm.create_model(name, num_classes=10))
    sites = saccade.find_sites(host, SMALL)
    at = [site.path for site in sites if site.kind == "block"][:2]
    model = saccade.augment(host, "se", at=at, start="paper", example_input=SMALL)
    fused = reparameterize_model(model)
    assert len(saccade.plan_of(fused)) == 2
    features = [host.forward_features, fused.forward_features, model.forward_features]
    plain, ours, expected = (forward(SMALL) for forward in features)
    scale = expected.abs().max()
    assert (ours - expected).abs().max() < 1e-3 * scale
    assert (plain - expected).abs().max() > 1e-2 * scale


FUSED = [
    ("se", "layer*.bn2", "paper", 3),
    ("se", "layer3.*.conv1", "paper", 1),
    ("se", "layer3.*.conv1", "identity", 1),
    ("aaconv", "layer3.*.conv1", "identity", 1),
    ("iebn", "*.bn2", "identity", 3),
]


@pytest.mark.parametrize(("attention", "at", "start", "count"), FUSED)
def test_fusing_convolutions_with_their_norms_keeps_edits(attention: str, at: str, start: str, count: int) -> None:
    host = cifar()
    model = saccade.augment(host, attention, at=at, start=start, example_input=images())
    if start == "identity":
        set_alpha(model, 0.5)
    fused = fuse(model)
    torch.testing.assert_close(fused(images()), model(images()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fused(images()), host(images()), atol=1e-4)
    assert len(saccade.plan_of(fused)) == count
    torch.testing.assert_close(saccade.strip(fused)(images()), host(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["aaconv", "iebn"])
def test_what_fx_cannot_trace_it_refuses_and_leaves_as_it_was(attention: str) -> None:
    """Our modules in another's place are not leaves to fx, and some of their steps it cannot follow."""
    at = {"aaconv": "layer3.*.conv1", "iebn": "*.bn2"}[attention]
    host = cifar()
    model = saccade.augment(host, attention, at=at, start="paper", example_input=images())
    before = model(images())
    with pytest.raises(torch.fx.proxy.TraceError, match=r"cannot be iterated|inputs to control flow"):
        fuse(model)
    assert torch.equal(model(images()), before)
    assert_same(saccade.strip(model), host, images())


def test_fusing_by_name_refuses_an_edited_module() -> None:
    model = augmented(cifar(), "se")
    with pytest.raises(AssertionError, match="did not find fuser method"):
        fuse_modules(model, [["layer1.0.conv2", "layer1.0.bn2"]])
    fuse_modules(model, [["layer1.0.conv1", "layer1.0.bn1"]], inplace=True)
    assert len(saccade.plan_of(model)) == 3


@pytest.mark.parametrize(
    "compiled",
    [
        lambda host: torch.compile(host, backend="eager"),
        lambda host: (host.compile(backend="eager"), host)[1],
        lambda host: nn.Sequential(torch.compile(host, backend="eager")),
    ],
    ids=["torch.compile(model)", "model.compile()", "inside another"],
)
def test_what_is_compiled_already_takes_no_edits(compiled: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(UsageError, match=r"compiled already.*augment the module that was given to torch.compile, then"):
        saccade.augment(compiled(cifar()), "se", at="*.bn2", example_input=images())


@pytest.mark.parametrize(("attention", "start"), [("se", "paper"), ("gam", "identity"), ("aaconv", "paper")])
def test_a_compiled_wrapper_notices_edits_of_the_module_inside(attention: str, start: str) -> None:
    host = cifar()
    compiled = torch.compile(host, backend="eager")
    before = compiled(images())
    at = "layer3.*.conv1" if attention == "aaconv" else "*.bn2"
    saccade.augment(host, attention, at=at, start=start, example_input=images(), inplace=True)
    if start == "identity":
        set_alpha(host, 0.5)
    assert torch.equal(compiled(images()), host(images()))
    assert not torch.allclose(compiled(images()), before, atol=1e-4)


def test_a_wrapper_shows_the_plan_of_the_module_inside_and_strips_to_its_host() -> None:
    host = cifar()
    model = augmented(host, "se")
    plan = saccade.plan_of(model)
    compiled = torch.compile(model, backend="eager")
    with one_process():
        ours, theirs = saccade.attention_parameters(model), saccade.host_parameters(model)
        wrappers = [compiled, nn.DataParallel(model), nn.parallel.DistributedDataParallel(model)]
        wrappers.append(torch.compile(wrappers[-1], backend="eager"))
        for wrapper in wrappers:
            assert saccade.plan_of(wrapper) == plan
            assert list(map(id, saccade.attention_parameters(wrapper))) == list(map(id, ours))
            assert list(map(id, saccade.host_parameters(wrapper))) == list(map(id, theirs))
            assert len(saccade.load_host(wrapper, host.state_dict())) == len(ours)
            stripped = saccade.strip(wrapper)
            assert type(stripped) is type(host)
            assert torch.equal(stripped(images()), host(images()))
    assert len(saccade.plan_of(model)) == 3


def test_an_augmented_network_within_another_shows_where_its_edits_are_now() -> None:
    model = augmented(cifar(), "se")
    outer = nn.ModuleDict({"backbone": model})
    average = AveragedModel(model)
    paths = [edit.site for edit in saccade.plan_of(model).edits]
    assert [edit.site for edit in saccade.plan_of(outer).edits] == [f"backbone.{path}" for path in paths]
    assert [edit.site for edit in saccade.plan_of(average).edits] == [f"module.{path}" for path in paths]
    outer["backbone"].set_submodule("layer1.0.bn2", nn.BatchNorm2d(8))
    with pytest.raises(UsageError, match=r"'se' at 'backbone.layer1.0.bn2' is gone"):
        saccade.plan_of(outer)


def test_a_part_of_an_augmented_network_shows_its_edits_at_their_new_paths() -> None:
    model = augmented(cifar(), "se")
    body = nn.Sequential(*list(model.children())[:-1])
    assert [edit.site for edit in saccade.plan_of(body).edits] == ["3.0.bn2", "4.0.bn2", "5.0.bn2"]


def test_a_traced_graph_keeps_the_edits_of_modules_that_fx_takes_whole() -> None:
    host = cifar()
    model = augmented(host, "se")
    set_alpha(model, 0.5)
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(images()), model(images()))
    assert [edit.site for edit in saccade.plan_of(graph).edits] == [e.site for e in saccade.plan_of(model).edits]
    assert torch.equal(saccade.strip(graph)(images()), host(images()))


def assert_same(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    """Every module of the same class with the same attributes and hooks, every tensor of the same bits."""
    expected = dict(theirs.named_modules())
    assert list(dict(ours.named_modules())) == list(expected)
    for path, module in ours.named_modules():
        other = expected[path]
        assert type(module) is type(other)
        assert vars(module).keys() == vars(other).keys(), path
        assert module.training == other.training
        assert [len(vars(module)[k]) for k in HOOKS] == [len(vars(other)[k]) for k in HOOKS]
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


def trained(model: nn.Module) -> nn.Module:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for step in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(SMALL), torch.tensor([step, 2])).backward()
        optimiser.step()
    model.zero_grad()
    return model.eval()


def traced_by_jit(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        # Deprecated, and it tells of every check of a shape.
        warnings.simplefilter("ignore")
        torch.jit.trace(model, SMALL, check_trace=False)
    return model


def traced_by_fx(model: nn.Module) -> nn.Module:
    torch.fx.symbolic_trace(model)
    return model


def compiled(model: nn.Module) -> nn.Module:
    torch.compile(model, backend="eager")(SMALL)
    return model


def exported(model: nn.Module) -> nn.Module:
    torch.export.export(model, (SMALL,))
    return model


def checkpointed(model: nn.Module) -> nn.Module:
    if hasattr(model, "set_grad_checkpointing"):  # timm's
        model.set_grad_checkpointing(True)
        trained(model)
        model.set_grad_checkpointing(False)
    return model


def reloaded(model: nn.Module) -> nn.Module:
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    return model


def distributed(model: nn.Module) -> nn.Module:
    with one_process():
        trained(nn.parallel.DistributedDataParallel(model))
    return model.eval()


TOOLS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "nothing": lambda model: model,
    "deepcopy": copy.deepcopy,
    "load_state_dict": reloaded,
    "fx": traced_by_fx,
    "jit.trace": traced_by_jit,
    "export": exported,
    "compile": compiled,
    "checkpointing": checkpointed,
    "training": trained,
    "DDP": distributed,
}


def in_a_row(model: nn.Module, leave_out: str = "") -> nn.Module:
    for name, use in TOOLS.items():
        model = model if name == leave_out else use(model)
    return model


HOSTS: dict[str, Callable[[], nn.Module]] = {
    # Without dropout, which draws other numbers where attention draws some.
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=10, drop_rate=0.0),
    "regnet": lambda: timm.create_model("regnety_002", num_classes=10),
    "resnet": lambda: torchvision.models.resnet18(num_classes=10),
}


ALL = "all in a row"


@pytest.mark.parametrize(("host", "tool"), [("mobilenetv3", tool) for tool in TOOLS] + [(host, ALL) for host in HOSTS])
def test_strip_gives_back_the_host_that_went_through_the_same_tools(host: str, tool: str) -> None:
    """The host itself keeps what a tool leaves in it: torch.compile an attribute, training other weights."""
    torch.manual_seed(0)
    plain = settle(HOSTS[host]())
    use = in_a_row if tool == ALL else TOOLS[tool]
    model = use(saccade.augment(plain, "se", example_input=SMALL))
    assert len(saccade.plan_of(model)) > 0
    stripped = saccade.strip(model)
    theirs = use(copy.deepcopy(plain))
    # What training made of the host's weights is the augmented network's affair: it stays.
    theirs.load_state_dict({key: value for key, value in model.state_dict().items() if ".saccade." not in key})
    assert_same(stripped, theirs, SMALL)
    if tool not in ("training", "DDP", "checkpointing", ALL):
        assert torch.equal(stripped(SMALL), plain(SMALL))


@pytest.mark.parametrize(
    ("attention", "at", "start"), [("aaconv", "layer4.*.conv2", "paper"), ("sem", "norm", "paper")]
)
def test_strip_gives_back_the_host_of_other_edits_after_all_tools(attention: str, at: str, start: str) -> None:
    torch.manual_seed(0)
    plain = settle(HOSTS["resnet"]())
    # fx cannot trace an augmented convolution.
    model = in_a_row(saccade.augment(plain, attention, at=at, start=start, example_input=SMALL), leave_out="fx")
    theirs = in_a_row(copy.deepcopy(plain))
    kept = {key: value for key, value in model.state_dict().items() if key in theirs.state_dict()}
    replaced = {edit.site for edit in saccade.plan_of(model).edits if edit.mode == "replace"}
    # A convolution whose place was taken comes back as it was.
    kept |= {key: value for key, value in plain.state_dict().items() if key.rpartition(".")[0] in replaced}
    theirs.load_state_dict(kept)
    assert_same(saccade.strip(model), theirs, SMALL)
