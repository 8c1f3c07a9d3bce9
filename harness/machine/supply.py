"""What this host has to give to a machine: programs, memory, processors, disk.

Rule: asked before anything is made, answered with numbers; a refusal names every reason
at once. Nothing here knows what a pen or a VM looks like inside.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness import lease, process, units
from harness.errors import EnvironmentInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.machine import cgroups

SMALLEST_DISK = 64 << 20
SMALLEST_MEMORY = 128 << 20


def make_disk(path: Path, size: int, inodes: int | None = None) -> None:
    """A sparse ext4 file; nothing of its tables is written before it is needed.

    Raises:
        EnvironmentInvalid: it can not be made; the file is gone again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        os.truncate(f.fileno(), size)
    argv = [
        process.which("mkfs.ext4") or "mkfs.ext4", "-q", "-F", "-m", "0",
        "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
    ]  # fmt: skip
    if inodes is not None:
        argv += ["-N", str(inodes)]
    made = process.run((*argv, str(path)), deadline=60)
    if not made.ok:
        path.unlink(missing_ok=True)
        raise EnvironmentInvalid(
            f"no disk of {size} bytes for the pen: {made.why()}",
            where=str(path),
            mend="the package e2fsprogs, and room below that directory",
        )


def refuse(
    limits: cgroups.Limits,
    *,
    disk: int | None = None,
    inodes: int | None = None,
    places: lease.Places | None = None,
) -> None:
    """Refuse what this host can not give a pen, with the numbers, before anything is made.

    Raises:
        EnvironmentInvalid: all reasons at once.
    """
    turn_down(
        beyond(
            memory=limits.memory,
            cpus=limits.cpus,
            disk=disk,
            inodes=inodes,
            least=(SMALLEST_MEMORY, "the engine alone needs some 50 MiB"),
            places=places,
        )
    )


def beyond(
    *,
    memory: int | None,
    cpus: float | None,
    disk: int | None,
    inodes: int | None,
    least: tuple[int, str],
    places: lease.Places | None = None,
) -> list[str]:
    """What of this the host does not have, or no machine can live on; one line each.

    Args:
        memory, disk: Bytes; None is not asked for.
        least: The least memory in bytes, and why.
    """
    why = []
    has = host_memory()
    if memory is not None and has is not None and memory > has:
        why.append(f"memory {_size(memory)} asked for, the host has {_size(has)}")
    if memory is not None and memory < least[0]:
        why.append(f"memory {_size(memory)} asked for, {least[1]}: {_size(least[0])} is the least")
    processors = os.cpu_count() or 1
    if cpus is not None and cpus > processors:
        why.append(f"{cpus:g} CPUs asked for, the host has {processors}")
    free = free_disk((places or lease.places()).disk)
    if disk is not None and disk > free:
        why.append(f"disk {_size(disk)} asked for, {_size(free)} are free on the host")
    if disk is not None and disk < SMALLEST_DISK:
        why.append(
            f"disk {_size(disk)} asked for, {_size(SMALLEST_DISK)} is the least an engine starts on"
        )
    if disk is not None and inodes is not None and inodes * 1024 > disk:
        why.append(f"{inodes} inodes do not fit on a disk of {_size(disk)}: at most {disk // 1024}")
    return why


def turn_down(why: Sequence[str]) -> None:
    """Raises EnvironmentInvalid where there is any reason; all of them at once."""
    if why:
        raise EnvironmentInvalid(
            "this host can not give what the machine asks for",
            why="\n".join(why),
            mend="ask for less under `machine` and `machine.*` axes, or use a larger host",
        )


def host_memory() -> int | None:
    """All of this host's, in bytes; None where it does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError):
            return None
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def free_disk(path: Path) -> int:
    """Bytes free for root where `path` is or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _size(value: int) -> str:
    """In the units that files are written in; whole MiB where there is at least one."""
    return units.show_size(value >> 20 << 20 if value >> 20 else value)
