"""One small real comparison, shared by the tests that look at what it left behind."""

from pathlib import Path
from typing import Any

import pytest

from saccade.comparison import Comparison, compare

SMALL: dict[str, Any] = {
    "model": "saccade:cifar_resnet(depth=8, stem_stride=2, widths=(4, 8, 16))",
    "attention": "none,se,gam(reduction=8),aaconv",
    "seeds": 2,
    "epochs": 1,
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out: Path = tmp_path_factory.mktemp("comparison") / "out"
    return compare(**SMALL, jobs=2, out=out)
