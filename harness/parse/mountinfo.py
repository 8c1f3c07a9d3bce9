r"""Lines of /proc/PID/mountinfo, as typed facts.

>>> m = parse_mount("36 35 254:0 /src//deleted /x rw,noatime master:1 - ext4 /dev/root rw,errors=continue")
>>> m.point, m.deleted, m.read_only, m.fstype
('/x', True, False, 'ext4')
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount. options are the mount's own, super_options the file system's.

    Attributes:
        deleted: The directory it shows has been deleted where it came from.
        size: A tmpfs's own size in bytes, when it has one.
    """

    id: int
    device: str
    root: str
    point: str
    options: tuple[str, ...]
    fstype: str
    source: str
    super_options: tuple[str, ...]

    @property
    def deleted(self) -> bool:
        return self.root.endswith("//deleted")

    @property
    def read_only(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options

    @property
    def size(self) -> int | None:
        for option in self.super_options:
            if m := re.fullmatch(r"size=(\d+)([kmg]?)", option, re.ASCII):
                return int(m[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[m[2]]
        return None


_LINE = re.compile(
    r"(?P<id>\d+) \d+ (?P<dev>\d+:\d+) (?P<root>\S+) (?P<point>\S+) (?P<options>\S+)"
    r"(?: (?:shared|master|propagate_from):\d+| unbindable)* - (?P<fstype>\S+) (?P<source>\S*) (?P<super>\S+)\s*",
    re.ASCII,
)


def parse_mount(line: str) -> Mount | None:
    r"""Read one line; None for anything else. Octal escapes (\040) become their characters.

    >>> parse_mount(r"1 2 0:5 / /a\040b ro - tmpfs tmpfs rw,size=4096k").size
    4194304
    """
    m = _LINE.fullmatch(line)
    if m is None:
        return None
    return Mount(
        int(m["id"]),
        m["dev"],
        _plain(m["root"]),
        _plain(m["point"]),
        tuple(m["options"].split(",")),
        m["fstype"],
        _plain(m["source"]),
        tuple(m["super"].split(",")),
    )


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
