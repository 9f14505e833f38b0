"""ResNet-83 and -164 on CIFAR-100: plain, with SEM, with IEBN; plain and SEM on unaugmented images.

Source: the code of SEM's authors (Zhong et al., arXiv 2209.05680; run.py of their repository): 164 epochs of SGD with
momentum 0.9, learning rate 0.1, a tenth of it after 81 and again after 122, weight decay 1e-4, batches of 128, four
pixels of padding and a mirror; IEBN's authors (Liang et al., AAAI 2020) train likewise. SEM's table 5 leaves out
augmentation, with SEM and without. Deviations: Nesterov's form of momentum; shortcuts by 1 x 1 convolutions, as theirs.
Nothing is from memory.

Commands:

- ``saccade train cifar100-resnet164``
- ``saccade train cifar100-sem-resnet164``
- ``saccade train cifar100-iebn-resnet164``
- ``saccade train cifar100-resnet164-unaugmented``
- ``saccade train cifar100-sem-resnet164-unaugmented``
- ``saccade train cifar100-resnet83``
- ``saccade train cifar100-sem-resnet83``
- ``saccade train cifar100-iebn-resnet83``

Expected scores: the authors report 74.30 % plain, 76.76 % with SEM, 77.09 % with IEBN for ResNet-164, and table 5's
scores are not known to us; none is measured by us. Expected time: ``--dry-run`` tells it for your machine.
"""

from saccade.data import AugmentSettings
from saccade.training import OptimSettings, ScheduleSettings
from saccade.training.recipe import Recipe


def _row(network: str, augment: AugmentSettings | None = None) -> Recipe:
    return Recipe(
        model=f"saccade:{network}",
        data="cifar100",
        epochs=164,
        batch_size=128,
        optim=OptimSettings(lr=0.1, weight_decay=1e-4),
        schedule=ScheduleSettings(name="step", warmup=0, milestones=(81 / 164, 122 / 164)),
        augment=augment or AugmentSettings(crop=4),
    )


PLAIN = "cifar_resnet(depth=164, block='bottleneck')"
UNAUGMENTED = AugmentSettings(flip=False)
RECIPES = {
    "cifar100-resnet164": _row(PLAIN),
    "cifar100-sem-resnet164": _row("sem_resnet164"),
    "cifar100-iebn-resnet164": _row("iebn_resnet164"),
    "cifar100-resnet164-unaugmented": _row(PLAIN, UNAUGMENTED),
    "cifar100-sem-resnet164-unaugmented": _row("sem_resnet164", UNAUGMENTED),
    "cifar100-resnet83": _row("cifar_resnet(depth=83, block='bottleneck')"),
    "cifar100-sem-resnet83": _row("sem_resnet83"),
    "cifar100-iebn-resnet83": _row("iebn_resnet83"),
}
