"""ResNet-50 on ImageNet: attention-augmented, with SE, CBAM, BAM, ECA.

Source: Bello et al., ICCV 2019, arXiv 1904.09925, section 4.2, from memory: 100 epochs of SGD with momentum 0.9,
weight decay 1e-4, a learning rate that rises over the first 5 % of the steps to 0.128 for each 256 images, a tenth of
it after 30, 60, 80 and 90 epochs, random parts of the images and mirrors. The other rows are trained alike, so that
they can be compared; their own papers have other recipes. Deviations: Nesterov's form of momentum; parts of the
images as torchvision draws them.

Commands (with ``--set data=imagefolder:IMAGENET,test=val``):

- ``saccade train imagenet-aa-resnet50``
- ``saccade train imagenet-se-resnet50``
- ``saccade train imagenet-cbam-resnet50``
- ``saccade train imagenet-bam-resnet50``
- ``saccade train imagenet-eca-resnet50``
- ``saccade train imagenet-resnet50``

Expected scores, % top-1, not measured by us: aa 77.7, se 77.5, the plain network 76.4 as in the AAConv paper's tables;
cbam 77.4, bam 77.3 as in its table 2, from memory; eca 77.4 by its authors' README. Of CBAM and BAM the authors'
checkpoints, by recipes of their own, have 77.6 and 76.9. Expected time: ``--dry-run`` tells it for your machine.
"""

from saccade.data import AugmentSettings
from saccade.training import OptimSettings, ScheduleSettings
from saccade.training.recipe import Recipe


def _row(model: str) -> Recipe:
    return Recipe(
        model=model,
        data="imagefolder:imagenet,test=val",
        image_size=224,
        epochs=100,
        batch_size=256,
        optim=OptimSettings(lr=0.128, weight_decay=1e-4),
        schedule=ScheduleSettings(name="step", warmup=0.05, milestones=(0.3, 0.6, 0.8, 0.9)),
        augment=AugmentSettings(resized_crop=0.08),
    )


RECIPES = {"imagenet-resnet50": _row("timm:resnet50")} | {
    f"imagenet-{name}-resnet50": _row(f"saccade:{name}_resnet50") for name in ("aa", "se", "cbam", "bam", "eca")
}
