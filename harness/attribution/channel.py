"""Was it only our own way to the engine that was lost?

Rule: a request that failed while the engine inside answered, and while nobody saw its daemon
go, says nothing of the container: the trial is invalid, by its reason. What the machine's own
kernel saw of an end counts all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.deaths import trial_end
from harness.model.verdicts import Outcome

if TYPE_CHECKING:
    from harness.events import HostState
    from harness.history import History, Seen

NEAR = 1_000_000_000
"""The loss is noticed some fraction of a second after the request that it broke."""


def lost_channel(history: History) -> tuple[Outcome, str] | None:
    """What the trial comes to, and why; None where no request of ours was lost to the way there.

    Invalid where the engine inside was well. Where nobody could be asked, it was the way if
    the probe, which has one of its own, watched the daemons all the while; else nobody knows
    what happened: unobserved.
    """
    for loss in history.host:
        if loss.what.what not in ("channel", "unreachable") or _daemon_went(history, loss):
            continue
        request = _broken_by(history, loss)
        if request is None or _booted(history, loss):
            continue
        if loss.what.what == "unreachable" and _machine_went(history, loss):
            continue
        well = loss.what.what == "channel" or history.active("daemons", *_span(history, loss))
        why = f"{request} was not answered: {loss.what.why}"
        return (Outcome.INVALID if well else Outcome.UNOBSERVED), why
    return None


def _booted(history: History, loss: Seen[HostState]) -> bool:
    """Was it lost between the machine's last word under one boot id and its first under another?

    Then whoever was asked inside was asked after the boot.
    """
    reboot = history.reboot()
    if reboot is None:
        return False
    begin, end = _span(history, loss)
    return reboot[0] <= end and begin <= reboot[1]


def _machine_went(history: History, loss: Seen[HostState]) -> bool:
    """It was the machine that went, or stood still: that is judged."""
    begin, end = _span(history, loss)
    return any(
        s.what.what in ("killed", "shut-down", "still")
        and s.at <= end
        and (s.what.what != "still" or s.what.until is None or s.what.until >= begin)
        for s in history.host
    )


def _span(history: History, loss: Seen[HostState]) -> tuple[int, int]:
    end = history.end if loss.what.until is None else loss.what.until
    return loss.at - NEAR, end + NEAR


def _daemon_went(history: History, loss: Seen[HostState]) -> bool:
    begin, end = _span(history, loss)
    return any(
        s.what.name in ("dockerd", "containerd") and s.what.state == "gone" and begin <= s.at <= end
        for s in history.daemons
    )


def _broken_by(history: History, loss: Seen[HostState]) -> str | None:
    begin, end = _span(history, loss)
    over = trial_end(history)
    over = history.end if over is None else over
    for attempt in history.attempts:
        last = over if attempt.end is None else attempt.end
        if attempt.exit_code is None and attempt.begin <= end and begin <= last:
            return f"the exec ({attempt.label})"
    for call in history.calls:
        last = over if call.end is None else call.end
        if call.http is None and call.begin < over and call.begin <= end and begin <= last:
            return f"our request ({call.call})"
    return None
