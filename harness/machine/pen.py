"""A pen: a private engine in namespaces of its own, under memory, CPU and disk limits.

Rule: what makes a pen a machine stands here, what runs inside as PID 1 in
`pen_init.py`, cgroup files in `cgroups.py`. Nothing of the host's engine, bridge,
firewall or disk is touched: mounts, network and processes live in namespaces that
end with the init, the disk is a file that loses its name as soon as it is mounted,
and the lease names the rest (one cgroup, one directory below /run).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness import clock, lease, process
from harness.errors import EnvironmentInvalid
from harness.machine import LABEL, MachineFacts, ProbeSite, cgroups, leftovers, look, supply, uplink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGES = ("docker.io", "busybox-static", "iproute2", "iptables", "e2fsprogs", "util-linux")
"""What a pen needs of a Debian system (util-linux is essential there: unshare, nsenter)."""

_PROGRAMS = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "mkfs.ext4": "e2fsprogs",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "iptables": "iptables",
}
_INIT = Path(__file__).with_name("pen_init.py")
_DAEMONS = "daemons"


class Pen:
    """One private engine.

    Args:
        memory, disk: Bytes; None is "as much as there is" for memory and 10 GiB for the disk.
        cpus: Processors, may be a fraction.
        cpuset: Which processors, as the kernel writes it ("0-1").
        inodes: Inode count of the disk.
        pids: Process limit over everything in the pen.
        engine_options: Members of dockerd's configuration file, e.g. {"live-restore": True}.
        start_deadline: Seconds until its engine must answer.
    """

    kind = "pen"

    def __init__(
        self,
        *,
        memory: int | None = None,
        cpus: float | None = None,
        disk: int | None = None,
        cpuset: str | None = None,
        inodes: int | None = None,
        pids: int | None = None,
        engine_options: Mapping[str, Any] | None = None,
        places: lease.Places | None = None,
        start_deadline: float = 30.0,
    ) -> None:
        self.limits = cgroups.Limits(memory=memory, cpus=cpus, cpuset=cpuset, pids=pids)
        self.disk = disk if disk is not None else 10 << 30
        self.asked_disk, self.inodes = disk, inodes
        self.engine_options = dict(engine_options or {})
        self.start_deadline = start_deadline
        self.name = "pen"
        self.init_pid: int | None = None
        self._places = places or lease.places()
        self._lease: lease.Lease | None = None
        self._layout: cgroups.Layout | None = None
        self._child: process.Child | None = None
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._pids: dict[str, int] = {}
        self._procs: list[Path] = []
        self._uplink: uplink.Uplink | None = None

    # --- up ---------------------------------------------------------------------

    def start(self) -> None:
        """Up and answering, or EnvironmentInvalid and nothing left."""
        self.stop()
        supply.refuse(self.limits, disk=self.asked_disk, inodes=self.inodes, places=self._places)
        # What a killed run left holds memory and disk that this one is about to ask for.
        leftovers.clean(where=self._places, engines=False)
        try:
            self._start(clock.now() + int(self.start_deadline * clock.NS))
        except BaseException:
            self.stop()
            raise

    def _start(self, end: int) -> None:
        self._layout = cgroups.layout()
        self._lease = lease.take("pen", where=self._places, stem="p")
        self.name = self._lease.name
        disk = self._places.disk / f"{self.name}.ext4"
        self._lease.owns(cgroup=self.cgroup, file=str(disk))
        supply.make_disk(disk, self.disk, self.inodes)
        self._procs = cgroups.make(self._layout, self.cgroup, self.limits, leaf=_DAEMONS)
        for part in ("data", "logs"):
            (self.run / part).mkdir()
        self._start_init(disk, end)
        self._start_containerd(end)
        self._start_dockerd(end)

    def _start_init(self, disk: Path, end: int) -> None:
        assert self._layout is not None
        with (self.run / "logs/init.log").open("ab") as log:
            # A slave of the host's mounts: what the host unmounts goes here too and is not held
            # for the pen's life; nothing that is mounted in the pen reaches the host.
            self._child = process.spawn(
                (
                    process.which("unshare") or "unshare",
                    "--mount", "--pid", "--net", "--uts", "--ipc",
                    "--propagation", "slave", "--fork", "--kill-child=SIGKILL", "--",
                    sys.executable, "-I", "-S", str(_INIT),
                ),
                stderr=log,
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            )  # fmt: skip
        self._said = queue.Queue()
        threading.Thread(
            target=_listen, args=(self._child, self._said), name=f"{self.name}-init", daemon=True
        ).start()
        self._tell(
            run=str(self.run),
            data=str(self.run / "data"),
            disk=str(disk),
            hostname=self.name,
            resolver=uplink.RESOLVER,
            cgroups=[str(p) for p in self._layout.tops(self.cgroup)],
        )
        up = self._hear("up", end)
        self.init_pid = int(up["up"])
        assert self._lease is not None
        self._lease.owns(process=f"{self.init_pid}:{lease.start_time(self.init_pid)}")

    def _start_containerd(self, end: int) -> None:
        run = self.run
        (run / "containerd.toml").write_text(_CONTAINERD.format(run=run))
        self._spawn("containerd", "containerd", ("--config", str(run / "containerd.toml")), end)
        self._await_socket("containerd", run / "containerd.sock", end)

    def _start_dockerd(self, end: int) -> None:
        run = self.run
        options: dict[str, Any] = {
            "data-root": str(run / "data/docker"),
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "hosts": [f"unix://{self.socket}"],
            "containerd": str(run / "containerd.sock"),
            "cgroup-parent": self.cgroup,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "storage-driver": "overlay2",
            # Nothing behind this bridge leads outside: no rules, no proxies, no time lost.
            "iptables": False,
            "ip-masq": False,
            "userland-proxy": False,
            **self.engine_options,
        }
        (run / "daemon.json").write_text(json.dumps(options))
        self._spawn("dockerd", "dockerd", ("--config-file", str(run / "daemon.json")), end)
        self._await_engine(end)

    def _spawn(self, name: str, program: str, arguments: tuple[str, ...], end: int) -> None:
        path = process.which(program) or program
        self._tell(
            do="start",
            name=name,
            argv=[path, *arguments],
            log=str(self.run / "logs" / f"{name}.log"),
            pidfile=str(self.run / f"{name}.pid"),
            cgroups=[str(p) for p in self._procs],
            oom=-500,  # as the distributions' unit files have it
        )
        self._pids[name] = int(self._hear("started", end, name)["pid"])

    def _tell(self, **order: Any) -> None:
        assert self._child is not None
        pipe = self._child.popen.stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(order).encode() + b"\n")
            pipe.flush()
        except OSError as error:
            raise self._failed(f"its init is gone: {error.strerror}") from error

    def _hear(self, word: str, end: int, name: str | None = None) -> dict[str, Any]:
        """The init's next line with this word; what it says meanwhile is digested."""
        while True:
            rest = (end - clock.now()) / clock.NS
            try:
                said = self._said.get(timeout=max(rest, 0.001))
            except queue.Empty:
                raise self._failed(
                    f"its init did not answer within {self.start_deadline:g} s"
                ) from None
            if "gone" in said:
                raise self._failed("its init ended")
            if "failed" in said:
                raise self._failed(f"{said['failed']}: {said['why']}")
            self._digest(said)
            if word in said and (name is None or said[word] == name):
                return said

    def _digest(self, said: Mapping[str, Any]) -> None:
        # By pid too: the end of the last one may be told after the start of the next.
        if "ended" in said and self._pids.get(str(said["ended"])) == said["pid"]:
            del self._pids[str(said["ended"])]

    def _await_socket(self, daemon: str, path: Path, end: int) -> None:
        self._await(daemon, lambda: look.connects(path), end)

    def _await_engine(self, end: int) -> None:
        self._await("dockerd", lambda: look.answers(self.socket), end)

    def _await(self, daemon: str, ready: Any, end: int) -> None:
        while not ready():
            self._drain()
            if daemon not in self._pids:
                raise self._failed(f"{daemon} ended while it was starting")
            if clock.now() > end:
                raise self._failed(f"{daemon} did not answer within {self.start_deadline:g} s")
            clock.RealClock().sleep(0.004)

    def _drain(self) -> None:
        while True:
            try:
                self._digest(self._said.get_nowait())
            except queue.Empty:
                return

    def _failed(self, what: str) -> EnvironmentInvalid:
        return EnvironmentInvalid(
            f"the pen {self.name} did not come up: {what}",
            why=self.last_words() or "its logs are empty",
            mend="inv doctor says what a pen needs and what is missing here",
        )

    def last_words(self, lines: int = 8) -> str:
        """The ends of the init's and the daemons' logs."""
        parts = []
        for name in ("init", "containerd", "dockerd"):
            try:
                text = (self.run / "logs" / f"{name}.log").read_text(errors="backslashreplace")
            except OSError:
                continue
            parts += [f"{name}: {line}" for line in text.strip().splitlines()[-lines:]]
        return "\n".join(parts)

    # --- down -------------------------------------------------------------------

    def stop(self) -> None:
        """Everything in it dies, everything of it goes. Twice does no harm."""
        if self._uplink is not None:
            self._uplink.stop()
            self._uplink = None
        if self._child is not None:
            self._child.end_of_input()  # the order to leave
            if not self._child.wait(15):
                process.kill_session(self._child.popen)
            self._child.stop(grace=2)
            self._child = None
        if self._lease is not None:
            if self._layout is not None:
                clock.wait_until(self._cgroup_gone, deadline=5)
            (self._places.disk / f"{self.name}.ext4").unlink(missing_ok=True)
            self._lease.release()
            self._lease = None
        self.init_pid = None
        self._pids.clear()

    def keep(self) -> None:
        """Leave it running when this process ends; `clean` removes it."""
        if self._child is not None and self._lease is not None and self._child.popen.stdin:
            self._lease.keep(self._child.popen.stdin.fileno())
            self._lease = self._child = None

    def _cgroup_gone(self) -> bool:
        assert self._layout is not None
        return cgroups.remove(self._layout, self.cgroup)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what it is ---------------------------------------------------------------

    @property
    def run(self) -> Path:
        """Its directory, the same inside and outside."""
        return self._places.run / self.name

    @property
    def socket(self) -> Path:
        return self.run / "docker.sock"

    @property
    def cgroup(self) -> str:
        """Its cgroup below every tree's root."""
        return f"/{LABEL}-{self.name}"

    @property
    def docker_host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pids(self) -> dict[str, int]:
        """Kernel pids of the daemons that are there."""
        self._drain()
        return dict(self._pids)

    @property
    def data_seen_from_outside(self) -> str:
        """The engine's disk, as a process of the initial mount namespace reaches it."""
        return f"/proc/{self.init_pid}/root{self.run}/data"

    def facts(self) -> MachineFacts:
        assert self._layout is not None
        version = look.get(self.socket, "/version") or {}
        stat = os.statvfs(self.data_seen_from_outside)
        effective: dict[str, float | int | None] = dict(
            cgroups.effective(self._layout, self.cgroup)
        )
        effective["disk"] = stat.f_blocks * stat.f_frsize
        effective["inodes"] = stat.f_files
        parts = {c.get("Name", "?"): c.get("Version", "?") for c in version.get("Components", ())}
        return MachineFacts(
            kind=self.kind,
            kernel=os.uname().release,
            engine=str(version.get("Version", "?")),
            api=str(version.get("ApiVersion", "?")),
            cgroup=self._layout.version,
            boot_id=lease.boot_id(),
            effective=effective,
            versions=parts,
        )

    def probe_site(self) -> ProbeSite:
        return ProbeSite(
            python=(sys.executable,),
            config={
                "docker_socket": str(self.socket),
                "cgroup": self.cgroup,
                "logs": {n: str(self.run / "logs" / f"{n}.log") for n in ("dockerd", "containerd")},
                "journal": False,
                "pidfiles": {n: str(self.run / f"{n}.pid") for n in ("dockerd", "containerd")},
                "roots": [self.data_seen_from_outside, "/"],
                "label": f"{LABEL}-{self.name}",
            },
        )

    def root(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0
    ) -> process.Result:
        """Run as root in the pen's mount, PID, network, UTS and IPC namespaces.

        The command is not under the pen's limits: it is the experimenter's hand, not a
        guest. Its pids are the pen's.
        """
        target = str(self.init_pid or 0)
        command = ("nsenter", "--target", target, "-m", "-p", "-n", "-u", "-i", "--", *argv)
        return process.run(command, stdin=stdin, deadline=deadline)

    # --- daemons ------------------------------------------------------------------

    def connect_outside(self) -> str:
        """A way out for pulls and builds, where a user-mode network is installed.

        Why there is none; "" when it is there. It stays until the pen stops; the host's
        network and firewall know nothing of it.
        """
        if self._uplink is None and self.init_pid is not None:
            made = uplink.Uplink(self.root, self.init_pid, self.run)
            why = made.start()
            if why:
                return why
            self._uplink = made
        return ""

    def daemon(self, name: str, action: str, *, deadline: float = 30.0) -> int | None:
        """Do something to a daemon; its kernel pid afterwards, None when it is gone.

        name: dockerd | containerd | shim:<container id>.
        action: stop (SIGTERM) | kill | hang | resume | start | restart | reload (SIGHUP).
        A shim can not be started: containerd does that with its container.

        Raises:
            EnvironmentInvalid: there is no such daemon, or it did not come back.
        """
        end = clock.now() + int(deadline * clock.NS)
        there = not name.startswith("shim:") and look.runs(self.pids.get(name, 0))
        if action == "start" and there:
            return self._pids[name]
        if action == "restart" and not there:
            action = "start"
        if action in ("stop", "restart", "kill"):
            pid = self._pid_of(name)
            os.kill(pid, signal.SIGKILL if action == "kill" else signal.SIGTERM)
            if not clock.wait_until(lambda: not look.runs(pid), deadline=deadline, every=0.002):
                raise EnvironmentInvalid(f"{name} (pid {pid}) is still there {deadline:g} s later")
            if self._pids.get(name) == pid:
                del self._pids[name]  # the init's own word of it may still be on its way
            if action != "restart":
                return None
        if action in ("start", "restart"):
            self._drain()
            if name == "containerd":
                self._start_containerd(end)
            elif name == "dockerd":
                self._start_dockerd(end)
            else:
                raise EnvironmentInvalid(f"{name} can not be started by hand")
            return self._pids[name]
        signals = {"hang": signal.SIGSTOP, "resume": signal.SIGCONT, "reload": signal.SIGHUP}
        if action in signals:
            os.kill(self._pid_of(name), signals[action])
        return self._pid_of(name)

    def _pid_of(self, name: str) -> int:
        self._drain()
        if name.startswith("shim:"):
            pid = look.shim(self.init_pid or 0, name.partition(":")[2])
        else:
            pid = self._pids.get(name)
        if pid is None:
            raise EnvironmentInvalid(f"no {name} runs in the pen {self.name}")
        return pid


_CONTAINERD = """\
version = 2
root = "{run}/data/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{run}/containerd.sock"
[debug]
  level = "info"
"""


def _listen(child: process.Child, said: queue.Queue[dict[str, Any]]) -> None:
    pipe = child.popen.stdout
    assert pipe is not None
    try:
        for line in pipe:
            said.put(json.loads(line))
    except ValueError:
        # The pipe was closed under the reader: the pen is being stopped.
        return
    finally:
        said.put({"gone": True})


def missing() -> dict[str, str]:
    """Programs a pen needs that are not here → the Debian package that has them."""
    return {p: package for p, package in _PROGRAMS.items() if process.which(p) is None}
