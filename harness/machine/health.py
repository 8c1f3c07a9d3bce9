"""What of this host spoils results, as values: what it is, the harm, and what mends it.

Rule: read-only, quick, no engine. A check that can not read its file is silent: it has
found nothing. Thresholds carry their reason.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness import lease, process
from harness.machine import cgroups, supply

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or not as good as it could be."""

    what: str
    harm: str
    mend: str

    def document(self) -> dict[str, str]:
        return {"what": self.what, "harm": self.harm, "mend": self.mend}


def findings(root: Path = Path("/"), places: lease.Places | None = None) -> list[Finding]:
    """Everything that was found. `root`: where /proc and /sys are, for tests."""
    found = []
    for check in (
        _swap, _memory, _overcommit, _panic, _killers, _battery, _governor, _load, _own_limit,
        _resource, _namespace,
    ):  # fmt: skip
        one = check(root)
        if one is not None:
            found.append(one)
    disk = _disk(places or lease.places())
    return [*found, disk] if disk else found


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _meminfo(root: Path, key: str) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def _swap(root: Path) -> Finding | None:
    total = _meminfo(root, "SwapTotal")
    if not total:
        return None
    return Finding(
        f"swap is on ({total >> 20} MiB)",
        "memory limits bite late or never: a hog slows everything down in place of dying."
        " A pen forbids swap where the kernel counts it (memory.memsw, memory.swap.max)",
        "swapoff -a for the time of the run",
    )


def _memory(root: Path) -> Finding | None:
    available = _meminfo(root, "MemAvailable")
    # The shipped memory matrix asks for 2 GiB; the harness and the host want some too.
    if available is None or available >= 3 * GIB:
        return None
    return Finding(
        f"only {available >> 20} MiB of memory are available",
        "the host itself may run out before the machine under test does: such trials are invalid",
        "close other programs, or ask for less under machine.memory",
    )


def _overcommit(root: Path) -> Finding | None:
    if _read(root / "proc/sys/vm/overcommit_memory") != "2":
        return None
    return Finding(
        "vm.overcommit_memory is 2",
        "programs are refused memory before any limit is reached: nothing is killed, everything fails",
        "sysctl vm.overcommit_memory=0",
    )


def _panic(root: Path) -> Finding | None:
    if _read(root / "proc/sys/vm/panic_on_oom") in ("", "0"):
        return None
    return Finding(
        "vm.panic_on_oom is set",
        "running out of memory takes this whole host down",
        "sysctl vm.panic_on_oom=0",
    )


_OTHER_KILLERS = frozenset({"earlyoom", "systemd-oomd", "nohang", "oomd"})


def _killers(root: Path) -> Finding | None:
    names = set()
    for comm in (root / "proc").glob("[0-9]*/comm"):
        names.add(_read(comm))
    there = sorted(names & _OTHER_KILLERS)
    if not there:
        return None
    return Finding(
        f"{', '.join(there)} runs here",
        "it kills by its own rules, often before the kernel does: deaths get another cause",
        f"systemctl stop {' '.join(there)} for the time of the run",
    )


def _battery(root: Path) -> Finding | None:
    """Of a Linux laptop; what a Mac draws from is asked before each trial (`runner.awake`)."""
    for source in (root / "sys/class/power_supply").glob("*"):
        if _read(source / "type") == "Battery" and _read(source / "status") == "Discharging":
            return Finding(
                "running on battery",
                "the processor changes its speed, the machine may fall asleep: delays mean nothing",
                "plug it in",
            )
    return None


def _governor(root: Path) -> Finding | None:
    names = {
        _read(path)
        for path in (root / "sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")
    }
    if "powersave" not in names:
        return None
    return Finding(
        "the processor's governor is powersave",
        "short delays vary with the load of the moment before",
        "cpupower frequency-set -g performance, or accept wider intervals",
    )


def _load(root: Path) -> Finding | None:
    text = _read(root / "proc/loadavg")
    processors = os.cpu_count() or 1
    if not text or float(text.split()[0]) <= processors:
        return None
    return Finding(
        f"load {text.split()[0]} on {processors} processors",
        "others are at work here: delays stretch, and a starved probe leaves gaps",
        "wait, or run where nothing else does",
    )


def _own_limit(root: Path) -> Finding | None:
    """The harness's own memory limit does not hold for a pen, but for the harness."""
    where = cgroups.layout(_read(root / "proc/self/mounts"))
    controller = "memory" if where.version == 1 else ""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") and where.trees:
            limit = cgroups.effective(where, path)["memory"]
            if limit is not None and limit < GIB:
                return Finding(
                    f"this process may use {int(limit) >> 20} MiB (cgroup {path})",
                    "the harness itself may be killed in the middle of a sweep",
                    "run it outside that limit",
                )
    return None


_SYS_RESOURCE = 24


def _resource(root: Path) -> Finding | None:
    for line in _read(root / "proc/self/status").splitlines():
        if line.startswith("CapEff:") and os.geteuid() == 0:
            if int(line.split()[1], 16) >> _SYS_RESOURCE & 1:
                return None
            return Finding(
                "root here lacks CAP_SYS_RESOURCE",
                "daemons can not be protected from the kernel's choice (oom_score_adj): when a"
                " machine runs out of memory it may take dockerd, and that is a death of another kind;"
                " `docker run --privileged` fails",
                "run on a host (or in a container with --cap-add SYS_RESOURCE) that has it",
            )
    return None


def _namespace(root: Path) -> Finding | None:
    """Only where /proc is the real one: a host made up for a test has no processes."""
    if not (root / "proc/self/ns/pid").is_symlink() or process.sees_all():
        return None
    return Finding(
        "this is not the kernel's first PID namespace (a container?)",
        "the kernel's trace and log name processes by numbers that mean nothing here: nearly"
        " every death on machine kind `pen` comes out as unknown",
        "run on the host itself, or in a container with --pid=host",
    )


def _disk(places: lease.Places) -> Finding | None:
    free = supply.free_disk(places.disk)
    # A pen's disk is sparse, but a full host turns every write of every trial into noise.
    if free >= 5 * GIB:
        return None
    return Finding(
        f"{free >> 20} MiB are free for the machines' disks ({places.disk})",
        "a host that runs full breaks every machine on it at once: such trials are invalid",
        "free some, or set DEATHBENCH_STATE to a larger disk",
    )
