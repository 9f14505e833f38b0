"""Every mechanism under its name. One line each, in full view."""

from __future__ import annotations

import inspect
from typing import Any

from saccade._checks import check_choice, check_options, keyword_options
from saccade.attention._base import Mechanism
from saccade.attention._card import Card, make_card
from saccade.attention.aaconv import AAConv2d
from saccade.attention.gam import GlobalAttention
from saccade.attention.se import SqueezeExcitation
from saccade.attention.sem import SwitchableExcitation

MECHANISMS: dict[str, type[Mechanism]] = {
    "aaconv": AAConv2d,
    "se": SqueezeExcitation,
    "sem": SwitchableExcitation,
    "gam": GlobalAttention,
}


def mechanism(name: str) -> type[Mechanism]:
    """The module class of a mechanism; an unknown name is an error that lists all and names the nearest."""
    check_choice("attention", name, MECHANISMS)
    return MECHANISMS[name]


def check_mechanism(name: str, options: dict[str, Any]) -> None:
    """Both the name and the options must be known."""
    check_options(name, mechanism(name), options)


def card(name: str) -> Card:
    """The card of a mechanism: its paper, and the options of our module with their defaults."""
    cls = mechanism(name)
    first_line = (inspect.getmodule(cls).__doc__ or "").partition("\n")[0]
    return make_card(name, cls.paper, first_line, keyword_options(cls))
