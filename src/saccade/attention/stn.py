"""Spatial transformer: the map, resampled where a small network of its own looks."""

# B batch, C channels, H W the map, P the transform's parameters

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade._checks import check_bool, check_choice, check_int, check_map
from saccade.attention._base import Mechanism
from saccade.attention._card import Paper
from saccade.attention._coordinates import axis_coordinates
from saccade.attention.coordconv import CoordConv2d
from saccade.errors import UsageError

# The parameters of each transform, at the identity.
IDENTITIES = {"affine": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), "attention": (1.0, 0.0, 0.0)}
PADDING_MODES = ("zeros", "border", "reflection")

PAPER = Paper(
    title="Spatial Transformer Networks",
    authors="Max Jaderberg, Karen Simonyan, Andrew Zisserman, Koray Kavukcuoglu",
    year=2015,
    venue="NIPS",
    arxiv="1506.02025",
    kind="warp",
    attends="spatial",
    equations=(
        "theta = f_loc(x), two rows of three numbers",
        "(u, v) = theta (s, t, 1) for the pixel at column s and row t, in coordinates from -1 to 1",
        "y(s, t) = sum over columns n, rows m of x[m, n] max(0, 1 - |u' - n|) max(0, 1 - |v' - m|), u', v' in pixels",
        'theta = [[a, 0, b], [0, a, c]] for transform="attention"',
    ),
    deviations=(
        "The equations are from memory of the paper.",
        (
            "The paper leaves the localisation network open. Ours sees coordinates beside the map, since it averages "
            "over the map and would otherwise be blind to where things are: two 3 x 3 convolutions, the mean, a "
            "LayerNorm and a linear layer."
        ),
        (
            "align_corners=True is the paper's convention, -1 and 1 the centres of the outer pixels; False is the "
            "default of PyTorch's grid_sample since 1.3."
        ),
        "Thin-plate splines and projective transforms are not offered, nor an output of another size.",
    ),
    limits=(
        (
            "It starts as the identity up to the rounding of interpolation, not bit for bit. Since its last layer "
            "starts at zero, the layers before it get a gradient only after the first step."
        ),
        "On CUDA the gradient of grid_sample adds in no fixed order: the same run can differ in the last bits.",
        ("On a map with a single row or column and align_corners=True the corresponding row of theta has no effect."),
        "A localization module of one's own cannot be an option of an edit, which is kept as text.",
    ),
)


def base_grid(height: int, width: int, like: Tensor, *, align_corners: bool = True) -> Tensor:
    """The coordinates (column, row) from -1 to 1 of every pixel of a map: (H, W, 2), in float32 at least."""
    columns = axis_coordinates(width, like, align_corners=align_corners)
    rows = axis_coordinates(height, like, align_corners=align_corners)
    return torch.stack((columns[None, :].expand(height, width), rows[:, None].expand(height, width)), dim=-1)


def attention_transform(parameters: Tensor) -> Tensor:
    """The transform that only zooms and shifts: parameters (B, 3), scale and shifts -> theta (B, 2, 3)."""
    scale, across, down = parameters.unbind(1)
    zero = torch.zeros_like(scale)
    return torch.stack((scale, zero, across, zero, scale, down), dim=1).unflatten(1, (2, 3))


def transform_grid(theta: Tensor, base: Tensor) -> Tensor:
    """Where every pixel is read: theta (B, 2, 3) applied to (base, 1), base (H, W, 2) -> (B, H, W, 2)."""
    # In products, not a matrix product: autocast would round the coordinates to 8 bits.
    first, second, shift = theta.to(base.dtype)[:, None, None].unbind(-1)
    return base[..., :1] * first + base[..., 1:] * second + shift


def warp(x: Tensor, grid: Tensor, *, align_corners: bool = True, padding_mode: str = "zeros") -> Tensor:
    """x (B, C, H, W) read by bilinear interpolation at grid (B, H', W', 2) of (column, row): (B, C, H', W')."""
    wide = x.to(grid.dtype)
    out = F.grid_sample(wide, grid, mode="bilinear", padding_mode=padding_mode, align_corners=align_corners)
    return out.to(x.dtype)


