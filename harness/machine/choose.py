"""From what a matrix asks for to a machine: which kind, and whether it can be had here.

Rule: `auto` is resolved once, here, and what it came to is frozen in the campaign. What
can not be had is refused before anything is made, with the ways out in the same breath.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Protocol

from harness.errors import EnvironmentInvalid
from harness.machine import cgroups, colima, colima_own, colima_start, host, pen, supply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness import lease
    from harness.machine import Machine

KINDS = ("colima", "pen", "host", "vm")


class Wanted(Protocol):
    """What is needed of `model.MachineSpec`; sizes in bytes, None: what there is."""

    @property
    def kind(self) -> str: ...
    @property
    def cpus(self) -> float | None: ...
    @property
    def memory(self) -> int | None: ...
    @property
    def disk(self) -> int | None: ...
    @property
    def inodes(self) -> int | None: ...
    @property
    def live_restore(self) -> bool: ...
    @property
    def cgroup(self) -> int | None: ...
    @property
    def context(self) -> str | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def own(self) -> bool: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def vm_type(self) -> str | None: ...
    @property
    def mount_type(self) -> str | None: ...
    @property
    def mounts(self) -> Sequence[str]: ...
    @property
    def disk_image(self) -> str | None: ...
    @property
    def arch(self) -> str | None: ...
    @property
    def flags(self) -> Sequence[str]: ...


def why_not(kind: str, user: str | None = None) -> str:
    """Why a machine of this kind can not be had here; "" when it can. user: Whom colima runs as."""
    if kind == "colima":
        return colima_start.why_not(user)
    return {"pen": _no_pen, "host": _no_host, "vm": _no_vm}[kind]()


def _no_pen() -> str:
    if platform.system() != "Linux":
        return f"a pen needs Linux, this is {platform.system()}"
    if os.geteuid() != 0:
        return "a pen needs root"
    missing = pen.missing()
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        return f"{', '.join(missing)} not found (apt-get install {packages})"
    if not cgroups.layout().trees:
        return "no control groups are mounted"
    return ""


def _no_host() -> str:
    from harness import engine
    from harness.machine.contexts import endpoint

    try:
        there = endpoint()
    except EnvironmentInvalid as error:
        return error.what
    if there.url.startswith("unix://"):
        answer = engine.Engine(there.url, deadline=5).ping()
        if answer.failure is not None:
            return f"no engine answers at {there.url} ({there.chosen_by}): {answer.failure}"
    return ""


def _no_vm() -> str:
    from harness.machine import vm

    return vm.why_not()


def resolve(kind: str, user: str | None = None) -> str:
    """The kind that `auto` comes to here; any other kind is itself. user: Whom colima runs as.

    Raises:
        EnvironmentInvalid: none is to be had; the message names every way out.
    """
    if kind != "auto":
        return kind
    reasons = {}
    for candidate in ("colima", "pen", "host"):
        reason = why_not(candidate, user)
        if not reason:
            return candidate
        reasons[candidate] = reason
    raise EnvironmentInvalid(
        "no machine to run containers on",
        why="\n".join(f"{k}: {reason}" for k, reason in reasons.items()),
        mend=_ways_out(),
    )


def _ways_out() -> str:
    if platform.system() == "Darwin":
        return "brew install colima docker\nor start an engine and set DOCKER_HOST"
    packages = " ".join(pen.PACKAGES)
    return (
        "as root (sudo): a private engine is made for the run; ./inv installs what it needs"
        f" (apt-get install {packages})\n"
        "as yourself: start an engine you may use (docker group, rootless) or set DOCKER_HOST"
    )


def check(spec: Wanted, *, kind: str | None = None) -> str:
    """The kind it comes to, and everything this host can not give refused, making nothing.

    Raises:
        EnvironmentInvalid: with the numbers.
    """
    chosen = resolve(kind or spec.kind, spec.user)
    if chosen not in KINDS:
        raise EnvironmentInvalid(f"no machine of kind {chosen}", mend=f"one of {', '.join(KINDS)}")
    reason = why_not(chosen, spec.user) if chosen != "host" or spec.context is None else ""
    if reason:
        raise EnvironmentInvalid(f"no machine of kind {chosen} here", why=reason, mend=_ways_out())
    sizes = {"cpus": spec.cpus, "memory": spec.memory, "disk": spec.disk, "inodes": spec.inodes}
    if chosen == "host":
        host.refuse_axes(dict(sizes))
    if chosen == "pen":
        limits = cgroups.Limits(memory=spec.memory, cpus=spec.cpus)
        supply.refuse(limits, disk=spec.disk, inodes=spec.inodes)
    if chosen == "colima":
        colima_start.refuse(
            memory=spec.memory,
            cpus=spec.cpus,
            disk=spec.disk,
            inodes=spec.inodes,
            profile=spec.profile,
            own=spec.own,
            arch=spec.arch,
        )
        if spec.profile is not None:
            colima_own.refuse(spec.profile, disk=spec.disk, user=spec.user)
    if chosen == "vm":
        from harness.machine import vm

        vm.refuse(memory=spec.memory, cpus=spec.cpus, disk=spec.disk, inodes=spec.inodes)
    return chosen


def refuse_sources(spec: Wanted, kind: str, sources: Iterable[str]) -> None:
    """Refuse bind mounts of what is on this host and not in the VM: an empty directory would be made there.

    sources: Absolute paths. A profile of the user's is asked when it runs.

    Raises:
        EnvironmentInvalid: naming them all, with what shows them to the guest.
    """
    if kind not in ("colima", "vm") or spec.profile is not None:
        return
    shown = [guest for mount in spec.mounts if (guest := colima_start.seen_as_it_is(mount))]
    missing = [
        source
        for source in dict.fromkeys(sources)
        if holds_something(source)
        and not any(source == s or source.startswith(f"{s.rstrip('/')}/") for s in shown)
    ]
    if not missing:
        return
    way = (
        f"machine: {{kind: colima, mounts: ['{missing[0]}:w']}}"
        if kind == "colima"
        else "put it into the image, or use a kind of machine that shares this host's files (pen)"
    )
    raise EnvironmentInvalid(
        f"the VM does not see {', '.join(missing)}",
        why="it is on this host; the engine would mount an empty directory in its place",
        mend=way,
    )


def holds_something(path: str) -> bool:
    """Is there a file of this name on this host, or a directory with something in it?"""
    try:
        return os.path.isfile(path) or bool(os.listdir(path))
    except OSError:
        return False


def make(spec: Wanted, *, kind: str | None = None, places: lease.Places | None = None) -> Machine:
    """A machine, not started yet. `kind`: what `auto` was resolved to when the campaign began.

    Raises:
        EnvironmentInvalid: it can not be had here.
    """
    chosen = check(spec, kind=kind)
    options = {"live-restore": True} if spec.live_restore else {}
    if chosen == "colima":
        return colima.Colima(
            memory=spec.memory,
            cpus=spec.cpus,
            disk=spec.disk,
            user=spec.user,
            profile=spec.profile,
            own=spec.own,
            vm_type=spec.vm_type,
            mount_type=spec.mount_type,
            mounts=spec.mounts,
            disk_image=spec.disk_image,
            arch=spec.arch,
            flags=spec.flags,
            places=places,
        )
    if chosen == "vm":
        from harness.machine import vm

        return vm.Vm(
            memory=spec.memory,
            cpus=spec.cpus,
            disk=spec.disk,
            inodes=spec.inodes,
            engine_options=options,
            cgroup=spec.cgroup or 2,
            places=places,
        )
    if chosen == "pen":
        return pen.Pen(
            memory=spec.memory,
            cpus=spec.cpus,
            disk=spec.disk,
            inodes=spec.inodes,
            engine_options=options,
            places=places,
        )
    return host.Host(context=spec.context, places=places)
