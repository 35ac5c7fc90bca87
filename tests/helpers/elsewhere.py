"""A device that every machine has: its tensors hold real values and refuse those of the CPU.

A stand-in for a GPU, to test on which device each tensor is. It says it is `meta`; as on a GPU, an
operation that mixes its tensors with the CPU's fails, and so does reading one as an array.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")

MAY_MIX = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten._to_copy.default,
)
"""Operations that a GPU, too, lets read indices or values of the CPU.

Those of the pointwise kind let it read the CPU's scalars.
"""


class Elsewhere(Tensor):
    """A tensor of that device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """While it is on, tensors can be made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the held values; what it gives is on the device if it was asked to be."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    ours = [x for x in tensors if isinstance(x, Elsewhere)]
    scalars_mix = torch.Tag.pointwise in func.tags
    others = [
        x for x in tensors if not isinstance(x, Elsewhere) and (x.dim() > 0 or not scalars_mix)
    ]
    if ours and others and func not in MAY_MIX:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    to = kwargs.get("device")
    there = bool(ours) if to is None else torch.device(to) == DEVICE
    if func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], Elsewhere)
    if to is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held = [
        tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, x) for x in (args, kwargs)
    ]
    result = func(*held[0], **held[1])
    if not there:
        return result
    own = {id(x.held): x for x in ours}  # an operation in place gives its argument again

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return own[id(x)] if id(x) in own else Elsewhere(x)

    return tree_map(wrapped, result)
