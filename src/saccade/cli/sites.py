"""What ``saccade sites`` prints."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor

from saccade._checks import check_int
from saccade._specs import split_places
from saccade.errors import UsageError
from saccade.nets import Host
from saccade.surgery import Selection, Sites, Survey, select


def print_sites(
    model: str, *, at: str | None, stages: str | None, max_positions: int | None, image_size: str | None, as_json: bool
) -> None:
    """The sites of a named model, all or those that ``at`` and the limits choose."""
    given = None if image_size is None else example(image_size)
    survey = Survey(Host.parse(model).sized(None if given is None else given.shape[-1]).build(), given)
    if at is not None:
        places = split_places(at)
        chosen = select(survey, places, stages=stages, max_positions=max_positions)
    elif stages is None and max_positions is None:
        chosen = Selection(survey.sites)
    else:
        raise UsageError("--stages and --max-positions choose among the sites that --at names; give --at, too")
    if as_json:
        print(json.dumps({"sites": [asdict(site) for site in chosen.sites], "notes": survey.sites.notes}, indent=2))
        return
    print(Sites(chosen.sites))
    for reason in dict.fromkeys(reason for _, reason in chosen.skipped):
        left_out = [site.path for site, why in chosen.skipped if why == reason]
        print(f"\n{reason} leaves out {len(left_out)}: {', '.join(left_out)}")
    print("\n" + "\n".join(survey.sites.notes))
    counts = ", ".join(f"{count} {kind}" for kind, count in survey.sites.counts().items())
    print(f"Sites in all: {counts or 'none'}.")


def example(image_size: str) -> Tensor:
    """An image of a size as people write it: ``224``, ``224x320``, ``1x224x320`` with the channels first."""
    try:
        sizes = [int(part) for part in image_size.lower().split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2, 3):
        raise UsageError(
            f"--image-size (={image_size!r}) must be as 224, 224x320, or 1x224x320 with the channels first"
        )
    for size in sizes:
        check_int("--image-size", size)
    return torch.zeros(1, *{1: (3, *sizes * 2), 2: (3, *sizes), 3: sizes}[len(sizes)])
