"""Instance enhancement batch normalisation, from its authors."""

from __future__ import annotations

from parity.adapted import Adapted
from saccade.attention.iebn import InstanceEnhancementBatchNorm2d


def of_authors(*, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> Adapted:
    module = InstanceEnhancementBatchNorm2d(num_features, eps=eps, momentum=momentum)
    names = {name: name for name in module.state_dict() if not name.startswith("gate_")}
    names |= {"weight_readjust": "gate_weight", "bias_readjust": "gate_bias"}
    # The authors' module inherits the counter of batches and never counts.
    return Adapted(module, names, constants=frozenset({"num_batches_tracked"}))


ADAPTERS = {("iebn", "gbup-group/IEBN", "models/cifar/iebn_resnet.py"): of_authors}
