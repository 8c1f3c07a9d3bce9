"""A clock that jumps: when everybody waits, it is at once the instant the first one waits for.

Rule: one thread runs at a time and gives way only where it waits, so the same program
takes the same turns every time. Everybody who waits on this clock was started by it (or
made it); a thread from elsewhere must not touch it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from harness.clock import NS

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_WALL = 1_790_000_000 * NS


class Stuck(Exception):
    """Everybody waits, and nothing is ever going to happen."""


class _Over(BaseException):
    """The clock was closed: whoever still waits on it leaves."""


@dataclass(eq=False)
class _Actor:
    """One thread: its turn, and what it waits for meanwhile."""

    name: str
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ready: Callable[[], bool] = bool
    until: int | None = None
    stuck: bool = False


class Clock:
    """Virtual time. Use as a context in the thread that owns it: leaving ends all others.

    Attributes:
        errors: What threads raised; the first is raised again when the clock is closed.
    """

    def __init__(self, *, now: int = 1000 * NS) -> None:
        self._now = now
        self._turn = _Actor("owner")
        self._running = self._turn
        self._waiting: list[_Actor] = []
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = False
        self.errors: list[BaseException] = []

    # --- what the harness asks of any clock ---

    def now(self) -> int:
        return self._now

    def wall(self) -> int:
        return _WALL + self._now

    def sleep(self, seconds: float) -> None:
        self.wait(_never, self._now + int(seconds * NS))

    def sleep_until(self, instant: int) -> int:
        self.wait(_never, instant)
        return self._now

    def inbox(self) -> Inbox[Any]:
        return Inbox(self)

    def thread(self, name: str, body: Callable[[], None]) -> None:
        """It begins when the caller waits for something."""
        actor = _Actor(name, ready=lambda: True)
        self._waiting.append(actor)
        threading.Thread(target=self._live, args=(actor, body), name=name, daemon=True).start()

    def first_in_line(self) -> None:
        """Whoever is woken here runs at once."""

    def ahead(self) -> None:
        """Nobody is ever put aside here."""

    # --- what the fakes use ---

    def at(self, instant: int, call: Callable[[], None]) -> None:
        """Have something happen at an instant. It must not wait."""
        heapq.heappush(self._calls, (instant, next(self._order), call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self._now + int(seconds * NS), call)

    def wait(self, ready: Callable[[], bool], until: int | None = None) -> bool:
        """Give way until `ready()`, or until an instant; whether it was ready.

        Raises:
            Stuck: nobody will ever be ready.
        """
        if self._closed:
            raise _Over
        actor = self._running
        if ready():
            return True
        actor.ready, actor.until = ready, until
        self._waiting.append(actor)
        chosen = self._next()
        if chosen is not actor:
            chosen.turn.release()
            actor.turn.acquire()
        self._running = actor
        if self._closed:
            raise _Over
        if actor.stuck:
            actor.stuck = False
            names = ", ".join(a.name for a in self._waiting)
            raise Stuck(f"{actor.name} waits, and so do: {names or 'no others'}")
        return ready()

    # --- whose turn it is ---

    def _next(self) -> _Actor:
        """The first who is ready; when nobody is, time goes on until somebody is."""
        while True:
            for actor in self._waiting:
                if actor.ready() or (actor.until is not None and actor.until <= self._now):
                    self._waiting.remove(actor)
                    return actor
            moments = [a.until for a in self._waiting if a.until is not None]
            if self._calls:
                moments.append(self._calls[0][0])
            if not moments:
                # The owner is told: it is the one who can say what was expected.
                self._turn.stuck = True
                if self._turn in self._waiting:
                    self._waiting.remove(self._turn)
                return self._turn
            self._now = max(self._now, min(moments))
            while self._calls and self._calls[0][0] <= self._now:
                heapq.heappop(self._calls)[2]()

    def _live(self, actor: _Actor, body: Callable[[], None]) -> None:
        actor.turn.acquire()
        if self._closed:
            return
        self._running = actor
        try:
            body()
        except _Over:
            return
        except BaseException as error:
            self.errors.append(error)
        if not self._closed:
            self._next().turn.release()

    # --- the end ---

    def close(self) -> None:
        """Threads that still wait leave. Raises what one of them raised."""
        self._closed = True
        for actor in self._waiting:
            actor.turn.release()
        self._waiting.clear()
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self.errors.clear()  # the test's own failure says more
        self.close()


def _never() -> bool:
    return False


class Inbox(Generic[T]):
    """A queue whose reader waits on the virtual clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._items: deque[T] = deque()

    def put(self, item: T) -> None:
        self._items.append(item)

    def get(self, until: int | None) -> T | None:
        self._clock.wait(lambda: bool(self._items), until)
        return self._items.popleft() if self._items else None
