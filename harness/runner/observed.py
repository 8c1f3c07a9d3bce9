"""What the runner knows of the subject by now, from the events it has already seen.

Rule: for the trial's own flow only (is it worth waiting, what was the status when the
exec was asked for); what a death *was* is judged later, from the stored history. All
times are the machine's; an event counts where it happened, not where it arrived.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness import events as e

if TYPE_CHECKING:
    from collections.abc import Callable

# The engine stamps its own events some milliseconds beside the kernel's.
ENGINE = 10_000_000
OVER = frozenset({"exited", "dead", "removing", "restarting"})


@dataclass(slots=True)
class _Life:
    """One container.

    Attributes:
        mains: Main processes by pid: [start, end or None], as the kernel told.
        engine: Starts that only the engine told.
        dies: Its own notices of an end. told: Answers of the engine that know of one.
        calls: Our starts of it: (request, answer), for the time until somebody tells more.
        stops: Our planned stops: [request, answer or None].
        spent: Planned stops that have ended one main process already: they end no other.
    """

    mains: dict[int, list[int | None]] = field(default_factory=dict)
    engine: list[int] = field(default_factory=list)
    dies: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    calls: list[tuple[int, int]] = field(default_factory=list)
    stops: list[list[int | None]] = field(default_factory=list)
    spent: dict[int, int] = field(default_factory=dict)

    @property
    def starts(self) -> list[int]:
        return [t for t, _ in self.mains.values() if t is not None] + self.engine

    @property
    def ends(self) -> list[int]:
        return [t for _, t in self.mains.values() if t is not None]


class Observed:
    """The subjects, as the events so far show them. A recreate makes a second subject.

    Args:
        offset: Machine boottime minus harness clock, ns, as known now.
    """

    def __init__(self, offset: Callable[[], int] = int) -> None:
        self.subjects: list[str] = []
        self._offset = offset
        self._lives: dict[str, _Life] = {}
        self._unplanned: dict[str, int] = {}
        self._asked: dict[tuple[str, str], int] = {}

    @property
    def current(self) -> str | None:
        return self.subjects[-1] if self.subjects else None

    @property
    def died(self) -> bool:
        """A subject's main process ended outside every stop of our own."""
        return bool(self._unplanned)

    @property
    def noticed(self) -> bool:
        """The engine has said so too, for every subject that died."""
        return all(
            any(t >= at - ENGINE for t in (*self._lives[c].dies, *self._lives[c].told))
            for c, at in self._unplanned.items()
        )

    def status(self, at: int | None = None, container: str | None = None) -> str:
        """running | exited | unknown, at an instant of the harness's clock (None: now).

        An observer knows no more than these; "created" and "paused" are the engine's words.
        """
        life = self._lives.get(container or self.current or "")
        if life is None:
            return "unknown"
        end_of_time = (1 << 62) if at is None else at + self._offset()
        started = [t for t in life.starts if t <= end_of_time]
        # The engine has answered that it runs, and nobody has told of that main process yet.
        started += [
            answer
            for request, answer in life.calls
            if answer <= end_of_time and not any(t >= request - ENGINE for t in life.starts)
        ]
        ended = [t for t in (*life.ends, *life.dies) if t <= end_of_time]
        if not started and not ended:
            return "unknown"
        return "running" if max(started, default=-1) > max(ended, default=-1) else "exited"

    def see(self, event: e.Event) -> None:
        match event:
            case e.ContainerRef(role="subject"):
                if event.container not in self.subjects:
                    self.subjects.append(event.container)
                    self._lives.setdefault(event.container, _Life())
            case e.ApiCall():
                self._called(event)
            case e.MainProcess():
                if (life := self._lives.get(event.container)) is not None:
                    life.mains.setdefault(event.pid, [event.t, None])
            case e.DeathSeen():
                if (life := self._lives.get(event.container)) is not None:
                    main = life.mains.setdefault(event.pid, [None, None])
                    if main[1] is None:
                        # It can be found later than it ended: three milliseconds are a life.
                        main[0] = min(event.t - 1, event.t if main[0] is None else main[0])
                        main[1] = event.t
                        self._over(event.container, life, event.t)
            case e.Status(by="inspect"):
                over = (event.state or {}).get("Status") in OVER or event.http == 404
                if over and (life := self._lives.get(event.container)) is not None:
                    life.told.append(event.t + self._offset())
            case e.DockerEvent(type="container"):
                if (life := self._lives.get(event.id)) is not None:
                    self._engine(event, life)

    def _engine(self, event: e.DockerEvent, life: _Life) -> None:
        if event.action == "start":
            # It comes behind the main process that it tells of, tens of milliseconds late.
            if not any(abs(event.t - t) < 100 * ENGINE for t in life.starts):
                life.engine.append(event.t)
        elif event.action in {"die", "destroy"}:
            # The notice of an end that the kernel told already, or the only word of one. A
            # die of an earlier main process can arrive when the next one runs: its own time
            # says which one is meant.
            begun = max((t for t in life.starts if t <= event.t + ENGINE), default=None)
            known = any(
                begun is None or t >= begun - ENGINE for t in life.ends if t <= event.t + ENGINE
            )
            if event.action == "die" or not life.dies:
                life.dies.append(event.t)
                if not known:
                    self._over(event.id, life, event.t, slack=ENGINE)

    def _called(self, event: e.ApiCall) -> None:
        life = self._lives.get(event.container)
        key = (event.container, event.call)
        at = event.t + self._offset()
        if event.edge == "request":
            self._asked[key] = at
            if life is not None and event.planned:
                life.stops.append([at, None])
            return
        begun = self._asked.pop(key, at)
        if life is None:
            return
        if event.planned:
            for stop in life.stops:
                if stop[0] == begun:
                    stop[1] = at
        if event.call in {"start", "restart"} and event.error is None:
            life.calls.append((begun, at))

    def _over(self, container: str, life: _Life, at: int, slack: int = 0) -> None:
        """One main process has ended: by a stop of ours, if one was under way that has ended none."""
        for number, (begin, end) in enumerate(life.stops):
            assert begin is not None
            under_way = begin - slack <= at and (end is None or at <= end + 20 * ENGINE)
            if not under_way:
                continue
            first = life.spent.setdefault(number, at)
            # A restart's own start lies inside its window: what begins there and ends is a death.
            began_since = any(first < t <= at for t in life.starts)
            if not began_since:
                return
        self._unplanned.setdefault(container, at)
