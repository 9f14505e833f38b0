"""What ``saccade list --networks`` prints."""

from __future__ import annotations

import json
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.text import Text

import saccade
from saccade.cli.tables import console, table
from saccade.nets.networks import NETWORKS
from saccade.profiling.macs import count_macs


def print_networks(*, as_json: bool) -> None:
    """Every network of a paper with its parameters and MACs beside those that the paper gives."""
    terminal = Console(stderr=True)
    names = track(  # building and counting all takes half a minute
        NETWORKS, "counting", console=terminal, transient=True, disable=not terminal.is_terminal
    )
    entries = [_entry(name) for name in names]
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    columns = ("name", "params", "paper's params", "MACs", "paper's MACs", "host", "source")
    rows = [
        [
            each["name"],
            f"{each['params'] / 1e6:.3f} M",
            "" if each["paper_params_m"] is None else f"{each['paper_params_m']:.4g} M",
            f"{each['macs'] / 1e9:.3f} G",
            "" if each["paper_macs_g"] is None else f"{each['paper_macs_g']:.4g} G",
            each["host"],
            each["source"],
        ]
        for each in entries
    ]
    out = console()
    out.print(table(columns, rows, left=("name", "host", "source")))
    out.print(
        "\nOf one image, 224 x 224 or 32 x 32; the documentation's page on networks tells why some differ.\n\n"
        "Where the places come from, if not simply from the paper:",
        highlight=False,
    )
    for position in dict.fromkeys(each["position"] for each in entries if each["position"]):
        same = [each["name"] for each in entries if each["position"] == position]
        out.print(Text(f"{', '.join(same)}: {position}"), soft_wrap=True)


def _entry(name: str) -> dict[str, Any]:
    network = NETWORKS[name]
    with torch.device("meta"):  # sizes without numbers
        model = saccade.create_model(name)
        macs = count_macs(model, torch.zeros(1, 3, network.image_size, network.image_size))
    return {
        "name": name,
        "host": network.host,
        "attention": dict(network.attention),
        "image_size": network.image_size,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": macs,
        "paper_params_m": network.params,
        "paper_macs_g": network.macs,
        "source": network.source,
        "position": network.position,
    }
