"""QEMU: its command line, its monitor, and whether KVM really works here.

Rule: one process per call to `Qemu.start`; it is born, frozen, and killed here and knows
nothing of Docker. All its doors are a unix socket in the VM's own directory and one port
on 127.0.0.1 that the kernel chose.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import clock, process
from harness.errors import EnvironmentInvalid
from harness.machine import vm_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.machine import HostSaid

PROGRAM = "qemu-system-x86_64"
_KEEPER = Path(__file__).with_name("vm_keeper.py")
_SIGNALLED = "terminating on signal"
"""QEMU's own words where SIGTERM, SIGINT or SIGHUP ended it: it leaves with 0 all the same."""
_KVM_DEADLINE = 25.0
"""Under a KVM that works it takes some two seconds, and five more until it powers off."""


@functools.cache
def accelerator(kernel: Path, initrd: Path) -> str:
    """kvm where our own kernel really runs under it, else tcg.

    The device's existence says nothing (nested, forbidden or broken), and a few instructions
    say little: a KVM was seen that ran a boot sector and broke a kernel ("internal-error").
    So the kernel is booted without disks until its first process complains of that.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or platform.machine() != "x86_64":
        return "tcg"
    tried = process.run(
        (
            process.which(PROGRAM) or PROGRAM, "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-machine", "pc", "-accel", "kvm", "-cpu", "host",
            "-m", "256M", "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", "console=ttyS0 panic=-1", "-serial", "stdio",
        ),
        deadline=_KVM_DEADLINE,
    )  # fmt: skip
    return "kvm" if vm_image.NO_DISK.encode() in tried.out else "tcg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the guest is given. memory in bytes."""

    memory: int
    cpus: int
    root: Path
    data: Path
    kernel: Path
    initrd: Path
    arguments: str


def command(hardware: Hardware, folder: Path, accel: str) -> tuple[str, ...]:
    """argv. The network is QEMU's own user mode, shut (restrict), with one door for ssh.

    cache=unsafe: the disks are thrown away with the VM. What the guest has flushed survives
    a kill of QEMU (it lies in the host's memory); what it has not is lost, as in a power cut.
    """
    drives: list[str] = []
    for name, path, kind in (("root", hardware.root, "qcow2"), ("data", hardware.data, "raw")):
        drives += [
            "-drive",
            f"if=none,id={name},file={_comma(path)},format={kind},cache=unsafe,discard=unmap",
            "-device",
            f"virtio-blk-pci,drive={name},serial={name}",
        ]
    return (
        process.which(PROGRAM) or PROGRAM, "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "pc",
        "-accel", "tcg,thread=multi,tb-size=512" if accel == "tcg" else accel,
        "-cpu", "max" if accel == "tcg" else "host",
        "-smp", str(hardware.cpus), "-m", f"{hardware.memory >> 20}M",
        "-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd),
        "-append", hardware.arguments,
        *drives,
        "-netdev", "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22",
        "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci",
        "-chardev", f"file,id=console,path={_comma(folder / 'console.log')},append=on",
        "-serial", "chardev:console",
        "-qmp", f"unix:{_comma(folder / 'qmp.sock')},server=on,wait=off",
        "-rtc", "base=utc",
    )  # fmt: skip


def _signal(number: int) -> str:
    """
    >>> _signal(9), _signal(60)
    ('SIGKILL', 'signal 60')
    """
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _comma(path: Path) -> str:
    """QEMU splits options at commas; a doubled one stands for itself."""
    return str(path).replace(",", ",,")


