"""A profile of the user's that a matrix names: what it is, and what can not be asked of it.

Rule: looks, and touches nothing. It is somebody's machine with his data on it: what colima
would do to it without a word (make another one of that name, leave a disk as large as it is)
is refused before it is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import units
from harness.errors import EnvironmentInvalid
from harness.machine import colima_call, colima_home

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Own:
    """One profile.

    Attributes:
        name: Its short name.
        home: COLIMA_HOME.
        folder: Lima's directory of its VM.
        status: As `list` has it; it never looks inside.
        disk: Bytes of the disk that containers live on; None where there is none yet.
    """

    name: str
    home: Path
    folder: Path
    status: str
    disk: int | None


def find(profile: str, user: str | None) -> Own:
    """The profile of this name of whoever colima runs as.

    Raises:
        EnvironmentInvalid: there is none, it has no docker, or colima does not say.
    """
    name, home = colima_home.short(profile), colima_home.existing(user)
    listed = colima_call.call(("colima", "list", "--json"), home=home, user=user)
    if not listed.ok:
        raise EnvironmentInvalid(
            "colima does not say which profiles there are",
            where=str(home),
            why=colima_call.reason(listed),
        )
    there = colima_call.profiles(listed.text)
    if name not in there:
        raise EnvironmentInvalid(
            f"there is no colima profile {name}",
            where=str(home),
            why=f"there: {', '.join(sorted(there)) or 'none'}; starting it would make a new one"
            " that nobody removes",
            mend="name one that is there; or leave `profile` out: one is made and removed",
        )
    runtime = there[name].get("runtime", "docker")
    if str(runtime).partition("+")[0] not in ("docker", ""):
        raise EnvironmentInvalid(
            f"colima profile {name} runs {runtime}, not docker",
            why="what runs in it was chosen when it was made, and colima never changes it",
            mend="name a profile with docker; or leave `profile` out",
        )
    lima = colima_call.lima_home(home, user)
    instance = colima_home.instance(name)
    return Own(
        name,
        home,
        lima / instance,
        str(there[name].get("status", "")),
        _size(lima / "_disks" / instance / "datadisk"),
    )


def refuse(profile: str, *, disk: int | None, user: str | None) -> Own:
    """The profile, if it can be of that size: a disk only grows.

    Raises:
        EnvironmentInvalid: it is not there, or its disk is larger than `disk` bytes.
    """
    found = find(profile, user)
    if disk is not None and found.disk is not None and disk < found.disk:
        raise EnvironmentInvalid(
            f"the disk of colima profile {found.name} has {_show(found.disk)}: it can not become"
            f" {_show(disk)}",
            why="a colima disk only grows; smaller means deleting it with all that is on it, and the"
            " profile is yours (colima itself would keep the old size and call it the new one)",
            mend=f"ask for {_show(found.disk)} or more; or leave `profile` out: a profile of the"
            " harness's own is made anew for each size",
        )
    return found


def _size(image: Path) -> int | None:
    """Bytes that a disk image is for its guest: in the head of a qcow2, else the file's length."""
    try:
        with image.open("rb") as file:
            head = file.read(32)
            return int.from_bytes(head[24:32]) if head[:4] == b"QFI\xfb" else image.stat().st_size
    except OSError:
        return None


def _show(value: int) -> str:
    return units.show_size(value)
