"""Did this host sleep, or live on its battery, while a trial ran?

Rule: asked before and after, never in between. A trial under a closed lid, or on a Mac that
saves power, was not run under the conditions that its row claims: it is invalid, with the
reason in words. What the machine's own kernel saw of a death counts all the same.
"""

from __future__ import annotations

import platform

from harness import clock, process

SLEPT = clock.NS
"""ns. The two clocks are read one after the other, and nobody sleeps for less."""


class Awake:
    """The host at a trial's beginning, to be held against its end."""

    def __init__(self) -> None:
        self._asleep = clock.asleep()
        self._battery = on_battery()

    def why_not(self) -> str | None:
        """Why the trial is invalid; None where the host was awake and plugged in."""
        slept = clock.asleep() - self._asleep
        if slept > SLEPT:
            return f"this host slept for {slept / clock.NS:.0f} s during the trial"
        if self._battery or on_battery():
            return "this Mac ran on battery, where macOS slows it down and puts it to sleep: plug it in"
        return None


def on_battery() -> bool:
    """Does this Mac draw from its battery? Elsewhere `doctor` says what a battery spoils.

    A virtual machine's processors are threads of a process like any other: what App Nap and
    low-power mode do to them, no clock inside tells.
    """
    if platform.system() != "Darwin":
        return False
    said = process.run(("pmset", "-g", "batt"), deadline=5)
    return drawing_from_battery(said.text)


def drawing_from_battery(text: str) -> bool:
    """Of `pmset -g batt`.

    >>> drawing_from_battery("Now drawing from 'Battery Power'\\n -InternalBattery-0 (id=1) 87%;")
    True
    >>> drawing_from_battery("Now drawing from 'AC Power'\\n")
    False
    """
    return "drawing from 'Battery Power'" in text
