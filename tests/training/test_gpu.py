"""The engine on a GPU: mixed precision, going on within an epoch, synchronised BatchNorm."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saccade.training.checkpoints import read_checkpoint
from saccade.training.fit import Machine
from saccade.training.recipe import Recipe
from saccade.training.run import train
from training.runs import everything

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path: Path, precision: str) -> None:
    asked = Recipe.model_validate({**everything(tmp_path), "epochs": 2, "precision": precision})
    machine = Machine("gpu")

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise StoppedError("after seven batches")

    train(asked, tmp_path / "whole", machine=machine)
    with pytest.raises(StoppedError, match="after seven batches"):
        train(asked, tmp_path / "out", machine=machine, save_every=1, on_batch=stop)
    train(asked, tmp_path / "out", machine=machine, save_every=1)
    whole, out = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "out"))
    assert whole["global_step"] == out["global_step"]
    for name, value in whole["state_dict"].items():
        # Some of CUDA's sums have no fixed order.
        torch.testing.assert_close(out["state_dict"][name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_synchronised_batchnorm_keeps_attention(tmp_path: Path) -> None:
    asked = Recipe.model_validate({**everything(tmp_path), "epochs": 1})
    trained = train(asked, tmp_path / "out", machine=Machine("gpu", sync_batchnorm=True))
    assert trained.evaluation is not None
    saved = read_checkpoint(tmp_path / "out/last.ckpt")
    assert saved["saccade"]["sync_batchnorm"] is True
    assert any("saccade.se" in name for name in saved["state_dict"])
