"""Every mechanism under its name. One line each, in full view."""

from __future__ import annotations

import inspect
from typing import Any

from saccade._checks import check_choice, check_options, keyword_options
from saccade.attention._base import Mechanism
from saccade.attention._card import Card, make_card
from saccade.attention.a2 import DoubleAttention
from saccade.attention.aaconv import AAConv2d
from saccade.attention.bam import BottleneckAttentionModule
from saccade.attention.bot import BoTAttention2d
from saccade.attention.cbam import ConvBlockAttention
from saccade.attention.coord import CoordinateAttention
from saccade.attention.coordconv import CoordConv2d
from saccade.attention.eca import EfficientChannelAttention
from saccade.attention.external import ExternalAttention
from saccade.attention.gala import GlobalAndLocalAttention
from saccade.attention.gam import GlobalAttention
from saccade.attention.gc import GlobalContext
from saccade.attention.ge import GatherExcite
from saccade.attention.halo import HaloAttention2d
from saccade.attention.iebn import InstanceEnhancementBatchNorm2d
from saccade.attention.lambda_ import LambdaLayer2d
from saccade.attention.nonlocal_ import NonLocal
from saccade.attention.psa import PolarizedSelfAttention
from saccade.attention.residual_mask import ResidualMask
from saccade.attention.sagan import SAGANAttention
from saccade.attention.se import SqueezeExcitation
from saccade.attention.sem import SwitchableExcitation
from saccade.attention.sge import SpatialGroupEnhance
from saccade.attention.shuffle import ShuffleAttention
from saccade.attention.simam import SimAM
from saccade.attention.sine2d import Sine2d
from saccade.attention.sk import SelectiveKernel2d
from saccade.attention.stn import SpatialTransformer
from saccade.attention.triplet import TripletAttention

MECHANISMS: dict[str, type[Mechanism]] = {
    "aaconv": AAConv2d,
    "se": SqueezeExcitation,
    "ge": GatherExcite,
    "eca": EfficientChannelAttention,
    "iebn": InstanceEnhancementBatchNorm2d,
    "sem": SwitchableExcitation,
    "cbam": ConvBlockAttention,
    "bam": BottleneckAttentionModule,
    "gam": GlobalAttention,
    "triplet": TripletAttention,
    "stn": SpatialTransformer,
    "nonlocal": NonLocal,
    "sagan": SAGANAttention,
    "gc": GlobalContext,
    "coord": CoordinateAttention,
    "sge": SpatialGroupEnhance,
    "shuffle": ShuffleAttention,
    "psa": PolarizedSelfAttention,
    "simam": SimAM,
    "sk": SelectiveKernel2d,
    "coordconv": CoordConv2d,
    "sine2d": Sine2d,
    "bot": BoTAttention2d,
    "halo": HaloAttention2d,
    "lambda": LambdaLayer2d,
    "a2": DoubleAttention,
    "external": ExternalAttention,
    "gala": GlobalAndLocalAttention,
    "residual_mask": ResidualMask,
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
