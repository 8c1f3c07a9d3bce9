"""The watched containers: their main processes, their groups, their ends.

Rule: a container is announced before it is started, so that its main process is known
before it runs: runc's init waits for the start in the container's cgroup for tens of
milliseconds. A main process is a pid with a start time and is the first process of its
pid namespace; a container that shares a pid namespace has the shim's child instead.
"""

from __future__ import annotations

import collections
import os
import select
from typing import TYPE_CHECKING

from . import linux
from .cgroups import Group
from .lineage import container_of
from .linux import boot

if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, List, Optional, Set

    from .cgroups import Hierarchies
    from .lineage import Lineage
    from .loop import Loop
    from .out import Out

FIND_EVERY = 0.002
FIND_SLOWLY = 0.05
FIND_FOR = 5_000_000_000
"""How long after the last cgroup move the search is quick."""
REST = 9
"""How many times as long as a look took is waited before the next."""
RING = 200
"""How many records of a container's own processes are kept for its death."""


class Main:
    """One main process. nspids from the outermost namespace in."""

    __slots__ = ("dead", "fd", "name", "nspids", "pid", "shim", "start")

    def __init__(self, pid: int, start: int, nspids: List[int], name: str, shim: int) -> None:
        self.pid, self.start, self.nspids, self.name, self.shim = pid, start, nspids, name, shim
        self.fd: Optional[int] = None
        self.dead = False


class Watched:
    def __init__(self, container: str, role: str) -> None:
        self.id, self.role = container, role
        self.main: Optional[Main] = None
        self.path = ""
        self.groups: List[Group] = []
        # What becomes an event only when it dies.
        self.ring: Deque[Callable[[], Dict[str, Any]]] = collections.deque(maxlen=RING)
        self.search_until = 0
        self.searching = False
        self.deaths = 0