class Qemu:
    """One running QEMU."""

    def __init__(self, hardware: Hardware, folder: Path, *, accel: str) -> None:
        self.hardware, self.folder = hardware, folder
        self.accel = accel
        self.pid = 0
        self._keeper: process.Child | None = None

    def start(self, end: int) -> int:
        """Begin to run, until `end` (clock.now); the port on 127.0.0.1 that leads to ssh.

        Raises:
            EnvironmentInvalid: QEMU does not start, with its own words.
        """
        (self.folder / "qmp.sock").unlink(missing_ok=True)
        argv = command(self.hardware, self.folder, self.accel)
        with (self.folder / "qemu.log").open("ab") as log:
            self._keeper = process.spawn(
                (sys.executable, "-I", "-S", str(_KEEPER), *argv), stderr=log
            )
        assert self._keeper.popen.stdout is not None
        said = self._keeper.popen.stdout.readline().split()
        if len(said) != 2:
            raise self._failed("it was not started")
        self.pid = int(said[1])
        while True:
            if not self._keeper.alive:
                raise self._failed(f"it ended with {self._keeper.code}")
            try:
                text = str(self.ask("human-monitor-command", {"command-line": "info usernet"}))
            except OSError as error:
                text = str(error)
            port = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", text)
            if port and int(port[1]):
                return int(port[1])
            if clock.now() > end:
                raise self._failed("its monitor does not answer")
            clock.RealClock().sleep(0.02)

    def _failed(self, what: str) -> EnvironmentInvalid:
        words = self._last_words(6)
        return EnvironmentInvalid(
            f"QEMU does not run: {what}", why="\n".join(words) or "it said nothing"
        )

    def _last_words(self, lines: int = 1) -> list[str]:
        said = (self.folder / "qemu.log").read_text(errors="replace")
        return said.strip().splitlines()[-lines:]

    # --- as this host sees it (`watch.Hypervisor`) ---

    def hypervisor(self) -> int | None:
        return self.pid or None

    def agent(self) -> None:
        """What holds it takes it along: it never runs on alone."""

    def end(self, pid: int | None) -> tuple[str, str]:
        """By its exit status and its own last line: a guest that powers off ends it with 0."""
        who = f"process {pid}, its hypervisor,"
        # The keeper has waited for it: its status is there as soon as it is gone.
        ended = self._keeper is not None and self._keeper.wait(5)
        code = self._keeper.code if self._keeper is not None and ended else None
        words = "; ".join(self._last_words())
        if code is None or code < 0:
            return "killed", f"{who} went with the process that held it"
        if code == 0 and _SIGNALLED not in words:
            return "shut-down", f"{who} left with 0: its guest powered off"
        how = f"was ended by {_signal(code - 128)}" if code > 128 else f"left with {code}"
        return "killed", f"{who} {how}" + (f": {words}" if words else "")

    def clock_steps(self) -> tuple[HostSaid, ...]:
        """Nobody on this host sets the guest's clock."""
        return ()

    @property
    def alive(self) -> bool:
        return self._keeper is not None and self._keeper.alive

    @property
    def pipe(self) -> int | None:
        """The descriptor whose end is QEMU's end."""
        pipe = self._keeper.popen.stdin if self._keeper is not None else None
        return None if pipe is None else pipe.fileno()

    @property
    def broken(self) -> bool:
        """The guest stopped because its virtual processor failed; it will not go on."""
        try:
            return bool(self.ask("query-status")["status"] == "internal-error")
        except (OSError, ValueError):
            return False

    def ask(self, what: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """One command of the monitor's language; what it returned.

        Raises:
            OSError: the monitor is not there, or says no.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(5)
            s.connect(str(self.folder / "qmp.sock"))
            with s.makefile("rwb") as line:
                for order in (
                    {"execute": "qmp_capabilities"},
                    {"execute": what, "arguments": dict(arguments or {})},
                ):
                    line.write(json.dumps(order).encode() + b"\n")
                line.flush()
                answers: list[Any] = []
                while len(answers) < 2:
                    raw = line.readline()
                    if not raw:
                        raise ConnectionResetError("the monitor hung up")
                    said = json.loads(raw)
                    if "error" in said:
                        raise OSError(f"{what}: {said['error'].get('desc')}")
                    if "return" in said:
                        answers.append(said["return"])
        return answers[1]

    def freeze(self) -> None:
        """All of it stands still, its clocks too, as under a closed lid.

        Not SIGSTOP: after that the guest's clock would make up for it.
        """
        self.ask("stop")

    def thaw(self) -> None:
        self.ask("cont")

    def kill(self) -> None:
        """Gone between two instructions. Twice does no harm."""
        if self._keeper is None:
            return
        self._keeper.end_of_input()
        if not self._keeper.wait(5):
            process.kill_session(self._keeper.popen)
        self._keeper.stop(grace=2)
        self._keeper = None
        self.pid = 0
