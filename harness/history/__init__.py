"""One trial on one clock: what was seen, by whom, how exactly, and where nobody looked.

Rule: this room never guesses a missing event. It orders, pairs requests with answers,
reads raw text through `parse`, and knows its own gaps; it says nothing about why. All
times are ns on the machine's boottime (of its first boot, should there be several).

    >>> from harness.events import KernelLine
    >>> line = KernelLine(t=5, seen=6, source="kernel", level=3, kseq=1,
    ...     text="Out of memory: Killed process 7 (hog) total-vm:1kB")
    >>> history = build([line])
    >>> history.kernel[0].what.pid, history.active("kernel", 0, 5)
    (7, False)
"""

from __future__ import annotations

from harness.history.build import build
from harness.history.model import (
    Attempt,
    Call,
    Container,
    Daemon,
    Files,
    Look,
    Main,
    Placed,
    Seen,
    Span,
)
from harness.history.whole import History

__all__ = [
    "Attempt",
    "Call",
    "Container",
    "Daemon",
    "Files",
    "History",
    "Look",
    "Main",
    "Placed",
    "Seen",
    "Span",
    "build",
]
