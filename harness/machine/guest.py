"""The inside of a VM that is reached by ssh: commands, the engine's socket, daemons, facts.

Rule: two connections of our own, never somebody else's: one is shared by commands and the
engine's socket, the other belongs to the probe alone, so that neither the user's ssh master
nor our own forward can take the observer along. Who made the VM stands elsewhere.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from harness import clock, process
from harness.errors import EnvironmentInvalid
from harness.machine import LABEL, HostSaid, MachineFacts, ProbeSite

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SOCKET = "/var/run/docker.sock"
_UNITS = {"dockerd": "docker"}
_LOOK = 0.2
"""Seconds between two looks at the shared connection: a trial's delay may be shorter than the
time in which a lost one would be noticed otherwise."""

_INSIDE = 20.0
"""Seconds for one question inside over a connection of its own: two when idle, ten under load."""

# Asked inside where the way to the engine is lost: is it the way, or the engine?
_PING = (
    "import socket;s=socket.socket(socket.AF_UNIX);s.settimeout(5);"
    f"s.connect({SOCKET!r});s.sendall(b'GET /_ping HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n');"
    "print(b' 200 ' in s.recv(64))"
)

# One answer a line, in this order; df of the engine's own disk, not of the root.
_FACTS = (
    "uname -r; cat /proc/sys/kernel/random/boot_id; nproc; "
    "sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo; "
    "stat -f -c '%S %b %c' /var/lib/docker; stat -f -c %T /sys/fs/cgroup"
)


class Guest:
    """One guest, once its sshd answers.

    Args:
        config: A configuration file of ssh that knows `host`.
        folder: Where our socket, log and control socket stand; a short path.
        sudo: The user there is not root, but may become it without a question.
    """

    def __init__(self, config: Path, host: str, folder: Path, *, sudo: bool = False) -> None:
        self.config, self.host, self.folder = config, host, folder
        self._sudo = ("sudo", "-n") if sudo else ()
        self._master: process.Child | None = None
        self._mender: threading.Thread | None = None
        self._closing = threading.Event()
        self._outages: list[HostSaid] = []
        self._loss: tuple[int, str] | None = None  # since when, and what the engine inside said
        self._asked = threading.Event()  # nobody is being asked inside
        self._asked.set()

    @property
    def socket(self) -> Path:
        """The engine's socket on this host."""
        return self.folder / "docker.sock"

    @property
    def _control(self) -> Path:
        return self.folder / "ssh.sock"

    def _ssh(self, control: str, every: int, times: int) -> tuple[str, ...]:
        return (
            "ssh", "-F", str(self.config), "-T", "-o", "ControlMaster=no",
            "-o", f"ControlPath={control}", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30",
            "-o", f"ServerAliveInterval={every}", "-o", f"ServerAliveCountMax={times}",
        )  # fmt: skip

    # --- connections --------------------------------------------------------------

    def open(self, wait: Callable[[str, Callable[[], bool]], None]) -> None:
        """Connect, and wait until the engine answers. wait(what is wrong, question) raises.

        From then on the connection is made again whenever it is lost (the guest booted,
        froze, was starved), until `close`.
        """
        self.close()
        self._closing.clear()
        self._spawn()

        def there() -> bool:
            if not self.connected:
                words = (self.folder / "ssh.log").read_text(errors="replace").strip()
                raise EnvironmentInvalid("ssh into the machine fails", why=words[-500:])
            return self.socket.exists() and self._control.exists()

        wait("no ssh connection", there)
        self._mender = threading.Thread(target=self._mend, name="guest-ssh", daemon=True)
        self._mender.start()
        wait("its engine does not answer", lambda: answers(self.socket))

    def _spawn(self) -> None:
        for path in (self.socket, self._control):
            path.unlink(missing_ok=True)
        with (self.folder / "ssh.log").open("ab") as log:
            self._master = process.spawn(
                (
                    *self._ssh(str(self._control), 15, 8), "-N", "-M", "-o", "ControlPersist=no",
                    "-o", "ExitOnForwardFailure=yes", "-o", "StreamLocalBindUnlink=yes",
                    "-L", f"{self.socket}:{SOCKET}", self.host,
                ),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    def _mend(self) -> None:
        """Look, mend, and write down each loss with what the engine inside said meanwhile."""
        good = clock.now()
        tried = 0
        while not self._closing.wait(_LOOK):
            if self.connected:
                if self._loss is None:
                    good = clock.now()
                elif answers(self.socket):
                    self._outages.append(_outage(*self._loss, clock.now()))
                    self._loss = None
            elif self._loss is None or clock.seconds_since(tried) > 1:
                begin, inside = self._loss or (good, "")
                self._asked.clear()
                self._loss = (begin, inside)
                self._spawn()
                tried = clock.now()
                self._loss = (begin, inside or self._asked_inside())
                self._asked.set()

    def _asked_inside(self) -> str:
        """ "well", "dead", or "" where nobody inside can be asked."""
        line = " ".join(shlex.quote(a) for a in (*self._sudo, "python3", "-c", _PING))
        said = process.run((*self._ssh("none", 5, 3), self.host, line), deadline=_INSIDE)
        if said.text.strip() == "True":
            return "well"
        # 255 is ssh's own word: then the guest was not reached.
        return "dead" if said.code not in (255, process.NOT_FOUND) and not said.timed_out else ""

    def outages(self, since: int) -> tuple[HostSaid, ...]:
        """Losses of the shared connection that touch the time since then, oldest first.

        Waits for who is being asked inside just now: whether it was the way or the engine is
        what makes a loss worth telling.
        """
        self._asked.wait(_INSIDE)
        lost = self._loss
        found = [*self._outages, *([] if lost is None else [_outage(*lost, None)])]
        return tuple(o for o in found if o.until is None or o.until >= since)

    @property
    def connected(self) -> bool:
        """Does our shared connection stand? The engine may be well when it does not."""
        return self._master is not None and self._master.alive

    def hang_up(self) -> None:
        """Drop the connection: nobody is at its other end any more. It is made again."""
        if self._master is not None:
            self._master.popen.terminate()

    def give_up(self) -> None:
        """Its machine has ended: whoever waits for it is told at once, and nobody mends."""
        self._closing.set()
        self.hang_up()

    def close(self) -> None:
        self.release()
        if self._master is not None:
            self._master.popen.terminate()
            self._master.stop(grace=2)
            self._master = None
        for path in (self.socket, self._control):
            path.unlink(missing_ok=True)

    def release(self) -> None:
        """Nobody mends the connection any more; it may outlive us."""
        self._closing.set()
        if self._mender is not None:
            self._mender.join(10)
            self._mender = None

    # --- commands -----------------------------------------------------------------

    def root(
        self, argv: Sequence[str], *, stdin: bytes = b"", deadline: float = 30.0
    ) -> process.Result:
        """Run as root in the guest; its exit code, or 255 where the guest is not reached."""
        line = " ".join(shlex.quote(a) for a in (*self._sudo, *argv))
        command = (*self._ssh(str(self._control), 15, 8), self.host, line)
        return process.run(command, stdin=stdin, deadline=deadline)

    def site(self, name: str, *, patience: float) -> ProbeSite:
        """The probe's own connection. Every five seconds a sign of life; two minutes' patience."""
        return ProbeSite(
            python=(*self._ssh("none", 5, 24), self.host, "exec", *self._sudo, "python3"),
            config={
                "docker_socket": SOCKET,
                "cgroup": "/",
                "logs": {},
                "journal": True,
                "pidfiles": {"dockerd": "/var/run/docker.pid"},
                "roots": ["/var/lib/docker", "/"],
                "label": f"{LABEL}-{name}",
                "quote": True,
            },
            patience=patience,
        )

    def facts(self, kind: str, **versions: str) -> MachineFacts:
        """Asked inside.

        Raises:
            EnvironmentInvalid: the guest or its engine does not answer.
        """
        said = self.root(("sh", "-c", _FACTS), deadline=60)
        words = said.text.split()
        if len(words) != 8:
            raise EnvironmentInvalid("the machine does not say what it is", why=said.why())
        kernel, boot, cpus, memory, block, blocks, inodes, cgroup = words
        from harness import engine

        client = engine.connect(f"unix://{self.socket}")
        try:
            about: dict[str, Any] = client.about().need("docker version")
        finally:
            client.close()
        parts = {c.get("Name", "?"): c.get("Version", "?") for c in about.get("Components", ())}
        return MachineFacts(
            kind=kind,
            kernel=kernel,
            engine=str(about.get("Version", "?")),
            api=str(about.get("ApiVersion", "?")),
            cgroup=2 if cgroup == "cgroup2fs" else 1,
            boot_id=boot,
            effective={
                "memory": int(memory) * 1024,
                "cpus": int(cpus),
                "disk": int(block) * int(blocks),
                "inodes": int(inodes),
            },
            versions={**parts, **versions},
        )

    # --- daemons ----------------------------------------------------------

    def daemon(
        self,
        name: str,
        action: str,
        *,
        deadline: float,
        wait: Callable[[str, Callable[[], bool]], None],
    ) -> int | None:
        """Do something to a daemon; its pid in the guest afterwards, None when it is gone.

        name: dockerd | containerd | shim:<container id>.
        action: stop | kill | hang | resume | start | restart | reload. A killed dockerd or
        containerd is started again by systemd (Restart=always), as on any server.

        Raises:
            EnvironmentInvalid: there is no such daemon, or systemd says no.
        """
        if name.startswith("shim:"):
            return self._to_shim(name.partition(":")[2], action, deadline)
        unit = _UNITS.get(name, name)
        orders = {
            "kill": f"systemctl kill -s KILL --kill-who=main {unit}",
            "hang": f"systemctl kill -s STOP --kill-who=main {unit}",
            "resume": f"systemctl kill -s CONT --kill-who=main {unit}",
            "reload": f"systemctl kill -s HUP --kill-who=main {unit}",
            # The socket unit would start it again at the next request.
            "stop": f"systemctl stop {'docker.socket ' if unit == 'docker' else ''}{unit}",
            "start": f"systemctl start {unit}",
            "restart": f"systemctl restart {unit}",
        }
        done = self.root(("sh", "-c", orders[action]), deadline=deadline)
        if not done.ok:
            raise EnvironmentInvalid(f"{name} can not be told to {action}", why=done.why())
        if action in ("start", "restart") and name == "dockerd":
            wait("its engine does not answer", lambda: answers(self.socket))
        return None if action in ("stop", "kill") else self.main_pid(name)

    def main_pid(self, name: str) -> int | None:
        """Of dockerd or containerd, as systemd knows it."""
        unit = _UNITS.get(name, name)
        said = self.root(("systemctl", "show", "-P", "MainPID", unit)).text.strip()
        return int(said) if said.isdigit() and said != "0" else None

    def _to_shim(self, container: str, action: str, deadline: float) -> int | None:
        # Brackets keep the pattern from finding the shell that looks for it.
        found = self.root(("pgrep", "-f", f"[c]ontainerd-shim.* -id {container}")).text.split()
        signals = {"kill": "KILL", "stop": "TERM", "hang": "STOP", "resume": "CONT"}
        if not found or action not in signals:
            why = "there is none" if not found else "containerd does that with its container"
            raise EnvironmentInvalid(f"the shim of {container[:12]}: no {action}", why=why)
        done = self.root(("kill", f"-{signals[action]}", found[0]), deadline=deadline)
        if not done.ok:
            raise EnvironmentInvalid(f"the shim of {container[:12]}: {done.why()}")
        return None if action in ("kill", "stop") else int(found[0])


def waiter(
    end: int, failed: Callable[[str], EnvironmentInvalid], alive: Callable[[], str]
) -> Callable[[str, Callable[[], bool]], None]:
    """A wait that ends at an instant of `clock.now`, or when `alive` has a reason why not."""

    def wait(what: str, ready: Callable[[], bool]) -> None:
        while not ready():
            why = alive()
            if why:
                raise failed(why)
            if clock.now() > end:
                raise failed(f"{what} in time")
            clock.RealClock().sleep(0.1)

    return wait


def answers(path: Path) -> bool:
    """Does an engine answer a ping there? Without the SDK: a start must not wait for its import."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(10)
        try:
            s.connect(str(path))
            s.sendall(b"GET /_ping HTTP/1.0\r\nHost: guest\r\n\r\n")
            return b" 200 " in s.recv(64)
        except OSError:
            return False


_LOST = {
    "well": ("channel", "asked inside, the engine answered"),
    "dead": ("engine", "asked inside, the engine did not answer"),
    "": ("unreachable", "nobody inside could be asked"),
}


def _outage(begin: int, inside: str, end: int | None) -> HostSaid:
    what, why = _LOST[inside]
    why = f"our ssh connection to its engine was lost; {why}"
    return HostSaid(at=begin, until=end, what=what, why=why)
