"""External attention: the authors' block, and a popular implementation of the paper's equation alone."""

from __future__ import annotations

from torch import Tensor

from parity.adapted import Adapted, Through, layer_names
from saccade.attention.external import ExternalAttention, ExternalMemory


def of_authors(*, c: int, k: int = 64) -> Adapted:
    module = ExternalAttention(c, memories=k, relu=True)
    layers = {
        "conv1": "conv1",
        "memory.keys": "linear_0",
        "memory.values": "linear_1",
        "conv2": "conv2.0",
        "norm": "conv2.1",
    }
    return Adapted(module, layer_names(layers, module))


def of_xmu(*, d_model: int, S: int = 64) -> Adapted:  # noqa: N803  the file's own key
    def run(memory: ExternalMemory, x: Tensor) -> Tensor:
        # Positions come first there: (B, N, C), for us a map of N rows and one column.
        return memory(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)

    names = {"mk.weight": "module.keys.weight", "mv.weight": "module.values.weight"}
    return Adapted(Through(ExternalMemory(d_model, S), run), names)


ADAPTERS = {
    ("external", "MenghaoGuo/EANet", "model_torch.py"): of_authors,
    ("external", "xmu-xiaoma666/External-Attention-pytorch", "model/attention/ExternalAttention.py"): of_xmu,
}
