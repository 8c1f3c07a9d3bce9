"""YAML → nouns: experiments and matrices, all complaints at once, each with file:line.

Rule: the only room that knows YAML. `nodes` keeps the lines, `tree` merges and reads,
`keys` knows what keys there are, `axes` and `overrides` take what a sweep changes, `load`
puts it together. Any text gives nouns or the complete list of problems.
"""

from __future__ import annotations

from harness.spec.axes import Axis, Value, show_value
from harness.spec.load import (
    Built,
    Loaded,
    Workshop,
    load,
    load_experiment,
    load_matrix,
    loads_matrix,
    thaw,
)
from harness.spec.overrides import Change

__all__ = [
    "Axis",
    "Built",
    "Change",
    "Loaded",
    "Value",
    "Workshop",
    "load",
    "load_experiment",
    "load_matrix",
    "loads_matrix",
    "show_value",
    "thaw",
]
