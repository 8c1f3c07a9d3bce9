r"""Files of a cgroup, v1 and v2, as numbers.

>>> parse_counters("low 0\nhigh 0\nmax 113\noom 1\noom_kill 1\noom_group_kill 0\n")["oom_kill"]
1
>>> parse_limit("max\n") is None, parse_limit("33554432\n")
(True, 33554432)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNLIMITED = 1 << 60
"""cgroup v1 writes "no limit" as a number just below 2^63 (rounded to pages)."""

_LINE = re.compile(r"(?P<key>[a-z_.A-Z]{1,60}) (?P<value>\d{1,20})", re.ASCII)
_PRESSURE = re.compile(
    r"(?P<kind>some|full) avg10=(?P<a>\d{1,3}\.\d+) avg60=\d{1,3}\.\d+ avg300=\d{1,3}\.\d+ total=(?P<t>\d+)",
    re.ASCII,
)
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Pressure:
    """One line of a PSI file: share of the last ten seconds (0 to 100), and microseconds in all."""

    avg10: float
    total: int


def parse_counters(text: str) -> dict[str, int]:
    r"""A flat keyed file (memory.events, memory.oom_control, cpu.stat, pids.events): key → number.

    Lines of another shape are left out; of a key written twice the last counts.

    >>> parse_counters("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n")
    {'oom_kill_disable': 1, 'under_oom': 1, 'oom_kill': 0}
    """
    found = {}
    for line in text.splitlines():
        if m := _LINE.fullmatch(line.strip()):
            found[m["key"]] = int(m["value"])
    return found


def parse_number(text: str) -> int | None:
    """A file of one number; None for anything else."""
    text = text.strip()
    return int(text) if _NUMBER.fullmatch(text) else None


def parse_limit(text: str) -> int | None:
    """A limit: None when there is none ("max", or v1's huge number), or when it is no limit.

    >>> parse_limit("9223372036854771712") is None
    True
    """
    number = parse_number(text)
    return None if number is None or number >= UNLIMITED else number


def is_unlimited(text: str) -> bool:
    """Does the file say in so many words that there is no limit?"""
    number = parse_number(text)
    return text.strip() == "max" or (number is not None and number >= UNLIMITED)


def parse_pressure(text: str) -> dict[str, Pressure]:
    r"""A PSI file: "some" and "full" → Pressure.

    >>> parse_pressure("some avg10=2.04 avg60=0.75 avg300=0.40 total=157622151\n")["some"].avg10
    2.04
    """
    found = {}
    for line in text.splitlines():
        if m := _PRESSURE.fullmatch(line.strip()):
            found[m["kind"]] = Pressure(float(m["a"]), int(m["t"]))
    return found
