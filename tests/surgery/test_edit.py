"""Edits on a live network: what is listed, their order, what cannot be, and that an error changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import saccade
from saccade._factory import builder
from saccade.errors import UsageError
from saccade.surgery import AttachedEdit, Edit, Site, Survey, apply_edits
from surgery.hosts import OPTIONS, augmented, cifar, images, set_alpha


def sites(model: nn.Module) -> list[tuple[str, str, str]]:
    return [(edit.site, edit.mode, edit.attention) for edit in saccade.plan_of(model).edits]


def test_a_plain_host_has_an_empty_plan() -> None:
    assert len(saccade.plan_of(cifar())) == 0


def test_the_plan_lists_what_the_network_carries() -> None:
    model = saccade.augment(cifar(), "se", at=["layer2.0.bn2", "bn1"], options={"reduction": 4}, start="paper")
    model = saccade.augment(model, "aaconv", at="layer3.0.conv1", start="paper", example_input=images())
    model = saccade.augment(model, "aaconv", at="layer3.0.conv2", example_input=images())
    assert sites(model) == [
        ("bn1", "after", "se"),
        ("layer2.0.bn2", "after", "se"),
        ("layer3.0.conv1", "replace", "aaconv"),
        ("layer3.0.conv2", "replace", "aaconv"),
    ]
    first, *_, last = saccade.plan_of(model).edits
    assert (first.options, first.start, last.start) == ({"reduction": 4}, "paper", "identity")


def test_a_conversion_that_drops_edits_is_an_error_with_the_remedy() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(augmented(cifar(), "se"))
    message = (
        r"the edits at 'layer1.0.bn2' no longer run: something made it a new SyncBatchNorm. Convert, freeze or fuse "
        r"the host first, then augment it"
    )
    with pytest.raises(UsageError, match=message):
        saccade.plan_of(model)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(cifar())
    assert len(saccade.plan_of(augmented(converted, "se"))) == 3


class Plus(nn.Module):
    """A stand-in for attention whose place in an order shows in the result."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def test_edits_at_one_site_run_in_their_order() -> None:
    host = nn.Sequential(nn.Conv2d(3, 4, 1))
    edits = [Edit("0", "after", "first", start="paper"), Edit("0", "after", "second", start="paper")]
    modules = {"first": Plus(2, 1), "second": Plus(3, 5)}

    def stand_in(edit: Edit, site: Site, module: nn.Module) -> nn.Module:
        assert site.path == "0"
        assert isinstance(module, nn.Conv2d)
        return AttachedEdit(modules[edit.attention], edit)

    def apply(model: nn.Module, edits: list[Edit]) -> None:
        survey = Survey(model, x)
        apply_edits(survey, [(edit, survey.at_path("0")) for edit in edits], stand_in)

    x = images()
    expected = 3 * (2 * host(x) + 1) + 5
    model = copy.deepcopy(host)
    apply(model, edits)
    torch.testing.assert_close(model(x), expected)
    backwards = copy.deepcopy(host)
    for edit in reversed(edits):
        apply(backwards, [edit])
    torch.testing.assert_close(backwards(x), 2 * (3 * host(x) + 5) + 1)


def test_two_mechanisms_at_one_site_are_the_second_of_the_first() -> None:
    host = cifar()
    model = saccade.augment(host, "se", at="layer1.0.bn2", start="paper", example_input=images())
    model = saccade.augment(model, "sem", at="layer1.0.bn2", start="paper", example_input=images())
    assert [name for _, _, name in sites(model)] == ["se", "sem"]
    site = model.get_submodule("layer1.0.bn2")
    x = torch.randn(2, 8, 5, 4)
    expected = site.saccade["sem"].attention(site.saccade["se"].attention(host.get_submodule("layer1.0.bn2")(x)))
    assert torch.equal(site(x), expected)


def test_a_gate_after_a_replaced_convolution() -> None:
    host = cifar()
    model = saccade.augment(host, "aaconv", at="layer3.0.conv1", start="paper", example_input=images())
    both = saccade.augment(model, "se", at="layer3.0.conv1", example_input=images())
    assert sites(both) == [("layer3.0.conv1", "replace", "aaconv"), ("layer3.0.conv1", "after", "se")]
    assert torch.equal(both(images()), model(images()))
    set_alpha(both, 0.5)
    assert not torch.allclose(both(images()), model(images()), atol=1e-4)


def test_a_replacement_that_would_lose_an_edit_is_refused() -> None:
    model = saccade.augment(cifar(), "se", at="layer3.0.conv1", example_input=images())
    message = r"'layer3.0.conv1' carries 'se', which would go with the module that 'aaconv' replaces; saccade.strip"
    with pytest.raises(UsageError, match=message):
        saccade.augment(model, "aaconv", at="layer3.0.conv1", start="paper", example_input=images())


