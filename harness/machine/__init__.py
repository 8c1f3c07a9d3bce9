"""Where containers run: a private engine (pen), somebody's engine (host), a VM.

Rule: everything a machine makes carries its label and its lease, and `stop` leaves
nothing behind whatever state `start` reached. A machine never decides anything
about trials; it offers an engine, a way to run a command as root inside, and a
place for the probe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from harness import LABEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.process import Result

__all__ = ["LABEL", "HostSaid", "Machine", "MachineFacts", "ProbeSite", "Witnessed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What a machine really is, read back from inside, recorded in the campaign.

    Sizes in bytes. `effective` repeats the settings that were asked for with what the
    machine really has; None where nobody asked. `asked` is what was asked for, where the two
    can differ: a VM's kernel, file system or virtual machine monitor may give less.
    """

    kind: str
    kernel: str
    engine: str
    api: str
    cgroup: int
    boot_id: str
    effective: Mapping[str, float | int | None] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, float | int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "kernel": self.kernel,
            "engine": self.engine,
            "api": self.api,
            "cgroup": self.cgroup,
            "boot_id": self.boot_id,
            "effective": dict(self.effective),
            "versions": dict(self.versions),
            **({"asked": dict(self.asked)} if self.asked else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSite:
    """How to run the probe beside the engine, and where it finds things there.

    Attributes:
        python: argv prefix after which "-c LOADER" runs Python as root in the machine's
            initial namespaces, e.g. ("/usr/bin/python3",) or ("ssh", …, "sudo", "python3").
        config: What the probe is told at its start (JSON-able):
            docker_socket  path of the engine's socket as the probe sees it
            cgroup         the machine's own cgroup below each hierarchy's root ("/deathbench-x"),
                           "/" when the machine is a whole kernel
            logs           {"dockerd": path, "containerd": path}, or {} with journal true
            journal        read journald for docker and containerd
            pidfiles       {"dockerd": path, "containerd": path}; kernel pids
            roots          directories whose file systems matter, as the probe sees them
            label          name stem of its tracefs instances
            quote          python's arguments pass through a remote shell
        patience: Seconds within which the probe must have said hello; an emulated machine
            needs some ten only to read it.
    """

    python: tuple[str, ...]
    config: Mapping[str, Any]
    patience: float = 15.0


class Machine(Protocol):
    """One machine. Not thread-safe; `start` and `stop` may be called again in that order."""

    name: str
    kind: str

    def start(self) -> None:
        """Bring it up and wait until its engine answers.

        Raises:
            EnvironmentInvalid: it does not come up before its deadline; the message has the
                last lines of its own log. Nothing is left behind.
        """

    def stop(self) -> None:
        """Take it down and remove everything it made. Safe to call at any time, twice too."""

    def keep(self) -> None:
        """Leave it running when this process ends, for somebody to look at; `clean` removes it."""

    @property
    def docker_host(self) -> str:
        """URL of the engine, e.g. "unix:///run/deathbench/p1/docker.sock"."""

    def facts(self) -> MachineFacts:
        """Read back what it really is. Needs a started machine."""

    def probe_site(self) -> ProbeSite:
        """Where and how the probe runs. Needs a started machine."""

    def root(self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0) -> Result:
        """Run a command as root inside the machine (its mount, PID and network namespaces)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSaid:
    """What this host knows of a machine and the machine itself can not tell.

    Attributes:
        at: Since when, ns of `clock.now`.
        until: Till when; None: it lasts, or it is an end.
        what: killed (it ended without an order) · shut-down (on somebody's order) · still
            (it is stopped, with all its clocks) · agentless (it runs on without the process that
            looks after it here) · clock-step (its wall clock was set from here)
            · channel, engine, unreachable (our own connection to its engine was lost: while
            the engine inside answered; while it did not; while nobody inside could be asked).
        why: The processes and lines that say so.
    """

    at: int
    what: str
    why: str
    until: int | None = None

    @property
    def ended(self) -> bool:
        """Is the machine gone? It does not come back by itself."""
        return self.what in ("killed", "shut-down")

    @property
    def spoils(self) -> bool:
        """Does it run on, and is not the machine any more that the others are?"""
        return self.what == "agentless"


@runtime_checkable
class Witnessed(Protocol):
    """A machine whose end somebody on this host sees: not every kind has one."""

    def testimony(self, since: int) -> tuple[HostSaid, ...]:
        """What happened since that instant (ns of `clock.now`), oldest first; never raises."""
