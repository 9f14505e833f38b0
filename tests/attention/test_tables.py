"""A checkpoint of one feature size in a model of another: its tables are brought to size, and that is said."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import saccade
from attention.builders import maps, randomise
from saccade.ops import resize_relative_table

BUILD = {
    "aaconv": lambda size: saccade.AAConv2d(6, 16, 3, feature_size=size),
    "bot": lambda size: saccade.create_attention("bot", 16, feature_size=size),
}
PREFIX = {"aaconv": "attention.", "bot": ""}
every_owner = pytest.mark.parametrize("name", BUILD)


@every_owner
@pytest.mark.parametrize(("old", "new"), [((7, 5), (9, 4)), ((4, 4), (4, 8))], ids=str)
def test_tables_are_read_at_the_models_size(name: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    trained, model = randomise(BUILD[name](old)), BUILD[name](new)
    state = {key: value.clone() for key, value in trained.state_dict().items()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = model.load_state_dict(state)
    assert result == ([], [])
    assert [str(warning.message) for warning in said] == [
        f"{PREFIX[name]}{axis} was made for a length of {a} and is read at {b} by resize_relative_table"
        for axis, a, b in zip(("rel_h", "rel_w"), old, new, strict=True)
        if a != b
    ]
    for axis, size in zip(("rel_h", "rel_w"), new, strict=True):
        table = trained.state_dict()[f"{PREFIX[name]}{axis}"]
        assert torch.equal(model.state_dict()[f"{PREFIX[name]}{axis}"], resize_relative_table(table, size))
    assert all(torch.equal(value, state[key]) for key, value in trained.state_dict().items()), (
        "the state stays as it was"
    )


@every_owner
def test_the_same_size_loads_in_silence_and_exactly(name: str) -> None:
    trained, model = randomise(BUILD[name]((7, 5))), BUILD[name]((7, 5))
    model.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in trained.state_dict().items())


@every_owner
def test_another_depth_is_an_error_as_ever(name: str) -> None:
    model = nn.Sequential(BUILD[name]((7, 5)))
    state = copy.deepcopy(model.state_dict())
    key = f"0.{PREFIX[name]}rel_h"
    state[key] = torch.zeros(13, state[key].shape[1] + 1)
    with pytest.raises(RuntimeError, match=f"size mismatch for {key}"):
        model.load_state_dict(state)


@every_owner
def test_a_model_for_smaller_maps_computes_on_them_what_the_larger_did(name: str) -> None:
    trained, model = randomise(BUILD[name]((9, 9))).eval(), BUILD[name]((5, 4)).eval()
    with pytest.warns(UserWarning, match="was made for a length of 9"):
        model.load_state_dict(trained.state_dict())
    x = maps(2, 16 if name == "bot" else 6, 5, 4)
    torch.testing.assert_close(model(x), trained(x))