def test_the_same_mechanism_twice_at_a_site_is_an_error() -> None:
    model = augmented(cifar(), "se")
    with pytest.raises(UsageError, match=r"'layer1.0.bn2' carries 'se' already; saccade.strip\(model\) takes it off"):
        saccade.augment(model, "se", at="layer1.0.bn2")
    replaced = saccade.augment(cifar(), "aaconv", at="layer3.0.conv1", start="paper")
    with pytest.raises(UsageError, match=r"takes a convolution's place, and 'layer3.0.conv1' is a AAConv2d"):
        saccade.augment(replaced, "aaconv", at="layer3.0.conv1")


def test_a_convolutions_mechanism_at_another_module_is_an_error() -> None:
    message = (
        r"'aaconv' takes a convolution's place, and 'layer1.0.bn2' is a BatchNorm2d; name other modules, of which 9 "
        r"fit: saccade.augment\(model, 'aaconv', at=\['conv1', 'layer1.0.conv1', 'layer1.0.conv2'\]\)$"
    )
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), "aaconv", at="layer1.0.bn2")
    message = r"and 'conv1' is a Conv2d; .*, of which 9 fit: .*'iebn', at=\['bn1', .*'\], start='paper'\)$"
    with pytest.raises(UsageError, match=message):
        saccade.augment(cifar(), "iebn", at="conv1", start="paper")
    with pytest.raises(UsageError, match=r"and '0' is a Conv2d; the host has no module that fits$"):
        saccade.augment(grouped(), "iebn", at="0")


def test_the_call_that_an_error_prints_works() -> None:
    model = cifar()
    with pytest.raises(UsageError, match=r"of which 9 fit: ") as raised:
        saccade.augment(model, "iebn", at="conv1", start="paper")
    call = str(raised.value).rpartition("fit: ")[2]
    augmented_by_it = eval(call, {"saccade": saccade, "model": model})  # noqa: S307  our own text
    assert len(saccade.plan_of(augmented_by_it)) == 3


def grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, groups=6))


def test_a_convolution_that_attention_cannot_follow_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"AAConv2d can take the place of a convolution with groups=1"):
        saccade.augment(grouped(), "aaconv", at="1")
    assert sites(saccade.augment(grouped(), "aaconv", at="0")) == [("0", "replace", "aaconv")]


class SamePadding(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


def own_ways() -> list[nn.Module]:
    """A convolution with padding of its own making, and one with weights of its own making."""
    return [SamePadding(3, 8, 3), nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)).eval()]


def test_the_place_of_a_convolution_that_computes_in_its_own_way_is_not_taken() -> None:
    message = r"'aaconv' takes the place of a plain convolution, and '0' \(a \w+\) has its own way to compute"
    for conv in own_ways():
        gated = saccade.augment(nn.Sequential(conv), "se", at="0", example_input=images())
        for model in (nn.Sequential(conv), gated):
            with pytest.raises(UsageError, match=message):
                saccade.augment(model, "aaconv", at="0", start="paper", example_input=images())


def test_attention_is_blended_into_a_convolution_that_computes_in_its_own_way() -> None:
    for conv in own_ways():
        host = nn.Sequential(conv)
        model = saccade.augment(host, "aaconv", at="0", example_input=images())
        assert torch.equal(model(images()), host(images()))
        set_alpha(model, 0.5)
        assert model(images()).shape == host(images()).shape
        assert not torch.allclose(model(images()), host(images()), atol=1e-4)


def test_a_blended_convolution_may_carry_a_gate_already() -> None:
    host = saccade.augment(cifar(), "se", at="layer3.0.conv1", start="paper", example_input=images())
    model = saccade.augment(host, "aaconv", at="layer3.0.conv1", example_input=images())
    assert torch.equal(model(images()), host(images()))
    assert [name for _, _, name in sites(model)] == ["se", "aaconv"]


class OwnCopies(nn.BatchNorm2d):
    def __reduce__(self) -> tuple:
        return OwnCopies, (self.num_features,)


def test_a_module_that_copies_itself_its_own_way_is_refused() -> None:
    host = nn.Sequential(nn.Conv2d(3, 8, 1), OwnCopies(8))
    with pytest.raises(
        UsageError, match=r"'1' is copied in a way of its own \(OwnCopies.__reduce__\), which would lose"
    ):
        saccade.augment(host, "se", at="1", example_input=images())


def test_a_host_wrapped_for_distributed_training_is_refused() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        host = nn.parallel.DistributedDataParallel(cifar())
        with pytest.raises(
            UsageError, match=r"wrapped in DistributedDataParallel.*augment the module inside, then wrap"
        ):
            saccade.augment(host, "se", at="*.bn2", example_input=images(), inplace=True)
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        with pytest.raises(UsageError, match=r"wrapped in FSDPCifarResNet, .*augment the module inside, then wrap"):
            saccade.augment(fully_shard(cifar(), mesh=mesh), "se", at="*.bn2", example_input=images(), inplace=True)
    finally:
        torch.distributed.destroy_process_group()
    for wrapper in (nn.DataParallel(cifar()), nn.Sequential(nn.DataParallel(cifar()))):
        with pytest.raises(UsageError, match=r"wrapped in DataParallel, .*augment the module inside, then wrap"):
            saccade.augment(wrapper, "se", at="*.bn2", example_input=images())


