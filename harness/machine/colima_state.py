"""The user's own colima in a person's words: what its profiles are up to, and what mends them.

Rule: looks and never touches. `list` says Running of a VM that is frozen and of one whose
docker.sock is dead; only asking each part tells, and every question has a deadline.
"""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.machine import colima_call, colima_home, lima
from harness.machine.guest import answers
from harness.machine.health import Finding
from harness.model.sizes import differences

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """

    name: str
    status: str
    answers: bool | None = False
    words: str = ""
    engine: bool = False
    asked: Mapping[str, float | int]
    inside: Mapping[str, float | int | None]
    strays: int = 0


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
            Finding(
                f"{one.strays} processes of {named} outlived its VM (limactl usernet, ssh)",
                "they hold ports and memory; colima does not know them any more",
                f"pgrep -fl {colima_home.existing(None)}/_lima, and kill them",
            )
        )
    return found


def _more_than_the_kernels(line: str) -> bool:
    """The kernel's own share of a small VM is no news."""
    share = re.search(r"\(([\d.]+) %", line)
    return share is not None and float(share[1]) > 10


def findings() -> list[Finding]:
    """Of every profile of whoever runs this; nothing where colima is not installed."""
    if colima_call.which("colima") is None or colima_call.which("limactl") is None:
        return []
    user = None
    if os.geteuid() == 0:
        user = os.environ.get("SUDO_USER") or None
        if user is None or user == "root":
            return []  # limactl refuses root: root has no profiles
    home = colima_home.existing(user)
    if not home.is_dir():
        return _kvm(user)
    listed = colima_call.call(("colima", "list", "--json"), home=home, user=user)
    profiles = colima_call.profiles(listed.text).values()
    return [f for said in profiles for f in explain(look(said, home, user))] + _kvm(user)


def look(said: Mapping[str, Any], home: Path, user: str | None) -> Profile:
    """Ask each part of one profile; `said` is its line of `list --json`."""
    name = str(said["name"])
    status = str(said.get("status", "?"))
    asked = {"cpus": said.get("cpus"), "memory": said.get("memory")}
    sizes = {k: v for k, v in asked.items() if isinstance(v, (int, float))}
    if status != "Running":
        folder = home / "_lima" / ("colima" if name == "default" else f"colima-{name}")
        strays = 0 if status == "Broken" else len(lima.processes(str(folder)))
        return Profile(name=name, status=status, asked=sizes, inside={}, strays=strays)
    told = colima_call.call(
        ("colima", "status", "-p", name, "--json"), home=home, user=user, deadline=_STATUS
    )
    if told.timed_out:
        return Profile(name=name, status=status, answers=None, asked=sizes, inside={})
    inside = colima_call.call(
        ("colima", "ssh", "-p", name, "--", "sh", "-c", _INSIDE), home=home, user=user,
        deadline=_STATUS,
    )  # fmt: skip
    return Profile(
        name=name,
        status=status,
        answers=told.ok,
        words="" if told.ok else colima_call.reason(told),
        engine=answers(home / name / "docker.sock"),
        asked=sizes,
        inside=_sizes(inside.text) if inside.ok else {},
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
    if not device.exists():
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
