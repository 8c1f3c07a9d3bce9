"""Commands: one JSON object a line on standard input.

Rule: whatever stands on a line, the loop goes on; what can not be taken is `refused` with
the reason. A container is named by its full id and by nothing else, because a name ends
up in a path.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from .linux import boot

if TYPE_CHECKING:
    from typing import Any, Dict

    from .main import Probe

IDS = frozenset("0123456789abcdef")


class Commands:
    """watch, unwatch, snapshot, flush, ping, monitors, docker, cost, stop."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.input = b""

    def read(self, mask: int) -> None:
        try:
            data = os.read(0, 65536)
        except BlockingIOError:
            return
        if not data:
            self.probe.loop.stop()
            return
        *lines, self.input = (self.input + data).split(b"\n")
        for line in lines:
            if line.strip():
                self.command(line)

    def command(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            do = getattr(self, "do_" + str(said["do"]).replace("-", "_"))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.refuse(line[:200].decode("utf-8", "replace"), "not a command")
            return
        try:
            do(said)
        except (KeyError, ValueError, TypeError) as error:
            self.refuse(str(said.get("do")), "%s: %s" % (type(error).__name__, error))

    def refuse(self, command: str, why: str) -> None:
        self.probe.out.emit("refused", "probe", boot(), command=command, why=why)

    def do_watch(self, said: Dict[str, Any]) -> None:
        container = said["container"]
        if len(container) != 64 or not set(container) <= IDS:
            raise ValueError("a container id has 64 hexadecimal digits: %r" % container[:80])
        if self.probe.monitors != "off":
            self.probe.deaths.drain()
        self.probe.watch.add(container, said.get("role", "subject"))

    def do_unwatch(self, said: Dict[str, Any]) -> None:
        self.probe.deaths.drain()
        self.probe.watch.remove(said["container"])

    def do_docker(self, said: Dict[str, Any]) -> None:
        """Send events of all containers, or of the watched alone."""
        self.probe.everything = bool(said["all"])

    def do_ping(self, said: Dict[str, Any]) -> None:
        now = boot()
        self.probe.out.emit("pong", "probe", now, now, token=said["token"])

    def do_flush(self, said: Dict[str, Any]) -> None:
        """Everything that was there to be read when this arrived has been sent before the answer."""
        self.probe.drain_all()
        self.probe.out.emit("pong", "probe", boot(), token=said["token"], what="flush")

    def do_snapshot(self, said: Dict[str, Any]) -> None:
        """Everything known about a container now, whole; without one, of the machine."""
        if self.probe.monitors == "off":
            return
        self.probe.drain_all()
        watched = self.probe.watch.all.get(said.get("container") or "")
        for group in (
            watched.groups if watched is not None else list(self.probe.watch.ancestors.values())
        ):
            group.say(self.probe.out, full=True)
        if watched is not None:
            self.probe.namespaces.snapshot(watched)
        self.probe.machine.say()
        self.probe.daemons.resay()
        self.probe.clocks.read()

    def do_monitors(self, said: Dict[str, Any]) -> None:
        """light <-> full while running; off is decided at the start."""
        level = said["level"]
        if level not in ("light", "full") or self.probe.monitors == "off":
            raise ValueError(
                "monitors can change between light and full, not %s to %s"
                % (self.probe.monitors, level)
            )
        if level == "full" and self.probe.monitors != "full":
            self.probe.syscalls.start(self.probe.tracing, "%s-%d" % (self.probe.label, os.getpid()))
        elif level == "light":
            self.probe.syscalls.stop()
        self.probe.monitors = level

    def do_cost(self, said: Dict[str, Any]) -> None:
        self.probe.cost()

    def do_stop(self, said: Dict[str, Any]) -> None:
        self.probe.loop.stop()
