"""What was asked for beside what a machine really has.

Rule: both are recorded, and a difference that could be taken for an effect is said in words
wherever the row is shown. How much is too much for a kind of machine is that kind's own rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import units

if TYPE_CHECKING:
    from collections.abc import Mapping

WORTH_SAYING = 0.03
"""Share of what was asked for. A guest's kernel keeps some 4 % of its memory, ext4 some 2 % of a disk."""


def differences(
    asked: Mapping[str, float | int], effective: Mapping[str, float | int | None]
) -> list[str]:
    """One line for each size that is not what was asked for.

    >>> differences({"memory": 1 << 30, "cpus": 2}, {"memory": 989872 << 10, "cpus": 2})
    ['memory: 1GiB asked for, 966MiB inside (5.6 % less)']
    """
    found = []
    for key, wanted in asked.items():
        has = effective.get(key)
        if has is not None and abs(has - wanted) > WORTH_SAYING * wanted:
            found.append(differs(key, wanted, has))
    return found


def differs(key: str, asked: float, has: float) -> str:
    """
    >>> differs("cpus", 4, 2)
    'cpus: 4 asked for, 2 inside (50.0 % less)'
    """
    share = (has - asked) / asked * 100
    way = "less" if share < 0 else "more"
    return (
        f"{key}: {_show(key, asked)} asked for, {_show(key, has)} inside ({abs(share):.1f} % {way})"
    )


def _show(key: str, value: float) -> str:
    return f"{value:g}" if key in ("cpus", "inodes") else units.show_size(int(value) >> 20 << 20)