class LocalizationNet(nn.Module):
    """The default network that says where to look; it starts at the identity, for every map.

    Shapes: (B, C, H, W) -> (B, P).
    """

    def __init__(self, channels: int, hidden: int, identity: tuple[float, ...]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            CoordConv2d(channels, hidden, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.norm = nn.LayerNorm(hidden)
        self.weight = nn.Parameter(torch.zeros(len(identity), hidden))
        self.bias = nn.Parameter(torch.tensor(identity))

    def forward(self, x: Tensor) -> Tensor:
        features = self.norm(self.features(x).mean(dim=(2, 3)))
        # As products in float32 at least: near 1, where theta starts, bfloat16 has steps of 1/128 of the map.
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        return (wide[:, None] * self.weight).sum(-1) + self.bias


class SpatialTransformer(Mechanism):
    """Spatial transformer (Jaderberg et al., NIPS 2015, arXiv 1506.02025; from memory).

    ``y(s, t) = x(theta (s, t, 1))``: every pixel of y is read from x, by bilinear interpolation, where the affine
    transform ``theta = f_loc(x)`` sends it. The paper's f_loc is our ``localization``, its U, V our x, y.

    Args:
        channels: C.
        transform: ``"affine"`` has six parameters, the rows of theta; ``"attention"`` three, a scale and shifts along
            columns and rows.
        hidden: the width of the default localisation network, 2 at least.
        localization: a module to take its place, from (B, C, H, W) to the parameters, (B, 6) or (B, 3). Where it starts
            is its own affair: the paper starts its last layer with zero weights and the identity as bias.
        align_corners: whether -1 and 1 are the centres of the outer pixels, or their outer edges.
        padding_mode: what is read outside the map: ``"zeros"``, ``"border"`` or ``"reflection"``.

    Shapes: (B, C, H, W) -> (B, C, H, W).

    Raises:
        UsageError: ``channels`` below 1 or ``hidden`` below 2; an unknown ``transform`` or ``padding_mode``; an
            ``align_corners`` that is not a bool; a ``localization`` that is no module, or gives another number of
            parameters; a map with another number of channels.
    """

    paper = PAPER

    def __init__(
        self,
        channels: int,
        *,
        transform: str = "affine",
        hidden: int = 16,
        localization: nn.Module | None = None,
        align_corners: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        check_int("channels", channels)
        check_choice("transform", transform, IDENTITIES)
        check_int("hidden", hidden, at_least=2)
        check_bool("align_corners", align_corners)
        check_choice("padding_mode", padding_mode, PADDING_MODES)
        if localization is not None and not isinstance(localization, nn.Module):
            raise UsageError(f"`localization` (={localization!r}) must be an nn.Module or None")
        self.channels = channels
        self.transform = transform
        self.align_corners = align_corners
        self.padding_mode = padding_mode
        default = LocalizationNet(channels, hidden, IDENTITIES[transform]) if localization is None else localization
        self.localization = default

    def theta(self, x: Tensor) -> Tensor:
        """The transform of every map, (B, 2, 3)."""
        check_map(x, self.channels, "stn")
        parameters = self.localization(x)
        count = len(IDENTITIES[self.transform])
        if parameters.dim() != 2 or parameters.shape[1] != count:
            raise UsageError(
                f"`localization` must give (B, {count}) for transform={self.transform!r}; "
                f"it gave {tuple(parameters.shape)}"
            )
        return parameters.unflatten(1, (2, 3)) if self.transform == "affine" else attention_transform(parameters)

    def forward(self, x: Tensor) -> Tensor:
        return self._warped(x, self.theta(x))

    def unmoved(self, x: Tensor) -> Tensor:
        """The map read where it is, by the same interpolation: x up to its rounding."""
        identity = x.new_tensor(IDENTITIES["affine"], dtype=torch.float32).unflatten(0, (1, 2, 3))
        return self._warped(x, identity.expand(x.shape[0], 2, 3))

    def _warped(self, x: Tensor, theta: Tensor) -> Tensor:
        base = base_grid(x.shape[2], x.shape[3], x, align_corners=self.align_corners)
        return warp(x, transform_grid(theta, base), align_corners=self.align_corners, padding_mode=self.padding_mode)
