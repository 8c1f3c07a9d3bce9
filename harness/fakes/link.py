"""The probe's connection in memory: what is watched, what arrives when, and its silences.

Rule: an event takes `lag` to arrive and events arrive in order; after a flush everything
that happened before it has arrived. A silent probe goes on seeing and hands over late; a
dead one has seen nothing, and says so when it is back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.clock import NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.events import Event
    from harness.fakes.machine import Machine

LAG = 0.0002
SOURCES = (
    "trace", "proc", "pidfd", "kernel", "cgroup", "docker", "daemons", "daemon-log", "machine",
)  # fmt: skip
SILENT_AFTER = 3.0


class Link:
    """One probe on the fake machine."""

    def __init__(self, machine: Machine, *, on_event: Callable[[Event], None]) -> None:
        self.machine, self._on_event = machine, on_event
        self.lag = LAG
        self.clock = None  # the harness's own is the machine's
        self.silent = False
        self.alive = False
        self.watching: dict[str, str] = {}
        self.said: list[str] = []
        self._clock = machine.clock
        self._way: deque[tuple[int, Event]] = deque()
        self._gap: e.Gap | None = None
        self._since = 0

    # --- beginning and end ---

    def start(self, deadline: float = 15.0) -> None:
        self.alive = True
        self.machine.links.append(self)
        self._since = self._clock.now()

    def stop(self, grace: float = 5.0) -> None:
        self.alive = False
        if self in self.machine.links:
            self.machine.links.remove(self)

    # --- what the runner asks ---

    def watch(self, container: str, *, role: str = "subject") -> None:
        self.watching[container] = role
        for process in self.machine.kernel.processes.values():
            if process.main and process.container == container:
                self.carry(self.machine.kernel.main_process(process))

    def unwatch(self, container: str) -> None:
        self.watching.pop(container, None)

    def snapshot(self, container: str | None = None) -> None:
        self.carry(self._clock_reading())
        if container is None:
            self.carry(self.machine.kernel.machine_counters())

    def flush(self, deadline: float) -> bool:
        if not self.alive:
            return False
        last = self._way[-1][1] if self._way else None

        def arrived() -> bool:
            return not self.silent and all(event is not last for _, event in self._way)

        return self._clock.wait(arrived, self._clock.now() + int(deadline * NS))

    def states(self) -> list[Event]:
        head: list[Event] = [
            e.Hello(
                **self._common(), source="probe", version=e.VERSION, boot_id="fake", kernel="fake",
                python="3", cgroup=2, hz=100, monitors="light", pid=2,
            )
        ]  # fmt: skip
        head += [
            e.SourceState(**self._common(), source=name, name=name, state="active")
            for name in SOURCES
        ]
        if self._gap is not None:
            head.append(self._gap)
        return [
            *head,
            e.ClockLink(**self._common(), source="link", clock="harness", offset=0, error=1000),
            self._clock_reading(),
        ]

    # --- what goes wrong with it ---

    def fall_silent(self) -> None:
        """From now on nothing arrives; after three seconds that is a gap."""
        self.silent = True
        begin = self._clock.now()

        def noticed() -> None:
            if self.silent:
                self._gap = self._silence(begin, None, "the probe does not answer")
                self._on_event(self._gap)

        self._clock.after(SILENT_AFTER, noticed)

    def speak(self) -> None:
        """What was held back arrives, behind the end of the gap."""
        self.silent = False
        if self._gap is not None:
            end = self._silence(self._gap.begin, self._clock.now(), "the probe did not answer")
            self._gap = None
            self._on_event(end)
        self._deliver()

    def die(self) -> None:
        """It has seen nothing from now on, and what was on its way is lost."""
        self._way.clear()
        self.alive = False
        self._gap = self._silence(self._clock.now(), None, "the probe ended (-9)")
        self._on_event(self._gap)

    def come_back(self) -> None:
        """A new one, told again what to watch."""
        self.alive = True
        if self._gap is not None:
            end = self._silence(self._gap.begin, self._clock.now(), "started again")
            self._gap = None
            self._on_event(end)
        for container, role in list(self.watching.items()):
            self.watch(container, role=role)

    # --- the way of an event ---

    def carry(self, event: Event) -> None:
        """By the kernel or dockerd: it has seen this."""
        if not self.alive or not self._wanted(event):
            return
        due = self._clock.now() + int(self.lag * NS)
        self._way.append((due, event))
        self._clock.at(due, self._deliver)

    def _wanted(self, event: Event) -> bool:
        match event:
            case e.DockerEvent(type="container"):
                return event.id in self.watching
            case e.MainProcess() | e.DeathSeen() | e.PidfdExit() | e.SignalSender():
                return event.container in self.watching
            case _:
                return True

    def _deliver(self) -> None:
        while self._way and not self.silent and self._way[0][0] <= self._clock.now():
            _, event = self._way.popleft()
            seen = replace(event, seen=self._clock.now())
            self.said.append(seen.kind)
            self._on_event(seen)

    def _common(self) -> dict[str, Any]:
        return {"t": self._since, "seen": self._since}

    def _clock_reading(self) -> e.ClockReading:
        now = self._clock.now()
        return e.ClockReading(
            t=now, seen=now, source="clock", boot=now, wall=self._clock.wall(), mono=now, kmsg=0
        )

    def _silence(self, begin: int, end: int | None, why: str) -> e.Gap:
        now = self._clock.now()
        return e.Gap(
            t=now, seen=now, source="link", clock="harness", name="probe", begin=begin, end=end,
            why=why,
        )  # fmt: skip
