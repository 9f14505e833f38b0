"""Every mechanism of the catalogue at every kind of site that it fits, from the host to the paper's form."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade
from attention.builders import Variant, maps, randomise
from attention.zero_gradients import zero_by_mathematics
from saccade._api import PLACES
from saccade.attention._shuffle import channel_shuffle
from saccade.attention.catalog import MECHANISMS
from saccade.errors import UsageError
from saccade.surgery import KINDS
from surgery.hosts import images, set_alpha, settle

NAMES = saccade.list_attention()
USUAL = {"conv": "down", "norm": "block2.bn3"}
BESIDE = [name for name in NAMES if saccade.describe(name).kind not in PLACES]
IN_PLACE = [name for name in NAMES if name not in BESIDE]
# What the paper's form is at first by itself; an identity start of these has no factor.
BY_THEMSELVES = {"nonlocal", "sagan", "gc"}
# A factor of 0 would never learn here (stn), or is not needed (coordconv starts with zeros for the coordinates).
NO_ALPHA = {*BY_THEMSELVES, "stn", "coordconv"}
WITHOUT_PARAMETERS = {"ge", "simam", "sine2d"}
# Images have three channels, which shuffle attention cannot halve.
FITS = [
    (name, at)
    for name in NAMES
    for at in PLACES.get(saccade.describe(name).kind, KINDS)
    if (name, at) != ("shuffle", "input")
]
every_mechanism = pytest.mark.parametrize("name", NAMES)
every_start = pytest.mark.parametrize("start", ["identity", "paper"])


class InvertedResidual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 2 * channels
        self.expand = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.project = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.expand(x)))
        y = F.relu(self.bn2(self.depthwise(y)))
        return x + self.bn3(self.project(y))


class Mobile(nn.Module):
    """Sites of every kind, in two blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.block1 = InvertedResidual(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.block2 = InvertedResidual(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(F.relu(self.stem(x)))
        x = self.block2(F.relu(self.down(x)))
        return self.fc(x.mean(dim=(2, 3)))


class ConvNeXtBlock(nn.Module):
    """Its pointwise convolutions are linear layers on (B, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.fc2(F.gelu(self.fc1(y)))
        return x + y.permute(0, 3, 1, 2)


def mobile(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return settle(Mobile(width))


def nhwc() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), ConvNeXtBlock(8), ConvNeXtBlock(8)).eval()


def usual(name: str) -> str:
    return USUAL.get(saccade.describe(name).kind, "block2.bn3")


def augmented(host: nn.Module, name: str, start: str = "identity", at: str = "") -> nn.Module:
    example = images().to(next(host.parameters()).dtype)
    return saccade.augment(host, name, at=at or usual(name), start=start, example_input=example)


def taken(at: str) -> Tensor:
    """What the module there takes, in a host of width 8."""
    return {"down": maps(2, 8, 20, 16), "block2.bn3": maps(2, 16, 10, 8)}[at]


def edit(site: nn.Module) -> nn.Module:
    """The one that a module carries; its name there is not always the mechanism's."""
    (only,) = site.saccade.children()
    return only


def attention_of(model: nn.Module) -> dict[str, nn.Parameter]:
    ours = {id(parameter) for parameter in saccade.attention_parameters(model)}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}


@pytest.mark.parametrize(("name", "at"), FITS)
def test_an_identity_start_computes_what_the_host_did(name: str, at: str) -> None:
    host = mobile()
    new = augmented(host, name, at=at)
    sites = {site.path for site in saccade.find_sites(host, images()) if site.kind == at}
    assert {edit.site for edit in saccade.plan_of(new).edits} == sites
    assert torch.equal(new(images()), host(images()))
    assert torch.equal(saccade.strip(new)(images()), host(images()))


@pytest.mark.parametrize(("name", "at"), FITS)
def test_the_papers_form_runs_and_comes_off(name: str, at: str) -> None:
    host = mobile()
    new = augmented(host, name, "paper", at=at)
    assert new(images()).isfinite().all()
    if name in BY_THEMSELVES:
        assert torch.equal(new(images()), host(images()))
    # coordconv starts from the host's filters, with zeros for the coordinates; stn near the warp that moves nothing.
    elif name not in ("coordconv", "stn"):
        assert not torch.allclose(new(images()), host(images()), atol=1e-5)
    assert torch.equal(saccade.strip(new)(images()), host(images()))


def test_a_mechanism_that_the_channels_of_the_images_do_not_fit_says_so() -> None:
    with pytest.raises(UsageError, match=r"`channels` \(=3\) must be even: shuffle attention halves"):
        augmented(mobile(), "shuffle", at="input")


@pytest.mark.parametrize("name", BESIDE)
def test_a_map_with_channels_last_is_seen_with_channels_second(name: str) -> None:
    host = nhwc()
    new = augmented(host, name, at="residual")
    assert [edit.site for edit in saccade.plan_of(new).edits] == ["1.fc2", "2.fc2"]
    assert torch.equal(new(images()), host(images()))
    paper = augmented(host, name, "paper", at="residual")
    site = paper.get_submodule("1.fc2")
    x = maps(2, 10, 8, 32)
    after = edit(site).attention(host.get_submodule("1.fc2")(x).permute(0, 3, 1, 2))
    assert torch.equal(site(x), after.permute(0, 2, 3, 1))


def moved_by(model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[set[str], set[str]]:
    """The new parameters that three steps moved, and those that they did not."""
    before = {name: parameter.detach().clone() for name, parameter in attention_of(model).items()}
    model.train()
    for step in range(3):
        optimiser.zero_grad()
        F.cross_entropy(model(images(seed=step)), torch.tensor([step % 10, 7])).backward()
        optimiser.step()
    now = attention_of(model)
    assert all(parameter.isfinite().all() for parameter in now.values())
    still = {name for name, parameter in now.items() if torch.equal(parameter, before[name])}
    return now.keys() - still, still


# Numbers of 1 behind weights of 0 behind alpha: by the third step they have a gradient, lost in the rounding of 1.
TOO_SMALL = {"shuffle": ("*.channel_bias", "*.spatial_bias", "*.norm_weight")}


@pytest.mark.parametrize("optimise", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
@every_start
@every_mechanism
def test_every_new_parameter_moves_within_three_steps(name: str, start: str, optimise: type) -> None:
    # Wide enough that no bottleneck is left with one unit, which may be off.
    model = augmented(mobile(32), name, start)
    rate = 0.1 if optimise is torch.optim.SGD else 1e-3
    moved, still = moved_by(model, optimise(model.parameters(), lr=rate, weight_decay=0))
    assert moved or (start == "paper" and name in WITHOUT_PARAMETERS)
    parameters = dict(model.named_parameters())
    for path in still:
        inner = path.partition(".attention.")[2]
        if not zero_by_mathematics(Variant(name), inner, "train"):
            assert optimise is torch.optim.SGD, path
            assert any(fnmatchcase(path, pattern) for pattern in TOO_SMALL.get(name, ())), path
            assert parameters[path].grad.any(), path


@pytest.mark.parametrize("name", BESIDE)
def test_the_papers_start_is_the_mechanism_after_the_module(name: str) -> None:
    host, x = mobile(), taken("block2.bn3")
    site = augmented(host, name, "paper").get_submodule("block2.bn3")
    randomise(site.saccade)
    assert type(edit(site).attention) is MECHANISMS[name]
    assert torch.equal(site(x), edit(site).attention(host.get_submodule("block2.bn3")(x)))
    assert not torch.allclose(site(x), host.get_submodule("block2.bn3")(x), atol=1e-3)


@pytest.mark.parametrize("name", [name for name in BESIDE if name != "shuffle"])
def test_at_the_input_it_is_the_mechanism_before_the_module(name: str) -> None:
    host, x = mobile(), images()
    site = augmented(host, name, "paper", at="input").get_submodule("stem")
    randomise(site.saccade)
    assert torch.equal(site(x), host.get_submodule("stem")(edit(site).attention(x)))


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_papers_start_in_a_modules_place_is_the_mechanism_itself(name: str) -> None:
    host = mobile()
    new = augmented(host, name, "paper").get_submodule(usual(name))
    assert type(new) is MECHANISMS[name]
    if saccade.describe(name).kind == "conv":
        assert new(taken("down")).shape == host.get_submodule("down")(taken("down")).shape


def test_an_augmented_convolution_holds_the_hosts_first_filters() -> None:
    for name in ("aaconv", "coordconv"):
        host, x = mobile(), taken("down")
        down, new = host.get_submodule("down"), augmented(host, name, "paper").get_submodule("down")
        count = new.conv.out_channels
        assert torch.equal(new.conv.weight, down.weight[:count])
        assert torch.equal(new.conv.bias, down.bias[:count])
        # The other addend or the other channels are attention's.
        rest = new.coordinates(x) if name == "coordconv" else new.attention(x)
        filtered = F.conv2d(x, down.weight[:count], down.bias[:count], stride=2, padding=1)
        assert torch.equal(new(x), filtered + rest if name == "coordconv" else torch.cat((filtered, rest), dim=1))


def test_an_enhanced_normalisation_holds_the_hosts_scale_shift_and_statistics() -> None:
    host, x = mobile(), taken("block2.bn3")
    norm, new = host.get_submodule("block2.bn3"), augmented(host, "iebn", "paper").get_submodule("block2.bn3")
    theirs = norm.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in new.state_dict().items() if key in theirs)
    shift = norm.bias[:, None, None]
    torch.testing.assert_close(new(x), shift + new.gate(x) * (norm(x) - shift))


def own_part(site: nn.Module, name: str) -> nn.Module:
    """What is attention's in the paper's form at a site: all but the host's filters, scale, shift and statistics."""
    if name in BESIDE:
        return edit(site).attention
    return site.scale_gate() if name == "iebn" else site.added or site.blended


@every_mechanism
def test_in_full_an_identity_start_is_the_papers_form(name: str) -> None:
    """With the same weights, and alpha at 1 where there is one."""
    host, at, x = mobile(), usual(name), taken(usual(name))
    paper = augmented(host, name, "paper").get_submodule(at)
    if name != "iebn":  # whose gate starts at -1, for every image and channel
        randomise(own_part(paper, name))
    site = augmented(host, name).get_submodule(at)
    edit(site).attention.load_state_dict(own_part(paper, name).state_dict())
    assert hasattr(edit(site), "alpha") == (name not in NO_ALPHA)
    if name not in NO_ALPHA:
        set_alpha(site, 1.0)
    # The warp is the paper's but for the error of reading a map where it is, by interpolation.
    tolerance = {"rtol": 0, "atol": 1e-5} if name == "stn" else {}
    # A blended gate leaves the channels in the host's order; the paper's module shuffles them after.
    in_full = channel_shuffle(site(x), 2) if name == "shuffle" else site(x)
    torch.testing.assert_close(in_full, paper(x), **tolerance)
    assert not torch.allclose(site(x), host.get_submodule(at)(x), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@every_start
@every_mechanism
def test_follows_the_type_of_the_host(name: str, start: str, dtype: torch.dtype) -> None:
    host = mobile().to(dtype)
    new, x = augmented(host, name, start), taken(usual(name)).to(dtype)
    assert {parameter.dtype for parameter in new.parameters()} == {dtype}
    site, before = new.get_submodule(usual(name)), host.get_submodule(usual(name))
    assert site(x).dtype is dtype
    if start == "identity":
        assert torch.equal(site(x), before(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_start
@every_mechanism
def test_under_autocast_the_map_has_the_type_of_the_hosts(name: str, start: str, dtype: torch.dtype) -> None:
    host = mobile()
    new, x = augmented(host, name, start), taken(usual(name)).to(dtype)
    site, before = new.get_submodule(usual(name)), host.get_submodule(usual(name))
    with torch.autocast("cpu", torch.bfloat16):
        assert site(x).dtype is before(x).dtype
        if start == "identity":
            assert torch.equal(site(x), before(x))
            if name not in NO_ALPHA:
                set_alpha(new, 0.5)
                assert site(x).dtype is before(x).dtype


LAST = {"memory_format": torch.channels_last}
# The last step of these is a reshape or a reading of the map elsewhere, which gives the usual layout.
USUAL_LAYOUT = {"paper": {"stn", "shuffle", "bot", "lambda"}, "identity": set()}


@every_start
@every_mechanism
def test_the_layout_in_memory_stays(name: str, start: str) -> None:
    host, x = mobile().to(**LAST), taken(usual(name)).contiguous(**LAST)
    site, before = augmented(host, name, start).get_submodule(usual(name)), host.get_submodule(usual(name))
    assert before(x).is_contiguous(**LAST)
    assert site(x).is_contiguous(**LAST) == (name not in USUAL_LAYOUT[start])
    if start == "identity":
        assert torch.equal(site(x), before(x))
