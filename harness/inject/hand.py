"""The experimenter's hand inside the machine: `python3 -c THIS '{"do": …}'` as root.

Rule: standard library only, Python 3.8, imports nothing of ours; it runs in the machine's
own namespaces and its pids are the ones the engine says. One order a call; what it did is
one JSON line; what it could not do is an exit code and words on standard error. Whoever
is told to last carries `token` on its command line, so that `end` finds it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Order = Any

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1


def check(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter(pid: int, kind: str, flag: int) -> None:
    """Into one namespace of a process."""
    space = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
    check(LIBC.setns(space, flag), f"entering the {kind} namespace of {pid}")
    os.close(space)


# --- signals, freezing --------------------------------------------------------------


def do_signal(order: Order) -> Order:
    name = order["signal"]
    if name.isdigit():
        number = int(name)
    else:
        short = name[3:] if name.startswith("SIG") else name  # noqa: FURB188 - Python 3.8
        if short.startswith("RTMIN+"):
            number = signal.SIGRTMIN + int(short[6:])
        else:
            number = getattr(signal, "SIG" + short)
    os.kill(order["pid"], number)
    return {"sender": os.getpid()}


def processes() -> Iterator[tuple[int, list[bytes]]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as f:
                    yield int(entry), f.read().split(b"\0")
            except OSError:
                continue


def do_shim(order: Order) -> Order:
    """SIGKILL, SIGSTOP or SIGCONT to the shim of a container."""
    wanted = order["container"].encode()
    for pid, argv in processes():
        if b"containerd-shim" in argv[0] and wanted in argv:
            os.kill(pid, getattr(signal, "SIG" + order["signal"]))
            return {"pid": pid}
    raise OSError(0, "no shim of {} is running".format(order["container"][:12]))


def carries(argv: list[bytes], token: str) -> bool:
    """Its order has this token and is not the order to end: the last argument is the order."""
    try:
        order = json.loads([a for a in argv if a][-1])
        return bool(order["token"] == token and order["do"] != "end")
    except (ValueError, LookupError, TypeError):
        return False


def do_end(order: Order) -> Order:
    """Kill whoever carries this token, and take the cgroups away that were made for them."""
    killed = 0
    for _ in range(100):
        left = [pid for pid, argv in processes() if carries(argv, order["token"])]
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except OSError:
                continue
        time.sleep(0.02)
    for _ in range(50):
        if not [f for f in order["cgroups"] if not removed(f)]:
            break
        time.sleep(0.02)  # the last exits are still being accounted
    return {"killed": killed}


def removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


# --- cgroups ------------------------------------------------------------------------


def trees() -> dict[str, str]:
    """controller -> mount point; version 2's one tree under ""."""
    found: dict[str, str] = {}
    with open("/proc/self/mounts") as f:
        for line in f:
            parts = line.split()
            if parts[2] == "cgroup2" and parts[1] == "/sys/fs/cgroup":
                return {"": parts[1]}
            if parts[2] == "cgroup":
                for option in parts[3].split(","):
                    found.setdefault(option, parts[1])
    return found


def home(pid: int) -> dict[str, str]:
    """controller -> directory of the cgroup a process is in."""
    where = trees()
    found: dict[str, str] = {}
    with open(f"/proc/{pid}/cgroup") as f:
        for line in f:
            _, names, path = line.rstrip("\n").split(":", 2)
            for name in names.split(","):
                if name in where:
                    found[name] = where[name] + path
    return found


def do_freeze(order: Order) -> Order:
    groups = home(order["pid"])
    path = (groups[""] + "/cgroup.freeze") if "" in groups else groups["freezer"] + "/freezer.state"
    on = order["on"]
    text = ("1" if on else "0") if "" in groups else ("FROZEN" if on else "THAWED")
    with open(path, "w") as f:
        f.write(text)
    return {"file": path}


def do_thaw(order: Order) -> Order:
    """By the file itself: the process may be gone."""
    if os.path.exists(order["file"]):
        with open(order["file"], "w") as f:
            f.write("0" if order["file"].endswith("cgroup.freeze") else "THAWED")
    return {}


