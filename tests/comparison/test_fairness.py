"""Per seed all variants start from the same host weights and see the same batches."""

import pytest
import torch
from torch import nn

from saccade.comparison.request import Request, make_request
from saccade.comparison.trial import build_variant
from saccade.data import ImageData, Split, load_data
from saccade.profiling.timing import threads
from saccade.training import TrainSettings
from saccade.training.fit import fit

MODEL = "saccade:cifar_resnet(depth=8, stem_stride=2)"


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("sample")


def request_for(start: str) -> Request:
    return make_request(
        model=MODEL,
        data="sample",
        attention="none,se,sem,gam,aaconv",
        at=None,
        start=start,
        seeds=2,
        margin=0.5,
        image_size=32,
        epochs=4,
        batch_size=64,
        lr=0.1,
        weight_decay=5e-4,
    )


@pytest.mark.parametrize("start", ["paper", "identity"])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_variants_of_a_seed_start_from_the_same_host_weights(data, start, seed):
    request = request_for(start)
    host = build_variant(request, request.variant("none"), data, seed).state_dict()
    for variant in request.variants[1:]:
        state = build_variant(request, variant, data, seed).state_dict()
        replaced = 0
        for name, tensor in host.items():
            if name in state:
                assert torch.equal(state[name], tensor), (variant.name, name)
            else:
                # A convolution that was augmented keeps the host's first filters.
                inner = state[name.replace(".weight", ".conv.weight")]
                assert torch.equal(inner, tensor[: len(inner)])
                replaced += 1
        assert replaced == (2 if (variant.name, start) == ("aaconv", "paper") else 0)


def test_seeds_differ_in_host_and_attention(data):
    request = request_for("paper")
    first, second = (build_variant(request, request.variant("se"), data, seed).state_dict() for seed in (0, 1))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])
    key = "layer1.0.bn2.saccade.se.attention.fc1.weight"
    assert not torch.equal(first[key], second[key])


def test_all_variants_of_a_seed_see_the_same_batches(data):
    few = ImageData(
        "few",
        data.classes,
        train=Split(data.train.images[::25], data.train.labels[::25]),
        val=Split(data.val.images[:10], data.val.labels[:10]),
        test=Split(data.test.images[:10], data.test.labels[:10]),
    )
    request = request_for("paper")
    seen: dict[tuple[str, int], list[torch.Tensor]] = {}
    for name, seed in (("none", 0), ("gam", 0), ("aaconv", 0), ("none", 1)):
        model = build_variant(request, request.variant(name), few, seed)
        batches = seen.setdefault((name, seed), [])
        with threads(1):
            fit(_Watched(model, batches), few, TrainSettings(epochs=2, batch_size=32), seed)
    none = seen["none", 0]
    assert len(none) == 2 * (220 // 32)
    for name in ("gam", "aaconv"):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen[name, 0], none, strict=True))
    assert not torch.equal(none[0], none[6]), "the second epoch has another order"
    assert not torch.equal(none[0], seen["none", 1][0]), "another seed has another order"


class _Watched(nn.Module):
    """A network that keeps a copy of every training batch."""

    def __init__(self, model: nn.Module, batches: list[torch.Tensor]) -> None:
        super().__init__()
        self.model = model
        self.batches = batches

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.batches.append(x.clone())
        return self.model(x)
