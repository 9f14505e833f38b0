"""Positions that attention is told of beside its relative tables: what is added to its input, and to nothing else."""

from __future__ import annotations

import pytest
import torch

import saccade
from saccade.attention.coordconv import add_coordinates
from saccade.attention.sine2d import sinusoids_2d
from saccade.errors import UsageError


def twins(encoding: str, **options: object) -> tuple[saccade.AAConv2d, saccade.AAConv2d]:
    """One with the encoding and one without, of the same weights where both have them."""
    torch.manual_seed(0)
    plain = saccade.AAConv2d(8, 16, 3, heads=2, dk=4, dv=4, feature_size=(5, 7), **options)
    encoded = saccade.AAConv2d(8, 16, 3, heads=2, dk=4, dv=4, feature_size=(5, 7), encoding=encoding, **options)
    state = plain.state_dict()
    if encoding == "coordconv":
        extra = torch.randn(12, 2, 1, 1)
        state["attention.qkv.weight"] = torch.cat((state["attention.qkv.weight"], extra), dim=1)
    encoded.load_state_dict(state)
    return plain.double(), encoded.double()


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"downsample": 2}])
def test_sinusoids_are_added_to_what_attention_sees(relative: bool, options: dict[str, int]) -> None:
    plain, encoded = twins("sine2d", relative=relative, **options)
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64)
    before = plain(x)
    plain.attention.qkv.register_forward_pre_hook(lambda _, given: (given[0] + sinusoids_2d(given[0]),))
    assert torch.allclose(encoded(x), plain(x), atol=1e-12)
    assert torch.equal(encoded(x)[:, :12], before[:, :12]), "the filters see the map as it is"
    assert not torch.allclose(encoded(x), before, atol=1e-3)


@pytest.mark.parametrize("relative", [True, False])
def test_coordinates_are_appended_to_what_attention_sees(relative: bool) -> None:
    plain, encoded = twins("coordconv", relative=relative)
    x = torch.randn(2, 8, 5, 7, dtype=torch.float64)
    out = encoded(x)
    assert torch.equal(out[:, :12], plain(x)[:, :12]), "the filters see the map as it is"
    qkv = encoded.attention.qkv
    seen = torch.einsum("oc,bchw->bohw", qkv.weight[:, :, 0, 0], add_coordinates(x)) + qkv.bias[:, None, None]
    attended = encoded.attention.proj(encoded.attention._attend(*encoded.attention._split(seen)))
    assert torch.allclose(out[:, 12:], attended, atol=1e-12)


@pytest.mark.parametrize("encoding", ["sine2d", "coordconv"])
def test_without_relative_tables_a_shifted_map_is_told_apart_by_the_encoding_alone(encoding: str) -> None:
    plain, encoded = twins(encoding, relative=False)
    x = torch.randn(1, 8, 5, 7, dtype=torch.float64)
    moved = x.roll(1, dims=3)
    assert torch.allclose(plain.attention(moved), plain.attention(x).roll(1, dims=3), atol=1e-12)
    assert not torch.allclose(encoded.attention(moved), encoded.attention(x).roll(1, dims=3), atol=1e-3)


@pytest.mark.parametrize("encoding", ["sine2d", "coordconv"])
def test_it_compiles_exports_and_takes_half_precision(encoding: str) -> None:
    torch.manual_seed(0)
    model = saccade.AAConv2d(8, 16, 3, encoding=encoding, feature_size=6).eval()
    x = torch.randn(2, 8, 6, 6)
    size = torch.export.Dim.AUTO
    program = torch.export.export(model, (x,), dynamic_shapes=({0: size, 2: size, 3: size},))
    other = torch.randn(3, 8, 9, 7)
    assert torch.allclose(program.module()(other), model(other), atol=1e-5)
    assert torch.allclose(torch.compile(model, backend="aot_eager", fullgraph=True)(x), model(x), atol=1e-5)
    assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_the_paper_has_four_rows_of_encodings() -> None:
    """As its table 7: none, sinusoids, coordinates, relative; of these only the last two have parameters."""
    rows = (
        {"relative": False},
        {"relative": False, "encoding": "sine2d"},
        {"relative": False, "encoding": "coordconv"},
        {},
    )
    with torch.device("meta"):
        counts = [sum(p.numel() for p in saccade.create_model("aa_resnet50", **row).parameters()) for row in rows]
    assert counts[1] == counts[0]
    assert counts[2] - counts[0] == sum(2 * (2 * 160 + dv) for dv in [8] * 4 + [24] * 6 + [48] * 3)
    assert counts[3] - counts[0] == sum(20 * (2 * size - 1) * 2 for size in [14] * 10 + [7] * 3)


@pytest.mark.parametrize("encoding", ["sine", "relative"])
def test_an_encoding_that_there_is_not_is_named_and_the_papers_are_told(encoding: str) -> None:
    told = (
        rf"^`encoding` \(='{encoding}'\) must be one of 'none', 'sine2d', 'coordconv'.*relative=False leaves out.*"
        r"relative=False with encoding='sine2d' or 'coordconv', and the default \(relative\)"
    )
    with pytest.raises(UsageError, match=told):
        saccade.AAConv2d(8, 16, 3, encoding=encoding)
