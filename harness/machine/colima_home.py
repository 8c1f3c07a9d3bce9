"""Homes of colima: the user's, which is only looked at, and ours, which come and go.

Rule: a home of ours is short (sockets below it have 104 or 108 characters in all), belongs to
whom colima runs as, and is written into a lease before it is made. Nothing below the user's
own home of colima is ever made, changed or removed here.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness import LABEL, clock
from harness.errors import EnvironmentInvalid
from harness.machine import lima
from harness.machine.colima_call import becomes, call, passwd

if TYPE_CHECKING:
    from harness.lease import Lease

PROFILE = "w1"
"""Of our homes, each of which has one. At most four characters: the file system's label is
"lima-colima-" and the profile, cut at 16, and Lima finds its disk by that label."""

# The longest file there is "_lima/colima-abcd/ssh.sock." and 16 characters of ssh's own.
_LONGEST = (104 if platform.system() == "Darwin" else 108) - 46
_BESIDE = f".{LABEL}"
_REMOVAL = 60.0


def make(lease: Lease, user: str | None) -> Path:
    """A home for one profile, or what we keep beside the user's own; written into the lease.

    Raises:
        EnvironmentInvalid: none can be made, with what the system said.
    """
    beside = Path(passwd(user).pw_dir) / _BESIDE / lease.name
    # mkdir without -p refuses what somebody else put there.
    makes = 'mkdir -p "$1" && mkdir -m 700 "$2" "$2/tmp" "$2/none"'
    why = f"{beside} is too long for the sockets below it"
    for home in (beside, Path("/tmp") / lease.name):  # noqa: S108
        if len(str(home)) > _LONGEST:
            continue
        lease.owns(colima=f"{user or ''}:{home}")
        made = call(("sh", "-c", makes, "sh", str(home.parent), str(home)), home=None, user=user)
        if made.ok:
            return home
        why = made.why()
    raise EnvironmentInvalid("no home for colima", where=str(beside), why=why)


def existing(user: str | None) -> Path:
    """Where colima itself looks: COLIMA_HOME if it is there, ~/.colima, then XDG's place."""
    named = os.environ.get("COLIMA_HOME")
    if named and Path(named).is_dir():
        return Path(named)
    base = Path(passwd(user).pw_dir)
    old = base / ".colima"
    xdg = None if becomes(user) else os.environ.get("XDG_CONFIG_HOME")
    if old.is_dir() or (platform.system() == "Darwin" and not xdg):
        return old
    return Path(xdg or base / ".config") / "colima"


def short(profile: str) -> str:
    """A profile's short name, as colima reads it.

    >>> short("colima"), short("colima-w1"), short("w1")
    ('default', 'w1', 'w1')
    """
    return "default" if profile in ("colima", "default") else profile.removeprefix("colima-")


def instance(profile: str) -> str:
    """What Lima calls the VM of a short name.

    >>> instance("default"), instance("w1")
    ('colima', 'colima-w1')
    """
    return "colima" if profile == "default" else f"colima-{profile}"


def remove(owner: str) -> bool:
    """Delete everything of one of our homes ("user:path"); False when something stays.

    Stopped by force: it may be frozen or half made. What a killed VM leaves running
    (`limactl usernet`, the ssh master) is found by the home in its arguments.
    """
    user, _, path = owner.partition(":")
    home = Path(path)
    if not home.name or home.parent.name not in {_BESIDE, "tmp"}:
        return False  # not a home that we made
    if (home / "_lima").exists():
        for argv in (("stop", "-f", "-p", PROFILE), ("delete", "-f", "--data", "-p", PROFILE)):
            call(("colima", *argv), home=home, private=home, user=user or None, deadline=_REMOVAL)
    lima.kill(lima.processes(str(home)))
    clock.wait_until(lambda: not lima.processes(str(home)), deadline=5, every=0.05)
    shutil.rmtree(home, ignore_errors=True)
    if home.parent.name == _BESIDE and home.parent.is_dir() and not any(home.parent.iterdir()):
        home.parent.rmdir()
    return not home.exists()
