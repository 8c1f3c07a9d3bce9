"""Lines of Lima's host agent (ha.stderr.log, ha.stdout.log), as typed facts.

>>> parse_lima('{"level":"info","msg":"Sending QMP system_powerdown command","time":"2026-11-25T06:16:05Z"}')
LimaFact(wall=1795587365000000000, what='powerdown', text='Sending QMP system_powerdown command', seconds=None)
>>> parse_lima('{"level":"info","msg":"Time sync: guest clock adjusted (was -341ms off)","time":"x"}').seconds
-0.341
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from harness.parse.docker import parse_stamp


@dataclass(frozen=True, slots=True)
class LimaFact:
    """One line that bears on the VM's own end.

    Attributes:
        wall: ns since 1970 by this host's clock; None where the stamp is no time.
        what: stop-asked (somebody told the agent to stop), powerdown (it told the guest),
            vm-off (the guest is off), vm-gone (the hypervisor had ended before anybody asked),
            vm-stuck (the guest did not power off in time and was killed), driver-error (the
            hypervisor ended with an error), exiting (the agent leaves), clock-step (it set the guest's wall clock), memory-reduced (the VM
            gets less than was asked for).
        seconds: Of a clock-step: by how much the guest's clock was ahead of this host's.
    """

    wall: int | None
    what: str
    text: str
    seconds: float | None = None


_WHAT: tuple[tuple[str, str], ...] = (
    (r"Received SIG(?:INT|TERM), shutting down the host agent", "stop-asked"),
    (r"Sending QMP system_powerdown command|Shutting down VZ", "powerdown"),
    (r"QEMU has exited$|\[VZ\] - vm state change: stopped", "vm-off"),
    (r"QEMU has already exited|failed to .*, forcibly killing QEMU", "vm-gone"),
    (r"QEMU did not exit in .*, forcibly killing QEMU", "vm-stuck"),
    (r"Driver stopped due to error: .*", "driver-error"),
    (r"Time sync: guest clock adjusted \(was (?P<ms>-?\d+)ms off\)", "clock-step"),
    (r"Reducing the guest memory.*", "memory-reduced"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), what) for pattern, what in _WHAT)


def parse_lima(text: str) -> LimaFact | None:
    """Read one line; None for whatever says nothing of the VM's end, and for broken lines."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    wall = parse_stamp(body.get("time"))
    status = body.get("status")
    if isinstance(status, dict):
        return LimaFact(wall, "exiting", text.strip()) if status.get("exiting") is True else None
    said = body.get("msg")
    if not isinstance(said, str):
        return None
    for pattern, what in _COMPILED:
        match = pattern.match(said)
        if match:
            ms = match.groupdict().get("ms")
            return LimaFact(wall, what, said, None if ms is None else int(ms) / 1000)
    return None
