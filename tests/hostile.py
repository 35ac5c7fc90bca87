"""Files that a stranger made: values that no file of ours holds, and where they can be put."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

RAW = {
    "<nan>": "NaN",
    "<infinity>": "-Infinity",
    "<overflow>": "1e999",
    "<digits>": "9" * 5000,
    "<deep>": "[" * 100_000,
    "<nested>": "[" * 500 + "]" * 500,
}
"""What Python's writer would not write, by what stands in its place until then."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 10**17, -(10**17), "", "x",
    "0.4", "../../x", "/dev/zero", "os:getcwd", "$\\frac$", "[/x]", "\x1b[31m", "\u202e", "<b>",
    "x" * 100_000, [], [0], [[]], ["x"], {}, {"a": 1}, {"": {}}, *RAW,
)  # fmt: skip

Place = tuple[str | int, ...]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value."""
    yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:3]):
            yield from places(inner, (*at, index))


def changed(value: Any, at: Place, new: Any) -> Any:
    """A JSON value with another value at a place."""
    if not at:
        return new
    whole = copy.deepcopy(value)
    inner = whole
    for step in at[:-1]:
        inner = inner[step]
    inner[at[-1]] = new
    return whole


def removed(value: Any, at: Place) -> Any:
    """A JSON value without what stands at a place."""
    whole = copy.deepcopy(value)
    inner = whole
    for step in at[:-1]:
        inner = inner[step]
    del inner[at[-1]]
    return whole


def written(value: Any) -> bytes:
    """As JSON, with what Python would not write."""
    text = json.dumps(value)
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    return text.encode()


def mutations(value: Any) -> st.SearchStrategy[bytes]:
    """A JSON file with one entry replaced, removed or added, or with some bytes changed."""
    found = list(places(value))
    replaced = st.builds(
        lambda at, new: written(changed(value, at, new)), st.sampled_from(found),
        st.sampled_from(VALUES),
    )  # fmt: skip
    without = st.builds(lambda at: written(removed(value, at)), st.sampled_from(found[1:]))
    mappings = [at for at in found if isinstance(_at(value, at), dict)]
    added = st.builds(
        lambda at, key, new: written(changed(value, (*at, key), new)),
        st.sampled_from(mappings), st.text(max_size=5), st.sampled_from(VALUES),
    )  # fmt: skip
    return replaced | without | added | bytes_changed(written(value))


def bytes_changed(content: bytes) -> st.SearchStrategy[bytes]:
    """A file cut off, with a byte changed, or with some put in or at its end."""
    place = st.integers(0, len(content) - 1)
    other = st.binary(min_size=1, max_size=8)
    return (
        st.builds(lambda at: content[:at], place)
        | st.builds(lambda at, new: content[:at] + new + content[at + 1 :], place, other)
        | st.builds(lambda at, new: content[:at] + new + content[at:], place, other)
        | st.builds(lambda new: content + new, other)
    )


def _at(value: Any, at: Place) -> Any:
    for step in at:
        value = value[step]
    return value
