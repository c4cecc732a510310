"""The published figures as data: Peng, Gigant, Quesnelle, "Efficient Pre-Training with Token Superposition",
arXiv 2605.06546 (Nous Research, 2026). A value that the paper does not give is None, never zero.

`pandas.DataFrame(published_table1())` makes a table of them.
"""

from tst_titan.published.figures import (
    SOURCE,
    PublishedCell,
    PublishedRun,
    published_files,
    published_grids,
    published_table1,
)

# The target `studies/published`, which has no definition.
STUDY_NAME = "published"

__all__ = [
    "SOURCE",
    "STUDY_NAME",
    "PublishedCell",
    "PublishedRun",
    "published_files",
    "published_grids",
    "published_table1",
]
