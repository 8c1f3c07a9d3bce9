"""Mounts and network interfaces of a watched container, as they come and go.

Rule: read through /proc from outside, never by entering the namespace. The kernel says
when a mount table changed (poll); interfaces are compared twice a second. What runc
itself builds before the container's own program runs is not news: the first table is
the one the program starts with, or the last one seen before its death.
"""

from __future__ import annotations

import os
import re
import select
from typing import TYPE_CHECKING

from . import linux
from .linux import boot

if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Optional, Tuple

    from .loop import Loop
    from .out import Out
    from .watch import Main, Watch, Watched

SETTLE = 0.02
REST = 20  # times as long as a look took, at least, until the next
NETWORK_EVERY = 0.5


class Space:
    """What is known of one main process's namespaces."""

    __slots__ = ("due", "fd", "layer", "mounts", "net", "network", "said", "traffic", "unsettled")

    def __init__(self) -> None:
        self.fd: Optional[int] = None
        self.layer: Optional[str] = None
        self.mounts: Optional[List[str]] = None
        self.network: Optional[List[str]] = None
        self.traffic: Dict[str, List[int]] = {}
        self.net = True
        self.said = False
        self.due = False
        # A table in the middle of a change, and when: said only if nothing better follows.
        self.unsettled: Optional[Tuple[int, List[str]]] = None


def interfaces(pid: int) -> Optional[Tuple[List[str], Dict[str, List[int]]]]:
    """Of a process's network namespace: names of interfaces and routes, and by interface the bytes
    that came in and went out; or None."""
    text = linux.read_text("/proc/%d/net/dev" % pid)
    if text is None:
        return None
    found, traffic = [], {}
    for line in text.splitlines()[2:]:
        name, _, counters = line.partition(":")
        numbers = counters.split()
        found.append(name.strip())
        if len(numbers) > 8:
            traffic[name.strip()] = [int(numbers[0]), int(numbers[8])]
    for line in (linux.read_text("/proc/%d/net/route" % pid) or "").splitlines()[1:]:
        parts = line.split()
        if len(parts) > 7:
            found.append("route %s/%s via %s dev %s" % (parts[1], parts[7], parts[2], parts[0]))
    return found, traffic


def layer_of(lines: Iterable[str]) -> Optional[str]:
    """The writable layer of the root file system, as the engine's mount names it; or None."""
    for line in lines:
        parts = line.split(" ")
        if len(parts) > 9 and parts[4] == "/" and "overlay" in parts:
            match = re.search(r"(?:^|,)upperdir=(/[^,]+)", parts[-1])
            return match.group(1) if match else None
    return None


def difference(old: Optional[Iterable[str]], new: List[str]) -> Tuple[List[str], List[str]]:
    """(added, removed) keeping order."""
    before, after = set(old or ()), set(new)
    return [x for x in new if x not in before], [x for x in old or () if x not in after]


