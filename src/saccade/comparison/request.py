"""What a comparison is asked for: checked once, written to its folder, and read by every process that works on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saccade._checks import check_choice, check_number
from saccade._specs import Spec, parse_specs
from saccade.errors import UsageError
from saccade.training import OptimSettings, TrainSettings

BASELINE = "none"
DEFAULT_MODEL = "saccade:cifar_resnet(depth=8, stem_stride=2)"
DEFAULT_ATTENTION = "none,se,sem,gam,aaconv"


class Variant(BaseModel):
    """One attention with its options and its place; the baseline has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    attention: str | None
    options: dict[str, Any]
    at: list[str] | None
    """Paths or globs; None where the host's default places are meant."""
    start: Literal["paper", "identity"]


class Request(BaseModel):
    """Everything that decides the scores of a comparison, and the margin that turns them into verdicts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    data: str
    image_size: Annotated[int, Field(ge=8)]
    variants: list[Variant]
    seeds: list[int]
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    settings: TrainSettings

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def command(self) -> str:
        """The command that makes this comparison, to be followed by ``--out FOLDER``."""
        places = self.variants[-1].at
        words = {
            "model": self.model,
            "data": self.data,
            "attention": ",".join(variant.name for variant in self.variants),
            **({"at": ",".join(places)} if places else {}),
            "start": self.variants[-1].start,
            "seeds": ",".join(map(str, self.seeds)) if len(self.seeds) > 1 else f"{self.seeds[0]},",
            "epochs": self.settings.epochs,
            "batch-size": self.settings.batch_size,
            "lr": self.settings.optim.lr,
            "weight-decay": self.settings.optim.weight_decay,
            "image-size": self.image_size,
            "margin": self.margin,
        }
        return "saccade compare " + " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in words.items())


def make_request(
    *,
    model: str,
    data: str,
    attention: str | Sequence[str],
    at: str | Sequence[str] | None,
    start: str,
    seeds: int | Sequence[int],
    margin: float,
    image_size: int,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
) -> Request:
    """Check what a user asked for and complete it: the baseline is added where it is missing.

    Raises:
        UsageError: naming the argument, its value and the rule.
    """
    if not isinstance(model, str):
        raise UsageError(
            f"`model` (a {type(model).__name__}) must be a name such as {DEFAULT_MODEL!r}; "
            "networks of your own cannot be compared yet"
        )
    check_choice("start", start, ("paper", "identity"))
    check_number("margin", margin, low=1e-6, high=100)
    text = attention if isinstance(attention, str) else ",".join(attention)
    specs = parse_specs(text, "attention")
    if not any(spec.name == BASELINE for spec in specs):
        specs.insert(0, Spec(BASELINE))
    if len({str(spec) for spec in specs}) < len(specs):
        raise UsageError(f"`attention` (={text!r}) names the same variant twice")
    if len(specs) < 2:
        raise UsageError(f"`attention` (={text!r}) must name an attention beside the baseline, such as none,se")
    try:
        return Request(
            model=model,
            data=data,
            image_size=image_size,
            variants=[_variant(spec, at, start) for spec in specs],
            seeds=_seeds(seeds),
            margin=margin,
            settings=TrainSettings(
                epochs=epochs, batch_size=batch_size, optim=OptimSettings(lr=lr, weight_decay=weight_decay)
            ),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"`{first['loc'][0]}` (={first['input']!r}): {first['msg']}") from None


def _variant(spec: Spec, at: str | Sequence[str] | None, start: str) -> Variant:
    if spec.name == BASELINE and spec.options:
        raise UsageError(f"`attention` (={str(spec)!r}): the baseline {BASELINE!r} has no options")
    places = [place.strip() for place in at.split(",")] if isinstance(at, str) else at
    return Variant(
        name=str(spec),
        attention=None if spec.name == BASELINE else spec.name,
        options=spec.options,
        at=list(places) if places else None,
        start=start,  # pyright: ignore[reportArgumentType] # checked by the caller
    )


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    listed = range(seeds) if isinstance(seeds, int) else seeds
    if (
        not isinstance(listed, Sequence)
        or not all(isinstance(seed, int) and seed >= 0 for seed in listed)
        or not 0 < len(set(listed)) == len(listed)
    ):
        raise UsageError(f"`seeds` (={seeds!r}) must be a count of at least 1, or different integers from 0")
    return list(listed)
