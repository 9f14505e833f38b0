"""Surgery on a host of every family: sites, then six mechanisms, each added, run, trained, taken off.

``uv run python benchmarks/host_matrix.py`` writes benchmarks/results/host_matrix.json after every host and goes on
from there when it is run again; ``--only NAME`` measures those anew, ``--fresh`` all. Two more libraries take part
where they are installed: ``uv run --with segmentation-models-pytorch --with ultralytics benchmarks/host_matrix.py``.

A mechanism goes to the residual sites, or where a host has none, or it does not work there, to blocks, stages,
convolutions; ``aaconv`` to the convolutions of the two smallest maps, or the 1 x 1 ones; ``nonlocal`` not to maps of
more than 20,000 positions. Hosts have random weights,
small images and 10 classes. Each check is true, null where it does not apply, or the reason why it failed:

- ``augment``: with an identity start.
- ``identity``: the outputs are torch.equal to the host's, float32, eval mode.
- ``another_size``: the same on images of another size, if the host itself takes one.
- ``strip``: state, classes and outputs are the host's.
- ``three_steps``: of SGD in train mode, on two images; all is finite where the bare host's training is; stripped
  after, names and classes are the host's, and the trained weights stay.
- ``moved``: every new parameter has another value then, but for those whose gradient is zero by mathematics. Where
  steps of SGD are below float32's resolution (``still_after_sgd``, with their largest gradient), behind a layer
  scale of 1e-6 (ConvNeXt) for instance, those of Adam count, which do not depend on the gradient's scale.

Where only training fails, it is tried ``again`` with other random numbers and a tenth of the rates: the units of a
narrow bottleneck may all be off, or a step too long.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
import warnings
from fnmatch import fnmatchcase
from typing import Any

import torch
from common import RESULTS, write_result
from hosts import NO_CNNS, TORCHVISION_LEFT_OUT, Host, Size, all_hosts, library_version, tensors
from matrix_summary import summarise
from torch import Tensor, nn

import saccade
from saccade.surgery import Sites, Survey
from saccade.surgery.residual import residual_junctions

NAME = "host_matrix"
THREADS = 1  # two that wait for each other are slower than one where other work runs
STEPS = 3
# Hidden widths of several units: the ReLU of a single one may be off for good.
MECHANISMS: dict[str, dict[str, Any]] = {
    "se": {"reduction": 2},
    "cbam": {"reduction": 2},
    "gam": {"width": 8},
    "sem": {"reduction": 2},
    "aaconv": {},
    "nonlocal": {},
}
LIMITS: dict[str, dict[str, Any]] = {
    "aaconv": {"stages": "deepest:2", "max_positions": 2000},
    "nonlocal": {"max_positions": 20000},  # it holds a weight for every two of them
}
# What a BatchNorm in train mode, or a softmax, takes out again.
ZERO_BY_MATHEMATICS = {"gam": ("*.spatial.[03].bias",), "nonlocal": ("*.phi.bias", "*.g.bias", "*.output.bias")}
TRAINING = (["three_steps"], ["moved"])
# Attention's rate (the host's is a hundredth of it), and the rest: Adam's steps of any gradient that is not zero.
OPTIMISERS: dict[Any, tuple[float, dict[str, float]]] = {
    torch.optim.SGD: (1.0, {}),
    torch.optim.Adam: (0.1, {"eps": 1e-20}),
}
Gradients = dict[str, float]
OTHER_SIZES = ((96, 128), (128, 160), (160, 128), (192, 192), (256, 256))


def main() -> None:
    """Measure what is missing in the results file, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="such as timm:test_resnet")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    hosts = {host.name: host for host in all_hosts()}
    if unknown := [name for name in asked.only or () if name not in hosts]:
        parser.error(f"no host {', '.join(unknown)}; there are {', '.join(hosts)}")
    results = {} if asked.fresh else earlier()
    for name in asked.only or [name for name in hosts if name not in results]:
        started = time.monotonic()
        results[name] = measure(hosts[name])
        results = {known: results[known] for known in (*hosts, *results) if known in results}
        write(results)
        failed = [f"{m}: {cell['failed']}" for m, cell in results[name].get("mechanisms", {}).items() if cell["failed"]]
        print(f"{name}: {time.monotonic() - started:.0f} s {results[name].get('sites')} {failed}", flush=True)
    print(json.dumps(write(results), indent=1))


def earlier() -> dict[str, Any]:
    """The hosts of the results file, if there is one."""
    path = RESULTS / f"{NAME}.json"
    return json.loads(path.read_text(encoding="utf-8"))["hosts"] if path.exists() else {}


def write(results: dict[str, Any]) -> dict[str, Any]:
    """Write the results file; the summary is returned."""
    summary = summarise(results)
    left_out = {f"timm:{family}": reason for family, (_, reason) in NO_CNNS.items()}
    left_out |= {f"torchvision:{family}": reason for family, reason in TORCHVISION_LEFT_OUT.items()}
    options = {name: given for name, given in MECHANISMS.items() if given}
    write_result(
        NAME, ("saccade", "torch", "torchvision", "timm"),
        threads=THREADS, options=options, limits=LIMITS, summary=summary, left_out=left_out, hosts=results,
    )  # fmt: skip
    return summary


