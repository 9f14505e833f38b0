"""Hosts of the matrix: a small member of every family of CNNs of timm and torchvision, and of two more libraries."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

CLASSES = 10
Size = tuple[int, int]

# Of every module that timm.list_modules() names, the member with the fewest parameters.
TIMM = {
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "coat": "coat_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "nasnet": "nasnetalarge",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "tiny_vit": "tiny_vit_5m_224",
    "tresnet": "tresnet_m",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vitamin": "vitamin_small_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
}

TOKENS = "a transformer on tokens"
WINDOWS = "a transformer on windows of tokens"
PERCEPTRON = "perceptrons or recurrence on tokens"
# The same for the modules of timm that hold no CNNs, with what they hold.
NO_CNNS = {
    "beit": ("beit_base_patch16_224", TOKENS),
    "cait": ("cait_xxs24_224", TOKENS),
    "convit": ("convit_tiny", TOKENS),
    "crossvit": ("crossvit_tiny_240", TOKENS),
    "deepseek_vit": ("deepseek_vit_412m", TOKENS),
    "deit": ("deit_tiny_patch16_224", TOKENS),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", TOKENS),
    "gemma4_vit": ("gemma4_vit_167m", TOKENS),
    "hiera": ("hiera_tiny_224", WINDOWS),
    "hieradet_sam2": ("sam2_hiera_tiny", WINDOWS),
    "mlp_mixer": ("gmlp_ti16_224", PERCEPTRON),
    "mvitv2": ("mvitv2_tiny", TOKENS),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", TOKENS),
    "nest": ("nest_tiny", WINDOWS),
    "pit": ("pit_ti_224", TOKENS),
    "qwen3_vit": ("qwen3_vit_88m", TOKENS),
    "sequencer": ("sequencer2d_s", PERCEPTRON),
    "swin_transformer": ("swin_tiny_patch4_window7_224", WINDOWS),
    "swin_transformer_v2": ("swinv2_tiny_window16_256", WINDOWS),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", WINDOWS),
    "tnt": ("tnt_s_legacy_patch16_224", TOKENS),
    "twins": ("twins_svt_small", WINDOWS),
    "vision_transformer": ("test_vit", TOKENS),
    "vision_transformer_relpos": ("test_vit_relpos", TOKENS),
    "vision_transformer_sam": ("samvit_base_patch16_224", WINDOWS),
    "volo": ("volo_d1_224", TOKENS),
    "xcit": ("xcit_nano_12_p8_224", TOKENS),
}

# By the module of torchvision.models that builds them.
TORCHVISION = {
    "alexnet": "alexnet",
    "convnext": "convnext_tiny",
    "densenet": "densenet121",
    "efficientnet": "efficientnet_b0",
    "googlenet": "googlenet",
    "inception": "inception_v3",
    "maxvit": "maxvit_t",
    "mnasnet": "mnasnet0_5",
    "mobilenetv2": "mobilenet_v2",
    "mobilenetv3": "mobilenet_v3_small",
    "regnet": "regnet_y_400mf",
    "resnet": "resnet18",
    "shufflenetv2": "shufflenet_v2_x0_5",
    "squeezenet": "squeezenet1_1",
    "vgg": "vgg11",
    "segmentation.deeplabv3": "deeplabv3_mobilenet_v3_large",
    "segmentation.fcn": "fcn_resnet50",
    "segmentation.lraspp": "lraspp_mobilenet_v3_large",
}
FEW_BOXES = {
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10,
    "box_batch_size_per_image": 8,
    "rpn_post_nms_top_n_test": 20,
    "rpn_post_nms_top_n_train": 20,
}
FEW_ANCHORS = {"score_thresh": 0.0, "detections_per_img": 10, "topk_candidates": 20}
SMALL = {"min_size": 96, "max_size": 160}
DETECTION: dict[str, tuple[str, dict[str, Any]]] = {
    "detection.faster_rcnn": ("fasterrcnn_mobilenet_v3_large_320_fpn", FEW_BOXES | SMALL),
    "detection.fcos": ("fcos_resnet50_fpn", FEW_ANCHORS | SMALL),
    "detection.keypoint_rcnn": ("keypointrcnn_resnet50_fpn", FEW_BOXES | SMALL),
    "detection.mask_rcnn": ("maskrcnn_resnet50_fpn", FEW_BOXES | SMALL),
    "detection.retinanet": ("retinanet_resnet50_fpn", FEW_ANCHORS | SMALL),
    "detection.ssd": ("ssd300_vgg16", FEW_ANCHORS),
    "detection.ssdlite": ("ssdlite320_mobilenet_v3_large", FEW_ANCHORS),
}
TORCHVISION_LEFT_OUT = {
    "swin_transformer": WINDOWS,
    "vision_transformer": TOKENS,
    "optical_flow": "takes two images and refines a flow, no CNN of maps alone",
    "quantization": "its convolutions compute with integers, which cannot be trained",
    "video": "3-D convolutions on clips",
}

SMP = ("Unet", "FPN", "Linknet", "PSPNet", "DeepLabV3Plus", "UnetPlusPlus", "MAnet", "PAN")
YOLO = ("yolov8n", "yolo11n")
EXTRAS = {"segmentation_models_pytorch": "segmentation-models-pytorch", "ultralytics": "ultralytics"}


@dataclass(frozen=True)
class Host:
    """A network of a library's family. ``detector``: it takes a list of images, and targets when it is trained."""

    library: str
    family: str
    member: str
    make: Callable[[], nn.Module]
    sizes: tuple[Size, ...] = ()
    detector: bool = False

    @property
    def name(self) -> str:
        """As for the command line."""
        return f"{self.library}:{self.member}"

    def build(self) -> nn.Module:
        """The network with random weights of a fixed seed, its norms as after training."""
        torch.manual_seed(0)
        return settle(self.make())

    def input(self, size: Size, batch: int = 1, seed: int = 0) -> Any:
        """What its forward takes in eval mode: random images."""
        images = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
        return list(images) if self.detector else images

    def loss(self, model: nn.Module, size: Size, seed: int) -> Tensor:
        """A number to train on: a detector's own losses, of all others the distance of the outputs to noise."""
        images = self.input(size, 2, seed)
        if self.detector:
            return torch.stack([*model(images, [target(self.member, size) for _ in images]).values()]).sum()
        generator = torch.Generator().manual_seed(seed)
        outputs = [leaf for leaf in tensors(model(images)) if leaf.requires_grad]
        return torch.stack([(y - torch.randn(y.shape, generator=generator)).square().sum() for y in outputs]).sum()


