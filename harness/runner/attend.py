"""Attending containers that somebody else manages: each death becomes a stored history.

Rules. Nothing is started, stopped or changed; containers are watched through the probe and
asked about once, after their death. What happened before a death is in a bounded buffer:
however long somebody is watched, memory stays what it is. A history holds the container's
own events since it was found and the machine's events around the death.
"""

from __future__ import annotations

import queue
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from harness import clock
from harness import events as e
from harness.runner.link import ProbeLink
from harness.runner.recipe import limits
from harness.runner.stage import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.engine import Engine
    from harness.machine import ProbeSite

# Docker's own `die` follows the kernel's exit by 30 to 90 ms when idle and by a second under
# load; past this its silence is the finding.
NOTICE = 10 * clock.NS
# The daemons' last lines and the cgroup's removal come after `die`.
AFTERMATH = NOTICE // 20
# A light probe says some 50 events a second of a quiet machine: ten minutes of it.
KEPT = 30_000
KEPT_OF_ONE = 5_000
ATTENDED = 2_000
WAITING = 200_000


@dataclass
class Attended:
    """One container under watch.

    Attributes:
        reference: Who it is; the first event of its histories.
        own: Its own events, oldest dropped first.
        died: When its end was first seen (harness clock, ns), None while it lives.
        noticed: Docker has said so too.
        deaths: How many of its ends have been told.
    """

    reference: e.ContainerRef
    own: deque[e.Event] = field(default_factory=lambda: deque(maxlen=KEPT_OF_ONE))
    died: int | None = None
    noticed: bool = False
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """One end of an attended container, with everything that was seen around it."""

    container: str
    name: str
    n: int
    history: list[e.Event]


class Attendance:
    """Watches the containers that `wanted` picks, until `stop`. Use as a context.

    Args:
        link: As ProbeLink takes it: monitors, hz.
        wanted: Asked with a row of `GET /containers/json` or a freshly inspected container in
            the same shape ({"Id", "Names", "Labels"}).
    """

    def __init__(
        self, engine: Engine, site: ProbeSite, wanted: Callable[[dict[str, Any]], bool], **link: Any
    ) -> None:
        self._engine, self._wanted = engine, wanted
        self._link = ProbeLink(site, on_event=self.hear, **link)
        # A signal handler puts into it while this very thread may be taking something out: a
        # Queue's lock would wait for itself.
        self.inbox: queue.SimpleQueue[e.Event | None] = queue.SimpleQueue()
        self._machine: deque[e.Event] = deque(maxlen=KEPT)
        self.attended: dict[str, Attended] = {}
        self.dropped = 0

    def __enter__(self) -> Self:
        self._link.start()
        self._link.follow_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._link.stop()

    def hear(self, event: e.Event) -> None:
        """An event of the probe; from the link's thread, never blocking it."""
        if self.inbox.qsize() < WAITING:
            self.inbox.put(event)
        else:
            self.dropped += 1

    def stop(self) -> None:
        """`ended` comes to its end; may be called from any thread, and from a signal handler."""
        self.inbox.put(None)

    def find(self) -> int:
        """Take up every running container that is wanted; how many are attended now."""
        for row in self._engine.ps(everything=False, deadline=10).value or []:
            self._take(row)
        return len(self.attended)

    def ended(self) -> Iterator[Ended]:
        """Each end, as soon as all is known of it. Ends when `stop` was called."""
        while True:
            try:
                event = self.inbox.get(timeout=self._patience())
            except queue.Empty:
                event = e.Note(**now(), what="tick")
            if event is None:
                return
            self._see(event)
            for one in [a for a in self.attended.values() if self._complete(a)]:
                yield self._conclude(one)

    def _patience(self) -> float:
        return 0.1 if any(a.died is not None for a in self.attended.values()) else 1.0

    def _complete(self, one: Attended) -> bool:
        if one.died is None:
            return False
        return clock.now() - one.died > (AFTERMATH if one.noticed else NOTICE)

    # --- events -----------------------------------------------------------------------

    def _see(self, event: e.Event) -> None:
        if isinstance(event, e.DockerEvent) and event.type == "container":
            self._docker(event)
        if isinstance(event, e.SourceState | e.Gap) and event.name == "docker":
            # The engine's stream broke or is back: whoever started meanwhile is taken up.
            self.find()
        of = event.id if isinstance(event, e.DockerEvent) else getattr(event, "container", None)
        if of is None:
            if not (isinstance(event, e.Note) and event.what == "tick"):
                self._machine.append(event)
            return
        one = self.attended.get(of)
        if one is None:
            return
        one.own.append(event)
        if isinstance(event, e.DeathSeen) and one.died is None:
            one.died = clock.now()

    def _docker(self, event: e.DockerEvent) -> None:
        if event.action in {"create", "start"} and event.id not in self.attended:
            self._take(
                {
                    "Id": event.id,
                    "Names": ["/" + event.attributes.get("name", event.id[:12])],
                    "Labels": event.attributes,
                }
            )
        one = self.attended.get(event.id)
        if one is not None and event.action in {"die", "destroy"}:
            one.noticed = True
            one.died = one.died or clock.now()
        if one is not None and event.action == "destroy" and one.deaths:
            # Its last end is told; nobody will hear of this id again.
            self._link.unwatch(event.id)
            del self.attended[event.id]

    def _take(self, row: dict[str, Any]) -> None:
        identity = str(row["Id"])
        if identity in self.attended or not self._wanted(row):
            return
        if len(self.attended) >= ATTENDED:
            self.dropped += 1
            return
        self._link.watch(identity, role="subject")
        inspected = self._engine.inspect(identity, deadline=5).value or {}
        config = inspected.get("Config") or {}
        name = str((row.get("Names") or ["/" + identity[:12]])[0]).lstrip("/")
        reference = e.ContainerRef(
            **now(),
            role="subject",
            container=identity,
            name=name,
            image=str(config.get("Image") or row.get("Image") or ""),
            limits=limits(inspected),
            config={k: config.get(k) for k in ("Cmd", "Entrypoint", "Tty", "OpenStdin", "User")},
        )
        one = Attended(reference)
        one.own.append(reference)
        state = inspected.get("State")
        one.own.append(
            e.Status(
                **now(), label="found", container=identity, by="inspect", state=state,
            )
        )  # fmt: skip
        self.attended[identity] = one

    # --- an end -----------------------------------------------------------------------

    def _conclude(self, one: Attended) -> Ended:
        self._link.flush(2.0)
        while not self.inbox.empty():
            event = self.inbox.get_nowait()
            if event is None:
                self.inbox.put(None)
                break
            self._see(event)
        identity = one.reference.container
        one.deaths += 1
        answer = self._engine.inspect(identity, deadline=5)
        state = None if answer.value is None else answer.value.get("State")
        one.own.append(
            e.Status(
                **now(),
                label="post-mortem",
                container=identity,
                by="inspect",
                state=state,
                error=answer.error,
                http=answer.http,
            )
        )
        logs = self._engine.logs(identity, tail=100, deadline=5)
        text = (logs.value or b"")[-65536:].decode(errors="backslashreplace")
        one.own.append(e.Logs(**now(), container=identity, text=text, error=logs.error))
        history = [*self._link.states(), *one.own, *self._machine]
        one.died, one.noticed = None, False
        if one.own.maxlen == len(one.own):
            one.own.appendleft(one.reference)  # whoever it is must stay known
        return Ended(identity, one.reference.name, one.deaths, history)
