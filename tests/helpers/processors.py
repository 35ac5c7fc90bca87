"""Tests of which the outcome was established on one kind of processor."""

from __future__ import annotations

import pytest
import torch

learns_on_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="networks trained elsewhere round otherwise, and seeds win or lose by it: with AVX2 "
    "alone 3 of 5 were seen where 4 are asked for",
)
"""Must hold where it was established, on a processor with AVX-512; elsewhere it says nothing."""
