"""Axes multiplied → cells, and cells → ordered trials with stable names and seeds.

Rule: values in, values out. What is random is derived from the seed by hashing, so one
seed gives one order on every Python and every machine; and a cell's name depends on its
configuration alone, so it keeps its name when an axis gets another value.
"""

from __future__ import annotations

from harness.matrix.cells import Cell, cells
from harness.matrix.order import MOST_TRIALS, derive, plan

__all__ = ["MOST_TRIALS", "Cell", "cells", "derive", "plan"]
