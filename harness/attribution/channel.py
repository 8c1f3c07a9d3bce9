"""Was it only our own way to the engine that was lost?

Rule: a request that failed while the engine inside answered, and while nobody saw its daemon
go, says nothing of the container: the trial is invalid, by its reason. What the machine's own
kernel saw of an end counts all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.deaths import trial_end

if TYPE_CHECKING:
    from harness.events import HostState
    from harness.history import History, Seen

NEAR = 1_000_000_000
"""The loss is noticed some fraction of a second after the request that it broke."""


def lost_channel(history: History) -> str | None:
    """Why the trial says nothing; None where no request of ours was lost to the way there."""
    for loss in history.host:
        if loss.what.what == "channel" and not _daemon_went(history, loss):
            request = _broken_by(history, loss)
            if request is not None:
                return f"{request} was not answered: {loss.what.why}"
    return None


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
