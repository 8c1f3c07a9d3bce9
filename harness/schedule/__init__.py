"""Which trial next, when to leave a machine, when a cell has had enough, and why.

Law of the room: pure. The time that has passed is handed in; the same trials finishing in
the same order give the same decisions. What a rule or a search computes stands in
`stats`; here it is only asked.
"""

from __future__ import annotations

from harness.schedule.asking import Arm, Asker, Asking, Step
from harness.schedule.planned import (
    ALL_RAN,
    Decision,
    Planned,
    Rule,
    Schedule,
    replay,
    undecided_index,
)

__all__ = [
    "ALL_RAN",
    "Arm",
    "Asker",
    "Asking",
    "Decision",
    "Planned",
    "Rule",
    "Schedule",
    "Step",
    "replay",
    "undecided_index",
]
