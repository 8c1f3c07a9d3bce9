"""What a trial and a sweep need of the world: a machine, its engine, its probe, a clock.

Rule: protocols and the one real implementation. `fakes` fits the same shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from harness import engine
from harness.clock import Clock, RealClock
from harness.machine import choose
from harness.runner.link import LinkClock, ProbeLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine import Engine
    from harness.events import Event
    from harness.machine import Machine
    from harness.model.sweep import MachineSpec


class Link(Protocol):
    """What is asked of the probe's connection; see `link.ProbeLink`."""

    @property
    def clock(self) -> LinkClock | None: ...
    def start(self, deadline: float = 15.0) -> None:
        """Wait for its hello, `deadline` seconds at most."""

    def stop(self, grace: float = 5.0) -> None:
        """Order it to leave; after `grace` seconds it is killed."""

    def watch(self, container: str, *, role: str = "subject") -> None:
        """Announce a container (its full id), best before it is started."""

    def unwatch(self, container: str) -> None:
        """Forget it; its last events may still arrive."""

    def snapshot(self, container: str | None = None) -> None:
        """Sample everything now: of one container and its ancestors, None: of all."""

    def flush(self, deadline: float) -> bool:
        """Wait until all that happened so far has arrived; False after `deadline` seconds."""

    def states(self) -> list[Event]:
        """What a history that begins now must know: hello, sources, open gaps, the clocks."""


class World(Protocol):
    """Where machines, engines and probes come from."""

    @property
    def clock(self) -> Clock: ...

    def check(self, wanted: MachineSpec) -> None:
        """Refuse what can not be had, making nothing.

        Raises:
            EnvironmentInvalid: with the reason.
        """

    def auto(self, user: str | None) -> str:
        """The kind that `auto` comes to. user: Whom colima runs as."""

    def machine(self, wanted: MachineSpec, kind: str) -> Machine:
        """One that fits, not started.

        Raises:
            EnvironmentInvalid: it can not be had.
        """

    def engine(self, machine: Machine) -> Engine:
        """A client of a started machine's engine, which has answered."""

    def link(self, machine: Machine, *, monitors: str, on_event: Callable[[Event], None]) -> Link:
        """The probe of a started machine, not started."""


@dataclass(frozen=True)
class RealWorld:
    """This host's."""

    clock: Clock = field(default_factory=RealClock)

    def check(self, wanted: MachineSpec) -> None:
        choose.check(wanted)

    def auto(self, user: str | None) -> str:
        return choose.resolve("auto", user)

    def machine(self, wanted: MachineSpec, kind: str) -> Machine:
        return choose.make(wanted, kind=kind)

    def engine(self, machine: Machine) -> Engine:
        return engine.connect(machine.docker_host)

    def link(self, machine: Machine, *, monitors: str, on_event: Callable[[Event], None]) -> Link:
        return ProbeLink(machine.probe_site(), monitors=monitors, on_event=on_event)
