"""What this host has to give to a machine: programs, memory, processors, disk.

Rule: asked before anything is made, answered with numbers; a refusal names every reason
at once. Nothing here knows what a pen looks like inside.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from harness import lease, process
from harness.errors import EnvironmentInvalid

if TYPE_CHECKING:
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
    """Refuse what this host can not give, with the numbers, before anything is made.

    Raises:
        EnvironmentInvalid: all reasons at once.
    """
    why = []
    memory = host_memory()
    if limits.memory is not None and memory is not None and limits.memory > memory:
        why.append(f"memory {limits.memory} bytes asked for, the host has {memory}")
    if limits.memory is not None and limits.memory < SMALLEST_MEMORY:
        why.append(
            f"memory {limits.memory} bytes asked for, the engine alone needs some 50 MiB:"
            f" {SMALLEST_MEMORY} is the least"
        )
    processors = os.cpu_count() or 1
    if limits.cpus is not None and limits.cpus > processors:
        why.append(f"{limits.cpus:g} CPUs asked for, the host has {processors}")
    free = free_disk((places or lease.places()).disk)
    if disk is not None and disk > free:
        why.append(f"disk {disk} bytes asked for, {free} are free on the host")
    if disk is not None and disk < SMALLEST_DISK:
        why.append(f"disk {disk} bytes asked for, {SMALLEST_DISK} is the least an engine starts on")
    if disk is not None and inodes is not None and inodes * 1024 > disk:
        why.append(f"{inodes} inodes do not fit on a disk of {disk} bytes: at most {disk // 1024}")
    if why:
        raise EnvironmentInvalid(
            "this host can not give what the machine asks for",
            why="\n".join(why),
            mend="ask for less under `machine` and `machine.*` axes, or use a larger host",
        )


def host_memory() -> int | None:
    """MemTotal in bytes."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
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
