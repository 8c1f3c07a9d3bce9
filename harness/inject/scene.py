"""What an injection works with: the machine, an engine client of its own, and whom it hits.

Rule: requests go through a client that the runner does not know: to everybody else they
are another client's. Whatever lasts is written on the list of undos before it begins.
"""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import LABEL, clock, images, lease
from harness.engine import Engine
from harness.model.experiment import ImageSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.engine import Answer
    from harness.machine import Machine

_HAND = Path(__file__).with_name("hand.py").read_text(encoding="utf-8")
LASTING = 3600.0
"""Seconds that a load lasts when nobody said how long: until the trial's end undoes it."""


class CouldNot(Exception):
    """The failure that was asked for could not be caused; says why."""


@dataclass
class Scene:
    """One trial as its injections see it.

    Attributes:
        container_of: Name within the experiment (None: the subject) → its container id now.
        labels: For containers that an injection makes.
    """

    machine: Machine
    container_of: Callable[[str | None], str]
    labels: Mapping[str, str]
    token: str = field(default_factory=lambda: f"{LABEL}-inject-{secrets.token_hex(4)}")
    _undos: list[tuple[str, Callable[[], object]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _client: Engine | None = None
    _lease: lease.Lease | None = None

    @property
    def client(self) -> Engine:
        """Another client of the same engine."""
        if self._client is None:
            self._client = Engine(self.machine.docker_host, deadline=60)
        return self._client

    def pid(self, container: str) -> int:
        """Its main process as the machine numbers it."""
        state = needed(self.client.inspect(container))["State"]
        pid = int(state.get("Pid") or 0)
        if pid <= 0:
            raise CouldNot(f"the container has no main process ({state.get('Status')})")
        return pid

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = needed(self.client.inspect(container))
        return found

    def hand(self, do: str, *, deadline: float = 60.0, **order: Any) -> dict[str, Any]:
        """Have the hand do something inside the machine; its answer."""
        result = self.machine.root(
            (self.python, "-c", _HAND, json.dumps({"do": do, **order})), deadline=deadline
        )
        if not result.ok:
            raise CouldNot(result.err.decode(errors="replace").strip() or result.why())
        answer: dict[str, Any] = json.loads(result.text.strip().splitlines()[-1])
        return answer

    @property
    def python(self) -> str:
        """The Python that the probe runs on is there, and is right."""
        return self.machine.probe_site().python[-1]

    def load(self, do: str, place: Mapping[str, Any], *, seconds: float, **order: Any) -> None:
        """A load that lasts, in a cgroup of its own below `place`; ended by undo if not before.

        place: {"pid": N}, beside that process's cgroup, or {"cgroup": path}.
        """
        token = f"{self.token}-{secrets.token_hex(3)}"
        groups = self.hand("groups", leaf=token, **place)

        def undo() -> None:
            self.hand("end", token=token, cgroups=groups["cgroups"])

        self.undo(f"{do} load", undo)
        if do == "pids" and groups["limit"] is None:
            raise CouldNot("no limit on processes there: the whole host would run out of them")
        order = {"do": do, "token": token, "seconds": seconds, **groups, **order}
        argv = (self.python, "-c", _HAND, json.dumps(order))
        threading.Thread(
            target=self.machine.root,
            args=(argv,),
            kwargs={"deadline": seconds + 60},
            name="inject-load",
            daemon=True,
        ).start()

    def busybox(self) -> str:
        """A small image for siblings."""
        return images.ensure(self.client, ImageSpec(rootfs="busybox"), machine=self.machine)

    def sibling(self, argv: list[str], **host: Any) -> str:
        """Another container beside the subject, below the same parent; gone at the trial's end."""
        body = {
            "Image": self.busybox(),
            "Cmd": argv,
            "Labels": {**self.labels, f"{LABEL}.role": "sibling"},
            "HostConfig": {"NetworkMode": "none", **host},
        }
        made = needed(self.client.create(f"{self.token}-{secrets.token_hex(3)}", body))
        self.undo("a sibling container", lambda: self.client.remove(made))
        needed(self.client.start(made))
        return str(made)

    def aside(self, source: str) -> str:
        """A place for what a bind's source holds, written down for `clean` before it is used."""
        place = f"{source.rstrip('/')}.{self.token}"
        if self._lease is None:
            self._lease = lease.take("inject", stem="i")
        self._lease.owns(moved=f"{place}\0{source.rstrip('/')}")
        return place

    # --- undoing ---

    def undo(self, what: str, how: Callable[[], object]) -> Callable[[], None]:
        """Put it on the list. The function that comes back does it earlier, and only once."""
        entry = (what, how)
        with self._lock:
            self._undos.append(entry)

        def now() -> None:
            with self._lock:
                if entry not in self._undos:
                    return
                self._undos.remove(entry)
            how()

        return now

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """After so many seconds, unless the trial has ended before."""

        def body() -> None:
            clock.RealClock().sleep(seconds)
            try:
                what()
            except CouldNot:
                # The machine changed meanwhile; the end of the trial tries again and tells.
                return

        threading.Thread(target=body, name="inject-later", daemon=True).start()

    def finish(self) -> list[str]:
        """Undo everything that lasts, newest first; what could not be undone, in words."""
        problems = []
        while True:
            with self._lock:
                if not self._undos:
                    break
                what, how = self._undos.pop()
            try:
                how()
            except Exception as error:
                problems.append(f"{what}: {error}")
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._lease is not None:
            if problems:
                self._lease.abandon()
            else:
                self._lease.release()
            self._lease = None
        return problems


def needed(answer: Answer[Any]) -> Any:
    if answer.failure is not None:
        raise CouldNot(str(answer.failure))
    return answer.value
