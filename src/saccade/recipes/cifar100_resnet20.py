"""A ResNet-20 for small images on CIFAR-100.

Source: He et al., arXiv 1512.03385, section 4.2, for CIFAR-10: SGD with momentum 0.9, learning rate 0.1, weight decay
1e-4, batches of 128, four pixels of padding and a mirror. Deviations: shortcuts by 1 x 1 convolutions, Nesterov's form,
a cosine after a warm-up where the paper divides the rate twice.

Command: ``saccade train cifar100-resnet20``; attention: ``--set "attention=[{'name': 'se'}]"``. Expected score: not
measured at the full length; a ResNet-8 (``--set "model=saccade:cifar_resnet(depth=8)"``) after 6 epochs names 33.9 and
36.3 % of the test images (two seeds, benchmarks/results/cifar100_attention.json). Expected time: about 2.5 minutes an
epoch on one core of a server's CPU (0.42 s a step), so 2.5 hours in all. Nothing is from memory.
"""

from saccade.data import AugmentSettings
from saccade.training import OptimSettings, ScheduleSettings
from saccade.training.recipe import Recipe

RECIPE = Recipe(
    model="saccade:cifar_resnet(depth=20)",
    data="cifar100",
    epochs=60,
    batch_size=128,
    optim=OptimSettings(lr=0.1, weight_decay=1e-4),
    schedule=ScheduleSettings(warmup=1 / 30),
    augment=AugmentSettings(crop=4),
)
