"""What killed runs left behind: found by lease and by label, removed with a word for each.

Rule: a living lease's things are never touched, and what has no lease is touched only
where nobody can be using it. Every remover says what it removed; what would not go is
said too.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness import LABEL, clock, lease, process
from harness.errors import EnvironmentInvalid
from harness.machine import cgroups, colima_home, contexts
from harness.machine.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine import Engine

MAKING = 120
"""Seconds that a machine may take between its cgroup and the first process in it, and more."""
TRACING = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


@dataclass(slots=True)
class Found:
    """What was found and what became of it.

    Attributes:
        removed: "kind name" of everything that went (or, dry, would go).
        stuck: What would not go, and why.
        spared: Living owners, for the message.
    """

    removed: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)


def clean(*, dry: bool = False, where: lease.Places | None = None, engines: bool = True) -> Found:
    """Find leftovers of every kind and remove them (dry: only say)."""
    return _Cleaner(where or lease.places(), dry=dry, engines=engines).all()


@dataclass(frozen=True, slots=True)
class _Orphan:
    """Something of ours that perhaps nobody owns: how a lease would name it, and how it goes."""

    what: str
    owned_as: str
    remove: Callable[[str], object]
    argument: str


class _Cleaner:
    def __init__(self, places: lease.Places, *, dry: bool, engines: bool) -> None:
        self.places, self.dry, self.engines = places, dry, engines
        self.cgroups = cgroups.layout()
        self.found = Found()
        self.living: list[lease.Record] = []
        self.dead_engines: dict[str, list[str]] = {}

    def all(self) -> Found:
        # What nobody may own is listed before the leases are read: a machine that is being
        # made writes its lease first, so everything of it on this list has its owner there.
        orphans = self.candidates()
        for record in lease.records(self.places):
            self.leased(record)
        self.orphans(orphans)
        if self.engines:
            for url, owners in self.dead_engines.items():
                for owner in owners:
                    self.engine(url, owner)
            for url in {_default_engine(), *self.dead_engines} - {""}:
                self.engine(url, None)
        return self.found

    def go(self, what: str, remove: Callable[..., object] | None, *arguments: object) -> None:
        """Remove it (None: it is gone already) and write down how that went."""
        if remove is not None and not self.dry:
            try:
                if remove(*arguments) is False:
                    self.found.stuck.append(f"{what}: still in use")
                    return
            except OSError as error:
                self.found.stuck.append(f"{what}: {error.strerror or error}")
                return
        self.found.removed.append(what)

    # --- by lease ---

    def leased(self, record: lease.Record) -> None:
        if record.kept and not self.dry:
            _end(record.things["keeper"])
        lock = lease.claim(record)
        if lock is None:
            if record.kept:
                self.go(f"kept {record.kind} {record.name}", None)
            else:
                self.living.append(record)
                self.found.spared.append(record.who())
            return
        before = len(self.found.stuck)
        try:
            self.dead(record)
        finally:
            if self.dry or len(self.found.stuck) > before:
                os.close(lock)
            else:
                lease.remove(record, lock)

    def dead(self, record: lease.Record) -> None:
        """Everything a dead owner wrote down, processes first."""
        things = record.things
        for one in things.get("process", []):
            if _is_there(one):
                self.go(f"process {one.partition(':')[0]} of {record.name}", _end, [one])
        for name in things.get("cgroup", []):
            mine = name.strip("/").startswith(f"{LABEL}-")
            if mine and any(top.exists() for top in self.cgroups.tops(name)):
                self.go(f"cgroup {name}", self.end_cgroup, name)
        for path in things.get("file", []):
            if os.path.lexists(path):
                self.go(f"file {path}", os.unlink, path)
            if not self.dry:
                # The mounts went with the last process; the device follows by itself.
                clock.wait_until(partial(_free, path), deadline=5, every=0.02)
        for pair in things.get("moved", []):
            aside, _, source = pair.partition("\0")
            if os.path.lexists(aside):
                self.go(f"{aside}: moved back to {source}", _give_back, aside, source)
        for home in things.get("colima", []):
            self.go(f"colima in {home}", colima_home.remove, home)
        for url in things.get("engine", []):
            self.dead_engines.setdefault(url, []).append(record.name)
        self.go(f"{record.kind} {record.name} ({record.folder})", None)

    def end_cgroup(self, name: str) -> bool:
        """Its processes die, then it goes."""

        def empty() -> bool:
            for pid in cgroups.processes(self.cgroups, name):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            return cgroups.remove(self.cgroups, name)

        return clock.wait_until(empty, deadline=10, every=0.02)

    # --- without lease ---

    def candidates(self) -> list[_Orphan]:
        if not process.sees_all():
            # Inside a container that shares its host's control groups and devices: what
            # looks unused from here may be in the middle of somebody's sweep out there.
            return []
        found = [
            _Orphan(f"cgroup /{name}", f"/{name}", self.empty_cgroup, f"/{name}")
            for name in self.cgroups.named(f"{LABEL}-")
        ]
        ours = (*self.places.disk.glob("*.ext4"), *self.places.disk.glob("*.qcow2"))
        files = sorted(str(path) for path in ours)
        found += [_Orphan(f"file {path}", path, os.unlink, path) for path in files]
        for device, backing in _loops():
            path = backing.removesuffix(" (deleted)")
            if path.startswith(f"{self.places.disk}/"):
                found.append(_Orphan(f"loop device {device}", path, _detach, device))
        for name, folder in _traces():
            found.append(_Orphan(f"tracing instance {name}", folder, os.rmdir, folder))
        return found

    def orphans(self, candidates: list[_Orphan]) -> None:
        owned = {x for record in self.living for names in record.things.values() for x in names}
        for one in candidates:
            if one.owned_as in owned or not os.path.lexists(self.place(one.argument)):
                continue
            if one.what.startswith("cgroup ") and self.perhaps_somebodys(one.argument):
                continue
            if one.what.startswith("loop ") and (
                # Seen in the middle of going, or stuck? It goes in no time.
                _is_mounted(one.argument)
                or clock.wait_until(partial(_free, one.owned_as), deadline=1, every=0.02)
            ):
                continue
            self.go(one.what, one.remove, one.argument)

    def perhaps_somebodys(self, name: str) -> bool:
        """Leases in another state directory are not known here: only old and empty is nobody's."""
        if cgroups.processes(self.cgroups, name):
            return True
        try:
            born = max(top.stat().st_mtime for top in self.cgroups.tops(name) if top.exists())
        except (OSError, ValueError):
            return True
        return time.time() - born < MAKING

    def place(self, argument: str) -> str:
        if argument.startswith(f"/{LABEL}-"):
            tops = [top for top in self.cgroups.tops(argument) if top.exists()]
            return str(tops[0]) if tops else argument
        return argument

    def empty_cgroup(self, name: str) -> bool:
        return cgroups.remove(self.cgroups, name)

    # --- on an engine that is not ours ---

    def engine(self, url: str, owner: str | None) -> None:
        """Containers, networks and volumes with our label; of one owner, or of nobody who lives."""
        if owner is None and any(url in r.things.get("engine", []) for r in self.living):
            return
        if url.startswith("unix://"):
            if os.path.exists(url[7:]):
                self.labelled(url, owner)
            return
        with tempfile.TemporaryDirectory(prefix=LABEL) as folder:
            relay = Relay(contexts.endpoint(url), Path(folder) / "docker.sock")
            try:
                relay.open()
                self.labelled(f"unix://{relay.path}", owner)
            except EnvironmentInvalid as error:
                self.found.stuck.append(f"containers at {url}: {error.why or error.what}")
            finally:
                relay.close()

    def labelled(self, url: str, owner: str | None) -> None:
        from harness import engine

        client = engine.Engine(url, deadline=20)
        label = LABEL if owner is None else f"{LABEL}.owner={owner}"
        wanted = {"label": [label]}
        try:
            for one in client.ps(filters=wanted).value or []:
                name = (one.get("Names") or [one["Id"][:12]])[0].lstrip("/")
                self.go(f"container {name}", lambda i: client.remove(i).ok, one["Id"])
            for one in client.networks(filters=wanted).value or []:
                self.go(f"network {one['Name']}", lambda i: client.network_remove(i).ok, one["Id"])
            listed = client.ask(lambda sdk: sdk.volumes(filters=wanted).get("Volumes") or [])
            for one in listed.value or []:
                name = str(one["Name"])
                self.go(f"volume {name}", partial(_remove_volume, client), name)
        finally:
            client.close()


