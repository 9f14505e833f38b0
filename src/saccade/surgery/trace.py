"""What a host computes, as a graph: one forward under PyTorch's dispatcher, with the calls of its modules beside it."""

# B batch, C channels, H W the map; "*" an axis that holds several of those

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from saccade.surgery.layouts import Axes, axes_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """A tensor that was computed: by which operator, from which values, in which module's call."""

    index: int
    op: str  # such as "aten.convolution"; "input" or "constant" of what was there before
    inputs: tuple[int, ...]
    shape: Shape
    dtype: torch.dtype
    axes: Axes | None  # what its axes are, where that is known
    from_data: bool  # whether it depends on the host's input
    call: int  # of the innermost module; -1 outside all
    filters: bool = (
        False  # whether the operator multiplied by weights of two axes or more: a convolution, a linear layer
    )


@dataclass
class Call:
    """One call of a module: what it took and gave, and the values computed meanwhile, ``first`` to before ``end``."""

    path: str
    parent: int
    first: int
    taken: int | None = None  # the first tensor among the arguments
    given: int | None = None  # the output, if that is one tensor
    gives: str = "nothing"  # the output's shape or type, for messages
    end: int = -1


@dataclass
class Trace:
    """The values and calls of one forward, in their order."""

    values: list[Value] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: frozenset[int] = frozenset()

    def inside(self, value: int, call: int) -> bool:
        """Whether a value was computed during a call."""
        return self.calls[call].first <= value < self.calls[call].end


def trace(model: nn.Module, modules: Mapping[str, nn.Module], args: tuple[Any, ...]) -> Trace:
    """Run the model once, without gradients, and record it with the calls of those modules.

    The model is changed: it keeps our hooks. It is a copy of the caller's making, in eval mode, on any device.
    """
    recorder = _Recorder(args)
    for path, module in modules.items():
        module.register_forward_pre_hook(recorder.enter(path), prepend=True, with_kwargs=True)
        module.register_forward_hook(recorder.leave)
    with torch.no_grad(), recorder:
        output = model(*args)
    recorder.trace.outputs = frozenset(recorder.known(leaf) for leaf in _tensors(output))
    return recorder.trace


class _Recorder(TorchDispatchMode):
    def __init__(self, args: tuple[Any, ...]) -> None:
        super().__init__()
        self.trace = Trace()
        self.stack: list[int] = []
        self.indices: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.bases: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in _tensors(args):
            self._add(tensor, "input", (), from_data=True)

    def known(self, tensor: Tensor) -> int:
        """The value of a tensor; one that was there before is a constant."""
        index = self.indices.get(tensor)
        return self._add(tensor, "constant", (), from_data=False) if index is None else index

    def enter(self, path: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            taken = next((self.known(leaf) for leaf in _tensors((args, kwargs))), None)
            parent = self.stack[-1] if self.stack else -1
            self.trace.calls.append(Call(path, parent, first=len(self.trace.values), taken=taken))
            self.stack.append(len(self.trace.calls) - 1)

        return hook

    def leave(self, _module: nn.Module, _args: Any, output: Any) -> None:
        call = self.trace.calls[self.stack.pop()]
        call.end = len(self.trace.values)
        call.given = self.known(output) if isinstance(output, Tensor) else None
        call.gives = str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = list(_tensors((args, kwargs)))
        inputs = tuple(self.known(tensor) for tensor in tensors)
        sources = [self.trace.values[index] for index in inputs]
        op = str(func.overloadpacket)
        axes = axes_of(op, args, [(source.shape, source.axes, source.from_data) for source in sources])
        filters = any(not source.from_data and len(source.shape) >= 2 for source in sources) and op in FILTERING
        from_data = any(source.from_data for source in sources)
        for result in _tensors(output):
            written = self._add(result, op, inputs, from_data=from_data, axes=axes, filters=filters)
            if func._schema.is_mutable:
                self._write_through(result, written)
            elif func.is_view and tensors:
                self.bases[result] = tensors[0]
        return output

    def _write_through(self, result: Tensor, written: int) -> None:
        """What was written in place to a view changed the tensors that it is a view of."""
        base = self.bases.get(result)
        while base is not None:
            old = self.trace.values[self.known(base)]
            from_data = old.from_data or self.trace.values[written].from_data
            self._add(base, WRITTEN, (written, old.index), from_data=from_data, axes=old.axes)
            base = self.bases.get(base)

    def _add(
        self, tensor: Tensor, op: str, inputs: tuple[int, ...], *, from_data: bool, axes: Axes | None = None,
        filters: bool = False,
    ) -> int:  # fmt: skip
        index = len(self.trace.values)
        if op == "input" and tensor.dim() in (3, 4):
            axes = ("B", "C", "H", "W")[-tensor.dim() :]
        shape = tuple(tensor.shape)
        known = axes if axes is not None and len(axes) == len(shape) else None
        call = self.stack[-1] if self.stack else -1
        self.trace.values.append(Value(index, op, inputs, shape, tensor.dtype, known, from_data, call, filters))
        self.indices[tensor] = index
        return index


WRITTEN = "written to in place"
FILTERING = ("aten.convolution", "aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten.linear", "aten.conv2d")


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
