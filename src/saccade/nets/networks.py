"""The papers' networks: each a host and what stands where in it, with the figures that its paper gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Network:
    """A network of a paper.

    ``attention`` maps places (kinds of site, paths, globs) to mechanisms with their options, as
    :func:`saccade.augment` takes them; an empty one is a plain host. ``params`` and ``macs`` are the paper's (or the
    authors' code's), in millions and in thousands of millions of multiply-accumulates; a table that counts a multiply
    and an addition as two is halved here. ``source`` says whose they are and whether they are from memory, ``position``
    where the places come from if not from the paper.
    """

    host: str
    attention: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    image_size: int = 224
    params: float | None = None
    macs: float | None = None
    source: str = ""
    position: str = ""

    @property
    def num_classes(self) -> int:
        """ImageNet's, or CIFAR-100's."""
        return 1000 if self.image_size == 224 else 100


AA = "Bello et al., ICCV 2019"
MEMORY = " (from memory)"


def _spec(name: str, options: Mapping[str, Any]) -> str:
    said = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{name}({said})" if said else name


def _aa_resnet(depth: int, params: float, gflops: float, *, memory: bool = False, **options: Any) -> Network:
    """The 3 x 3 convolution of each block (the first, of a basic one) in the last three stages; the first of these, at
    28 x 28, attends at 14 x 14."""
    conv = "conv1" if depth < 50 else "conv2"
    return Network(
        f"timm:resnet{depth}",
        {
            f"layer2.*.{conv}": _spec("aaconv", {"downsample": 2, **options}),
            f"layer[34].*.{conv}": _spec("aaconv", options),
        },
        params=params,
        macs=gflops / 2,
        source=f"{AA}, table 3{MEMORY if memory else ''}",
        position="the last three stages are the paper's; which convolution, 28 to 14, and ResNet-34's"
        " kappa = upsilon = 0.25, from memory and by the count of parameters",
    )


def _aa_ratio(ratio: float, params: float, gflops: float) -> Network:
    made = _aa_resnet(50, params, gflops, kappa=ratio, upsilon=ratio)
    return replace(made, source=f"{AA}, the table of attention ratios")


def _aa_mnasnet(host: str, params: float, gflops: float) -> Network:
    """The expansions of the last 13 blocks, whose channels are at least 40; those of the first of their stages attend
    on a map of half the side."""
    options = {"kappa": 0.1, "upsilon": 0.05, "heads": 4, "min_key_dim": 1}
    return Network(
        host,
        {
            "blocks.2.*.conv_pw": _spec("aaconv", {**options, "downsample": 2}),
            "blocks.[3456].*.conv_pw": _spec("aaconv", options),
        },
        params=params,
        macs=gflops / 2,
        source=f"{AA}, table 4{MEMORY}",
        position="from memory and by the count of parameters; blocks.3.0, at 28 x 28 too, is not halved, by the"
        " paper's GFlops (from memory)",
    )


def _wrn(attention: Mapping[str, str], params: float, gflops: float) -> Network:
    return Network("saccade:wide_resnet(depth=28, widen=10)", attention, 32, params, gflops / 2, f"{AA}, table 1")


def _residual(depth: int, spec: str, params: float | None, macs: float | None, source: str) -> Network:
    """At the end of every residual branch, before the addition."""
    return Network(f"timm:resnet{depth}", {"residual": spec}, 224, params, macs, source)


def _eca(depth: int, kernels: str, params: float, macs: float) -> Network:
    """Kernels by stage, as the authors set them by hand. Their millions of parameters are of 2**20."""
    norm = "bn2" if depth < 50 else "bn3"
    places = {f"{stage}.*.{norm}": f"eca(kernel_size={k})" for stage, k in zip(STAGES, kernels, strict=True)}
    return Network(f"timm:resnet{depth}", places, 224, params * 2**20 / 1e6, macs, "the authors' README")


def _bam(depth: int, params: float, macs: float | None) -> Network:
    """Between stages; the authors' code, of which the figures are, multiplies the branches."""
    spec = "bam(combine='product', norm_last=False)"
    return Network(
        f"timm:resnet{depth}", dict.fromkeys(STAGES[:3], spec), 224, params, macs, "a re-implementation (SGE's README)"
    )


def _cifar(depth: int, attention: Mapping[str, str], params: float | None, source: str) -> Network:
    host = f"saccade:cifar_resnet(depth={depth}, block='bottleneck')"
    return Network(host, attention, 32, params, None, source)


def _residual_attention(depth: int, params: float) -> Network:
    return Network(
        f"saccade:residual_attention(depth={depth})", {}, 32, params, None, f"Wang et al., CVPR 2017{MEMORY}",
        position="a trunk of its own; widths chosen by us, by the count of parameters",
    )  # fmt: skip


