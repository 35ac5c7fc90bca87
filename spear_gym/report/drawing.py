"""What all pictures share."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

from spear_gym.boundary.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def in_plain_text(figure: Figure) -> Figure:
    r"""The figure, in which no text is taken for a formula or for LaTeX.

    Names come from networks and files: matplotlib would refuse to draw ``$\frac$``. Nothing in
    our pictures needs a formula.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_text(printable(text.get_text()))
    return figure


def saved(figure: Figure, kind: str, **options: Any) -> bytes:
    """A figure as the bytes of a file.

    Args:
        figure: drawn in plain text; a character that the font lacks is shown as a box.
        kind: ``"png"`` or ``"svg"``.
        options: of matplotlib's ``savefig``.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        in_plain_text(figure).savefig(buffer, format=kind, **options)
    return buffer.getvalue()
