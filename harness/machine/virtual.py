"""What a running VM offers, whoever made it: its inside over ssh, its end as this host sees it.

Rule: `Vm` and `Colima` differ in how they are made and removed; what stands here is the same
for both, and is there from the moment their guest's engine answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from harness import clock, process
from harness.errors import EnvironmentInvalid
from harness.machine import guest
from harness.machine.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from harness.machine import HostSaid, ProbeSite
    from harness.machine.watch import Hypervisor


class Virtual(ABC):
    """A VM with a guest. Who makes it sets `_guest`, and calls `_witness` when it stands."""

    name: str
    _guest: guest.Guest | None = None
    _watch: Watch | None = None

    # --- for who makes it -----------------------------------------------------------

    @abstractmethod
    def _failed(self, what: str) -> EnvironmentInvalid:
        """Why it did not come up, with the last words of its logs."""

    def _dead(self) -> str:
        """Why waiting for it is in vain; "" while it is not."""
        return ""

    def _waiter(self, end: int) -> Callable[[str, Callable[[], bool]], None]:
        return guest.waiter(end, self._failed, self._dead)

    def _witness(self, hypervisor: Hypervisor) -> None:
        """From now on its end is seen, and ends every wait for what is inside."""
        self._watch = Watch(hypervisor, gone=self.inside.give_up)
        self._watch.start()

    def _look_away(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _hang_up(self) -> None:
        self._look_away()
        if self._guest is not None:
            self._guest.close()
            self._guest = None

    # --- the protocol ---------------------------------------------------------------

    @property
    def inside(self) -> guest.Guest:
        """Raises EnvironmentInvalid where there is none to speak to."""
        if self._guest is None:
            raise EnvironmentInvalid(f"the VM {self.name} does not run")
        return self._guest

    @property
    def socket(self) -> Path:
        """The engine's, forwarded to this host."""
        return self.inside.socket

    @property
    def docker_host(self) -> str:
        return f"unix://{self.socket}"

    def probe_site(self) -> ProbeSite:
        return self.inside.site(self.name, patience=90.0)

    def root(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0
    ) -> process.Result:
        """Run as root in the guest; its exit code, or 255 where the guest is not reached."""
        if self._guest is None:
            return process.Result(tuple(argv), 255, b"", b"the VM does not run", 0.0)
        return self._guest.root(argv, stdin=stdin, deadline=deadline)

    def daemon(self, name: str, action: str, *, deadline: float = 90.0) -> int | None:
        """As `guest.Guest.daemon` says."""
        wait = self._waiter(clock.now() + int(deadline * clock.NS))
        return self.inside.daemon(name, action, deadline=deadline, wait=wait)

    def testimony(self, since: int) -> tuple[HostSaid, ...]:
        """The VM's own end, its standing still, and losses of our way to its engine."""
        said = [] if self._watch is None else [*self._watch.told(since)]
        said += [] if self._guest is None else self._guest.outages(since)
        return tuple(sorted(said, key=lambda one: one.at))
