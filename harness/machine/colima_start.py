"""What `colima start` is told, by version, and what can not be asked of it at all.

Rule: pure but for questions about this host. A flag that this colima lacks is refused by
name, never left out; what would change the user's own system is switched off.
"""

from __future__ import annotations

import os
import platform
import pwd
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import units
from harness.errors import EnvironmentInvalid
from harness.machine.colima_call import passwd, which
from harness.machine.supply import free_disk, host_memory

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30

DEFAULTS = ("--binfmt=false", "--activate=false", "--ssh-config=false", "--template=false",
            "--save-config=false")  # fmt: skip
"""What would change the user's system or the guest for nothing. `--save-config=false`: colima
writes its file before it looks whether the VM runs."""

_EXCHANGED = {("qemu", "virtiofs"), ("vz", "9p")}
"""VM and mount types that colima does not put together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a profile shall be. Sizes in bytes; None: what colima takes by itself.

    Attributes:
        ours: A profile that the harness makes and deletes.
        mounts, vm_type, mount_type, disk_image, arch: As colima's flags of these names.
        flags: The user's own, after ours.
    """

    memory: int | None = None
    cpus: float | None = None
    disk: int | None = None
    profile: str = "w1"
    ours: bool = True
    vm_type: str | None = None
    mount_type: str | None = None
    mounts: tuple[str, ...] = ()
    disk_image: str | None = None
    arch: str | None = None
    flags: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, float | int]:
        """What was asked for, by name."""
        asked = {"memory": self.memory, "cpus": self.cpus, "disk": self.disk}
        return {key: value for key, value in asked.items() if value is not None}

    @property
    def kinds(self) -> dict[str, str]:
        """What kind of VM was asked for, by name."""
        asked = {"arch": self.arch, "vm_type": self.vm_type, "mount_type": self.mount_type}
        return {k: v for k, v in asked.items() if v not in (None, "host")}


