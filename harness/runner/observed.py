"""What the runner knows of the subject by now, from the events it has already seen.

Rule: for the trial's own flow only (is it worth waiting, what is the status right
before an exec); what a death *was* is judged later, from the stored history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import events as e

if TYPE_CHECKING:
    from collections.abc import Iterable


class Observed:
    """The subject, as the events so far show it. A recreate makes a second subject."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self._running: set[str] = set()
        self._ended: set[str] = set()
        self._noticed: set[str] = set()
        self._planned: set[str] = set()
        self._unplanned: set[str] = set()

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
        return self._unplanned <= self._noticed

    def status(self) -> str:
        """In the engine's words, as far as the observer can know: running | exited | unknown."""
        subject = self.current
        if subject in self._ended:
            return "exited"
        return "running" if subject in self._running else "unknown"

    def see(self, event: e.Event) -> None:
        match event:
            case e.ContainerRef(role="subject"):
                if event.container not in self.subjects:
                    self.subjects.append(event.container)
            case e.ApiCall(planned=True, edge="request"):
                self._planned.add(event.container)
            case e.ApiCall(planned=True, edge="answer"):
                # The window stays open after the answer: Docker answers before its `die`
                # event arrives. It closes when the container starts again.
                pass
            case e.MainProcess():
                self._began(event.container)
            case e.DeathSeen():
                self._over(event.container)
            case e.DockerEvent(type="container", action="start"):
                self._began(event.id)
            case e.DockerEvent(type="container", action="die" | "destroy"):
                self._over(event.id)
                self._noticed.add(event.id)

    def _began(self, container: str) -> None:
        # A new main process of the same container (restart): the old end is history.
        self._running.add(container)
        self._ended.discard(container)
        self._planned.discard(container)

    def _over(self, container: str) -> None:
        if container not in self.subjects:
            return
        self._ended.add(container)
        if container not in self._planned:
            self._unplanned.add(container)

    def see_all(self, events: Iterable[e.Event]) -> None:
        for event in events:
            self.see(event)
