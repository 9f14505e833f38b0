"""MnasNet-A1 on ImageNet, plain and attention-augmented.

Source: all of it from memory, Bello et al., ICCV 2019, arXiv 1904.09925, section 4.2: 350 epochs as in MnasNet's paper
(Tan et al., CVPR 2019, arXiv 1807.11626); with attention half of the learning rate, and a decay by which the last rate
is the same. There: RMSProp with momentum 0.9, epsilon 1e-3, weight decay 1e-5, a learning rate that rises over 5 epochs
to 0.256 for 4,096 images and is multiplied by 0.97 every 2.4 epochs, label smoothing 0.1, random parts of the images
and mirrors. Deviations: batches of 256 and a sixteenth of the rate; a rate that falls at every step; no dropout (0.2
there); parts of the images as torchvision draws them.

Commands (with ``--set data=imagefolder:IMAGENET,test=val``):

- ``saccade train imagenet-mnasnet``
- ``saccade train imagenet-aa-mnasnet``

Expected scores: the paper has 75.2 and 75.7 % top-1 (from memory); not measured by us. Expected time: ``--dry-run``
tells it for your machine.
"""

from saccade.data import AugmentSettings
from saccade.training import OptimSettings, ScheduleSettings
from saccade.training.recipe import Recipe

LEFT = 0.97 ** ((350 - 5) / 2.4)  # of the plain network's learning rate, at the end


def _row(model: str, share: float) -> Recipe:
    """With ``share`` of the plain network's learning rate."""
    return Recipe(
        model=model,
        data="imagefolder:imagenet,test=val",
        image_size=224,
        epochs=350,
        batch_size=256,
        optim=OptimSettings(name="rmsproptf", lr=share * 0.256 * 256 / 4096, weight_decay=1e-5, eps=1e-3),
        schedule=ScheduleSettings(name="exponential", warmup=5 / 350, final=LEFT / share),
        augment=AugmentSettings(resized_crop=0.08, smoothing=0.1),
    )


RECIPES = {
    "imagenet-mnasnet": _row("timm:semnasnet_100", 1.0),
    "imagenet-aa-mnasnet": _row("saccade:aa_mnasnet_100", 0.5),
}
