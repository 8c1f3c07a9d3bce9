"""Clues of what a container lives on: what ran out under it, or went away, shortly before its end.

Rule: processes, disks, mounts, links and storage, as the kernel, the cgroup or the mount
table recorded them. The container's own words (its log) only support, or keep others from
saying too much. What happens after the end is its consequence and is not looked at.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harness.attribution.around import AT_ONCE, SHORTLY
from harness.attribution.lastwords import (
    complains,
    said_cut_off,
    said_missing,
    said_no_fork,
    said_no_space,
    said_read_only,
)
from harness.attribution.table import Clue, Clues
from harness.history.clock import ENGINE
from harness.history.model import Seen
from harness.parse import container_of
from harness.parse.cgroup import is_unlimited, parse_limit, parse_number, parse_pressure
from harness.parse.kernel import ForkRejected, LinkState, StorageError
from harness.parse.mountinfo import parse_mount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.attribution.case import Case
    from harness.events import MountChange
    from harness.parse.mountinfo import Mount

PROMPT = 150_000_000
"""What a main process leaves on at once, without a word, it leaves on within this."""


def _if(said: Clues, found: Clues) -> Clues:
    """What came before its end, if its own words tie the two.

    One after the other, however soon, may be a coincidence: somebody changed its mounts, and
    it left of something else.
    """
    return found if said else ()


def _alone(case: Case, at: int) -> bool:
    """Was nobody in it then but what its main process had made: no exec under way?"""
    if not case.history.active("docker", case.begin, at):
        return False
    under_way = set()
    for s in case.history.engine:
        if s.what.id == case.container and case.begin - ENGINE <= s.at <= at + ENGINE:
            if s.what.action == "exec_start":
                under_way.add(s.what.attributes.get("execID"))
            elif s.what.action == "exec_die" and s.at < at - ENGINE:
                under_way.discard(s.what.attributes.get("execID"))
    return not under_way


# --- limits ------------------------------------------------------------------------


def fork_refused(case: Case) -> Clues:
    """its pids limit refused a fork just before, and it says so or was alone and left at once"""
    if not _own_pids_limit(case):
        return ()
    found = any_fork_refused(case)
    if said_no_fork(case):
        return found
    # Without a word: it was refused to its own processes, it left at once, and nothing else was.
    begin = case.at - PROMPT
    others = (mounts_changed, lost_interface, storage_error, disk_was_full, tmpfs_was_full)
    if any(look(case) for look in others):
        return ()
    return tuple(c for c in found if case.when[c.n] >= begin and _alone(case, case.when[c.n]))


def _own_pids_limit(case: Case) -> bool:
    """Has it one of its own? The kernel names the cgroup that asked, not whose limit it was."""
    most = case.text(case.cgroup, "pids.max") if case.cgroup is not None else None
    if most is not None:
        return not is_unlimited(most.what)
    limit = case.ref.limits.get("PidsLimit") if case.ref is not None else None
    return isinstance(limit, int) and limit > 0


def any_fork_refused(case: Case) -> Clues:
    """a pids limit, its own or one above, refused a fork just before"""
    clues = [
        Clue(s.n, "kernel", "the kernel log says its pids controller refused a fork")
        for s in case.history.kernel
        if isinstance(s.what, ForkRejected)
        and container_of(s.what.cgroup) == case.container
        and case.at - SHORTLY <= s.at - s.error <= case.at + s.error
    ]
    if case.cgroup is not None:
        rise = case.rises(case.cgroup, "pids.events", "max", case.at - SHORTLY, case.at + SHORTLY)
        if rise is not None:
            clues.append(Clue(rise.n, "cgroup", "its pids.events counts refused forks"))
    return tuple(clues)


# --- storage -----------------------------------------------------------------------

FULL = 4 << 20
"""Bytes that count as nothing left: less than one image layer's metadata needs."""


