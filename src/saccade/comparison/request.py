"""What a comparison is asked for: checked once, written to its folder, and read by every process that works on it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saccade._checks import check_bool, check_choice, check_int, check_json, check_number, first_error, nearest
from saccade._specs import Spec, parse_specs, split_places
from saccade.attention.catalog import check_mechanism
from saccade.errors import UsageError
from saccade.surgery import Plan
from saccade.training import OptimSettings, TrainSettings

BASELINE, PLAN = "none", "plan"
DEFAULT_MODEL = "saccade:cifar_resnet(depth=8, stem_stride=2)"
DEFAULT_ATTENTION = "none,se,sem,gam,aaconv"
CONTROLS = ("longer", "wider")
FILE = "request.json"
MOST_SEEDS = 1000


class Variant(BaseModel):
    """One attention with its options and its place; the baseline has none, nor has a control."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    attention: str | None = None
    options: dict[str, Any] = {}
    at: list[str] | None = None
    """Paths or globs; None where the host's default places are meant."""
    start: Literal["paper", "identity"] | None = None
    plan: str | None = None
    """The content of a plan's file, which says all of it."""
    control: Literal["longer", "wider"] | None = None

    @property
    def plain(self) -> bool:
        """Whether it is a host alone."""
        return self.attention is None and self.plan is None


class Request(BaseModel):
    """Everything that decides the scores of a comparison, and the margin that turns them into verdicts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    pretrained: bool = False
    data: str
    image_size: Annotated[int, Field(ge=8)]
    variants: list[Variant]
    controls: list[Variant] = []
    seeds: list[int]
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    tune: Annotated[int, Field(ge=0)] = 0
    """Trials of learning rate and weight decay for each variant, before the comparison."""
    compile: bool = False
    """Whether latency is also measured by torch.compile; no score depends on it."""
    settings: TrainSettings

    @property
    def trained(self) -> list[Variant]:
        """Variants and controls."""
        return [*self.variants, *self.controls]

    @property
    def tuning_seed(self) -> int:
        """Of the trials of tuning: none of the comparison's, so that no score is one that chose."""
        return max(self.seeds) + 1

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.trained if variant.name == name)

    @property
    def words(self) -> dict[str, Any]:
        """The arguments that ask for this comparison, but for the folder; a variant as text where text can say it."""
        optim = self.settings.optim
        return {
            "model": self.model,
            **({"pretrained": True} if self.pretrained else {}),
            "data": self.data,
            "attention": [_words(variant) for variant in self.variants],
            **({"control": [control.name for control in self.controls]} if self.controls else {}),
            "seeds": self.seeds,
            "epochs": self.settings.epochs,
            "batch_size": self.settings.batch_size,
            "lr": optim.lr,
            "weight_decay": optim.weight_decay,
            **({"tune": self.tune} if self.tune else {}),
            **({"compile": True} if self.compile else {}),
            "image_size": self.image_size,
            "margin": self.margin,
        }

    def command(self, folder: Path) -> str:
        """The command that makes this comparison in a folder, or goes on with it."""
        given, words = self.words, ["saccade", "compare"]
        variants = self.variants[1:]
        same = all((v.at, v.start, v.plan) == (variants[0].at, variants[0].start, None) for v in variants)
        if not same or any(v.name != str(Spec(v.attention or "", v.options)) for v in variants):
            return shlex.join([*words, "--config", str(folder / FILE), "--out", str(folder)])
        given["attention"] = ",".join(variant.name for variant in self.variants)
        given |= {"at": ",".join(variants[0].at)} if variants[0].at else {}
        given["start"] = variants[0].start
        given["seeds"] = ",".join(map(str, self.seeds)) if len(self.seeds) > 1 else f"{self.seeds[0]},"
        given |= {"control": ",".join(given["control"])} if "control" in given else {}
        for name, value in given.items():
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
        return shlex.join([*words, "--out", str(folder)])


def _words(variant: Variant) -> Any:
    if variant.plain:
        return variant.name
    said = variant.model_dump(exclude_defaults=True, exclude={"control"})
    return said | ({"plan": json.loads(variant.plan)} if variant.plan else {})


def make_request(
    *,
    model: str,
    data: str,
    attention: str | Sequence[str | Mapping[str, Any]],
    seeds: int | Sequence[int],
    margin: float,
    epochs: int,
    batch_size: int,
    weight_decay: float,
    at: str | Sequence[str] | None = None,
    start: str | None = None,
    pretrained: bool = False,
    image_size: int | None = None,
    lr: float | None = None,
    control: str | Sequence[str] = (),
    tune: int = 0,
    compile: bool = False,
) -> Request:
    """Check what a user asked for and complete it: the baseline is added where it is missing.

    Raises:
        UsageError: naming the argument, its value and the rule.
    """
    if not isinstance(model, str):
        raise UsageError(
            f"`model` (a {type(model).__name__}) must be a name such as {DEFAULT_MODEL!r}, or that of a function of "
            "yours, path/to/file.py:function, since every trial builds its own"
        )
    check_bool("pretrained", pretrained)
    check_bool("compile", compile)
    start = ("identity" if pretrained else "paper") if start is None else start
    lr = (0.01 if pretrained else 0.1) if lr is None else lr
    check_choice("start", start, ("paper", "identity"))
    check_number("margin", margin, low=1e-6, high=100)
    check_int("tune", tune, at_least=0)
    try:
        variants, controls = _variants(attention, at, start), _controls(control, pretrained)
        names = [each.name for each in (*variants, *controls)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"`attention`: two variants or controls have the name {twice!r}; give one of them another")
        return Request(
            model=model,
            pretrained=pretrained,
            data=data,
            image_size=(224 if pretrained else 32) if image_size is None else image_size,
            variants=variants,
            controls=controls,
            seeds=_seeds(seeds),
            margin=margin,
            tune=tune,
            compile=compile,
            settings=TrainSettings(
                epochs=epochs,
                batch_size=batch_size,
                optim=OptimSettings(lr=lr, weight_decay=weight_decay),
            ),
        )
    except ValidationError as error:
        key, value, message = first_error(error)
        raise UsageError(f"`{key}` (={value!r}): {message}") from None