def do_groups(order: Order) -> Order:
    """A leaf below the parent of a process's cgroup, or below `cgroup`: the directories made.

    A leaf, since version 2 allows no process beside child cgroups. `limit` is the strictest
    limit on processes above it, None when there is none.
    """
    where = trees()
    made = []
    if order.get("cgroup") is not None:
        tops = {c: t + order["cgroup"] for c, t in where.items()}
    else:
        tops = {c: os.path.dirname(g) for c, g in home(order["pid"]).items()}
    limit = None
    for controller, top in sorted(tops.items()):
        if controller not in {"", "memory", "cpu", "cpuacct", "cpuset", "pids", "freezer"}:
            continue
        if controller in {"", "pids"}:
            limit = strictest(top, where[controller])
        leaf = top.rstrip("/") + "/" + order["leaf"]
        if not os.path.isdir(leaf):
            os.mkdir(leaf)
            made.append(leaf)
        if controller == "cpuset":
            for part in ("cpuset.mems", "cpuset.cpus"):
                with open(top + "/" + part) as f:
                    text = f.read().strip()
                with open(leaf + "/" + part, "w") as f:
                    f.write(text)
    return {"cgroups": made, "limit": limit}


def strictest(folder: str, top: str) -> int | None:
    limit = None
    while len(folder) > len(top):
        try:
            with open(folder + "/pids.max") as f:
                text = f.read().strip()
        except OSError:
            text = "max"
        if text.isdigit():
            limit = min(limit or 1 << 30, int(text))
        folder = os.path.dirname(folder)
    return limit


def join(order: Order) -> None:
    for folder in order["cgroups"]:
        with open(folder + "/cgroup.procs", "w") as f:
            f.write("0")


# --- loads --------------------------------------------------------------------------

PIECE = 16 << 20


def do_memory(order: Order) -> Order:
    """Many processes of 16 MiB in place of a big one: the kernel takes the biggest it finds."""
    join(order)
    rest = order["size"]
    children = []
    while rest > 0:
        size = min(rest, PIECE)
        rest -= size
        pid = os.fork()
        if pid == 0:
            # The OOM killer may choose the parent: nobody would end its children then.
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            block = bytearray(size)
            for at in range(0, size, 4096):
                block[at] = 1
            signal.pause()
            os._exit(0)
        children.append(pid)
    time.sleep(order["seconds"])
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return None


def do_cpu(order: Order) -> Order:
    join(order)
    end = time.monotonic() + order["seconds"]
    for _ in range(order["count"] - 1):
        if os.fork() == 0:
            break
    while time.monotonic() < end:
        pass
    return None


def do_pids(order: Order) -> Order:
    """Fork until no more can be made; never more than the limit says there can be."""
    join(order)
    for _ in range(order["limit"] + 1):
        try:
            if os.fork() == 0:
                signal.pause()
                os._exit(0)
        except OSError:
            break
    time.sleep(order["seconds"])
    return {}


def do_files(order: Order) -> Order:
    """Lower a process's limit on open files below whatever it may close; the old limits.

    A new file gets the lowest free number, and a server's connections come and go: only the
    three that every process keeps are sure to stay open.
    """
    pid = order["pid"]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    soft = order.get("soft")
    if soft is None:
        soft = 3
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, before[1]))
    return {"soft": before[0], "now": soft}


# --- mounts, disks, sources ---------------------------------------------------------


def do_unmount(order: Order) -> Order:
    enter(order["pid"], "mnt", 0x20000)
    check(
        LIBC.umount2(order["target"].encode(), MNT_DETACH if order["lazy"] else 0),
        "unmounting {}".format(order["target"]),
    )
    return {}


def do_read_only(order: Order) -> Order:
    enter(order["pid"], "mnt", 0x20000)
    check(
        LIBC.mount(
            None,
            order["target"].encode(),
            None,
            ctypes.c_ulong(MS_REMOUNT | MS_BIND | MS_RDONLY),
            None,
        ),
        "remounting {}".format(order["target"]),
    )
    return {}


def do_fill(order: Order) -> Order:
    """Take all but `free` bytes of a file system, with a file of ours."""
    folder = order["folder"]
    if order.get("pid"):
        folder = "/proc/{}/root{}".format(order["pid"], folder)
    path = folder.rstrip("/") + "/" + order["name"]
    facts = os.statvfs(folder)
    if order.get("most") and facts.f_bavail * facts.f_frsize > order["most"]:
        raise OSError(
            0,
            "{} bytes are free there, more than may be taken ({})".format(
                facts.f_bavail * facts.f_frsize, order["most"]
            ),
        )
    if os.path.realpath(path) != os.path.realpath(folder) + "/" + order["name"]:
        raise OSError(0, f"{path} leads elsewhere")
    taken = 0
    with open(path, "wb", 0) as f:
        want = facts.f_bavail * facts.f_frsize - order["free"]
        while want > 0:
            try:
                os.posix_fallocate(f.fileno(), taken, want)
                taken += want
                break
            except OSError:
                want //= 2
        if order["free"] == 0:
            block = bytes(1 << 20)
            f.seek(taken)
            try:
                while True:
                    taken += f.write(block)
            except OSError:
                pass
    return {"path": path, "taken": taken}