def _disks(case: Case) -> list[tuple[int, int, str, dict[str, int]]]:
    """(when it was asked, event number, mount point, figures) around the end, oldest first.

    A sample may show disks that were asked before it: their own time counts, and a reading
    that is shown twice is one reading.
    """
    found: dict[tuple[int, str], tuple[int, int, str, dict[str, int]]] = {}
    for s in case.history.machine:
        lag = LAG if s.what.disks_at is None else s.what.t - s.what.disks_at
        asked = s.at - lag
        if case.at - 5 * LAG <= asked and s.at <= case.at + 2 * LAG:
            for where, disk in s.what.disks.items():
                found.setdefault((asked, where), (asked, s.n, where, disk))
    return [found[key] for key in sorted(found)]


def is_full(disk: dict[str, int]) -> str | None:
    """In words, when a file system has no room or no inodes left."""
    if disk.get("total", 0) > 0 and disk.get("free", FULL) < min(FULL, disk["total"] // 50):
        return f"had {disk['free']} bytes left"
    if disk.get("inodes", 0) > 0 and disk.get("inodes_free", 1) == 0:
        return "had no inodes left"
    return None


def disk_full(case: Case) -> Clues:
    """a file system of the engine had just become full, and it says so or could not be heard"""
    full = disk_was_full(case)
    said = said_no_space(case)
    if not full or said:
        return full
    if not (unheard := _unheard(case)):
        return ()
    full = tuple({c.n: c for c in (*full, *unheard)}.values())
    # Full already at a look well before the end: then it was not what it left because of.
    early = [d for d in _disks(case) if d[0] < case.at - SHORTLY and d[0] >= case.begin]
    if early and any(is_full(d[3]) is not None for d in early[-1:]):
        return ()
    return full


def _unheard(case: Case) -> Clues:
    """What was printed when it left was not kept: there was no room for it either."""
    return tuple(
        Clue(s.n, "daemon-log", "dockerd had no room for what a container printed")
        for s in case.history.daemon_log
        if s.what.what == "unlogged" and abs(s.at - case.at) <= AT_ONCE
    )[:1]


def disk_was_full(case: Case) -> Clues:
    """a file system of the engine was full"""
    clues: list[Clue] = []
    for where in sorted({d[2] for d in _disks(case)}):
        readings = [d for d in _disks(case) if d[2] == where]
        # Full at the last look in its life, or at the first one after it: nobody but the
        # dead wrote less by then. What was before it began says nothing of what it met.
        before = [d for d in readings if case.begin <= d[0] <= case.at]
        near = before[-1:] + [d for d in readings if d[0] > case.at][:1]
        clues += [
            Clue(n, "machine", f"{where} {words}")
            for _, n, _, disk in near
            if (words := is_full(disk)) is not None
        ][:1]
    clues = clues[:1]
    clues += [
        Clue(s.n, "daemon-log", "dockerd says that no space is left")
        for s in case.history.daemon_log
        if s.what.what in ("no-space", "unlogged")
        and case.at - 10 * 10**9 <= s.at <= case.at + 2 * 10**9
    ][:2]
    return tuple(clues)


LAG = 1_000_000_000
"""How old the disks in a sample may be that does not say when they were asked."""


def room(case: Case) -> Clues:
    """the machine's disks had room, and were not filling up"""
    readings = _disks(case)
    before = [d for d in readings if d[0] <= case.at]
    after = [d for d in readings if d[0] > case.at]
    if not before or any(is_full(disk) for _, _, _, disk in (*before[-1:], *after)):
        return ()
    if not after and case.at - before[-1][0] > LAG + SHORTLY:
        return ()
    for where in {d[2] for d in before}:
        frees = [(t, disk.get("free", 0)) for t, _, w, disk in before if w == where]
        falls = [
            (old - new) / max(1, t1 - t0) for (t0, old), (t1, new) in pairwise(frees) if new < old
        ]
        # A disk that lost space so fast that it may have been full by then shows no room.
        ahead = case.at - frees[-1][0] if after else case.at - frees[-1][0] + LAG
        if frees[-1][1] - max(falls, default=0) * ahead < FULL:
            return ()
    return (Clue((after or before[-1:])[0][1], "machine", "the machine's disks had room"),)


_NO_ROOM_OF_ITS_OWN = frozenset(
    {"overlay", "tmpfs", "ramfs", "proc", "sysfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2",
     "securityfs", "debugfs", "tracefs", "bpf", "hugetlbfs", "fusectl", "nsfs", "pstore"}
)  # fmt: skip
_OF_THE_ENGINE = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"})


def unwatched_volume(case: Case) -> Clues:
    """it can write to a file system of which nobody knows how full it was"""
    mounted = _mounted(case)
    # The engine's own files lie below its data, whose disk is watched.
    known = {m.device for m in mounted if m.point in _OF_THE_ENGINE}
    for s in case.history.machine:
        for disk in s.what.disks.values():
            if (device := disk.get("device")) is not None:
                known.add(f"{os.major(device)}:{os.minor(device)}")
    strange = {
        m.point
        for m in mounted
        if m.fstype not in _NO_ROOM_OF_ITS_OWN and not m.read_only and m.device not in known
    }
    return tuple(
        Clue(s.n, "mounts", f"nobody knows how full the file system at {m.point} was")
        for s in case.history.mounts
        if s.what.container == case.container
        for line in s.what.added
        if (m := parse_mount(line)) is not None and m.point in strange
    )[:1]


RECENT = 600_000_000
"""What became full earlier than this was not what it left because of (samples come at 10 Hz)."""


def _tmpfs(case: Case) -> tuple[Clue, int] | None:
    """(clue, size) of a tmpfs of its own that was full at the end."""
    if case.cgroup is None:
        return None
    sizes = [m.size for m in _mounted(case) if m.fstype == "tmpfs" and m.size and "rw" in m.options]
    held = [
        s for k in ("shmem", "total_shmem") for s in case.counter(case.cgroup, "memory.stat", k)
    ]
    for s in sorted(held, key=lambda s: -s.at):
        if case.at - 2 * SHORTLY <= s.at <= case.at + SHORTLY:
            for size in sizes:
                near = 0 <= size - s.what < 1 << 18
                if near or ((size - s.what) * 50 < size and s.what <= size * 2):
                    words = f"its tmpfs files hold {s.what} of {size} bytes"
                    return Clue(s.n, "cgroup", words), size
    return None


def tmpfs_was_full(case: Case) -> Clues:
    """a tmpfs of its own was full"""
    found = _tmpfs(case)
    return () if found is None else (found[0],)


def tmpfs_full(case: Case) -> Clues:
    """a tmpfs of its own had just become full"""
    found = _tmpfs(case)
    if found is None or case.cgroup is None:
        return ()
    clue, size = found
    if said := said_no_space(case):
        return (clue, *said)
    if not _alone(case, case.at):
        return ()
    used = sorted(
        (
            s
            for f in ("memory.current", "memory.usage_in_bytes")
            for s in case.numbers(case.cgroup, f)
            if s.at <= case.at + 10**7
        ),
        key=lambda s: s.at,
    )
    if not used:
        return ()
    early = [s for s in used if s.at <= case.at - RECENT][-1:]
    lately = [s.what for s in used if s.at > case.at - RECENT]
    if early:
        least = min([s.what for s in early] + lately)
    elif case.begin > case.at - RECENT:
        least = 0  # it began with nothing
    else:
        return ()
    return (clue,) if (used[-1].what - least) * 2 >= size else ()


def _mounted(case: Case) -> list[Mount]:
    """Its mount table when it ended, as far as it was seen."""
    lines: dict[str, Mount] = {}
    for s in case.history.mounts:
        if s.what.container == case.container and s.at <= case.at:
            for line in s.what.removed:
                lines.pop(line, None)
            for line in s.what.added:
                if (m := parse_mount(line)) is not None:
                    lines[line] = m
    return list(lines.values())


def _changes(
    case: Case, begin: int, end: int
) -> Iterator[tuple[Seen[MountChange], list[Mount], list[Mount]]]:
    for s in case.history.mounts:
        # One that only adds (the first has the whole table) took nothing away.
        if s.what.container == case.container and s.what.removed and begin <= s.at <= end:
            gone = [m for line in s.what.removed if (m := parse_mount(line)) is not None]
            come = [m for line in s.what.added if (m := parse_mount(line)) is not None]
            yield s, gone, come


def _lately(case: Case) -> int:
    """How long before its end a change of a mount counts: its last words may say more."""
    return 2 * SHORTLY if complains(case) else SHORTLY


def mounts_changed(case: Case) -> Clues:
    """its mounts had changed in the seconds before"""
    return tuple(
        Clue(s.n, "mounts", "its mounts had changed")
        for s, _, _ in _changes(case, case.at - 3 * SHORTLY, case.at)
    )


def became_read_only(case: Case) -> Clues:
    """one of its mounts had just become read-only, and it says so"""
    found = tuple(
        Clue(s.n, "mounts", f"its mount {new.point} became read-only")
        for s, gone, come in _changes(case, case.at - _lately(case), case.at)
        for new in come
        if new.read_only and any(old.point == new.point and not old.read_only for old in gone)
    )
    return _if(said_read_only(case), found)


def lost_mount(case: Case) -> Clues:
    """one of its mounts had just been taken away, and it says that something is missing"""
    found = tuple(
        Clue(s.n, "mounts", f"its mount {old.point} was taken away")
        for s, gone, come in _changes(case, case.at - _lately(case), case.at)
        for old in gone
        if not any(new.point == old.point for new in come)
    )
    return _if(said_missing(case), found)


def own_mount_change(case: Case) -> Clues:
    """the harness itself was changing its mounts in place, or had just done so"""
    clues = []
    for span in case.history.spans:
        if span.phase not in ("remount", "overlap"):
            continue
        end = span.end if span.end is not None else case.at
        stops = [c for c in case.history.calls if c.planned and span.begin <= c.begin <= end]
        if not stops and span.begin <= case.at <= end + SHORTLY:
            clues.append(Clue(span.n, "harness", "the harness was changing its mounts in place"))
    return tuple(clues)


def source_deleted(case: Case) -> Clues:
    """the source of one of its mounts had just been deleted, and it says that something is missing"""
    found = tuple(
        Clue(s.n, "mounts", f"the source of its mount {new.point} was deleted")
        for s, gone, come in _changes(case, case.at - _lately(case), case.at)
        for new in come
        if new.deleted and any(old.point == new.point and not old.deleted for old in gone)
    )
    return _if(said_missing(case), found)


def lost_interface(case: Case) -> Clues:
    """it had just lost a network interface"""
    gone = tuple(
        Clue(s.n, "network", f"it lost {', '.join(s.what.removed[:3])}")
        for s in case.history.networks
        if s.what.container == case.container
        and case.at - 2 * SHORTLY <= s.at <= case.at
        and any(not n.startswith("route ") and n not in s.what.added for n in s.what.removed)
    )
    # Every death is followed by a disconnect; one that comes before is somebody's.
    told = tuple(
        Clue(s.n, "docker", "somebody disconnected it from a network")
        for s in case.history.engine
        if s.what.type == "network"
        and s.what.action == "disconnect"
        and s.what.attributes.get("container") == case.container
        and case.at - 2 * SHORTLY <= s.at <= case.at - 2 * ENGINE
        and case.own_call(s.at) is None
    )
    return gone + _lost_link(case) + told


def layer_gone(case: Case) -> Clues:
    """the writable layer of its root file system had been deleted"""
    # It is looked for once more right after the end; only a removal takes it away in order.
    removed = min((s.at for s in case.engine("destroy")), default=case.at + SHORTLY)
    return tuple(
        Clue(s.n, "mounts", "the writable layer of its root file system is gone")
        for s in case.history.mounts
        if s.what.container == case.container and "upperdir" in s.what.gone and s.at < removed
    )[:1]


def layer_missed(case: Case) -> Clues:
    """the writable layer of its root file system was gone, and it says that something is missing"""
    return _if(said_missing(case), layer_gone(case))


def cut_off(case: Case) -> Clues:
    """it had lost a network interface, and says so"""
    said = said_cut_off(case)
    found = _if(said, lost_interface(case))
    return (*found, *said) if found else ()


def _lost_link(case: Case) -> Clues:
    """Its end of the bridge was switched off before its own end, as the kernel log says.

    Which device is its own: one that came up while it was being started.
    """
    started = [
        c.end
        for c in case.history.calls
        if c.container == case.container
        and c.call in ("start", "restart")
        and c.end is not None
        and c.covers(case.begin, SHORTLY)
    ]
    until = max(started, default=case.begin + SHORTLY // 3)
    links = [_link(s, s.what) for s in case.history.kernel if isinstance(s.what, LinkState)]
    up = {
        s.what.device
        for s in links
        if s.what.state == "blocking" and case.begin - SHORTLY <= s.at <= until
    }
    # The log names a veth, not whose it is, and every engine on this kernel has veths: only
    # one that came up alone, for a container that has a link at all, is surely its own.
    mode = (case.ref.limits.get("NetworkMode") if case.ref else None) or "none"
    if len(up) != 1 or mode in {"none", "host"} or mode.startswith("container:"):
        return ()
    return tuple(
        Clue(s.n, "kernel", f"the kernel log says its link {s.what.device} went down")
        for s in links
        if s.what.state == "disabled"
        and s.what.device in up
        # The port is set up disabled before it is switched on.
        and any(
            o.what.device == s.what.device and o.at < s.at
            for o in links
            if o.what.state == "forwarding"
        )
        and case.at - 2 * SHORTLY <= s.at <= case.at - s.error - 2_000_000
    )


def _link(seen: Seen[Any], what: LinkState) -> Seen[LinkState]:
    return Seen(seen.at, seen.error, seen.n, seen.source, what)


def storage_failed(case: Case) -> Clues:
    """the storage under one of its mounts reported an error, and it says so"""
    return _if(complains(case), storage_error(case))


def storage_error(case: Case) -> Clues:
    """the storage under one of its mounts reported an error just before"""
    # /etc/hosts and its like are mounted from the engine's own file system: its device is
    # among them. A device that is under none of its mounts is somebody else's.
    under = {m.source.rsplit("/", 1)[-1] for m in _mounted(case) if m.source.startswith("/dev/")}
    return tuple(
        Clue(s.n, "kernel", f"the kernel log has an error of {s.what.device} ({s.what.what})")
        for s in case.history.kernel
        if isinstance(s.what, StorageError)
        and any(d == s.what.device or d.startswith(s.what.device) for d in under)
        and case.at - 2 * SHORTLY <= s.at <= case.at
    )


def pressed(case: Case) -> Clues:
    """the machine's memory was short"""
    if case.machine_cgroup is not None:
        # A machine that is a cgroup: the kernel's own numbers are the whole host's.
        for used, limit in (
            ("memory.current", "memory.max"),
            ("memory.usage_in_bytes", "memory.limit_in_bytes"),
        ):
            now, most = case.text(case.machine_cgroup, used), case.text(case.machine_cgroup, limit)
            if now is not None and most is not None:
                size, room = parse_number(now.what), parse_limit(most.what)
                if size is not None and room and size * 10 > room * 9:
                    return (Clue(now.n, "cgroup", "the machine's memory was short"),)
        return ()
    for s in reversed(case.history.machine):
        if case.at - 12 * 10**9 <= s.at <= case.at + 10**9:
            full = parse_pressure(s.what.pressure.get("memory", "")).get("full")
            total, there = s.what.memory.get("MemTotal", 0), s.what.memory.get("MemAvailable")
            if (full is not None and full.avg10 > 0) or (
                total and there is not None and there * 10 < total
            ):
                return (Clue(s.n, "machine", "the machine's memory was short"),)
    return ()