def arguments(wish: Wish, offered: str, *, nothing: str) -> list[str]:
    """The arguments of `start` for a colima whose help text is `offered`.

    nothing: An empty directory: versions before 0.10 mount the user's home unless they are
        given something else to mount.

    Raises:
        EnvironmentInvalid: something was asked for that this version does not offer.
    """
    _refuse_version(wish, offered)
    argv = ["start", "-p", wish.profile]
    if wish.ours:
        argv += ["--runtime", "docker"]
    argv += [flag for flag in DEFAULTS if knows(offered, flag.partition("=")[0])]
    if wish.ours and _line(offered, "--port-forwarder").count("none"):
        # Lima forwards whatever listens in the guest to this host, on all addresses.
        argv += ["--port-forwarder", "none"]
    for mount in wish.mounts:
        _refuse_mount(mount)
        argv += ["--mount", mount]
    if wish.ours and not wish.mounts:
        argv += ["--mount", "none" if "none" in _line(offered, "--mount") else nothing]
    if wish.cpus is not None:
        # Called --cpu before 0.9.
        argv += ["--cpus" if knows(offered, "--cpus") else "--cpu", str(int(wish.cpus))]
    if wish.memory is not None:
        # colima multiplies by 1024 and cuts: a binary fraction arrives as it is.
        argv += ["--memory", repr((int(wish.memory) >> 20) / 1024).removesuffix(".0")]
    if wish.disk is not None:
        argv += ["--disk", str(int(wish.disk) // GIB)]
    return [*argv, *_choices(wish, offered), *wish.flags]


def _refuse_version(wish: Wish, offered: str) -> None:
    """What an older colima would do otherwise than asked."""
    whole = re.search(r"--memory int\b", offered) is not None
    if whole and wish.memory is not None and wish.memory % GIB:
        raise EnvironmentInvalid(
            f"this colima takes whole GiB of memory (asked for: {_size(wish.memory)})",
            mend="ask for whole GiB, or update colima",
        )
    if not wish.ours and not knows(offered, "--save-config"):
        raise EnvironmentInvalid(
            f"this colima would write the sizes of a trial into profile {wish.profile}'s own file",
            why="it has no --save-config=false",
            mend="update colima (0.7 has it); or leave `profile` out",
        )


def _choices(wish: Wish, offered: str) -> list[str]:
    argv: list[str] = []
    for flag, choice in (
        ("--vm-type", wish.vm_type),
        ("--mount-type", wish.mount_type),
        ("--disk-image", wish.disk_image),
        ("--arch", None if wish.arch == "host" else wish.arch),
    ):
        if choice is None:
            continue
        if flag == "--vm-type" and choice == "qemu" and not knows(offered, flag):
            continue  # Linux has nothing else and no flag for it
        if not knows(offered, flag):
            raise EnvironmentInvalid(
                f"this colima has no {flag} (asked for: {choice})",
                why="the flag exists on macOS only, or in another version",
                mend="leave it out of `machine`; colima version says which one this is",
            )
        if flag == "--mount-type" and choice == "virtiofs" and platform.system() != "Darwin":
            raise EnvironmentInvalid(
                "colima has no virtiofs on Linux (asked for under mount_type)",
                why="it would take sshfs in its place without a word",
                mend="mount_type: sshfs or 9p; virtiofs needs macOS and vm_type: vz",
            )
        argv += [flag, choice]
    if (wish.vm_type, wish.mount_type) in _EXCHANGED:
        raise EnvironmentInvalid(
            f"colima has no {wish.mount_type} with {wish.vm_type}",
            why="it would take another mount type in its place, with a warning and exit code 0",
            mend="vz: virtiofs or sshfs; qemu: 9p or sshfs",
        )
    if wish.disk_image and knows(offered, "--force-disk-image"):
        argv.append("--force-disk-image")
    return argv


def _refuse_mount(mount: str) -> None:
    """A mount is "directory", "directory:w" or "directory:where:w".

    Raises:
        EnvironmentInvalid: there is no such directory: the guest would see an empty one.
    """
    source = mount.split(":", maxsplit=1)[0]
    if not os.path.isdir(os.path.expanduser(source)):
        raise EnvironmentInvalid(
            f"no directory {source} to mount (machine.mounts: {mount})",
            why="colima would show containers an empty directory in its place",
            mend="make it, or write DIRECTORY, DIRECTORY:w or DIRECTORY:WHERE:w",
        )


def seen_as_it_is(mount: str) -> str | None:
    """The directory of a mount that the guest sees under its own name; None: under another.

    >>> seen_as_it_is("/a:w"), seen_as_it_is("/a"), seen_as_it_is("/a:/b:w")
    ('/a', '/a', None)
    """
    source, *rest = mount.split(":")
    return None if [word for word in rest if word not in ("w", source)] else source


def knows(offered: str, flag: str) -> bool:
    """Does a help text name this flag? "--cpus int", "-t, --vm-type string".

    >>> knows("  -c, --cpus int   number", "--cpu"), knows("  -c, --cpus int   n", "--cpus")
    (False, True)
    """
    return re.search(rf"{re.escape(flag)}(?![\w-])", offered) is not None


def _line(offered: str, flag: str) -> str:
    """The line of a help text that explains a flag; "" where it has none."""
    return next((line for line in offered.splitlines() if knows(line, flag)), "")


# --- what can be had here ---------------------------------------------------------------


_PROGRAMS = ("colima", "limactl", "lima", "docker", "ssh")
"""What colima itself looks for on its PATH; QEMU's name depends on the processor."""


def missing() -> list[str]:
    """Programs that colima needs and that are not to be found here."""
    return [p for p in _PROGRAMS if which(p) is None]


def why_not(user: str | None = None) -> str:
    """Why there can be no colima machine here; "" when there can."""
    lacking = missing()
    if lacking:
        return f"{', '.join(lacking)} not installed ({install()})"
    if os.geteuid() == 0:
        if not user:
            return "limactl refuses root (machine.user names the user to run it as)"
        try:
            who = pwd.getpwnam(user)
        except KeyError:
            return f"there is no user {user} here (machine.user)"
        if who.pw_uid == 0:
            return f"limactl refuses root, and {user} is root"
    elif user and user != passwd(None).pw_name:
        return f"only root can run colima as {user} (machine.user)"
    return "" if platform.system() == "Darwin" else _no_qemu(None)


def _no_qemu(arch: str | None) -> str:
    """Why QEMU can not be had for this processor; Linux has no other way to run a VM."""
    program = f"qemu-system-{arch if arch not in (None, 'host') else _processor()}"
    lacking = [p for p in (program, "qemu-img") if which(p) is None]
    return f"{' and '.join(lacking)} not installed: Lima runs its VMs with QEMU" if lacking else ""


def _processor() -> str:
    """This host's, as QEMU and colima call it."""
    found = platform.machine()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(found, found)


def install() -> str:
    """One line that gets colima here."""
    if platform.system() == "Darwin":
        return "brew install colima docker"
    return "colima and Lima come from their own release pages; QEMU and docker from the system"


def mend() -> str:
    """What to do where colima can not be had."""
    if platform.system() == "Darwin":
        return "brew install colima docker; or change `machine` in the matrix"
    return "install colima, lima, qemu and docker, or use machine: {kind: pen} or {kind: vm}"


def refuse(
    *,
    memory: int | None = None,
    cpus: float | None = None,
    disk: int | None = None,
    inodes: int | None = None,
    profile: str | None = None,
    own: bool = False,
    arch: str | None = None,
    where: Path | None = None,
) -> None:
    """Refuse what colima can not do, or must not, before anything starts.

    where: A directory on the disk that the VM's disks will lie on.

    Raises:
        EnvironmentInvalid: all reasons at once.
    """
    why = []
    if cpus is not None and (cpus != int(cpus) or cpus < 1):
        why.append(f"{cpus:g} CPUs asked for: a VM has whole processors")
    if cpus is not None and cpus > (os.cpu_count() or 1):
        why.append(f"{cpus:g} CPUs asked for, the host has {os.cpu_count()}")
    if memory is not None and memory >> 20 << 20 != memory:
        why.append(f"memory {memory} bytes asked for: colima takes whole MiB")
    total = host_memory()
    if memory is not None and total is not None and memory > total:
        why.append(f"memory {_size(memory)} asked for, the host has {_size(total)}")
    if disk is not None and disk % GIB:
        why.append(f"disk {_size(disk)} asked for: colima takes whole GiB")
    if disk is not None and where is not None and disk > free_disk(where):
        why.append(f"disk {_size(disk)} asked for, {_size(free_disk(where))} are free in {where}")
    if inodes is not None:
        why.append(f"{inodes} inodes asked for: colima has no such setting (pen and vm have)")
    if arch is not None and platform.system() != "Darwin" and (lacking := _no_qemu(arch)):
        why.append(f"processor {arch} asked for: {lacking}")
    if profile is not None and not own:
        why.append(f"profile {profile} is yours: say `own: true` to have it stopped and changed")
    if why:
        raise EnvironmentInvalid(
            "colima can not do this",
            why="\n".join(why),
            mend="change `machine` in the matrix, or use machine: {kind: pen} or {kind: vm}",
        )


def _size(value: int) -> str:
    return units.show_size(value >> 20 << 20)
