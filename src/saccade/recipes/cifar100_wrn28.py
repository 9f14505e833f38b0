"""WRN-28-10 on CIFAR-100: plain, with SE, with GE, attention-augmented.

Source: Bello et al., ICCV 2019, arXiv 1904.09925, section 4.1 and table 1. As a reproduction quotes it: 500 epochs of
SGD with momentum 0.9, a learning rate that rises over the first 5 % of the steps to 0.2 for each 256 images of a
batch, then a cosine. From memory: mirror and crop; batches of 1,024 and weight decay 2e-4, where attention augments
convolutions batches of 256 and 5e-4. Deviations: Nesterov's form of momentum; images are normalised by mean and
deviation.

Commands (best with ``--accelerator gpu --set precision=bf16-mixed``):

- ``saccade train cifar100-wrn28``
- ``saccade train cifar100-se-wrn28``
- ``saccade train cifar100-ge-wrn28``
- ``saccade train cifar100-aa-wrn28``

Expected scores: the paper has 80.3, 81.0, 79.8, 81.6 % top-1; not measured by us. Expected time: ``--dry-run`` tells
it for your machine.
"""

from saccade.data import AugmentSettings
from saccade.training import OptimSettings, ScheduleSettings
from saccade.training.recipe import Recipe


def _row(network: str, batch_size: int, weight_decay: float) -> Recipe:
    return Recipe(
        model=f"saccade:{network}",
        data="cifar100",
        epochs=500,
        batch_size=batch_size,
        optim=OptimSettings(lr=0.2 * batch_size / 256, weight_decay=weight_decay),
        schedule=ScheduleSettings(warmup=0.05),
        augment=AugmentSettings(crop=4),
    )


RECIPES = {
    "cifar100-wrn28": _row("wrn28_10", 1024, 2e-4),
    "cifar100-se-wrn28": _row("se_wrn28_10", 1024, 2e-4),
    "cifar100-ge-wrn28": _row("ge_wrn28_10", 1024, 2e-4),
    "cifar100-aa-wrn28": _row("aa_wrn28_10", 256, 5e-4),
}
