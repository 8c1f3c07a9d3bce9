"""A machine in memory: a kernel, a dockerd, and whoever listens to them.

Rule: the machine protocol and nothing else for the harness; what tests may do to it
(kill its engine, kill a container from the host) has names of its own at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.clock import NS
from harness.fakes import kernel
from harness.fakes.dockerd import Dockerd
from harness.machine import HostSaid, MachineFacts, ProbeSite
from harness.process import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness import events as e
    from harness.fakes.clock import Clock
    from harness.fakes.link import Link


class Machine:
    """One fake machine. `start` and `stop` as any; a start gives an empty dockerd.

    Attributes:
        commands: What was run as root inside. `rooted` may answer a command: argv → Result
            or None for "it went well".
    """

    kind = "fake"

    def __init__(
        self, clock: Clock, *, memory: int | None = None, images: Sequence[str] = ("busybox",)
    ) -> None:
        self.name = "fake"
        self.clock = clock
        self.memory, self._images = memory, tuple(images)
        self.links: list[Link] = []
        self.commands: list[tuple[str, ...]] = []
        self.rooted: Callable[[Sequence[str]], Result | None] = lambda argv: None
        self.started = self.stopped = 0
        self.kept = False
        self.told: list[HostSaid] = []
        self._fresh()

    def _fresh(self) -> None:
        self.kernel = kernel.Kernel(self.clock, self._emit, memory=self.memory)
        self.dockerd = Dockerd(self.kernel, images=set(self._images))

    def _emit(self, event: e.Event) -> None:
        for link in list(self.links):
            link.carry(event)

    # --- the protocol ---

    def start(self) -> None:
        self.started += 1
        self._fresh()

    def stop(self) -> None:
        self.stopped += 1
        self.dockerd.up = False

    def keep(self) -> None:
        self.kept = True

    @property
    def docker_host(self) -> str:
        return "fake://"

    def facts(self) -> MachineFacts:
        return MachineFacts(
            kind=self.kind, kernel="fake", engine="fake", api="1.41", cgroup=2, boot_id="fake",
            effective={"memory": self.memory},
        )  # fmt: skip

    def probe_site(self) -> ProbeSite:
        config: dict[str, Any] = {"cgroup": self.kernel.cgroup, "docker_socket": "", "roots": []}
        return ProbeSite(python=("python3",), config=config)

    def root(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0) -> Result:
        self.commands.append(tuple(argv))
        return self.rooted(argv) or Result(tuple(argv), 0, _said(tuple(argv)), b"", 0.0)

    def testimony(self, since: int) -> tuple[HostSaid, ...]:
        return tuple(said for said in self.told if said.at >= since)

    # --- what tests do to it ---

    def power_cut(self) -> None:
        """It ends as a VM does that is killed: its engine is gone, and this host saw it go."""
        self.kill_engine()
        self.told.append(HostSaid(at=self.clock.now(), what="killed", why="its process is gone"))

    def shut_down(self) -> None:
        """Somebody's order: its engine leaves first, and twelve seconds later it is off."""
        self.kill_engine()
        off = HostSaid(at=self.clock.now() + 12 * NS, what="shut-down", why="told to stop")
        self.clock.after(12.0, lambda: self.told.append(off))

    def lose_agent(self) -> None:
        """What looks after it on this host is gone; it runs on."""
        said = HostSaid(at=self.clock.now(), what="agentless", why="its host agent is gone")
        self.told.append(said)

    def kill_engine(self) -> None:
        """SIGKILL for dockerd: calls under way break off, containers live on, unwatched by it."""
        self.dockerd.up = False
        self.dockerd.epoch += 1

    def engine_returns(self) -> None:
        """A new dockerd kills what the old one left running, as it does without live-restore."""
        self.dockerd.up = True
        for box in list(self.dockerd.boxes.values()):
            if box.process is not None:
                self.kernel.signal(box.process, 9, by=kernel.ENGINE)

    def host_kill(self, name: str, signal: int = 9) -> None:
        """A process of the host kills a container's main process. name: its end is enough."""
        for box in self.dockerd.boxes.values():
            if box.name.endswith(name) and box.process is not None:
                self.kernel.signal(box.process, signal, by=kernel.HOST)


def _said(argv: tuple[str, ...]) -> bytes:
    """A guest has a static busybox, so that a host without one can still make its image."""
    if argv == ("cat", "/bin/busybox"):
        return b"\x7fELF\x02\x01" + bytes(58)  # a 64-bit ELF header, no interpreter asked for
    if argv == ("/bin/busybox", "--list"):
        return b"sh\nsleep\n"
    return b""
