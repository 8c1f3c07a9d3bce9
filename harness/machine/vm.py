"""A VM of our own on Linux: QEMU, Debian's cloud kernel, systemd, dockerd; under KVM or without.

Rule: what makes a VM a machine stands here; its image in `vm_image`, the QEMU process in
`vm_qemu`. It is reached as a colima machine is: one shared ssh connection for commands and
for the engine's socket, another one for the probe alone. Nothing of it is reachable from
outside this host, it reaches nothing, and it ends with the harness.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from harness import clock, lease, process
from harness.errors import EnvironmentInvalid
from harness.machine import guest, vm_image, vm_qemu
from harness.machine.supply import beyond, make_disk, turn_down
from harness.machine.virtual import Virtual

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.machine import MachineFacts

PACKAGES = ("qemu-system-x86", "qemu-utils", "debootstrap", "openssh-client", "e2fsprogs")
_PROGRAMS = {
    vm_qemu.PROGRAM: "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "debootstrap": "debootstrap",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mkfs.ext4": "e2fsprogs",
}
_SMALLEST_MEMORY = 320 << 20
_ALIAS = "deathbench-vm"
_DEFAULT_MEMORY, _DEFAULT_CPUS, _DEFAULT_DISK = 2 << 30, 2, 10 << 30

_ENGINE_OPTIONS: Mapping[str, Any] = {
    # As colima has it: containers stand in /docker/<id>.
    "exec-opts": ["native.cgroupdriver=cgroupfs"],
    # Nothing behind this bridge leads outside: no rules, no proxies, no time lost.
    "iptables": False,
    "ip-masq": False,
    "userland-proxy": False,
}


class Vm(Virtual):
    """One VM.

    Args:
        memory: Bytes; the guest sees some 3 % less. None: 2 GiB.
        cpus: Whole processors. None: 2, or what the host has.
        disk: Bytes of the engine's own disk; None: 10 GiB (sparse).
        inodes: Inode count of that disk.
        engine_options: Members of dockerd's configuration file.
        cgroup: 2, or 1 for the older hierarchies.
        accel: "kvm" or "tcg"; None finds out which works.
        start_deadline: Seconds until its engine must answer; the image is not counted.
    """

    kind = "vm"

    def __init__(
        self,
        *,
        memory: int | None = None,
        cpus: float | None = None,
        disk: int | None = None,
        inodes: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
        cgroup: int = 2,
        accel: str | None = None,
        places: lease.Places | None = None,
        cache: Path = vm_image.CACHE,
        start_deadline: float = 240.0,
    ) -> None:
        self.memory = memory if memory is not None else _DEFAULT_MEMORY
        self.cpus = int(cpus) if cpus is not None else min(_DEFAULT_CPUS, os.cpu_count() or 1)
        self.disk = disk if disk is not None else _DEFAULT_DISK
        self._check = partial(refuse, memory=memory, cpus=cpus, disk=disk, inodes=inodes)
        self.inodes = inodes
        self.engine_options = dict(engine_options or {})
        self.cgroup, self.accel, self.cache = cgroup, accel, cache
        self.start_deadline = start_deadline
        self.name = "vm"
        self.port = 0
        self._places = places or lease.places()
        self._lease: lease.Lease | None = None
        self._qemu: vm_qemu.Qemu | None = None

    # --- up ---------------------------------------------------------------------

    def start(self) -> None:
        """Up and answering, or EnvironmentInvalid and nothing left."""
        self.stop()
        self._check(places=self._places)
        image = vm_image.ensure(self.cache, say=lambda words: print(words, file=sys.stderr))
        try:
            self._lease = lease.take("vm", where=self._places, stem="v")
            self.name = self._lease.name
            self._lease.owns(file=str(self._overlay))
            self._lease.owns(file=str(self._data))
            self._make_disks(image)
            self._make_keys()
            self._make_first(image)
            self._boot(image)
        except BaseException:
            self.stop()
            raise

    @property
    def run(self) -> Path:
        """Its directory on this host."""
        return self._places.run / self.name

    @property
    def _overlay(self) -> Path:
        return self._places.disk / f"{self.name}.qcow2"

    @property
    def _data(self) -> Path:
        return self._places.disk / f"{self.name}.ext4"

    def _make_disks(self, image: vm_image.Image) -> None:
        make_disk(self._data, self.disk, self.inodes)
        made = process.run(
            (
                process.which("qemu-img") or "qemu-img", "create", "-q", "-f", "qcow2",
                "-b", str(image.disk), "-F", "raw", str(self._overlay),
            ),
            deadline=30,
        )  # fmt: skip
        if not made.ok:
            raise EnvironmentInvalid("no disk for the VM", why=made.why(), where=str(self._overlay))

    def _make_keys(self) -> None:
        for name in ("key", "host_key"):
            made = process.run(
                (
                    "ssh-keygen",
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-C",
                    "",
                    "-f",
                    str(self.run / name),
                ),
                deadline=30,
            )
            if not made.ok:
                raise EnvironmentInvalid("no key for the VM's ssh", why=made.why())

    def _make_first(self, image: vm_image.Image) -> None:
        options = {**_ENGINE_OPTIONS, **self.engine_options}
        files = {
            "etc/hostname": (0o644, f"{self.name}\n".encode()),
            "etc/machine-id": (0o444, os.urandom(16).hex().encode() + b"\n"),
            "etc/docker/daemon.json": (0o644, json.dumps(options).encode()),
            "etc/ssh/ssh_host_ed25519_key": (0o600, (self.run / "host_key").read_bytes()),
            "root/.ssh/authorized_keys": (0o600, (self.run / "key.pub").read_bytes()),
        }
        (self.run / "initrd").write_bytes(image.initrd.read_bytes() + vm_image.first_files(files))

    def _boot(self, image: vm_image.Image) -> None:
        assert self._lease is not None
        end = clock.now() + int(self.start_deadline * clock.NS)
        hardware = vm_qemu.Hardware(
            memory=self.memory, cpus=self.cpus, root=self._overlay, data=self._data,
            kernel=image.kernel, initrd=self.run / "initrd", arguments=self._arguments(),
        )  # fmt: skip
        self.accel = self.accel or vm_qemu.accelerator(image.kernel, image.initrd)
        self._qemu = vm_qemu.Qemu(hardware, self.run, accel=self.accel)
        self.port = self._qemu.start(end)
        self._lease.owns(process=f"{self._qemu.pid}:{lease.start_time(self._qemu.pid)}")
        self._write_ssh_config()
        wait = self._waiter(end)
        wait("its ssh does not answer", self._greets)
        self._guest = guest.Guest(self.run / "ssh.config", _ALIAS, self.run)
        self._guest.open(wait)
        self._witness(self._qemu)

    def _dead(self) -> str:
        if self._qemu is None or not self._qemu.alive:
            return "QEMU ended"
        return "its virtual processor failed (internal error)" if self._qemu.broken else ""

    def _arguments(self) -> str:
        """The kernel's command line. printk below "warning" stays off the (slow) console."""
        return " ".join(
            (
                "console=ttyS0 loglevel=5 psi=1 net.ifnames=0 random.trust_cpu=on mitigations=off",
                "apparmor=0 selinux=0 audit=0 swapaccount=1 systemd.show_status=0",
                # Grace periods are what an emulated machine spends its seconds on.
                "rcupdate.rcu_expedited=1 preempt=none nowatchdog",
                # Hardening that costs twice where every access is computed.
                "init_on_alloc=0 nosmap no5lvl kfence.sample_interval=0",
                # The emulated TSC is the host's time: the kernel need not doubt it.
                "tsc=reliable",
                "systemd.unified_cgroup_hierarchy=" + ("1" if self.cgroup == 2 else "0"),
            )
        )

    def _write_ssh_config(self) -> None:
        public = (self.run / "host_key.pub").read_text().split()
        (self.run / "known_hosts").write_text(f"{_ALIAS} {public[0]} {public[1]}\n")
        (self.run / "ssh.config").write_text(
            f"Host {_ALIAS}\n  HostName 127.0.0.1\n  HostKeyAlias {_ALIAS}\n  Port {self.port}\n"
            f"  User root\n  IdentityFile {self.run}/key\n  IdentitiesOnly yes\n  BatchMode yes\n"
            f"  UserKnownHostsFile {self.run}/known_hosts\n  StrictHostKeyChecking yes\n"
            "  GSSAPIAuthentication no\n  PreferredAuthentications publickey\n  Compression no\n"
            "  LogLevel ERROR\n"
        )

    def _greets(self) -> bool:
        """QEMU takes every connection; only the guest's sshd says its name."""
        with socket.socket() as s:
            s.settimeout(3)
            try:
                s.connect(("127.0.0.1", self.port))
                return s.recv(4) == b"SSH-"
            except OSError:
                return False

    def _failed(self, what: str) -> EnvironmentInvalid:
        return EnvironmentInvalid(
            f"the VM {self.name} did not come up: {what}",
            why=self.last_words() or "its console said nothing",
            mend="inv doctor says what a VM needs; more memory and a quieter host help"
            + (" (this one is emulated: no working KVM here)" if self.accel == "tcg" else ""),
        )

    def last_words(self, lines: int = 8) -> str:
        """The ends of QEMU's own log, ssh's and the console's."""
        parts = []
        for name in ("qemu.log", "ssh.log", "console.log"):
            try:
                text = (self.run / name).read_text(errors="backslashreplace")
            except OSError:
                continue
            parts += [f"{name[:-4]}: {line}" for line in text.strip().splitlines()[-lines:]]
        return "\n".join(parts)

    # --- down -------------------------------------------------------------------

    def stop(self) -> None:
        """QEMU is killed and everything of it goes: its disks are nobody's. Twice does no harm."""
        self._hang_up()
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu = None
        if self._lease is not None:
            self._overlay.unlink(missing_ok=True)
            self._data.unlink(missing_ok=True)
            self._lease.release()
            self._lease = None
        self.port = 0

    def keep(self) -> None:
        """Leave it running when this process ends; `clean` removes it."""
        self._look_away()
        pipe = self._qemu.pipe if self._qemu is not None else None
        if self._lease is not None and pipe is not None:
            self._lease.keep(pipe)
            if self._guest is not None:
                self._guest.release()
            self._lease = self._qemu = self._guest = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what it is ---------------------------------------------------------------

    @property
    def pids(self) -> dict[str, int]:
        """Of the daemons, in the guest's numbers."""
        names = ("dockerd", "containerd")
        return {name: pid for name in names if (pid := self.inside.main_pid(name))}

    @property
    def qemu_pid(self) -> int:
        """Of the process that is the machine; 0 where none runs."""
        return 0 if self._qemu is None else self._qemu.pid

    def facts(self) -> MachineFacts:
        found = self.inside.facts(self.kind, accelerator=self.accel or "?")
        asked = {key: size for key, size in self._check.keywords.items() if size is not None}
        return dataclasses.replace(found, asked=asked)

    # --- what only a VM can suffer ------------------------------------------------

    def freeze(self) -> None:
        """Its processors and all its clocks stand still until `thaw`."""
        self._running().freeze()

    def thaw(self) -> None:
        self._running().thaw()

    def power_cut(self) -> None:
        """Memory is gone between two instructions; the disks stay as they were flushed.

        The power returns at once and the guest boots again, under another boot id;
        connections are made again by themselves.

        Raises:
            EnvironmentInvalid: it does not run.
        """
        try:
            self._running().ask("system_reset")
        except OSError as error:
            raise EnvironmentInvalid("the VM can not be reset", why=str(error)) from error
        self.inside.hang_up()

    def _running(self) -> vm_qemu.Qemu:
        if self._qemu is None or not self._qemu.alive:
            raise EnvironmentInvalid(f"the VM {self.name} does not run", why=self.last_words())
        return self._qemu


