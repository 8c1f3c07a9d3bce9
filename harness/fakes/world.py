"""Where fake machines, engines and probes come from, for a whole sweep in memory.

Rule: hands them out and remembers them; what shall happen to them is the test's to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.fakes.engine import Engine
from harness.fakes.link import Link
from harness.fakes.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.errors import EnvironmentInvalid
    from harness.events import Event
    from harness.fakes.clock import Clock
    from harness.model.sweep import MachineSpec


@dataclass
class World:
    """One for each sweep.

    Attributes:
        refuse: Raised in place of the next machine.
        met: Called with each engine as it is handed out, its machine freshly started.
    """

    clock: Clock
    refuse: EnvironmentInvalid | None = None
    met: Callable[[Engine], None] = lambda engine: None
    machines: list[Machine] = field(default_factory=list)
    wanted: list[MachineSpec] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    def check(self, wanted: MachineSpec) -> None:
        if self.refuse is not None:
            raise self.refuse

    def auto(self, user: str | None) -> str:
        return Machine.kind

    def machine(self, wanted: MachineSpec, kind: str) -> Machine:
        if self.refuse is not None:
            raise self.refuse
        self.wanted.append(wanted)
        made = Machine(self.clock, memory=wanted.memory)
        made.name = f"fake-{len(self.machines) + 1}"
        self.machines.append(made)
        return made

    def engine(self, machine: Machine) -> Engine:
        engine = Engine(machine)
        self.met(engine)
        return engine

    def link(self, machine: Machine, *, monitors: str, on_event: Callable[[Event], None]) -> Link:
        link = Link(machine, on_event=on_event)
        self.links.append(link)
        return link
