"""The user's own colima in a person's words: what its profiles are up to, and what mends them.

Rule: looks and never touches. `list` says Running of a VM that is frozen and of one whose
docker.sock is dead; only asking each part tells, and every question has a deadline.
"""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import units
from harness.machine import colima_call, colima_home, colima_start, lima
from harness.machine.guest import answers
from harness.machine.health import Finding
from harness.model.sizes import differences

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STATUS = 12.0
"""Seconds: `status` takes three under emulation, and never ends on a frozen guest."""
_INSIDE = "nproc; sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One profile as its parts tell.

    Attributes:
        status: Of `list`; it never looks inside.
        answers: Did `status`, which does, come back well? None: it hung.
        words: What `status` said where it failed.
        engine: Does the engine answer at the profile's docker.sock?
        asked, inside: Sizes as `list` repeats them, and as the guest has them; bytes, CPUs.
        strays: Processes of it that run although the VM does not.
        folder: Lima's directory of its VM.
    """

    name: str
    status: str
    answers: bool | None = False
    words: str = ""
    engine: bool = False
    asked: Mapping[str, float | int]
    inside: Mapping[str, float | int | None]
    strays: int = 0
    folder: Path = Path()


def explain(one: Profile) -> list[Finding]:
    """What is wrong with it, what that does to a user, and what mends it."""
    named = f"colima profile {one.name}"
    at = f"-p {one.name}"
    found = []
    if one.status == "Broken":
        found.append(
            Finding(
                f"{named} is Broken: its VM runs on without the host agent that looks after it",
                "containers in it live on, but `colima start` fails and `colima stop` says that it"
                " does not run",
                f"colima stop -f {at}, then colima start {at} (its containers are killed)",
            )
        )
    elif one.status == "Running" and one.answers is None:
        found.append(
            Finding(
                f"{named} is called Running, but nobody inside answers: its VM stands still",
                "docker, `colima status` and `colima stop` hang on it",
                f"kill -CONT its QEMU if somebody stopped it; else colima stop -f {at}",
            )
        )
    elif one.status == "Running" and not one.answers:
        found.append(
            Finding(
                f"{named} runs, but its engine does not: {one.words or 'status says no more'}",
                "every docker command fails there",
                f"colima restart {at}; if that does not help, colima ssh {at} -- journalctl -u docker",
            )
        )
    elif one.status == "Running" and not one.engine:
        found.append(
            Finding(
                f"{named} is well, but its docker.sock is dead: the ssh connection that carried it"
                " has ended",
                "docker says that the daemon does not run, although the containers do; nothing"
                " makes that connection anew",
                f"colima restart {at}",
            )
        )
    found += [
        Finding(
            f"{named} is not of the size that colima says: {line}",
            "`colima list` repeats what was asked for; containers live in what there is",
            f"colima stop {at} and start it again: a running VM takes no new sizes",
        )
        for line in differences(one.asked, one.inside)
        if _more_than_the_kernels(line)
    ]
    if one.strays:
        found.append(
            _outlived(f"{one.strays} processes of {named}, which does not run,", one.folder)
        )
    return found


def _more_than_the_kernels(line: str) -> bool:
    """The kernel's own share of a small VM is no news."""
    share = re.search(r"\(([\d.]+) %", line)
    return share is not None and float(share[1]) > 10


@dataclass(frozen=True, slots=True)
class Report:
    """What there is, a line each, and what is wrong with it."""

    lines: list[str]
    findings: list[Finding]


def asker() -> str | None:
    """Whose colima root asks about: of whoever became root by sudo; None: nobody else's."""
    user = os.environ.get("SUDO_USER") or None
    return user if os.geteuid() == 0 and user != "root" else None


def report() -> Report:
    """Colima as whoever runs this has it, every profile of his asked."""
    missing = colima_start.missing()
    if "colima" in missing:
        return Report([f"not installed: {colima_start.install()}"], [])
    if missing:
        return Report([f"installed, but not {', '.join(missing)}, which it needs"], [])
    user = asker()
    if os.geteuid() == 0 and user is None:
        line = "installed; limactl refuses root, so root has no profiles (ask as the user whose they are)"
        return Report([line], [])
    home = colima_home.existing(user)
    if not home.is_dir():
        return Report([f"installed, never started: there is no {home}"], _kvm(user))
    listed = colima_call.call(("colima", "list", "--json"), home=home, user=user)
    if not listed.ok:
        wrong = Finding(
            f"colima can not list its profiles: {colima_call.reason(listed)}",
            "it starts and stops none either",
            "what it says itself is the reason",
        )
        return Report([f"profiles in {home}: it does not say"], [wrong, *_kvm(user)])
    seen = [look(said, home, user) for said in colima_call.profiles(listed.text).values()]
    found = [finding for one in seen for finding in explain(one)]
    lines = [describe(one) for one in seen] or [f"no profiles in {home}"]
    return Report(lines, [*found, *_usernets(seen, home, user), *_kvm(user)])