def test_a_module_with_a_forward_of_its_own_is_refused() -> None:
    host = cifar()
    bn = host.get_submodule("bn1")
    bn.forward = bn.forward
    with pytest.raises(UsageError, match=r"'bn1' has a forward set on the instance, which would bypass an edit"):
        saccade.augment(host, "se", at="bn1", inplace=True)


def test_a_module_with_an_attribute_of_our_name_is_refused() -> None:
    host = cifar()
    host.get_submodule("bn1").saccade = "taken"
    with pytest.raises(UsageError, match=r"'bn1' already has an attribute named 'saccade', where edits live"):
        saccade.augment(host, "se", at="bn1")


@pytest.mark.parametrize(
    ("attention", "at", "options", "message"),
    [
        ("se", ["layer1.0.bn2", "layer2.0.bn2"], {}, "'layer2.0.bn2' carries 'se' already"),
        ("aaconv", ["layer1.0.conv1", "layer1.0.bn1"], {}, "'layer1.0.bn1' is a BatchNorm2d"),
        ("aaconv", ["layer3.0.conv1", "layer1.0.conv1"], {"dk": 8, "dv": 16}, r"`dv` \(=16\) must be at most"),
        ("gam", ["bn1", "fc"], {}, "'fc' does not give a map"),
    ],
    ids=["carried-already", "not-a-convolution", "too-wide", "not-a-map"],
)
@pytest.mark.parametrize("start", ["paper", "identity"])
def test_an_error_at_one_site_leaves_the_others_as_they_were(
    attention: str, at: list[str], options: dict, message: str, start: str
) -> None:
    host = saccade.augment(cifar(), "se", at="layer2.0.bn2")
    text, keys, before = str(host), list(host.state_dict()), host(images())
    with pytest.raises(UsageError, match=message):
        saccade.augment(host, attention, at=at, options=options, start=start, inplace=True)
    assert str(host) == text
    assert list(host.state_dict()) == keys
    assert torch.equal(host(images()), before)


def test_a_plan_with_a_replacement_and_an_edit_after_it_goes_on_at_once() -> None:
    """Replayed in one go, the second edit must reach the module that the first one put there."""
    options = OPTIONS["aaconv"]
    once = saccade.augment(
        cifar(), "aaconv", at="layer3.0.conv1", options=options, start="paper", example_input=images()
    )
    both = saccade.augment(once, "se", at="layer3.0.conv1", start="paper", example_input=images())
    model = cifar()
    survey = Survey(model, images())
    site = survey.at_path("layer3.0.conv1")
    apply_edits(survey, [(edit, site) for edit in saccade.plan_of(both).edits], builder(survey))
    assert saccade.plan_of(model) == saccade.plan_of(both)
    model.load_state_dict(both.state_dict(), strict=True)
    assert torch.equal(model(images()), both(images()))


def test_tables_have_the_size_of_the_map_at_the_site() -> None:
    model = saccade.augment(cifar(), "aaconv", at="*.conv1", start="paper", example_input=torch.zeros(1, 3, 40, 32))
    lengths = [
        (len(conv.attention.rel_h), len(conv.attention.rel_w))
        for conv in (model.get_submodule(f"layer{n}.0.conv1") for n in (1, 2, 3))
    ]
    assert lengths == [(79, 63), (39, 31), (19, 15)]
    with pytest.raises(UsageError, match=r"`downsample` \(=0\) must be an integer of at least 1"):
        saccade.augment(cifar(), "aaconv", at="layer3.0.conv1", options={"downsample": 0})
    given = saccade.augment(cifar(), "aaconv", at="layer3.0.conv1", options={"feature_size": 7, "downsample": 2})
    halved = saccade.augment(cifar(), "aaconv", at="layer3.0.conv1", options={"downsample": 3})
    for model, rows in ((given, 13), (halved, 5)):
        assert len(model.get_submodule("layer3.0.conv1.saccade.aaconv.attention").rel_h) == rows


class Stage(nn.Module):
    """Runs its children one by one without being an nn.Sequential, as some of timm's stages do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


@pytest.mark.parametrize("at", ["block", "stage", "1", ["1", "2"]], ids=str)
def test_an_edit_does_not_become_a_layer_of_a_module_that_runs_its_children(at: str | list[str]) -> None:
    host = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), Stage(), Stage()).eval()
    model = saccade.augment(host, "se", at=at, example_input=images())
    assert torch.equal(model(images()), host(images()))
    set_alpha(model, 0.5)
    assert not torch.allclose(model(images()), host(images()), atol=1e-4)