def measure(host: Host) -> dict[str, Any]:
    """Everything about one host."""
    entry: dict[str, Any] = {"family": host.family, "version": library_version(host.library)}
    try:
        model = host.build()
        entry["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        bare = Bare(host, model)
        entry |= {"image": bare.size, "another_image": bare.other, **({"bare_host": bare.note} if bare.note else {})}
        survey = Survey(model, host.input(bare.size))
        junctions = residual_junctions(survey.graph)
        without = [junction.reason for junction in junctions if junction.call is None]
        entry |= {
            "sites": survey.sites.counts(),
            "residual_additions": len(junctions),
            "with_a_site": len(junctions) - len(without),
        }
        entry |= {"without_a_site": without} if without else {}
    except Exception as error:  # noqa: BLE001  one host's failure must not end the run
        return entry | {"failed": told(error)}
    entry["mechanisms"] = {mechanism: cell(bare, mechanism, survey.sites) for mechanism in MECHANISMS}
    return entry


class Bare:
    """The host itself: the size of images at which it runs and trains, its outputs there and at another size."""

    def __init__(self, host: Host, model: nn.Module) -> None:
        self.host, self.model, self.note = host, model, ""
        self.size = self._smallest()
        self.output = run(model, host.input(self.size))
        self.other: Size | None = None
        for size in OTHER_SIZES:
            if size != self.size and self.other is None and self._problem(size, train=False) is None:
                self.other = size
                self.other_output = run(model, host.input(size))

    def _smallest(self) -> Size:
        problems = {}
        for train in (True, False):
            for size in self.host.sizes:
                problem = self._problem(size, train=train)
                if problem is None:
                    return size
                problems[size] = problem
            self.note = f"does not train: {problems}"
        raise RuntimeError(f"the bare host runs at no size: {problems}")

    def _problem(self, size: Size, *, train: bool) -> str | None:
        try:
            first, second = (run(self.model, self.host.input(size)) for _ in range(2))
            if not all(bool(y.isfinite().all()) for y in first):
                return "outputs that are not finite"
            if not same(first, second):
                return "two runs differ"
            if not sum(y.numel() for y in first):
                return "no outputs"
            if train:
                steps(self.host, copy.deepcopy(self.model), size)
        except Exception as error:  # noqa: BLE001  hosts fail at sizes in any way
            return told(error)
        return None


def cell(bare: Bare, mechanism: str, sites: Sites) -> dict[str, Any]:
    """One mechanism on one host: at the first kind of site where all checks hold, else at the first; what failed before
    is kept."""
    order = ("conv", "pointwise") if mechanism == "aaconv" else ("residual", "block", "stage", "conv")
    most = LIMITS.get(mechanism, {}).get("max_positions", math.inf)
    kinds = [kind for kind in order if any(site.kind == kind and site.positions <= most for site in sites)]
    tried: list[dict[str, Any]] = []
    for kind, again in [(kind, again) for kind in kinds for again in (False, True)]:
        if again and tried[-1]["failed"] not in TRAINING:
            continue
        tried.append(Trial(bare, mechanism, kind, again=again).result())
        if not tried[-1]["failed"]:
            break
    if not tried:
        return {"at": None, "failed": [f"no site of kind {' or '.join(order)}"]}
    best = next((result for result in tried if not result["failed"]), tried[0])
    others = [result for result in tried if result is not best]
    return best | ({"also_tried": others} if others else {})


class Trial:
    """A mechanism at the sites of one kind of a host, and the checks."""

    def __init__(self, bare: Bare, mechanism: str, kind: str, *, again: bool = False) -> None:
        self.bare, self.host, self.mechanism, self.kind = bare, bare.host, mechanism, kind
        self.model: nn.Module = nn.Identity()
        self.seed, self.slower = (2, 0.1) if again else (1, 1.0)
        self.details: dict[str, Any] = {"again": True} if again else {}

    def result(self) -> dict[str, Any]:
        """Every check's outcome; those that failed are named."""
        outcomes: dict[str, bool | str | None] = {}
        started = time.monotonic()
        for check in (self.augment, self.identity, self.another_size, self.strip, self.three_steps, self.moved):
            try:
                outcomes[check.__name__] = check()
            except Exception as error:  # noqa: BLE001  that is what is recorded
                outcomes[check.__name__] = told(error)
            if isinstance(outcomes[check.__name__], str):
                break
        failed = [name for name, outcome in outcomes.items() if isinstance(outcome, str)]
        seconds = round(time.monotonic() - started, 1)
        return {"at": self.kind, **outcomes, **self.details, "seconds": seconds, "failed": failed}

    def augment(self) -> bool:
        """Add it, with an identity start."""
        torch.manual_seed(self.seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.model = saccade.augment(
                self.bare.model, self.mechanism, at=self.kind, options=MECHANISMS[self.mechanism],
                example_input=self.host.input(self.bare.size), **LIMITS.get(self.mechanism, {}),
            )  # fmt: skip
        plan = saccade.plan_of(self.model)
        self.details |= {"edits": len(plan), "new_parameters": sum(plan.parameters)}
        if said := [str(warning.message) for warning in caught if "called" in str(warning.message)]:
            self.details["warnings"] = said
        return True

    def identity(self) -> bool | str:
        """Whether the outputs are the host's."""
        output = run(self.model, self.host.input(self.bare.size))
        return same(output, self.bare.output) or "the outputs differ from the host's"

    def another_size(self) -> bool | str | None:
        """The same at another size."""
        if self.bare.other is None:
            return None
        output = run(self.model, self.host.input(self.bare.other))
        return same(output, self.bare.other_output) or "the outputs differ from the host's"

    def strip(self) -> bool | str:
        """Whether what is left is the host, before training."""
        left = saccade.strip(self.model)
        if classes(left) != classes(self.bare.model):
            return "other modules or classes"
        ours, hosts = left.state_dict(), self.bare.model.state_dict()
        if list(ours) != list(hosts) or not all(torch.equal(ours[key], hosts[key]) for key in hosts):
            return "another state"
        return same(run(left, self.host.input(self.bare.size)), self.bare.output) or "other outputs"

    def three_steps(self) -> bool | str:
        """Train, and strip what was trained."""
        self.fresh = copy.deepcopy(self.model)
        self.largest = steps(self.host, self.model, self.bare.size, slower=self.slower)
        self.still = self._still(self.model)
        trained = self.model.state_dict()
        left = saccade.strip(self.model)
        if classes(left) != classes(self.bare.model):
            return "after training, strip leaves other modules or classes"
        if list(left.state_dict()) != list(self.bare.model.state_dict()):
            return "after training, strip leaves other names"
        kept = all(torch.equal(tensor, trained[name]) for name, tensor in left.state_dict().items())
        return kept or "strip changes the trained weights"

    def moved(self) -> bool | str:
        """Whether every new parameter has another value, after SGD or else after Adam."""
        if not self.still:
            return True
        largest = max(self.largest[name] for name in self.still)
        self.details["still_after_sgd"] = {"count": len(self.still), "largest_gradient": float(f"{largest:.1e}")}
        self.model = copy.deepcopy(self.fresh)
        self.largest = steps(self.host, self.model, self.bare.size, torch.optim.Adam, slower=self.slower)
        still = self._still(self.model)
        if not still:
            return True
        self.details["still_after_adam"] = {name: float(f"{self.largest[name]:.1e}") for name in still}
        return f"{len(still)} of {len(new_parameters(self.model))} new parameters have not moved"

    def _still(self, trained: nn.Module) -> list[str]:
        zero = ZERO_BY_MATHEMATICS.get(self.mechanism, ())
        before, after = new_parameters(self.fresh), new_parameters(trained)
        names = [name for name in before if not any(fnmatchcase(name, pattern) for pattern in zero)]
        return [name for name in names if torch.equal(before[name], after[name])]


def steps(host: Host, model: nn.Module, size: Size, optim: Any = torch.optim.SGD, *, slower: float = 1.0) -> Gradients:
    """Three steps, on other images each; the largest gradient of each new parameter.

    Attention learns faster than the host, as one would have it for weights that start at nothing.
    """
    ours, hosts = saccade.attention_parameters(model), saccade.host_parameters(model)
    rate, options = OPTIMISERS[optim]
    rate *= slower
    groups = [{"params": ours, "lr": rate}, {"params": hosts, "lr": 0.01 * rate}]
    optimiser = optim([group for group in groups if group["params"]], **options)
    largest: Gradients = {}
    model.train()
    for seed in range(STEPS):
        optimiser.zero_grad()
        loss = host.loss(model, size, seed)
        loss.backward()
        for name, parameter in new_parameters(model).items():
            seen = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
            largest[name] = max(largest.get(name, 0.0), seen)
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimiser.step()
        if not (bool(loss.isfinite()) and all(bool(p.isfinite().all()) for p in model.parameters())):
            raise RuntimeError(f"step {seed + 1} of training gives values that are not finite, loss {float(loss)}")
    model.eval()
    return largest


def new_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that attention brought, by name."""
    ours = set(map(id, saccade.attention_parameters(model)))
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}


def run(model: nn.Module, images: Any) -> list[Tensor]:
    """The tensors of the outputs in eval mode."""
    with torch.no_grad():
        return tensors(model(images))


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether all tensors are equal."""
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def classes(model: nn.Module) -> list[tuple[str, type]]:
    """Path and class of every module."""
    return [(path, type(module)) for path, module in model.named_modules()]


def told(error: Exception) -> str:
    """An exception's type and first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


if __name__ == "__main__":
    main()