def _give_back(aside: str, source: str) -> bool:
    """What an injection put aside becomes the user's directory again; nothing is overwritten."""
    if os.path.isdir(source) and not os.listdir(source):
        os.rmdir(source)
    if os.path.lexists(source):
        return False
    os.rename(aside, source)
    return True


def _remove_volume(client: Engine, name: str) -> bool:
    return client.ask(lambda sdk: sdk.remove_volume(name)).ok


def _is_there(process_id: str) -> bool:
    pid, _, start = process_id.partition(":")
    return pid.isdigit() and str(lease.start_time(int(pid))) == start


def _end(processes: list[str]) -> bool:
    """SIGKILL to processes that are still the ones that were written down."""
    for one in processes:
        if _is_there(one):
            os.kill(int(one.partition(":")[0]), signal.SIGKILL)
    return clock.wait_until(lambda: not any(_is_there(p) for p in processes), deadline=10)


def _loops() -> list[tuple[str, str]]:
    found = []
    for folder in sorted(Path("/sys/block").glob("loop*/loop")):
        try:
            backing = (folder / "backing_file").read_text().strip()
        except OSError:
            continue
        found.append((f"/dev/{folder.parent.name}", backing))
    return found


def _free(path: str) -> bool:
    """No loop device stands on this file, whether or not it still has its name."""
    return all(backing.removesuffix(" (deleted)") != path for _, backing in _loops())


def _is_mounted(device: str) -> bool:
    """In any mount namespace: some process sees it."""
    for mounts in Path("/proc").glob("[0-9]*/mounts"):
        try:
            if any(line.startswith(f"{device} ") for line in mounts.read_text().splitlines()):
                return True
        except OSError:
            continue
    return False


def _detach(device: str) -> bool:
    process.run(("losetup", "-d", device), deadline=10)
    return clock.wait_until(lambda: device not in dict(_loops()), deadline=5, every=0.02)


def _traces() -> list[tuple[str, str]]:
    """Tracing instances named by a probe that is gone: its pid stands in the name."""
    found = []
    for root in TRACING:
        try:
            names = sorted(os.listdir(f"{root}/instances"))
        except OSError:
            continue
        for name in names:
            match = re.match(rf"{LABEL}\b.*-(\d+)-\w+$", name)
            if match and not _is_probe(int(match.group(1))):
                found.append((name, f"{root}/instances/{name}"))
        break
    return found


def _is_probe(pid: int) -> bool:
    """A probe calls itself by our name; a pid that was given to somebody else does not."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(LABEL)
    except OSError:
        return False


def _default_engine() -> str:
    try:
        url = contexts.endpoint().url
    except EnvironmentInvalid:
        return ""
    # A far engine is asked only where a lease names it: `clean` must not wait for a network.
    return url if url.startswith("unix://") else ""
