"""CPU that watching costs: the watcher's own, and what it makes the daemons do.

Rule: windows of watching by us, by the guide, and by nobody alternate; what the pen
burns while nobody watches is taken off both.
"""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING

from harness.errors import EnvironmentInvalid
from harness.events import Hello
from harness.machine import cgroups
from harness.runner.link import ProbeLink
from harness.verbs.bench import guide

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.events import Event
    from harness.machine.pen import Pen

WINDOW = 4.0
"""Seconds."""


def compare(
    pen: Pen, containers: list[str], on_event: Callable[[Event], None], *, rounds: int
) -> list[tuple[float, float]]:
    """[(cores of ours, cores of the guide's)], one pair a round."""
    pairs = []
    for _ in range(rounds):
        idle = _spent(pen, WINDOW)
        pairs.append(
            (
                max(1e-4, _ours(pen, containers, on_event) - idle),
                max(1e-4, _guides(pen, containers) - idle),
            )
        )
    return pairs


def _ours(pen: Pen, containers: list[str], on_event: Callable[[Event], None]) -> float:
    """Probe, daemons, and our own end of the link."""
    hello: list[Hello] = []

    def hear(event: Event) -> None:
        if isinstance(event, Hello):
            hello.append(event)
        on_event(event)

    with ProbeLink(pen.probe_site(), on_event=hear) as link:
        for container in containers:
            link.watch(container)
        link.flush(10)
        time.sleep(1.5)  # past the first, full samples
        probe, own = _cpu(hello[0].pid), _own()
        spent = _spent(pen, WINDOW)
        return spent + (_cpu(hello[0].pid) - probe + _own() - own) / WINDOW


def _guides(pen: Pen, containers: list[str]) -> float:
    """Its shells and clients, and the daemons."""
    begin = time.monotonic()
    shells = guide.everything(containers, pen.docker_host, str(pen.run / "logs" / "dockerd.log"))
    spent = _spent(pen, WINDOW)
    used = sum(shell.end() for shell in shells)
    return spent + used / (time.monotonic() - begin)


def _spent(pen: Pen, seconds: float) -> float:
    """Cores that everything in the pen burnt over so many seconds."""
    before, begin = group_cpu(pen.cgroup), time.monotonic()
    time.sleep(seconds)
    return (group_cpu(pen.cgroup) - before) / (time.monotonic() - begin)


def group_cpu(group: str) -> float:
    """CPU seconds that a control group and all below it have been charged so far."""
    where = cgroups.layout()
    if where.version == 2:
        text = (where.trees[""] / group.lstrip("/") / "cpu.stat").read_text()
        return int(text.split()[1]) / 1e6
    folder = where.of("cpuacct", group)
    if folder is None:
        raise EnvironmentInvalid("no cpuacct control groups", mend="bench with --only detection")
    return int((folder / "cpuacct.usage").read_text()) / 1e9


def _cpu(pid: int) -> float:
    """CPU seconds of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