def _variants(attention: Any, at: str | Sequence[str] | None, start: str) -> list[Variant]:
    usual = {"at": _places(at), "start": start}
    each = parse_specs(attention, "attention") if isinstance(attention, str) else _listed("attention", attention)
    variants = [variant for entry in each for variant in _read(entry, usual)]
    if not any(variant.plain for variant in variants):
        variants.insert(0, Variant(name=BASELINE))
    if len(variants) < 2:
        raise UsageError(f"`attention` (={attention!r}) must name an attention beside the baseline, such as none,se")
    return sorted(variants, key=lambda variant: not variant.plain)


def _read(entry: Any, usual: dict[str, Any]) -> list[Variant]:
    """The variants of one entry: text such as ``se,gam(reduction=8)``, or a mapping that says more."""
    if isinstance(entry, Spec):
        return [_of_spec(entry, usual)]
    if isinstance(entry, str):
        return [_of_spec(spec, usual) for spec in parse_specs(entry, "attention")]
    known = ("attention", "options", "at", "start", "name", "plan")
    if not isinstance(entry, Mapping) or not ({"attention", "plan"} & entry.keys()):
        raise UsageError(f"`attention` (={entry!r}): each must be text such as 'se', or have attention= or plan=")
    if unknown := [key for key in entry if key not in known]:
        raise UsageError(f"`attention` (={dict(entry)!r}): there is no {unknown[0]!r}{nearest(str(unknown[0]), known)}")
    said: dict[str, Any] = {"options": {}} | dict(entry)
    if not isinstance(said.get("attention", ""), str):
        raise UsageError(f"`attention` (={said['attention']!r}) must be the name of a mechanism")
    if not isinstance(said["options"], Mapping):
        raise UsageError(f"`options` (={said['options']!r}) must be a mapping, such as {{'reduction': 8}}")
    if "at" in said:
        said["at"] = _places(said["at"])
    if said.get("attention") == BASELINE and entry.keys() != {"attention"}:
        raise UsageError(
            f"`attention` (={dict(entry)!r}): the baseline {BASELINE!r} has no place, options or other name"
        )
    if "plan" in said:
        return [Variant(name=said.get("name", PLAN), plan=_plan(said["plan"]))]
    spec = Spec(said["attention"], dict(said["options"]))
    return [_of_spec(spec, usual | {key: said[key] for key in ("at", "start", "name") if key in said})]


def _places(at: Any) -> list[Any] | None:
    places = split_places(at) if isinstance(at, str) else _listed("at", at or [])
    return places or None


def _listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, Sequence):
        raise UsageError(f"`{name}` (={value!r}) must be text or a list")
    return list(value)


def _of_spec(spec: Spec, usual: dict[str, Any]) -> Variant:
    if spec.name == BASELINE:
        if spec.options:
            raise UsageError(f"`attention` (={str(spec)!r}): the baseline {BASELINE!r} has no options")
        return Variant(name=BASELINE)
    if spec.name == PLAN:
        if set(spec.options) != {"file"}:
            raise UsageError(f"`attention` (={str(spec)!r}): a plan's file is given as plan(file='plan.json')")
        return Variant(name=str(spec), plan=_plan(spec.options["file"]))
    check_mechanism(spec.name, spec.options)  # the rest shows as the network is built
    check_json("options", spec.options)
    return Variant(**{"name": str(spec), "attention": spec.name, "options": spec.options} | usual)


def _plan(given: Any) -> str:
    """A plan as text, read from a file where it is a path."""
    if isinstance(given, Mapping):
        text = json.dumps(given)
    else:
        try:
            text = Path(given).read_text(encoding="utf-8")
        except (OSError, TypeError, ValueError) as error:
            raise UsageError(f"`plan` (={given!r}) cannot be read: {error}") from None
    return Plan.from_json(text).to_json()


def _controls(control: str | Sequence[str], pretrained: bool) -> list[Variant]:
    names = control.split(",") if isinstance(control, str) else _listed("control", control)
    names = [name.strip() if isinstance(name, str) else name for name in names if name != ""]
    for name in names:
        check_choice("control", name, CONTROLS)
    if len(set(names)) < len(names):
        raise UsageError(f"`control` (={names!r}) names the same control twice")
    if pretrained and "wider" in names:
        raise UsageError("`control` (='wider'): a wider host has no pretrained weights; use control='longer'")
    return [Variant(name=name, control=name) for name in names]  # pyright: ignore[reportArgumentType] # checked above


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    listed = range(seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    if (
        not isinstance(listed, Sequence)
        or not 0 < len(listed) <= MOST_SEEDS
        or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in listed)
        or len(set(listed)) < len(listed)
    ):
        raise UsageError(
            f"`seeds` (={seeds!r}) must be a count of at least 1, or different integers from 0; at most {MOST_SEEDS}"
        )
    return list(listed)
