"""A ResNet-8 on the embedded sample: the shortest recipe, to see that everything works.

Source: our own. Command: ``saccade train sample-resnet8``. Expected: about 87 % of the 3,000 test images, in about ten
seconds on two cores.
"""

from saccade.training.recipe import Recipe

RECIPE = Recipe(model="saccade:cifar_resnet(depth=8, stem_stride=2)", data="sample", epochs=6)
