"""What runs on a Mac, as far as it can be known on another system."""

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import events as e
from harness import process
from harness.runner import maclog

SAMPLE = (Path(__file__).parent / "samples/macos/log-show.ndjson").read_bytes()

HIDDEN = """
import os, select, signal, socket, time, resource, pkgutil, importlib, sys
for module, names in {
    os: "pidfd_open setns unshare memfd_create eventfd splice sched_setscheduler sched_getscheduler"
        " sched_setaffinity sched_getaffinity sched_param SCHED_RR SCHED_OTHER SCHED_RESET_ON_FORK"
        " getrandom copy_file_range getxattr posix_fadvise",
    select: "epoll EPOLLIN EPOLLOUT EPOLLPRI EPOLLERR EPOLLHUP EPOLLET",
    signal: "pidfd_send_signal sigtimedwait sigwaitinfo",
    socket: "AF_NETLINK AF_VSOCK AF_PACKET SOCK_CLOEXEC SOCK_NONBLOCK",
    time: "CLOCK_BOOTTIME CLOCK_TAI",
    resource: "prlimit",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
import harness
inside = ("harness.probe", "harness.machine.pen_init", "harness.__main__", "harness.verbs.__main__")
failed = []
for found in pkgutil.walk_packages(harness.__path__, "harness."):
    if not found.name.startswith(inside):
        try:
            importlib.import_module(found.name)
        except Exception as error:
            failed.append(f"{found.name}: {error!r}")
from harness import clock
assert clock.now() > 0 and clock.asleep() is not None
clock.first_in_line(); clock.ahead()
sys.exit("\\n".join(failed) or 0)
"""


def test_nothing_that_only_linux_has_is_needed_to_import():
    """Everything but what runs inside a machine is imported without the names a Mac lacks."""
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def heard(monkeypatch, result):
    """What the post-mortem of a trial tells, its log command answered so."""
    asked, told = [], []

    def run(argv, *, deadline):
        asked.append((argv, deadline))
        return result(argv)

    monkeypatch.setattr(process, "run", run)
    # Half past the second, and a boot an hour before: 13:00:04.5 UTC.
    clock = SimpleNamespace(now=lambda: 3600 * 10**9, wall=lambda: 1795438804 * 10**9 + 5 * 10**8)
    common = {"t": 1, "seen": 1, "source": "runner", "clock": "harness"}
    stage = SimpleNamespace(
        clock=clock,
        began=3590 * 10**9,
        say=told.append,
        now=lambda: common,
        at=lambda t: {**common, "t": t},
    )
    maclog.hear(stage, deadline=7)
    return asked, told


def test_the_macs_log_goes_into_the_history(monkeypatch):
    """Lines that bear on the VM or on sleep, on the trial's clock; the rest is left out."""
    asked, told = heard(monkeypatch, lambda argv: process.Result(argv, 0, SAMPLE, b"", 0.1))
    ((argv, deadline),) = asked
    assert argv[:4] == ("/usr/bin/log", "show", "--style", "ndjson")
    assert argv[4:8] == ("--start", "2026-11-23 12:59:54+0000", "--end", "2026-11-23 13:00:05+0000")
    assert deadline == 7
    *lines, state = told
    assert [(x.what, x.text.partition(":")[0]) for x in lines] == [
        ("jetsam", "kernel[0]"),
        ("vm-stopped", "com.apple.Virtualization.VirtualMachine[512]"),
        ("sleep", "powerd[318]"),
    ]
    # 14:00:01.123456+0100 is 3.376544 s before now.
    assert lines[0].t == 3600 * 10**9 - 3376544 * 1000
    assert (state.name, state.state) == ("host-log", "active")


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (lambda a: process.Result(a, 64, b"", b"log: bad predicate", 0.1), "bad predicate"),
        (lambda a: process.Result(a, -9, b"", b"", 7.0, timed_out=True), "no end after"),
        (lambda a: process.Result(a, 0, SAMPLE * 200, b"", 0.1), "more than 500 lines"),
    ],
)
def test_a_log_that_was_not_read_whole_is_a_gap(monkeypatch, result, why):
    """It says so, for the whole trial; what was read counts all the same."""
    _, told = heard(monkeypatch, result)
    gaps = [x for x in told if isinstance(x, e.Gap)]
    assert len(gaps) == 1
    assert why in gaps[0].why
    assert (gaps[0].begin, gaps[0].end) == (3590 * 10**9, 3600 * 10**9)
    assert len([x for x in told if isinstance(x, e.HostLine)]) <= maclog.LINES


def test_only_a_mac_is_asked(monkeypatch):
    """Elsewhere there is no such log."""
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert not maclog.applies()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert maclog.applies()