COUNTED = "the paper's network by the authors' code, counted by hand"
NETWORKS: dict[str, Network] = {
    "aa_resnet34": _aa_resnet(34, 20.7, 7.1, kappa=0.25, upsilon=0.25),
    "aa_resnet50": _aa_resnet(50, 25.8, 8.3),
    "aa_resnet101": _aa_resnet(101, 45.4, 16.1),
    "aa_resnet152": _aa_resnet(152, 61.6, 23.8, memory=True),
    "aa_resnet50_025": _aa_ratio(0.25, 24.3, 7.9),
    "aa_resnet50_050": _aa_ratio(0.5, 22.3, 7.3),
    "aa_resnet50_075": _aa_ratio(0.75, 20.7, 6.8),
    "aa_resnet50_100": _aa_ratio(1.0, 19.4, 6.3),
    "aa_mnasnet_075": _aa_mnasnet("timm:semnasnet_075", 3.02, 0.51),
    "aa_mnasnet_100": _aa_mnasnet("timm:semnasnet_100", 4.06, 0.70),
    "aa_mnasnet_125": _aa_mnasnet("saccade:mnasnet_a1(width=1.25)", 5.53, 1.11),
    "aa_mnasnet_140": _aa_mnasnet("timm:semnasnet_140", 6.44, 1.29),
    "wrn28_10": _wrn({}, 36.3, 10.4),
    "ge_wrn28_10": _wrn({"residual": "ge"}, 36.3, 10.4),
    "se_wrn28_10": _wrn({"residual": "se"}, 36.5, 10.4),
    "aa_wrn28_10": _wrn({"layer?.*.conv1": "aaconv"}, 36.2, 10.9),
    "se_resnet50": _residual(50, "se", 28.1, 3.87, "Hu et al., CVPR 2018, and table 3 of AAConv"),
    "ge_resnet50": _residual(50, "ge", 25.6, None, f"Hu et al., NeurIPS 2018{MEMORY}"),
    "ge_theta_resnet50": _residual(50, "ge(gather='depthwise')", 31.2, None, f"Hu et al., NeurIPS 2018{MEMORY}"),
    "ge_theta_plus_resnet50": _residual(
        50, "ge(gather='depthwise', excite='mlp')", 33.7, 3.87, "Hu et al., NeurIPS 2018, as others cite it"
    ),
    "bam_resnet50": _bam(50, 25.92, 4.205),
    "bam_resnet101": _bam(101, 44.91, None),
    "cbam_resnet50": _residual(50, "cbam", 28.09, 3.864, "Woo et al., ECCV 2018"),
    "cbam_resnet101": _residual(101, "cbam", 49.33, None, "a re-implementation (SGE's README)"),
    "eca_resnet18": _eca(18, "3577", 11.15, 1.70),
    "eca_resnet34": _eca(34, "3357", 20.79, 3.43),
    "eca_resnet50": _eca(50, "3557", 24.37, 3.86),
    "eca_resnet101": _eca(101, "3357", 42.49, 7.35),
    "eca_resnet152": _eca(152, "3357", 57.41, 10.83),
    "gala_resnet50": Network(
        "timm:resnet50", {"residual": "gala(reduction=16)"}, 224, 29.4, None, f"{AA}, table 2{MEMORY}",
        position="chosen by us; r = 16 by the count of parameters (the paper's 4, from memory, gives 40.7 M)",
    ),
    "triplet_resnet18": _residual(18, "triplet", 11.69, 1.825, "the authors' README"),
    "triplet_resnet50": _residual(50, "triplet", 25.56, 4.169, "the authors' README"),
    "gc_resnet50": Network(
        "timm:resnet50", {"layer[234].*.bn3": "gc"}, position="c3 to c5, at the end of the branch: from memory"
    ),
    "sge_resnet50": _residual(50, "sge", 25.56, 4.127, "the authors' README"),
    "shuffle_resnet50": _residual(50, "shuffle", 25.56, None, "the authors' README"),
    "shuffle_resnet101": _residual(101, "shuffle", 44.55, None, "the authors' README"),
    "simam_resnet50": Network(
        "timm:resnet50", {"layer?.*.conv2": "simam"}, 224, 25.56, 4.11, "the authors' README",
        position="the authors' code: after the 3 x 3 convolution, before its BatchNorm",
    ),
    "coord_mobilenetv2_100": Network(
        "timm:mobilenetv2_100", {"blocks.[123456].*.bn2": "coord"}, 224, 3.95, 0.310, "the authors' README",
        position="the authors' code: after the depthwise convolution's BatchNorm and ReLU6, but in the first block,"
        " which does not expand",
    ),
    "gam_resnet18": Network(
        "timm:resnet18", dict.fromkeys(STAGES, "gam(reduction=8)"), 224, 16.04, None, f"Liu et al., 2021{MEMORY}",
        position="chosen by us: the end of every stage, by the count of parameters",
    ),
    "nonlocal_resnet50": Network(
        "timm:resnet50",
        dict.fromkeys(("layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"), "nonlocal(subsample=True)"),
        source="Wang et al., CVPR 2018",
        position="after every second block of res3 and res4, as the authors' code; half of the channels inside, from"
        " memory",
    ),
    "bot_resnet50": Network(
        "timm:resnet50", {"layer4.*.conv2": "bot(heads=4)"}, 224, 20.8, None, f"Srinivas et al., CVPR 2021{MEMORY}"
    ),
    "sem_resnet83": _cifar(83, {"residual": "sem"}, 1.0141, COUNTED),
    "sem_resnet164": _cifar(164, {"residual": "sem"}, 1.9701, COUNTED),
    "iebn_resnet83": _cifar(83, {"bn1": "iebn", "layer?.*.bn?": "iebn"}, None, "Liang et al., AAAI 2020"),
    "iebn_resnet164": _cifar(164, {"bn1": "iebn", "layer?.*.bn?": "iebn"}, None, "Liang et al., AAAI 2020"),
    "residual_attention_92": _residual_attention(92, 1.9),
    "residual_attention_236": _residual_attention(236, 5.1),
    "stn_resnet20": Network(
        "saccade:cifar_resnet(depth=20)", {"input": "stn"}, 32, position="before the network: from memory; the host is"
        " ours"
    ),
}  # fmt: skip
