"""How a network is trained: the numbers, checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from saccade.data.augment import STRICT, AugmentSettings


class OptimSettings(BaseModel):
    """The optimiser; every number is its own."""

    model_config = STRICT

    name: str = "sgd"
    """``sgd`` (Nesterov) and ``adamw`` are PyTorch's; any other name is one of timm's."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    eps: Annotated[float, Field(gt=0)] | None = None
    """What keeps an adaptive optimiser's divisor from zero; None is the optimiser's own. ``sgd`` has none."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    decay_vectors: bool = True
    """Whether weight decay also acts on parameters of one axis: biases, scales and shifts of norms, blends."""
    attention_lr: Annotated[float, Field(gt=0)] | None = None
    """Of the parameters that attention brought; None is ``lr``."""

    @model_validator(mode="after")
    def _sgd_divides_by_nothing(self) -> OptimSettings:
        if self.name == "sgd" and self.eps is not None:
            raise ValueError("optim.eps goes with an adaptive optimiser, such as optim.name='adamw'; sgd has none")
        return self


class ScheduleSettings(BaseModel):
    """The learning rate over the steps."""

    model_config = STRICT

    name: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of all steps in which the rate rises from zero."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Of ``step``: the shares of all steps at which the rate is multiplied by ``gamma``."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    final: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Of ``exponential``: the factor to which the rate falls, by the same share at every step."""

    @model_validator(mode="after")
    def _steps_go_with_milestones(self) -> ScheduleSettings:
        if (self.name == "step") != bool(self.milestones):
            raise ValueError("schedule.name='step' and schedule.milestones, such as (0.5, 0.75), go together")
        return self


class TrainSettings(BaseModel):
    """A whole training, apart from data, network and machine."""

    model_config = STRICT

    epochs: Annotated[int, Field(ge=1)] = 5
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images per step of one process."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients make one step."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an average of the weights, which is then what is evaluated."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    attention_first: Annotated[int, Field(ge=0)] = 0
    """Epochs in which attention and the classifier learn alone: the host's other weights and its statistics stay."""
    optim: OptimSettings = OptimSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    augment: AugmentSettings = AugmentSettings()
