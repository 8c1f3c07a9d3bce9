"""What a Mac's own log says of the virtualisation processes, for the post-mortem.

Rule: asked for only on macOS, where the VM is a process of the host and the kernel that ends
it is the Mac's. Each line that bears on a VM's end, or on sleep, goes into the history with
its text; a log that could not be read is a gap, not good news.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness import events as e
from harness import process
from harness.parse.macos import parse_macos

if TYPE_CHECKING:
    from harness.runner.stage import Stage

SOURCE = "host-log"
LINES = 500
_VIRTUAL = (
    'process BEGINSWITH "com.apple.Virtualization" OR process BEGINSWITH "qemu-system"'
    ' OR process == "limactl" OR process == "colima"'
)
_KERNEL = 'process == "kernel" AND eventMessage CONTAINS "memorystatus: killing"'
_SLEEP = (
    'process IN {"powerd", "kernel"} AND (eventMessage CONTAINS[c] "sleep"'
    ' OR eventMessage CONTAINS[c] "wake")'
)
PREDICATE = f"({_VIRTUAL}) OR ({_KERNEL}) OR ({_SLEEP})"


def applies() -> bool:
    """Is this host a Mac?"""
    return platform.system() == "Darwin"


def command(begin: int, end: int) -> tuple[str, ...]:
    """`log show` from begin to end (wall clock, ns), a JSON object a line.

    >>> command(1795438801 * 10**9, 1795438804 * 10**9)[4:8]
    ('--start', '2026-11-23 13:00:01+0000', '--end', '2026-11-23 13:00:05+0000')
    """
    # Whole seconds are all that it takes: the span must not be cut short.
    return (
        *("/usr/bin/log", "show", "--style", "ndjson"),
        *("--start", _stamp(begin // 10**9), "--end", _stamp(end // 10**9 + 1)),
        *("--info", "--predicate", PREDICATE),
    )


def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S+0000")


def hear(stage: Stage, *, deadline: float) -> None:
    """Tell what the log has since the trial began. deadline in seconds: reading it takes some."""
    now, wall = stage.clock.now(), stage.clock.wall()
    offset = now - wall
    said = process.run(command(stage.began - offset, wall), deadline=deadline)
    lines = said.text.splitlines()
    told = 0
    for line in lines:
        fact = parse_macos(line)
        if fact is None or fact.what == "other":
            continue
        if told < LINES:
            at = stage.at(fact.wall + offset)
            text = f"{fact.process}[{fact.pid}]: {fact.message}"[:2000]
            stage.say(e.HostLine(**{**at, "source": SOURCE}, what=fact.what, text=text))
        told += 1
    why = said.why() if not said.ok else f"more than {LINES} lines" if told > LINES else ""
    if why:
        lost = max(0, told - LINES) or None
        stage.say(e.Gap(**stage.now(), name=SOURCE, begin=stage.began, end=now, why=why, lost=lost))
    else:
        stage.say(e.SourceState(**stage.now(), name=SOURCE, state="active", why="log show"))
