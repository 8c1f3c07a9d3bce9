"""What Lima leaves on this host of an instance: pids, logs, and so what became of the VM.

Rule: a VM can not tell its own end, and `list` never looks inside: the process of the
hypervisor, its state, and the host agent's log tell. Read-only but for the signals that an
experiment asks for.
"""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import clock, process
from harness.errors import EnvironmentInvalid
from harness.machine import HostSaid
from harness.machine.watch import standing
from harness.parse.lima import LimaFact, parse_lima

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_AGENT = "ha.pid"
_LOGS = ("ha.stderr.log", "ha.stdout.log", "serial.log", "serialv.log")
_TAIL = 256 << 10
"""Of a log: what bears on an end stands at its end; serial logs grow to megabytes."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How the VM is, as this host sees it.

    Attributes:
        state: running · still (the hypervisor is stopped by a signal) · killed (it ended
            without an order) · shut-down (in order, or on somebody's order) · agentless (it
            runs, its host agent does not) · none (it never ran, or is not there any more).
        why: The processes and lines that say so.
    """

    state: str
    why: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance's directory: `<LIMA_HOME>/<name>`."""

    folder: Path

    def hypervisor(self) -> int | None:
        """Its pid, of qemu.pid or vz.pid; None where no such process runs.

        Under VZ it is the host agent's own: the framework's process belongs to nobody.
        """
        for path in sorted(self.folder.glob("*.pid")):
            if path.name != _AGENT and (pid := _pid(path)) is not None:
                return pid
        return None

    def agent(self) -> int | None:
        """Pid of the host agent; None where it does not run."""
        return _pid(self.folder / _AGENT)

    def signal(self, number: signal.Signals) -> None:
        """To the hypervisor.

        Raises:
            EnvironmentInvalid: none runs, or it is not QEMU: VZ stops for no signal.
        """
        if not (self.folder / "qemu.pid").exists() and number in (signal.SIGSTOP, signal.SIGCONT):
            raise EnvironmentInvalid(
                "this VM can not be frozen", why="only QEMU is a process of its own"
            )
        pid = self.hypervisor()
        if pid is None:
            raise EnvironmentInvalid(
                f"no hypervisor of {self.folder.name} runs", why=self.last_words()
            )
        os.kill(pid, number)

    def condition(self, known: int | None = None) -> Condition:
        """How it is now. known: Pid of the hypervisor while it still ran, for the words."""
        driver, agent = self.hypervisor(), self.agent()
        if driver is not None and standing(driver) == "still":
            return Condition("still", f"process {driver}, its hypervisor, is stopped")
        if driver is not None and agent is None:
            return Condition("agentless", f"the hypervisor ({driver}) runs without its host agent")
        if driver is not None:
            return Condition("running", f"hypervisor {driver}, host agent {agent}")
        facts = self.facts()
        who = "the hypervisor" if known is None else f"process {known}, the hypervisor,"
        told = "; ".join(dict.fromkeys(f.text[:160] for f in facts if f.what in _ENDS))
        ordered = next((f for f in facts if f.what in ("stop-asked", "driver-error")), None)
        if ordered is None and known is None and not facts:
            return Condition("none", f"nothing in {self.folder} says that it ran")
        if ordered is not None and ordered.what == "stop-asked":
            return Condition("shut-down", f"{who} is gone, and its host agent was told: {told}")
        return Condition("killed", f"{who} is gone: {told or 'its host agent said nothing'}")

    def end(self, pid: int | None) -> tuple[str, str]:
        """(killed | shut-down, who says so), of the hypervisor that had this pid."""
        now = self.condition(pid)
        return ("shut-down" if now.state == "shut-down" else "killed"), now.why

    def clock_steps(self) -> list[HostSaid]:
        """When Lima set the guest's wall clock; under memory pressure it sets it wrongly."""
        ahead = clock.RealClock().wall() - clock.now()
        return [
            HostSaid(at=fact.wall - ahead, what="clock-step", why=fact.text)
            for fact in self.facts()
            if fact.what == "clock-step" and fact.wall is not None
        ]

    def facts(self) -> list[LimaFact]:
        """What the host agent has said of this run that bears on its end, in its order."""
        lines = [*self._tail("ha.stderr.log"), *self._tail("ha.stdout.log")]
        return [fact for line in lines if (fact := parse_lima(line)) is not None]

    def last_words(self, lines: int = 6) -> str:
        """The ends of what the host agent and the guest's console wrote."""
        said = {name: list(filter(None, map(_spoken, self._tail(name)))) for name in _LOGS}
        return "\n".join(f"{name}: {line[:300]}" for name in _LOGS for line in said[name][-lines:])

    def version(self) -> str:
        """Of the Lima that made it; "?" where it does not say."""
        try:
            return (self.folder / "lima-version").read_text().strip()
        except OSError:
            return "?"

    def kinds(self) -> dict[str, str]:
        """What kind of VM was made: arch, vm_type and mount_type in colima's words.

        Read from what Lima runs it by: colima repeats what was asked, and exchanges some of it.
        """
        try:
            text = (self.folder / "lima.yaml").read_text(errors="replace")
        except OSError:
            return {}
        found = dict(re.findall(r"^(arch|vmType|mountType): \"?([\w-]+)", text, re.MULTILINE))
        words = {"arch": "arch", "vmType": "vm_type", "mountType": "mount_type"}
        return {words[key]: said.removeprefix("reverse-") for key, said in found.items()}

    def _tail(self, name: str) -> list[str]:
        try:
            with (self.folder / name).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
                text = log.read().decode(errors="backslashreplace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()]


def _spoken(line: str) -> str:
    """A log's line for people: the agent's own words without their JSON, and "" for its debugging."""
    try:
        said = json.loads(line)
    except ValueError:
        return line
    if not isinstance(said, dict) or not isinstance(said.get("msg"), str):
        return line
    return "" if said.get("level") == "debug" else str(said["msg"])


_ENDS = frozenset({"stop-asked", "powerdown", "vm-off", "vm-gone", "vm-stuck", "driver-error"})


def _pid(path: Path) -> int | None:
    """The process that a pid file names, if it runs."""
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        return None
    return pid if standing(pid) != "gone" else None


def processes(home: str) -> list[tuple[int, str]]:
    """(pid, arguments) of everybody whose arguments name that home; `ps` knows them everywhere.

    `limactl usernet` and the ssh master outlive a VM that was killed: they have no pid file
    that anybody reads.
    """
    listed = process.run(("ps", "-axww", "-o", "pid=,args="), deadline=20)
    found: list[tuple[int, str]] = []
    for line in listed.text.splitlines():
        pid, _, argv = line.strip().partition(" ")
        if pid.isdigit() and f"{home}/" in argv and int(pid) != os.getpid():
            found.append((int(pid), argv.strip()))
    return found


def kill(found: Sequence[tuple[int, str]]) -> None:
    """SIGKILL to each; one that is gone already is no matter."""
    for pid, _ in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
