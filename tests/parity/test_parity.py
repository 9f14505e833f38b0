"""Every mechanism equals its reference: outputs, every gradient, and the buffers that one training step leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parity.adapted import Adapted
from parity.adapters import ADAPTERS, FAULTS, adapt
from parity.reference import Reference, load, mismatches, read
from saccade.errors import UsageError

GOLDEN = Path(__file__).parent / "golden"


def adapted_to(reference: Reference) -> Adapted:
    shapes = {name: tuple(tensor.shape) for name, tensor in reference.tensors.items()}
    return adapt(reference.source, reference.config, case=reference.metadata["case"], shapes=shapes)


def test_equals_the_reference(right_reference: Reference) -> None:
    found = []
    for dtype in (torch.float64, torch.float32):
        adapted = adapted_to(right_reference)
        load(right_reference, adapted)
        found += [f"{line} ({dtype})" for line in mismatches(right_reference, adapted, dtype)]
    assert not found, "\n".join(found)


def test_differs_from_a_wrong_reference_only_by_its_fault(wrong_reference: Reference) -> None:
    assert wrong_reference.source in FAULTS, f"say in FAULTS what is wrong: {wrong_reference.metadata['notes']}"
    fault = FAULTS[wrong_reference.source]
    adapted = adapted_to(wrong_reference)
    load(wrong_reference, adapted)
    module = adapted.module.eval()
    x, theirs = wrong_reference.tensors["input"], wrong_reference.tensors["output_eval"]
    with torch.no_grad():
        distance = (module(x) - theirs).abs().max().item()
        assert distance > fault.distance, f"the same to {distance:.2g}, but: {fault.reason}"
        torch.testing.assert_close(fault.reproduce(module, x), theirs, rtol=1e-4, atol=1e-5)


def test_our_golden_files_cover_every_adapter() -> None:
    assert {read(path).source for path in GOLDEN.glob("*.safetensors")} == set(ADAPTERS)


@pytest.fixture
def sem() -> Reference:
    return read(GOLDEN / "sem__authors_attention_c16_7x5.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "operators.ie.gamma",
        "operators.ie.beta",
        "decision.weight",
        "operators.fc.fc1.bias",
        "operators.cnn.conv.weight",
    ],
)
def test_a_slightly_wrong_parameter_is_noticed(sem: Reference, name: str) -> None:
    adapted = adapt(sem.source, sem.config)
    load(sem, adapted)
    with torch.no_grad():
        adapted.module.get_parameter(name).view(-1)[0] += 1e-2
    found = mismatches(sem, adapted)
    assert any(line.startswith("output_eval: largest difference") for line in found)
    assert any(line.startswith("grad_input: largest difference") for line in found)


def test_a_wrong_gradient_behind_a_right_output_is_noticed(sem: Reference) -> None:
    adapted = adapt(sem.source, sem.config)
    load(sem, adapted)
    adapted.module.get_parameter("operators.ie.gamma").register_hook(lambda grad: grad * 1.01)
    assert [line.partition(":")[0] for line in mismatches(sem, adapted)] == ["grad.w1"]


def test_names_given_to_the_wrong_tensors_are_noticed(sem: Reference) -> None:
    adapted = adapt(sem.source, sem.config)
    adapted = replace(adapted, names=adapted.names | {"w1": adapted.names["b1"], "b1": adapted.names["w1"]})
    load(sem, adapted)
    assert mismatches(sem, adapted)


def test_a_tensor_that_nothing_reads_is_noticed(sem: Reference) -> None:
    adapted = adapt(sem.source, sem.config)
    load(sem, adapted)
    more = replace(sem, tensors={**sem.tensors, "aux_eval.gate": torch.zeros(1)})
    assert mismatches(more, adapted) == ["aux_eval.gate: nothing of ours was compared with it"]


def test_a_name_left_over_on_either_side_is_an_error(sem: Reference) -> None:
    adapted = adapt(sem.source, sem.config)
    fewer = {theirs: ours for theirs, ours in adapted.names.items() if theirs != "w1"}
    with pytest.raises(UsageError, match=r"names \['w1'\] are not mapped"):
        load(sem, replace(adapted, names=fewer))
    with pytest.raises(
        UsageError, match=r"our \['operators.ie.gamma', 'operators.ie.beta'\] are not covered one to one"
    ):
        load(sem, replace(adapted, names=adapted.names | {"w1": adapted.names["b1"]}))


def test_a_transposed_parameter_is_an_error(sem: Reference) -> None:
    adapted = adapt(sem.source, sem.config)
    turned = replace(sem, tensors={**sem.tensors, "param.switch_fc.weight": torch.zeros(16, 3)})
    with pytest.raises(UsageError, match=r"'switch_fc.weight' has shape \(16, 3\); ours has \(3, 16\)"):
        load(turned, adapted)


def test_a_source_or_a_config_key_without_adapter_is_an_error(sem: Reference) -> None:
    with pytest.raises(UsageError, match="no adapter for the golden files of"):
        adapt(("sem", "somebody/else", "sem.py"), {})
    with pytest.raises(UsageError, match=r"has no option 'hiden'.*did you mean 'hidden'"):
        adapt(sem.source, {"C": 16, "hiden": 2})
    with pytest.raises(UsageError, match=r"`k` \(=5\) must be 3 for 16 channels"):
        adapt(sem.source, sem.config | {"k": 5})