def all_hosts() -> Iterator[Host]:
    """Every host that can be built here, after a check that no family of the libraries is missing."""
    check_tables()
    tried = ((64, 96), (128, 96), (128, 128))
    for family, member in TIMM.items():
        # CSATv2 starts with an eighth of the size; where the last map has one position, positions have no weights.
        sizes = ((128, 160),) if family == "csatv2" else (*tried, _native(member))
        yield Host("timm", family, member, lambda member=member: _timm(member), sizes)
    for family, member in TORCHVISION.items():
        sizes = (*tried, (299, 299) if family == "inception" else (224, 224))
        yield Host("torchvision", family, member, lambda member=member: _torchvision(member, {}), sizes)
    for family, (member, options) in DETECTION.items():
        make = lambda member=member, options=options: _torchvision(member, options)  # noqa: E731
        yield Host("torchvision", family, member, make, ((96, 128),), detector=True)
    if importlib.util.find_spec("segmentation_models_pytorch"):
        for member in SMP:
            yield Host("segmentation_models_pytorch", "segmentation", member, lambda member=member: _smp(member), tried)
    if importlib.util.find_spec("ultralytics"):
        for member in YOLO:
            yield Host("ultralytics", "yolo", member, lambda member=member: _yolo(member), tried)


def library_version(library: str) -> str:
    """Of an installed library."""
    return version(EXTRAS.get(library, library))


def settle(model: nn.Module) -> nn.Module:
    """Batch norms as after training: no mean or weight of 0, which would make a residual branch nothing."""
    generator = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            named = (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)
            affine = (module.weight, 0.5, 1.5), (module.bias, -0.2, 0.2)
            for tensor, low, high in (*named, *affine):
                if tensor is not None:
                    tensor.data = low + (high - low) * torch.rand(tensor.shape, generator=generator)
    return model.eval()


def tensors(output: Any) -> list[Tensor]:
    """The tensors of what a host gave, whatever holds them."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def target(member: str, size: Size) -> dict[str, Tensor]:
    """Two things to detect in an image of that size."""
    height, width = size
    boxes = torch.tensor([[4.0, 6.0, width / 2, height / 2], [width / 3, height / 3, width - 8.0, height - 4.0]])
    found = {"boxes": boxes, "labels": torch.tensor([1, 1])}
    if member.startswith("maskrcnn"):
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        found["masks"] = masks
    if member.startswith("keypointrcnn"):
        x, y = (boxes[:, None, :2] + 5 + torch.arange(17.0)[:, None]).unbind(-1)
        found["keypoints"] = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    return found


def check_tables() -> None:
    """Whether timm or torchvision have a family that the tables lack."""
    import timm
    from torchvision import models

    if missing := set(timm.list_modules()) - {*TIMM, *NO_CNNS}:
        raise SystemExit(f"timm has families that benchmarks/hosts.py does not name: {sorted(missing)}")
    modules = {inspect.unwrap(models.get_model_builder(name)).__module__ for name in models.list_models()}
    families = {module.removeprefix("torchvision.models.") for module in modules}
    known = {*TORCHVISION, *DETECTION, *TORCHVISION_LEFT_OUT}
    if missing := {family for family in families if not {family, family.partition(".")[0]} & known}:
        raise SystemExit(f"torchvision has families that benchmarks/hosts.py does not name: {sorted(missing)}")


def _native(member: str) -> Size:
    import timm

    config = timm.get_pretrained_cfg(member)
    size = (3, 224, 224) if config is None else config.input_size
    return size[1], size[2]


def _timm(member: str) -> nn.Module:
    import timm

    return timm.create_model(member, num_classes=CLASSES)


def _torchvision(member: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    if "weights_backbone" in inspect.signature(models.get_model_builder(member)).parameters:
        options = options | {"weights_backbone": None}
    # A keypoint detector knows people and the background.
    classes = 2 if member.startswith("keypoint") else CLASSES
    return models.get_model(member, weights=None, num_classes=classes, **options)


def _smp(member: str) -> nn.Module:
    smp = importlib.import_module("segmentation_models_pytorch")
    return getattr(smp, member)(encoder_name="resnet18", encoder_weights=None, classes=2)


def _yolo(member: str) -> nn.Module:
    return importlib.import_module("ultralytics").YOLO(f"{member}.yaml").model