class Watch:
    def __init__(
        self,
        loop: Loop,
        out: Out,
        hierarchies: Hierarchies,
        lineage: Lineage,
        base: str,
    ) -> None:
        self.loop, self.out, self.hierarchies = loop, out, hierarchies
        self.lineage, self.base = lineage, base
        self.all: Dict[str, Watched] = {}
        self.mains: Dict[int, Watched] = {}
        self.parents: Set[str] = set()
        self.ancestors: Dict[str, Group] = {}
        self.on_found: List[Callable[[Watched], None]] = []
        self.on_gone: List[Callable[[Watched], None]] = []
        self.on_pidfd: Any = None
        self.on_mains: Callable[[], None] = lambda: None
        self.pidfd_works = True

    # --- the list ---

    def add(self, container: str, role: str) -> None:
        if container in self.all:
            return
        self.all[container] = Watched(container, role)
        path = self.look_for(container)
        if path is not None:
            self.moved(container, path)

    def remove(self, container: str) -> None:
        watched = self.all.pop(container, None)
        if watched is None:
            return
        if watched.main is not None:
            self._forget_main(watched)
            self.on_mains()
        self._close_groups(watched)
        for callback in self.on_gone:
            callback(watched)

    def look_for(self, container: str, *, everywhere: bool = False) -> Optional[str]:
        """The path of a container that has a group already, or None.

        Where others were found, then where its processes are (the lineage knows whose they
        are), and `everywhere` below the machine's own group when there is no lineage.
        """
        mount = self.hierarchies.mounts.get(self.hierarchies.main())
        if mount is None:
            return None
        base = self.base.rstrip("/")
        for parent in sorted(self.parents) or [base + "/docker", base + "/system.slice", base]:
            for name in (container, "docker-%s.scope" % container):
                path = "%s/%s" % (parent, name)
                if os.path.isdir(mount + path):
                    return path
        for task in list(self.lineage.tasks.values()):
            if task.container == container and task.ended is None:
                path = (linux.cgroup_paths(task.pid) or {}).get(self.hierarchies.main(), "")
                if container_of(path) == container:
                    return path
        return self._walk(mount, base, container) if everywhere else None

    def _walk(self, mount: str, base: str, container: str) -> Optional[str]:
        for root, directories, _ in os.walk(mount + base):
            if root.count("/") - mount.count("/") > 5:
                directories[:] = []
            for name in directories:
                if container in name:
                    return root[len(mount) :] + "/" + name
        return None

    # --- the main process ---

    def moved(self, container: str, path: str) -> None:
        """A process joined (or a directory was made for) this container's group."""
        watched = self.all.get(container)
        if watched is None or container_of(path) != container:
            return
        if not watched.path or len(path) < len(watched.path) or not watched.groups:
            watched.path = path[: path.index(container) + len(container)]
            if path.startswith(watched.path + ".scope"):
                watched.path += ".scope"
            if len(self.parents) < 8:
                self.parents.add(watched.path.rpartition("/")[0])
        watched.search_until = boot() + FIND_FOR
        if watched.main is None or watched.main.dead:
            self._search(watched)

    def _search(self, watched: Watched) -> None:
        if watched.searching:
            return
        watched.searching = True
        self._try(watched)

    def _try(self, watched: Watched) -> None:
        began = boot()
        if self.all.get(watched.id) is not watched or self._find(watched):
            watched.searching = False
            return
        if boot() > watched.search_until and not self.hierarchies.members(watched.path):
            watched.searching = False
            return
        wait = FIND_EVERY if boot() < watched.search_until else FIND_SLOWLY
        # On a slow machine our looking must not keep runc from getting anywhere.
        wait = max(wait, (boot() - began) / 1e9 * REST)
        self.loop.after(wait, lambda: self._try(watched), "main")

    def _find(self, watched: Watched) -> bool:
        best = None
        for pid in self.hierarchies.members(watched.path):
            fields = linux.status_fields(pid)
            seen = linux.stat(pid)
            if not fields or not seen or seen["state"] in "ZX":
                continue
            nspids = [int(word) for word in fields.get("NSpid", "").split()]
            parent = linux.stat(seen["ppid"]) or {"name": ""}
            by_shim = parent["name"].startswith("containerd-shim")
            first = len(nspids) > 1 and nspids[-1] == 1
            settled = by_shim and not seen["name"].startswith("runc:[")
            if not first and not settled and not (by_shim and seen["name"] == "runc:[2:INIT]"):
                continue
            rank = (not first, seen["start"], pid)
            if best is None or rank < best[0]:
                best = (rank, pid, seen, nspids)
        if best is None:
            return False
        _, pid, seen, nspids = best
        if watched.main is not None and (watched.main.pid, watched.main.start) == (
            pid,
            seen["start"],
        ):
            return not watched.main.dead
        self._found(watched, Main(pid, seen["start"], nspids or [pid], seen["name"], seen["ppid"]))
        return True

    def _found(self, watched: Watched, main: Main) -> None:
        now = boot()
        self._forget_main(watched)
        watched.main = main
        self.mains[main.pid] = watched
        self.lineage.adopt(main.pid, main.name, watched.id)
        if self.pidfd_works:
            try:
                main.fd = linux.pidfd_open(main.pid)
                self.loop.add(
                    main.fd, select.EPOLLIN, lambda mask: self.on_pidfd(watched, main), "pidfd"
                )
            except ProcessLookupError:
                main.fd = None
            except OSError as error:
                self.pidfd_works = False
                self.out.source("pidfd", "unsupported", error.strerror or str(error))
        self._open_groups(watched, linux.cgroup_paths(main.pid))
        own = watched.groups[0] if watched.groups else None
        self.out.emit(
            "main",
            "main",
            now,
            container=watched.id,
            pid=main.pid,
            start=main.start,
            nspids=main.nspids,
            cgroup=own.path if own else watched.path,
            inode=own.inode() if own else None,
            name=main.name,
        )
        self.on_mains()
        for group in watched.groups:
            group.say(self.out, full=True)
        for callback in self.on_found:
            callback(watched)

    def _forget_main(self, watched: Watched) -> None:
        main = watched.main
        if main is None:
            return
        if self.mains.get(main.pid) is watched:
            del self.mains[main.pid]
        self.close_pidfd(main)
        watched.main = None

    def close_pidfd(self, main: Main) -> None:
        if main.fd is not None:
            self.loop.remove(main.fd)
            os.close(main.fd)
            main.fd = None

    # --- the groups ---

    def _open_groups(self, watched: Watched, paths: Optional[Dict[str, str]]) -> None:
        self._close_groups(watched)
        own = (paths or {}).get(self.hierarchies.main()) or watched.path
        if container_of(own) != watched.id:
            own = watched.path
        watched.groups = [Group(self.hierarchies, watched.id, "container", own, paths)]
        parts = own.strip("/").split("/")[:-1]
        for depth in range(len(parts), 0, -1):
            path = "/" + "/".join(parts[:depth])
            group = self.ancestors.get(path)
            if group is None:
                scope = "machine" if path == self.base.rstrip("/") else "ancestor"
                group = self.ancestors[path] = Group(self.hierarchies, None, scope, path)
            group.users += 1
            watched.groups.append(group)

    def _close_groups(self, watched: Watched) -> None:
        for group in watched.groups:
            if group.scope == "container":
                group.close()
                continue
            group.users -= 1
            if group.users == 0:
                group.close()
                self.ancestors.pop(group.path, None)
        watched.groups = []

    def sample(self) -> None:
        """At every tick: what changed, in each container and each ancestor once."""
        for watched in list(self.all.values()):
            if watched.groups and watched.main is not None and not watched.main.dead:
                watched.groups[0].say(self.out)
        for group in list(self.ancestors.values()):
            group.say(self.out)

    def stop(self) -> None:
        for container in list(self.all):
            self.remove(container)
