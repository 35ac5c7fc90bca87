"""Whether a function adds up products, found by the kernels that it runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

KERNELS = re.compile(
    r"(add|badd|addb|b|s)?b?mm|(add)?mv|v?dot|addr|.*convolution.*|(mkldnn_)?linear|_trilinear"
    r"|.*attention.*|.*transformer.*|.*embedding.*|.*cdist.*|_euclidean_dist|_fft_.*"
    r"|.*(lstm|gru|rnn).*"
)
"""PyTorch's kernels that do; every function of any name ends in some of them."""


class _Kernels(TorchDispatchMode):
    """Keeps the names of the kernels that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def adds_up_products(run: Callable[[], Any]) -> bool:
    """Whether something is a matrix product, a convolution, or made of such."""
    with _Kernels() as kernels:
        run()
    return any(KERNELS.fullmatch(name) for name in kernels.names)
