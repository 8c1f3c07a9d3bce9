"""What to take away so that a cause can not act, cause by cause.

Rule: exactly one thing is changed, and it is the suspected one. Where nothing in the
experiment is the cause (a crash of the program itself, somebody outside), that is said,
never guessed around. One row per family of causes; the first that fits is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.report import words

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.matrix import Cell

MORE = 4
"""How many times as much a machine gets of what it ran out of."""

WIDER = 5.0
"""Seconds of delay that no restart of a container lasts into."""


@dataclass(frozen=True, slots=True)
class Change:
    """One setting, before and after; plain values."""

    what: str
    before: Any
    after: Any

    def document(self) -> dict[str, Any]:
        """{what, from, to}: a dotted key and plain values."""
        return {"what": self.what, "from": self.before, "to": self.after}

    def __str__(self) -> str:
        return f"{self.what}: {words.value(self.what, self.before)} -> {words.value(self.what, self.after)}"


_Documents = dict[str, Any]
_Remedy = tuple[frozenset[str], "Callable[[_Documents], list[Change]]"]


def _set(document: _Documents, key: str, value: Any) -> Change:
    *path, last = key.split(".")
    for part in path:
        document = document[part]
    before = document[last]
    document[last] = value
    return Change(key, before, value)


def _drop(*keys: str) -> Callable[[_Documents], list[Change]]:
    """Take limits away; only those that are there."""

    def change(d: _Documents) -> list[Change]:
        found = []
        for key in keys:
            inner: Any = d
            for part in key.split("."):
                inner = inner[part]
            if inner not in (None, {}, (), False):
                empty = type(inner)() if isinstance(inner, (dict, tuple)) else None
                found.append(_set(d, key, False if inner is True else empty))
        return found

    return change


def _more(key: str) -> Callable[[_Documents], list[Change]]:
    """Give the machine several times as much."""

    def change(d: _Documents) -> list[Change]:
        size = d["machine"][key]
        return [] if size is None else [_set(d, f"machine.{key}", size * MORE)]

    return change


def _wait(d: _Documents) -> list[Change]:
    """Ask for the exec when the remount has long ended."""
    delay = d["delay"]
    if delay["after"] == "remount-end" and delay["seconds"] >= WIDER:
        return []
    changes = [_set(d, "delay.seconds", max(WIDER, delay["seconds"] + WIDER))]
    if delay["after"] != "remount-end":
        changes.append(_set(d, "delay.after", "remount-end"))
    return changes


def _no_remount(d: _Documents) -> list[Change]:
    if d["remount"]["how"] == "none":
        return []
    before = d["remount"]["how"]
    d["remount"] = {"how": "none"}
    return [Change("remount.how", before, "none")]


_MEMORY = frozenset(
    {"memory-limit", "memory-limit-main", "memory-limit-child", "memory-stall", "exec-memory-limit"}
)

_REMEDIES: tuple[_Remedy, ...] = (
    (_MEMORY, _drop(
        "container.memory_swap", "container.memory_reservation", "container.oom_kill_disable",
        "container.memory",
    )),
    (frozenset({"pids-limit"}), _drop("container.pids")),
    (frozenset({"cpu-throttled"}), _drop("container.cpus", "container.cpu_shares", "container.cpuset")),
    (frozenset({"cpu-rlimit", "fsize-rlimit", "nofile-rlimit", "nproc-rlimit"}), _drop("container.ulimits")),
    (frozenset({"tmpfs-full"}), _drop("container.tmpfs", "container.shm_size")),
    (frozenset({"parent-cgroup-oom"}), _drop("container.cgroup_parent")),
    (frozenset({"vm-oom", "vm-oom-daemon", "userspace-oom"}), _more("memory")),
    (frozenset({"disk-full"}), _more("disk")),
    (frozenset({"remount-race", "mount-race"}), _wait),
    (frozenset({
        "mount-source-missing", "mount-readonly", "mount-lost", "mount-source-deleted",
    }), _no_remount),
    (frozenset({"restart-loop"}), lambda d: [_set(d, "container.restart", "no")]),
)  # fmt: skip


def without(cell: Cell, cause: str) -> tuple[Cell, list[Change]] | str:
    """The same configuration without this cause, and what was changed; or why there is none.

    A failure that the experiment injects on purpose is the first suspect: it is taken away
    where no setting is.
    """
    import dataclasses

    document: _Documents = {
        **cell.experiment.model_dump(), "machine": cell.machine.model_dump(),
    }  # fmt: skip
    changes: list[Change] = []
    for causes, change in _REMEDIES:
        if cause in causes:
            changes = change(document)
            break
    if not changes and cell.experiment.inject:
        injected = [str(i.get("what", i)) for i in document["inject"]]
        document["inject"] = ()
        changes = [Change("inject", " ".join(injected), None)]
    if not changes:
        return _why_not(cause)
    machine = document.pop("machine")
    made = dataclasses.replace(
        cell,
        name=f"{cell.name[:80]}~without",
        config={**cell.config, "without": cause},
        experiment=type(cell.experiment).model_validate(document),
        machine=type(cell.machine).model_validate(machine),
    )
    return made, changes


def _why_not(cause: str) -> str:
    known = {c for causes, _ in _REMEDIES for c in causes}
    if cause in known:
        return f"the experiment sets nothing that {cause} could come from, so nothing can be taken away"
    if cause == "unknown":
        return "the evidence did not decide on a cause, so there is none to take away"
    return f"{cause} comes from the program or from outside the experiment: no setting to take away"
