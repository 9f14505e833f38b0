"""Attention added to a pretrained network and fine-tuned on a folder of images: attention first, then all.

Source: our own. The host starts from the library's weights and computes what it did; for two epochs attention and the
new head alone learn, then all, the host and the head at a tenth of attention's rate.

Command: ``saccade train finetune --set data=imagefolder:photos --set model=resnet18``; PATH holds ``train/CLASS`` and
``val/CLASS``. Expected score and time: those of your images and your host; compare with ``--set attention=[]``. Nothing
is from memory.
"""

from saccade.data import AugmentSettings
from saccade.training import OptimSettings, ScheduleSettings
from saccade.training.recipe import Attention, Recipe

RECIPE = Recipe(
    model="resnet18",
    pretrained=True,
    attention=(Attention(name="se", start="identity"),),
    data="imagefolder:photos",
    image_size=224,
    epochs=10,
    batch_size=32,
    attention_first=2,
    optim=OptimSettings(name="sgd", lr=0.005, attention_lr=0.05, weight_decay=1e-4, decay_vectors=False),
    schedule=ScheduleSettings(warmup=0.1),
    augment=AugmentSettings(flip=True, policy="trivial"),
)