def describe(one: Profile) -> str:
    """One line: what it is called, what it is doing, how large it is.

    >>> describe(Profile(name="w1", status="Stopped", asked={"cpus": 2, "memory": 2 << 30}, inside={}))
    'profile w1: stopped (2 CPUs, 2GiB)'
    """
    doing = one.status.lower()
    if one.status == "Running":
        well = "docker answers" if one.engine else "docker does not answer"
        doing = "stands still" if one.answers is None else f"runs, {well}"
    sizes = [f"{one.asked['cpus']:g} CPUs"] if "cpus" in one.asked else []
    if "memory" in one.asked:
        sizes.append(units.show_size(int(one.asked["memory"])))
    if "disk" in one.asked:
        sizes.append(f"disk {units.show_size(int(one.asked['disk']))}")
    return f"profile {one.name}: {doing}" + (f" ({', '.join(sizes)})" if sizes else "")


def look(said: Mapping[str, Any], home: Path, user: str | None) -> Profile:
    """Ask each part of one profile; `said` is its line of `list --json`."""
    name = str(said["name"])
    status = str(said.get("status", "?"))
    asked = {key: said.get(key) for key in ("cpus", "memory", "disk")}
    sizes = {k: v for k, v in asked.items() if isinstance(v, (int, float))}
    folder = colima_call.lima_home(home, user) / colima_home.instance(name)
    seen = Profile(name=name, status=status, asked=sizes, inside={}, folder=folder)
    if status != "Running":
        strays = 0 if status == "Broken" else len(lima.processes(str(folder)))
        return replace(seen, strays=strays)
    told = colima_call.call(
        ("colima", "status", "-p", name, "--json"), home=home, user=user, deadline=_STATUS
    )
    if told.timed_out:
        return replace(seen, answers=None)
    inside = colima_call.call(
        ("colima", "ssh", "-p", name, "--", "sh", "-c", _INSIDE), home=home, user=user,
        deadline=_STATUS,
    )  # fmt: skip
    return replace(
        seen,
        answers=told.ok,
        words="" if told.ok else colima_call.reason(told),
        engine=answers(home / name / "docker.sock"),
        inside=_sizes(inside.text) if inside.ok else {},
    )


def _usernets(seen: Sequence[Profile], home: Path, user: str | None) -> list[Finding]:
    """One `limactl usernet` serves all VMs of a home; those of VMs that were killed stay."""
    networks = colima_call.lima_home(home, user) / "_networks"
    there = lima.processes(str(networks))
    needed = any(one.status in ("Running", "Broken") for one in seen)
    extra = len([argv for _, argv in there if "usernet" in argv]) - int(needed)
    return (
        [_outlived(f"{extra} limactl usernet of VMs that are gone", networks)] if extra > 0 else []
    )


def _outlived(what: str, place: Path) -> Finding:
    return Finding(
        f"{what} still run",
        "they hold ports and memory; colima does not know them any more",
        f"pgrep -fl {place}/ shows them; kill those that are older than the VM that runs",
    )


def _sizes(text: str) -> dict[str, float | int | None]:
    r"""
    >>> _sizes("2\n989872\n")
    {'cpus': 2, 'memory': 1013628928}
    """
    words = text.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return {}
    return {"cpus": int(words[0]), "memory": int(words[1]) << 10}


def _kvm(user: str | None) -> list[Finding]:
    """Lima takes KVM where the device exists and asks nobody whether it may."""
    device = Path("/dev/kvm")
    emulated = any("tcg" in v for k, v in os.environ.items() if k.startswith("QEMU_SYSTEM_"))
    if not device.exists() or emulated:
        return []
    who = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    mode = device.stat()
    groups = os.getgrouplist(who.pw_name, who.pw_gid)
    allowed = (
        mode.st_mode & 0o006 == 0o006
        or (mode.st_gid in groups and mode.st_mode & 0o060 == 0o060)
        or who.pw_uid in (0, mode.st_uid)
    )
    if allowed:
        return []
    return [
        Finding(
            f"{who.pw_name} may not use /dev/kvm",
            "`colima start` fails: Lima takes KVM wherever the device exists",
            f"usermod -aG kvm {who.pw_name}, and log in anew",
        )
    ]
