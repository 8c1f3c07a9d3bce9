"""Failures on request: an experiment says when and what, this room causes it and undoes it.

Rule: what is caused here is a *fact of the experiment*, never evidence: the judge must
find out by itself, from the same sources as always. Nothing is broken on an engine that is
not ours, unless the user said it is theirs to break. Everything that lasts is undone at
the end of the trial.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import clock
from harness.errors import BadInput, Problem
from harness.inject.scene import CouldNot, Scene
from harness.inject.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from harness.machine import Machine
    from harness.model.injection import Injection

__all__ = ["TABLE", "CouldNot", "Done", "Injector", "refuse"]

_VM_ONLY = frozenset({"clock-step", "power-cut", "suspend"})
_VMS = frozenset({"vm", "colima"})
# An overlap is remount, delay and pre-task at once.
_AT_ONCE = {"overlap": ("remount", "delay", "pre-task")}


@dataclass(frozen=True, slots=True)
class Done:
    """One injection as it went. Instants are ns of `clock.now`; why: it could not be caused."""

    index: int
    what: str
    due: int
    began: int
    ended: int
    said: Mapping[str, Any]
    why: str = ""

    def document(self) -> dict[str, Any]:
        """For a note beside the trial."""
        return {
            "index": self.index,
            "what": self.what,
            "late": (self.began - self.due) / clock.NS,
            "seconds": (self.ended - self.began) / clock.NS,
            "said": dict(self.said),
            "why": self.why or None,
        }


def refuse(injections: Iterable[Injection], *, kind: str, own: bool, where: str = "inject") -> None:
    """Refuse what must not be done on a machine of this kind, before anything starts.

    Raises:
        BadInput: with every one of them.
    """
    problems = []
    for index, one in enumerate(injections):
        place = f"{where}[{index}]"
        if kind == "host" and not own:
            problems.append(
                Problem(
                    place,
                    f"what: {one.what}",
                    "this engine was not started by the harness: others may depend on it",
                    "use machine: {kind: pen}, or say own: true if it is yours to break",
                )
            )
        if one.what in _VM_ONLY and kind not in _VMS:
            problems.append(
                Problem(
                    place,
                    f"what: {one.what}",
                    f"a {kind} shares its kernel and its clock with the host",
                    "use machine: {kind: vm}",
                )
            )
    if problems:
        raise BadInput(problems, about="the injections")


class Injector:
    """All injections of one trial.

    Args:
        container_of: Name within the experiment (None: the subject) → container id now.
        labels: For containers that injections make.
        tell: Called from a thread of its own with each injection as it went.
    """

    def __init__(
        self,
        machine: Machine,
        injections: Iterable[Injection],
        *,
        container_of: Callable[[str | None], str],
        labels: Mapping[str, str],
        tell: Callable[[Done], None],
    ) -> None:
        self._injections = tuple(injections)
        self._scene = Scene(machine, container_of, labels)
        self._tell = tell
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        if self._injections:
            # A connection that is open when the instant comes costs it no time.
            self._scene.client.ping(deadline=5)

    def phase(self, phase: str, *, began: int | None = None) -> None:
        """A phase begins (at `began`, ns of `clock.now`): what hangs on it is put on its way."""
        begin = clock.now() if began is None else began
        phases = _AT_ONCE.get(phase, (phase,))
        for index, one in enumerate(self._injections):
            if one.at in phases:
                due = begin + int(one.after * clock.NS)
                thread = threading.Thread(
                    target=self._one, args=(index, one, due), name=f"inject-{index}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _one(self, index: int, what: Injection, due: int) -> None:
        early = (due - clock.now()) / clock.NS - 0.002
        if early > 0 and self._over.wait(early):
            return
        clock.sleep_until(due)
        if self._over.is_set():
            return
        began = clock.now()
        why, said = "", {}
        try:
            said = TABLE[what.what](self._scene, what) or {}
        except CouldNot as error:
            why = str(error)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        self._tell(Done(index, what.what, due, began, clock.now(), said, why))

    def finish(self, *, deadline: float = 30.0) -> list[str]:
        """The trial is over: nothing more begins, everything that lasts is undone.

        Returns what could not be undone, in words; then the machine is not what it was.
        """
        self._over.set()
        end = clock.now() + int(deadline * clock.NS)
        for thread in self._threads:
            thread.join(max(0.0, (end - clock.now()) / clock.NS))
        self._threads.clear()
        return self._scene.finish()
