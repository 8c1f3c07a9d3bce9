"""PID 1 of a pen: makes the pen's inside, starts what it is told, reaps, and takes all down.

Rule: a script of its own (standard library only, imports nothing of ours), run as
`unshare … python3 -I -S pen_init.py`. It decides nothing: mounts and processes are
what the owner's lines on standard input say. The end of standard input is the
owner's death or its order to leave: everything in the pen is killed, the file
systems and cgroups go, and so does the pen. That is a pipe and no PDEATHSIG,
because the latter follows the *thread* that forked.

One JSON object a line. In: the set-up first, then {"do": "start", …}. Out: {"up": …},
{"started": name, …}, {"ended": name, "status": raw wait status, …}, {"failed": …}.
Pids it says are the kernel's (as the owner's /proc shows them), never the pen's own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_MOVE, MS_REC, MS_SHARED = 4096, 8192, 16384, 1 << 20
MNT_DETACH = 2
# <linux/loop.h>
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LOOP_SET_DIRECT_IO = 0x4C82, 0x4C0A, 0x4C08
LO_FLAGS_AUTOCLEAR = 4
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(
    source: str | None,
    target: str,
    kind: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    encoded = [None if x is None else os.fsencode(x) for x in (source, target, kind)]
    extra = None if data is None else data.encode()
    if LIBC.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), extra) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {source} on {target}: {os.strerror(code)}")


def attach_loop(path: str) -> tuple[int, str]:
    """A loop device that clears itself with its last user; returns (fd, device path).

    The fd must stay open until the device is mounted, or autoclear comes too early.
    """
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    if not os.path.exists("/dev/loop-control"):
        # Where loop devices are a module that nobody has needed yet, or /dev is a container's.
        subprocess.run(["modprobe", "loop"], check=False)
        if not os.path.exists("/dev/loop-control"):
            os.mknod("/dev/loop-control", 0o660 | 0o020000, os.makedev(10, 237))
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(64):
            number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
            device = f"/dev/loop{number}"
            if not os.path.exists(device):
                os.mknod(device, 0o660 | 0o060000, os.makedev(7, number))
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            # struct loop_config: fd, block_size, loop_info64 (232 bytes), reserved[8]
            info = struct.pack(
                "QQQQQIIII64s64s32s2Q",
                0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR,
                os.fsencode(path)[:63], b"", b"", 0, 0,
            )  # fmt: skip
            try:
                fcntl.ioctl(loop, LOOP_CONFIGURE, struct.pack("II", backing, 0) + info + bytes(64))
            except OSError as error:
                os.close(loop)
                if error.errno != errno.EBUSY:  # EBUSY: another pen was quicker
                    raise
                continue
            try:
                # Without it every block sits in the page cache twice.
                fcntl.ioctl(loop, LOOP_SET_DIRECT_IO, 1)
            except OSError as error:
                note(f"direct I/O on the loop device: {error.strerror}")
            return loop, device
        raise OSError(errno.EBUSY, "no free loop device after 64 tries")
    finally:
        os.close(backing)
        os.close(control)


def make_inside(setup: dict[str, Any]) -> str:
    """Mounts, host name, loopback: what a fresh machine has before its first daemon."""
    run = setup["run"]
    # First, while the file's path is still the one outside. The device holds the file from
    # here on: without its name nothing on the host's disk outlives the pen.
    loop, device = attach_loop(setup["disk"])
    os.unlink(setup["disk"])
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # A /run of its own: containerd's shims put sockets at fixed places there. The pen's
    # directory alone is the same inside and outside. Built beside, then moved over.
    stage = os.path.join(run, "stage")
    os.makedirs(stage, exist_ok=True)
    mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    inside = stage + run[len("/run") :] if run.startswith("/run/") else None
    if inside:
        os.makedirs(inside)
        mount(run, inside, None, MS_BIND)
    os.mkdir(os.path.join(stage, "lock"))
    for part in ("etc", "etc-work"):
        os.mkdir(os.path.join(stage, part))
    mount(stage, "/run", None, MS_MOVE)
    # dockerd writes keys below /etc/docker: into a layer that dies with the pen. Names are
    # asked where an uplink answers, from the start, since dockerd remembers what it read.
    try:
        layers = "lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc-work"
        mount("overlay", "/etc", "overlay", 0, layers)
        if os.path.lexists("/etc/resolv.conf"):
            os.unlink("/etc/resolv.conf")
        with open("/etc/resolv.conf", "w") as f:
            f.write(f"nameserver {setup['resolver']}\n")
    except OSError as error:
        note(f"/etc stays the host's: {error}")
    try:
        mount(device, setup["data"], "ext4")
    finally:
        os.close(loop)
    mount(None, "/", None, MS_REC | MS_SHARED)  # as under systemd
    socket.sethostname(setup["hostname"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14s", b"lo", 0x41, b"")  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(s, 0x8914, request)  # SIOCSIFFLAGS
    return device


def note(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} init: {text}\n")
    sys.stderr.flush()


def say(**members: object) -> None:
    """A line to the owner; when nobody reads any more, the end of input follows."""
    try:
        os.write(1, json.dumps(members).encode() + b"\n")
    except OSError as error:
        note(f"could not say {members}: {error.strerror}")


def start(order: dict[str, Any], host_proc: int) -> tuple[int, int]:
    """Fork and exec one process into its cgroups; the kernel's pid, or raises."""
    ready, told = os.pipe()
    child = os.fork()
    if child:
        os.close(told)
        with os.fdopen(ready, "rb") as answer:
            said = answer.read()
        if b"!" in said or not said:
            os.waitpid(child, 0)
            raise OSError(said.partition(b"!")[2].decode() or "it died before its exec")
        return child, int(said)
    try:
        os.close(ready)
        os.setsid()
        for path in order.get("cgroups", ()):
            with open(path, "wb", 0) as f:
                f.write(b"0")
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            with open("/proc/self/oom_score_adj", "w") as f:
                f.write(str(order.get("oom", 0)))
        except OSError:
            note(f"{order['name']}: oom_score_adj stays as it is (no CAP_SYS_RESOURCE)")
        pid = os.readlink("self", dir_fd=host_proc)
        if order.get("pidfile"):
            beside = order["pidfile"] + ".new"
            with open(beside, "w") as f:
                f.write(pid + "\n")
            os.rename(beside, order["pidfile"])
        for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.set_wakeup_fd(-1)
        os.write(told, pid.encode())  # closed by exec (CLOEXEC): that is the end of it
        environment = {**os.environ, **order.get("env", {})}
        os.execvpe(order["argv"][0], order["argv"], environment)  # noqa: S606
    except BaseException as error:
        note(f"{order.get('name')}: {error}")
        try:
            os.write(told, f"!{error}".encode())
        finally:
            os._exit(127)


