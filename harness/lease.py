"""Who owns what: a directory per owner, locked for as long as the owner lives.

Rule: whatever the harness makes that outlives a process (cgroups, mounts, loop
files, containers, VMs) is written into a lease *before* it is made. The lock (flock)
decides who lives: the kernel drops it with the owner, however it ends. Boot id,
pid and start time say who it was, and end a lease whose directory outlived a
reboot. A lease that is alive is never touched by anybody else.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import process
from harness.errors import EnvironmentInvalid

_LOCK = "lease.lock"
_FILE = "lease.json"
_NEW = ".new-"


@dataclass(frozen=True, slots=True)
class Places:
    """Where state stands: `run` dies with a boot, `disk` is on a real file system."""

    run: Path
    disk: Path


def places() -> Places:
    """/run and /var/lib for root, the user's XDG directories else; DEATHBENCH_STATE moves both."""
    moved = os.environ.get("DEATHBENCH_STATE")
    if moved:
        return Places(Path(moved) / "run", Path(moved) / "disk")
    if os.geteuid() == 0 and os.path.isdir("/run"):
        return Places(Path("/run/deathbench"), Path("/var/lib/deathbench"))
    run = os.environ.get("XDG_RUNTIME_DIR")
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Places(
        Path(run or f"/tmp/deathbench-{os.geteuid()}") / ("deathbench" if run else "run"),  # noqa: S108
        Path(home) / "deathbench",
    )


def boot_id() -> str:
    """Identity of this boot; "" where the system has none to offer."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int | str = "self") -> int | None:
    """Start of a process in clock ticks since boot; None when there is none (or no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The name in brackets may hold anything, brackets and blanks too.
    return int(stat.rpartition(")")[2].split()[19])


@dataclass(frozen=True, slots=True)
class Record:
    """What a lease says, as anybody may read it.

    things: kind → names, e.g. {"cgroup": ["/deathbench-p1"], "file": ["/var/…"]}.
    """

    name: str
    folder: Path
    kind: str = "?"
    pid: int | None = None
    start: int | None = None
    boot: str = ""
    command: str = ""
    created: float = 0.0
    things: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Left on purpose, for somebody to look at: only `clean` ends it."""
        return "keeper" in self.things

    def who(self) -> str:
        """For a message."""
        return f"{self.kind} {self.name} (pid {self.pid}: {self.command or '?'})"


class Lease:
    """A held lease. Closing it without `release` leaves it to `clean`."""

    def __init__(self, name: str, folder: Path, kind: str, lock: int) -> None:
        self.name, self.folder, self.kind = name, folder, kind
        self._lock = lock
        self._created = time.time()
        self._things: dict[str, list[str]] = {}

    def owns(self, **things: str) -> None:
        """Write down what is about to be made."""
        for kind, value in things.items():
            known = self._things.setdefault(kind, [])
            if value not in known:
                known.append(value)
        self._save()

    def _save(self) -> None:
        body = {
            "name": self.name,
            "kind": self.kind,
            "pid": os.getpid(),
            "start": start_time(),
            "boot": boot_id(),
            "command": " ".join(_command())[:200],
            "created": self._created,
            "things": self._things,
        }
        beside = self.folder / (_FILE + ".new")
        beside.write_text(json.dumps(body))
        beside.replace(self.folder / _FILE)

    def release(self) -> None:
        """Everything is gone: the directory too. Safe to call twice."""
        if self._lock < 0:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.abandon()

    def keep(self, *descriptors: int) -> None:
        """Outlive this process: a keeper holds the lock and these descriptors until `clean`.

        For a machine that somebody wants to look at after the run has ended.
        """
        keeper = process.spawn(
            ("sleep", "infinity"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(self._lock, *descriptors),
        )
        self.owns(keeper=f"{keeper.pid}:{start_time(keeper.pid)}")
        os.close(self._lock)
        self._lock = -1

    def abandon(self) -> None:
        """Let go of the lock and leave the rest to `clean`."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _command() -> list[str]:
    try:
        raw = Path("/proc/self/cmdline").read_bytes()
    except OSError:
        return []
    return [x.decode(errors="replace") for x in raw.split(b"\0") if x]


def take(kind: str, *, where: Places | None = None, stem: str = "", name: str = "") -> Lease:
    """A new lease under a name that nobody has: `stem` and six hex digits.

    The directory appears under its name only when the lock is held, so that nobody takes
    a lease in the making for one without an owner.

    Raises:
        EnvironmentInvalid: the state directory can not be written, or `name` is taken.
    """
    run = (where or places()).run
    try:
        run.mkdir(mode=0o755, parents=True, exist_ok=True)
        name = name or f"{stem or kind[0]}{secrets.token_hex(3)}"
        fresh = run / f"{_NEW}{name}-{secrets.token_hex(3)}"
        fresh.mkdir(mode=0o755)
        lock = os.open(fresh / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lease = Lease(name, fresh, kind, lock)
        lease._save()  # noqa: SLF001
        try:
            os.rename(fresh, run / name)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            lease.abandon()
            raise
        lease.folder = run / name
    except OSError as error:
        raise EnvironmentInvalid(
            f"no lease in {run}: {error.strerror}",
            why="what a run makes is written down there, so that it can be removed after a crash",
            mend="make that directory writable, or set DEATHBENCH_STATE to another one",
        ) from error
    return lease


def records(where: Places | None = None) -> list[Record]:
    """Every lease there is, living or dead."""
    run = (where or places()).run
    try:
        folders = sorted(p for p in run.iterdir() if p.is_dir())
    except OSError:
        return []
    return [_read(folder) for folder in folders if not _being_made(folder)]


def _being_made(folder: Path) -> bool:
    """A lease that is a minute old and still has no name belongs to somebody who died."""
    if not folder.name.startswith(_NEW):
        return False
    try:
        return time.time() - folder.stat().st_mtime < 60
    except OSError:
        return True


def _read(folder: Path) -> Record:
    try:
        body: dict[str, Any] = json.loads((folder / _FILE).read_text())
        return Record(
            name=folder.name,
            folder=folder,
            kind=str(body["kind"]),
            pid=int(body["pid"]),
            start=body["start"],
            boot=str(body["boot"]),
            command=str(body["command"]),
            created=float(body["created"]),
            things={str(k): [str(x) for x in v] for k, v in body["things"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Record(name=folder.name, folder=folder)


def claim(record: Record) -> int | None:
    """Take over the lock of a dead lease; None when its owner lives (or somebody cleans it).

    The caller closes the descriptor when the things are gone. A lease of an earlier boot
    is dead whatever its lock says: nobody can hold it.
    """
    try:
        lock = os.open(record.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def remove(record: Record, lock: int) -> None:
    """Forget a dead lease whose things are gone; `lock` is what `claim` gave."""
    shutil.rmtree(record.folder, ignore_errors=True)
    os.close(lock)


def living(where: Places | None = None) -> list[Record]:
    """Leases whose owner is there."""
    alive = []
    for record in records(where):
        lock = claim(record)
        if lock is None:
            alive.append(record)
        else:
            os.close(lock)
    return alive
