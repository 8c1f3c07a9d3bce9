"""How a value is written for a person: axes in their units, rates as percentages.

Law: no value is parsed here, and none is printed in two ways.
"""

from __future__ import annotations

from typing import Any

from harness import units

# Last part of a dotted key → what the number under it is. Everything else is written as
# it is. Keys are the language's own (`harness.model`).
_BYTES = frozenset(
    {"memory", "memory_swap", "memory_reservation", "kernel_memory", "disk", "shm_size", "size"}
)
_SECONDS = frozenset(
    {
        "delay",
        "after",
        "for",
        "timeout",
        "linger",
        "stop_timeout",
        "budget",
        "interval",
        "at",
        "wait",
    }
)


def value(key: str, content: Any) -> str:
    """One axis value in the units its key has.

    >>> value("container.memory", 134217728), value("delay", 0.25), value("container.memory", None)
    ('128MiB', '250ms', 'none')
    """
    last = key.rpartition(".")[2]
    if content is None:
        return "none"
    if isinstance(content, bool):
        return "yes" if content else "no"
    if isinstance(content, (int, float)):
        if last in _BYTES and content >= 0 and content == int(content):
            return units.show_size(int(content))
        if last in _SECONDS:
            return units.show_seconds(float(content))
        return f"{content:g}" if isinstance(content, float) else str(content)
    if isinstance(content, dict):
        return " ".join(f"{k}={value(k, v)}" for k, v in content.items())
    if isinstance(content, (list, tuple)):
        return " ".join(value(key, v) for v in content)
    return str(content)


def config(settings: dict[str, Any]) -> str:
    """A whole configuration on one line.

    >>> config({"container.memory": None, "delay": 0.0})
    'container.memory=none delay=0s'
    """
    return " ".join(f"{key}={value(key, v)}" for key, v in settings.items()) or "as written"


def percent(rate: float | None) -> str:
    """A rate as people say it: two digits that matter, no more.

    >>> percent(1 / 3), percent(0.0951), percent(0.0123), percent(0.0), percent(None), percent(1.0)
    ('33%', '9.5%', '1.2%', '0%', '-', '100%')
    """
    if rate is None:
        return "-"
    number = rate * 100
    # 99.7 % must not be printed as certainty, nor 0.02 % as never.
    digits = 0 if number in {0.0, 100.0} or 10 <= number < 99.5 else 1
    if 0 < number < 0.1:
        digits = 2
    return f"{number:.{digits}f}%"


def span(low: float, high: float) -> str:
    """
    >>> span(0.097, 0.7)
    '9.7-70%'
    """
    return f"{percent(low)[:-1]}-{percent(high)}"


def left(trials: float) -> str:
    """What a search still needs, to be put behind its state.

    >>> left(6.7), left(0.2), left(0)
    (', ~7 trials left', ', ~1 trial left', '')
    """
    if trials <= 0:
        return ""
    return f", ~{count(max(1, round(trials)), 'trial')} left"


def count(n: int, noun: str, plural: str = "") -> str:
    """
    >>> count(1, "death"), count(2, "death")
    ('1 death', '2 deaths')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """
    >>> duration(7.4), duration(75), duration(7260)
    ('7s', '1m15s', '2h01m')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"
