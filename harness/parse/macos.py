r"""Lines of macOS `log show --style ndjson`, as typed facts.

>>> parse_macos(
...     '{"timestamp":"2026-11-23 14:00:01.123456+0100","processImagePath":'
...     '"\\/System\\/Library\\/Frameworks\\/Virtualization.framework\\/com.apple.Virtualization.VirtualMachine",'
...     '"processID":512,"messageType":"Error","eventMessage":"The virtual machine stopped unexpectedly."}'
... )
HostFact(wall=1795438801123456000, process='com.apple.Virtualization.VirtualMachine', pid=512, what='vm-stopped', message='The virtual machine stopped unexpectedly.')
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class HostFact:
    """One log line of the Mac. what: vm-stopped · jetsam · sleep · wake · other."""

    wall: int
    process: str
    pid: int
    what: str
    message: str


# Who says it counts as much as what: kernel and powerd for sleep and jetsam, the
# virtualisation processes for the end of a VM.
_WHAT: tuple[tuple[str, str, str], ...] = (
    (r".*(?:Virtual|qemu|limactl|vz).*", r".*(?:virtual machine|guest|VM)\b.*(?:stopped|terminated|crashed|did stop).*", "vm-stopped"),
    (r"kernel", r".*memorystatus: killing.*(?:Virtual|qemu|limactl|colima).*", "jetsam"),
    (r"powerd|kernel", r".*(?:Entering Sleep|PM scheduled|sleep reason|System Sleep).*", "sleep"),
    (r"powerd|kernel", r".*(?:Wake reason|DarkWake|System Wake).*", "wake"),
)  # fmt: skip
_COMPILED = tuple(
    (re.compile(who), re.compile(said, re.DOTALL | re.IGNORECASE), what)
    for who, said, what in _WHAT
)


def parse_macos(text: str) -> HostFact | None:
    """Read one line; None for the closing summary line, broken JSON and anything else."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    path, pid, said = body.get("processImagePath"), body.get("processID"), body.get("eventMessage")
    wall = _stamp(body.get("timestamp"))
    if not (isinstance(path, str) and isinstance(said, str)) or wall is None:
        return None
    if not isinstance(pid, int) or isinstance(pid, bool):
        return None
    process = path.rsplit("/", 1)[-1]
    what = next(
        (w for who, s, w in _COMPILED if who.fullmatch(process) and s.fullmatch(said)), "other"
    )
    return HostFact(wall, process, pid, what, said)


def _stamp(text: object) -> int | None:
    m = re.fullmatch(
        r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{6})([+-]\d\d)(\d\d)",
        text if isinstance(text, str) else "",
        re.ASCII,
    )
    if m is None:
        return None
    try:
        moment = datetime.fromisoformat(f"{m[1]}{m[3]}:{m[4]}")
    except ValueError:
        return None
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86400 + whole.seconds) * 10**9 + int(m[2]) * 1000