def reap(children: dict[int, tuple[str, int]]) -> bool:
    """Collect who ended; False when there is nobody left to wait for."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        name, kernel = children.pop(pid, (None, 0))
        if name is not None:
            at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            say(ended=name, pid=kernel, status=status, at=at)


def take_down(setup: dict[str, Any]) -> None:
    """Everything in the pen dies; then what has a name outside goes."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if not reap({}):
            break
        time.sleep(0.002)
    LIBC.umount2(os.fsencode(setup["data"]), MNT_DETACH)
    for top in setup["cgroups"]:
        for _ in range(50):
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    continue
            if not os.path.isdir(top):
                break
            time.sleep(0.002)  # the last exits are still being accounted
        else:
            note(f"{top} stays")


def main() -> None:
    host_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    waker, woken = os.pipe()
    for fd in (waker, woken):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    buffer = b""
    setup: dict[str, Any] | None = None
    children: dict[int, tuple[str, int]] = {}
    while True:
        readable, _, _ = select.select([0, waker], [], [])
        if waker in readable:
            os.read(waker, 4096)
            reap(children)
        if 0 not in readable:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        buffer += chunk
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            order = json.loads(line)
            try:
                if setup is None:
                    setup = order
                    device = make_inside(setup)
                    say(up=int(os.readlink("self", dir_fd=host_proc)), device=device)
                else:
                    pid, kernel = start(order, host_proc)
                    children[pid] = (order["name"], kernel)
                    say(started=order["name"], pid=kernel)
            except OSError as error:
                note(f"{order.get('name', 'set-up')}: {error}")
                say(failed=order.get("name", "set-up"), why=str(error))
            reap(children)
    if setup is not None:
        take_down(setup)


if __name__ == "__main__":
    main()
