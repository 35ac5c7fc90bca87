"""Errors of reading a network."""

from __future__ import annotations


class TraceError(ValueError):
    """The network cannot be turned into a SpikingGraph; the message names the place and way out."""
