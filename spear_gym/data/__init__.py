"""Data sets: labelled splits, and the three embedded sets that need no download.

Every source of data ends as one `DataSplits`: train, search and test, which share no source image.
"""

from .cluttered import cluttered_digits
from .digits import digits
from .events import digits_events
from .splits import DataSplits, Split, as_split

__all__ = ["DataSplits", "Split", "as_split", "cluttered_digits", "digits", "digits_events"]