def do_inodes(order: Order) -> Order:
    """Empty files until no more can be made."""
    folder = order["folder"].rstrip("/") + "/" + order["name"]
    os.makedirs(folder)
    end = time.monotonic() + order["seconds"]
    count = 0
    try:
        while time.monotonic() < end:
            if count % 10000 == 0:
                part = f"{folder}/{count}"
                os.mkdir(part)
            os.close(os.open(f"{part}/{count}", os.O_CREAT | os.O_WRONLY))
            count += 1
    except OSError:
        return {"path": folder, "count": count}
    raise OSError(
        0,
        "{} inodes were made in {} s and there are more: ask for a disk with fewer"
        " (machine.inodes)".format(count, order["seconds"]),
    )


def do_remove(order: Order) -> Order:
    path = order["path"]
    if os.path.isdir(path) and not os.path.islink(path):
        for base, folders, files in os.walk(path, topdown=False):
            for name in files:
                os.unlink(os.path.join(base, name))
            for name in folders:
                os.rmdir(os.path.join(base, name))
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)
    return {}


def do_take_source(order: Order) -> Order:
    """A bind's source loses its inode; what it held waits beside it, untouched.

    Moving a directory away would take the mount with it. So its entries move and the empty
    directory is removed: the mount then shows what a deleted source shows.
    """
    source, aside = order["source"].rstrip("/"), order["aside"]
    facts = os.lstat(source)
    if stat.S_ISDIR(facts.st_mode):
        os.mkdir(aside, 0o700)
        for name in os.listdir(source):
            os.rename(source + "/" + name, aside + "/" + name)
        os.rmdir(source)
        os.chmod(aside, stat.S_IMODE(facts.st_mode))
        os.chown(aside, facts.st_uid, facts.st_gid)
        if order["replace"]:
            os.mkdir(source)
    else:
        with open(source, "rb") as old, open(aside, "wb") as new:
            new.write(old.read())
        os.chmod(aside, stat.S_IMODE(facts.st_mode))
        os.chown(aside, facts.st_uid, facts.st_gid)
        os.unlink(source)
        if order["replace"]:
            open(source, "wb").close()
    return {}


def do_give_source(order: Order) -> Order:
    """Undo: what was put aside is the source again."""
    source, aside = order["source"].rstrip("/"), order["aside"]
    if not os.path.lexists(aside):
        return {}
    if os.path.isdir(source) and not os.path.islink(source):
        # The engine may have made an empty one, and a container may have written into ours.
        for name in os.listdir(source):
            if not os.path.lexists(aside + "/" + name):
                os.rename(source + "/" + name, aside + "/" + name)
        do_remove({"path": source})
    elif os.path.lexists(source):
        os.unlink(source)
    os.rename(aside, source)
    return {}


# --- network, clock -----------------------------------------------------------------


def links() -> str:
    said = subprocess.run(
        ["ip", "-o", "link", "show", "type", "veth"], stdout=subprocess.PIPE, check=True
    )
    return said.stdout.decode()


def do_veth(order: Order) -> Order:
    """Delete the machine's ends of a container's links: from inside, each names its peer's index."""
    peers = set()
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    enter(order["pid"], "net", 0x40000000)
    listed = links()
    check(LIBC.setns(here, 0x40000000), "coming back")
    for match in re.finditer(r"@if(\d+):", listed):
        peers.add(match.group(1))
    gone = []
    for line in links().splitlines():
        named = re.match(r"(\d+): ([^@:]+)", line)
        if named and named.group(1) in peers:
            subprocess.run(["ip", "link", "del", named.group(2)], check=True)
            gone.append(named.group(2))
    if not gone:
        raise OSError(0, "the container has no link to the machine")
    return {"deleted": gone}


def do_clock(order: Order) -> Order:
    time.clock_settime(time.CLOCK_REALTIME, time.time() + order["step"])
    return {}


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    order = json.loads(sys.argv[1])
    try:
        answer = globals()["do_" + order["do"].replace("-", "_")](order)
    except Exception as error:
        sys.stderr.write("%s\n" % (getattr(error, "strerror", None) or error))
        sys.exit(1)
    if answer is not None:
        say(answer)


if __name__ == "__main__":
    main()