def missing() -> dict[str, str]:
    """Programs a VM needs that are not here → the Debian package that has them."""
    return {p: package for p, package in _PROGRAMS.items() if process.which(p) is None}


def why_not() -> str:
    """Why there can be no VM here; "" when there can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"a VM needs Linux on x86_64, this is {platform.system()} on {platform.machine()}"
    lacking = missing()
    if vm_image.cached():
        lacking.pop("debootstrap", None)
    if lacking:
        packages = " ".join(sorted(set(lacking.values())))
        return (
            f"{', '.join(sorted(lacking))} not found"
            f" (apt-get install --no-install-recommends {packages})"
        )
    if os.geteuid() != 0:
        return "a VM needs root: its image is made by debootstrap"
    return ""


def refuse(
    *,
    memory: int | None = None,
    cpus: float | None = None,
    disk: int | None = None,
    inodes: int | None = None,
    places: lease.Places | None = None,
) -> None:
    """Refuse what this host can not give, with the numbers, before anything is made.

    Raises:
        EnvironmentInvalid: all reasons at once.
    """
    why = beyond(
        memory=memory,
        cpus=cpus,
        disk=disk,
        inodes=inodes,
        least=(_SMALLEST_MEMORY, "kernel, systemd and the engine do not come up in less"),
        places=places,
    )
    if cpus is not None and cpus != int(cpus):
        why.append(f"{cpus:g} CPUs asked for: a VM has whole processors (a pen takes fractions)")
    turn_down(why)