class Namespaces:
    def __init__(self, loop: Loop, out: Out, watch: Watch, roots: Iterable[str] = ()) -> None:
        self.loop, self.out, self.watch = loop, out, watch
        # Where the engine's mounts are another namespace's, its data is reached through /proc.
        inside = [re.match(r"/proc/\d+/root(?=/)", root) for root in roots]
        self.way = next((match.group(0) for match in inside if match), "")
        self.spaces: Dict[str, Space] = {}
        try:
            self.own: Optional[str] = os.readlink("/proc/self/ns/net")
        except OSError:
            self.own = None
        watch.on_found.append(self.found)
        watch.on_gone.append(self.gone)

    def start(self) -> None:
        self.loop.every(NETWORK_EVERY, self.look, "network")
        self.out.source("mounts", "active")
        self.out.source("network", "active")

    def found(self, watched: Watched) -> None:
        self.gone(watched)
        main = watched.main
        if main is None:
            return
        space = self.spaces[watched.id] = Space()
        try:
            space.fd = os.open("/proc/%d/mountinfo" % main.pid, os.O_RDONLY | os.O_CLOEXEC)
            self.loop.add(space.fd, select.EPOLLPRI, lambda mask: self.changed(watched), "mounts")
        except OSError:
            space.fd = None
        try:
            space.net = os.readlink("/proc/%d/ns/net" % main.pid) != self.own
        except OSError:
            space.net = False
        self.changed(watched)

    def changed(self, watched: Watched, least: float = 0.0) -> None:
        """Not at once: a remount is several steps."""
        space = self.spaces.get(watched.id)
        if space is not None and not space.due:
            space.due = True
            if space.said and watched.main is not None:
                text = linux.read_text("/proc/%d/mountinfo" % watched.main.pid, 1 << 20)
                space.unsettled = (boot(), text.splitlines()) if text else None
            self.loop.after(max(SETTLE, least), lambda: self.settle(watched), "mounts")

    def settle(self, watched: Watched) -> None:
        space = self.spaces.get(watched.id)
        if space is None or watched.main is None:
            return
        space.due = False
        began = boot()
        seen = linux.stat(watched.main.pid)
        early = seen is not None and seen["name"].startswith("runc:[")
        if early:
            self.read(watched, space, say=False)
            self.changed(watched, (boot() - began) / 1e9 * REST)
        else:
            self.read(watched, space, say=True)

    def read(self, watched: Watched, space: Space, say: bool) -> None:
        if watched.main is None:
            return
        # Opened anew: an open table remembers the root it was opened under, and runc
        # changes its root after we found it.
        text = linux.read_text("/proc/%d/mountinfo" % watched.main.pid, 1 << 20)
        lines = text.splitlines() if text else None
        if lines:
            space.unsettled = None
            # Before it is said, the table is only remembered: added must be whole.
            old = space.mounts if space.said else None
            space.mounts = lines
            if say:
                added, removed = difference(old, lines)
                if added or removed:
                    self.out.emit(
                        "mounts",
                        "mounts",
                        boot(),
                        container=watched.id,
                        added=added,
                        removed=removed,
                    )
                space.said = True
                layer = layer_of(lines)
                if layer is not None and os.path.isdir(self.way + layer):
                    space.layer = self.way + layer
        if say:
            self.network(watched, space)

    def network(self, watched: Watched, space: Space) -> None:
        if not space.net or watched.main is None:
            return
        seen = interfaces(watched.main.pid)
        if seen is None:
            return
        found, traffic = seen
        added, removed = difference(space.network, found)
        space.network, before, space.traffic = found, space.traffic, traffic
        if added or removed or traffic != before:
            self.out.emit(
                "network",
                "network",
                boot(),
                container=watched.id,
                added=added,
                removed=removed,
                traffic=traffic,
            )

    def look(self) -> None:
        for container, space in list(self.spaces.items()):
            watched = self.watch.all.get(container)
            if watched is None or watched.main is None or watched.main.dead:
                continue
            if space.said:
                self.network(watched, space)
                self.layer(watched, space)

    def layer(self, watched: Watched, space: Space) -> None:
        """Is the writable layer still there? Nobody says when it is deleted."""
        if space.layer is None or os.path.isdir(space.layer):
            return
        space.layer = None
        self.out.emit(
            "mounts",
            "mounts",
            boot(),
            container=watched.id,
            added=[],
            removed=[],
            gone=["upperdir"],
        )

    def died(self, watched: Watched, main: Main, t: int) -> None:
        """What was remembered and never said belongs to the history of a short life."""
        space = self.spaces.get(watched.id)
        if space is None:
            return
        if not space.said and space.mounts:
            space.said = True
            self.out.emit(
                "mounts", "mounts", boot(), container=watched.id, added=space.mounts, removed=[]
            )
        elif space.unsettled is not None:
            # It died of the change before the change had settled.
            at, lines = space.unsettled
            added, removed = difference(space.mounts, lines)
            if added or removed:
                self.out.emit(
                    "mounts", "mounts", at, container=watched.id, added=added, removed=removed
                )
        space.unsettled = None
        # The engine leaves the layer where it is for as long as the container is not removed.
        self.layer(watched, space)
        self.release(space)

    def snapshot(self, watched: Watched) -> None:
        """Everything again, for the head of a trial."""
        space = self.spaces.get(watched.id)
        if space is None or watched.main is None or watched.main.dead:
            return
        if space.said:
            # What has changed since the last look is said as a change, or nobody hears of it.
            self.read(watched, space, say=True)
        space.said, space.network = False, None
        self.read(watched, space, say=True)

    def release(self, space: Space) -> None:
        if space.fd is not None:
            self.loop.remove(space.fd)
            os.close(space.fd)
            space.fd = None

    def gone(self, watched: Watched) -> None:
        space = self.spaces.pop(watched.id, None)
        if space is not None:
            self.release(space)
