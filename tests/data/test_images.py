"""What a data set says of itself."""

from __future__ import annotations

import pytest
import torch

from saccade.data import ImageData, Split, check_classes
from saccade.errors import UsageError


def named(*classes: str) -> ImageData:
    split = Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    return ImageData("imagefolder:x", list(classes), split, split, split)


def test_the_same_classes_pass() -> None:
    check_classes(named("cat", "dog"), ["cat", "dog"])


@pytest.mark.parametrize(
    ("here", "there", "first"),
    [
        (("cat", "zebra"), ("cat", "dog"), "class 2 is 'zebra' in the data and 'dog' in the checkpoint"),
        (("b", "a"), ("a", "b"), "class 1 is 'b' in the data and 'a' in the checkpoint"),
        (("cat", "dog", "owl"), ("cat", "dog"), "class 3 is 'owl' in the data and missing in the checkpoint"),
        (("cat", "dog"), ("cat", "dog", "owl"), "class 3 is missing in the data and 'owl' in the checkpoint"),
        (("a", "c"), ("a", "b", "c"), "class 2 is 'c' in the data and 'b' in the checkpoint"),
    ],
)
def test_the_first_class_that_differs_is_named(here: tuple[str, ...], there: tuple[str, ...], first: str) -> None:
    counts = f"`data` .='imagefolder:x'. has {len(here)} classes, the checkpoint {len(there)}"
    with pytest.raises(UsageError, match=rf"^{counts}, and they differ: {first}; evaluate it on data with"):
        check_classes(named(*here), there)
