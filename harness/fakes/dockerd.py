"""Containers, networks and images as dockerd keeps them, with its words of refusal.

Rule: what dockerd knows, it knows late: a main process is gone for the kernel first, and
dockerd goes on saying "running" until its shim has told it. Texts are those of API 1.41
(dockerd 20.10), the one the real pen runs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.fakes import programs
from harness.fakes.kernel import ENGINE, INSIDE, Kernel, Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOTICE = 0.04
"""From the kernel's exit to dockerd's own `die`: 30 to 90 ms on an idle machine."""
GRACE = 10.0
BACK_OFF = 0.1


class Refused(Exception):
    """dockerd answers with an error."""

    def __init__(self, http: int, text: str) -> None:
        super().__init__(text)
        self.http, self.text = http, text


@dataclass(eq=False)
class Box:
    """One container as dockerd keeps it."""

    id: str
    name: str
    body: dict[str, Any]
    made: int
    status: str = "created"
    process: Process | None = None
    code: int = 0
    oom: bool = False
    error: str = ""
    began: int | None = None
    over: int | None = None
    restarts: int = 0
    manual: bool = False
    paused: bool = False
    log: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """As far as dockerd knows."""
        return self.status == "running"

    @property
    def limit(self) -> int | None:
        return self.body.get("HostConfig", {}).get("Memory") or None


@dataclass
class Dockerd:
    """One daemon with everything it keeps.

    Attributes:
        up: It answers. `epoch` counts its lives: a call begun in one is cut off by its end.
    """

    kernel: Kernel
    boxes: dict[str, Box] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, dict[str, str]] = field(default_factory=dict)
    execs: dict[str, dict[str, Any]] = field(default_factory=dict)
    up: bool = True
    epoch: int = 0
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    # --- containers -----------------------------------------------------------------

    def find(self, ref: str) -> Box:
        for box in self.boxes.values():
            if ref in {box.id, box.name} or (len(ref) >= 12 and box.id.startswith(ref)):
                return box
        raise Refused(404, f"No such container: {ref}")

    def create(self, name: str | None, body: Mapping[str, Any]) -> str:
        image = str(body.get("Image", ""))
        if image not in self.images:
            tagged = image if ":" in image else f"{image}:latest"
            raise Refused(404, f"No such image: {tagged}")
        identity = f"{next(self._ids):064x}"
        name = name or f"box-{identity[-4:]}"
        for other in self.boxes.values():
            if other.name == name:
                raise Refused(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container'
                    f' "{other.id}". You have to remove (or rename) that container to be able to'
                    " reuse that name.",
                )
        for mount in body.get("HostConfig", {}).get("Mounts") or ():
            if mount["Type"] == "volume":
                labels = (mount.get("VolumeOptions") or {}).get("Labels") or {}
                self.volumes.setdefault(str(mount["Source"]), dict(labels))
        self.boxes[identity] = Box(identity, name, dict(body), self.kernel.clock.now())
        self.tell("create", self.boxes[identity])
        return identity

    def start(self, ref: str) -> bool:
        """False: it runs already (304)."""
        box = self.find(ref)
        if box.running:
            return False
        if box.status == "removing":
            raise Refused(409, "container is marked for removal and cannot be started")
        box.manual = False
        network = str(box.body.get("HostConfig", {}).get("NetworkMode", "default"))
        known = {"default", "bridge", "host", "none", *self.networks}
        if network not in known and not network.startswith("container:"):
            box.error = f"network {network} not found"
            raise Refused(404, box.error)
        self._run(box)
        return True

    def _run(self, box: Box) -> None:
        argv = [*(box.body.get("Entrypoint") or ()), *(box.body.get("Cmd") or ("true",))]
        program = programs.read(argv)
        box.status, box.oom, box.code, box.error = "running", False, 0, ""
        box.began = self.kernel.clock.now()
        box.process = self.kernel.begin(
            program,
            container=box.id,
            limit=box.limit,
            say=box.log.append,
            over=lambda p: self.kernel.clock.after(NOTICE, lambda: self._notice(box, p)),
        )
        self.tell("start", box)

    def _notice(self, box: Box, process: Process) -> None:
        """The shim has told dockerd that the main process is gone."""
        if not self.up or box.process is not process or box.id not in self.boxes:
            return
        assert process.status is not None
        box.process = None
        box.code = 128 + process.status if process.status & 0x7F else process.status >> 8
        box.oom, box.over = process.oom, process.ended
        if box.status == "running":
            box.status = "exited"
        box.paused = False
        if process.oom:
            self.tell("oom", box)
        self.tell("die", box, exitCode=str(box.code))
        self._restart_policy(box)

    def _restart_policy(self, box: Box) -> None:
        policy = box.body.get("HostConfig", {}).get("RestartPolicy") or {}
        name = policy.get("Name", "no")
        most = policy.get("MaximumRetryCount") or 0
        wanted = name in {"always", "unless-stopped"} or (name == "on-failure" and box.code != 0)
        if not wanted or box.manual or box.status != "exited" or (most and box.restarts >= most):
            return
        box.status = "restarting"
        wait = BACK_OFF * 2**box.restarts
        box.restarts += 1

        def again() -> None:
            if self.up and box.status == "restarting":
                self._run(box)

        self.kernel.clock.after(wait, again)

    def signal(self, box: Box, number: int) -> None:
        self.tell("kill", box, signal=str(number))
        if box.process is not None:
            self.kernel.signal(box.process, number, by=ENGINE)

    def removed(self, box: Box) -> None:
        self.boxes.pop(box.id, None)
        self.tell("destroy", box)

    # --- execs ----------------------------------------------------------------------

    def exec_create(self, ref: str, argv: Sequence[str]) -> str:
        box = self.find(ref)
        if box.paused:
            raise Refused(409, f"Container {ref} is paused, unpause the container before exec")
        if box.status == "restarting":
            raise Refused(
                409, f"Container {box.id} is restarting, wait until the container is running"
            )
        if not box.running:
            raise Refused(409, f"Container {box.id} is not running")
        identity = f"{next(self._ids):064x}"
        self.execs[identity] = {"box": box, "argv": tuple(argv), "code": None, "out": []}
        self.tell(f"exec_create: {' '.join(argv)}", box)
        return identity

    def exec_start(self, identity: str) -> dict[str, Any]:
        """Begins it; its `code` is set when it has ended."""
        entry = self.execs.get(identity)
        if entry is None:
            raise Refused(404, f"No such exec instance: {identity}")
        box: Box = entry["box"]
        if not box.running or box.id not in self.boxes:
            del self.execs[identity]
            how = f"Exited ({box.code}) Less than a second ago"
            if box.status == "removing":
                how = "Removal In Progress"
            raise Refused(500, f"Container {box.id} is not running: {how}")
        self.tell(f"exec_start: {' '.join(entry['argv'])}", box)
        main = box.process
        if main is None or not main.alive:
            # The kernel knows, dockerd does not yet: the runtime's words, in the output.
            entry["out"].append("cannot exec in a stopped state: unknown\n")
            entry["code"] = 126
            return entry

        def over(process: Process) -> None:
            assert process.status is not None
            status = process.status
            entry["code"] = 128 + status if status & 0x7F else status >> 8

        entry["process"] = self.kernel.begin(
            programs.read(entry["argv"]),
            container=box.id,
            limit=box.limit,
            first=main,
            over=over,
            say=entry["out"].append,
        )
        return entry

    # --- telling --------------------------------------------------------------------

    def tell(self, action: str, box: Box, **attributes: str) -> None:
        now = self.kernel.clock.now()
        self.kernel.emit(
            e.DockerEvent(
                t=now,
                seen=now,
                source="docker",
                type="container",
                action=action,
                id=box.id,
                wall=self.kernel.clock.wall(),
                attributes={"name": box.name, **attributes},
            )
        )

    def state(self, box: Box) -> dict[str, Any]:
        """The State object of an inspect answer."""
        status = "paused" if box.paused else box.status
        return {
            "Status": status,
            "Running": box.running or status == "restarting",
            "Paused": box.paused,
            "Restarting": status == "restarting",
            "OOMKilled": box.oom,
            "Dead": False,
            "Pid": box.process.pid if box.running and box.process is not None else 0,
            "ExitCode": box.code,
            "Error": box.error,
            "StartedAt": self.date(box.began),
            "FinishedAt": self.date(box.over),
        }

    def date(self, instant: int | None) -> str:
        if instant is None:
            return "0001-01-01T00:00:00Z"
        wall = self.kernel.clock.wall() - self.kernel.clock.now() + instant
        at = datetime.fromtimestamp(wall // 1_000_000_000, UTC)
        return f"{at:%Y-%m-%dT%H:%M:%S}.{wall % 1_000_000_000:09d}Z"


__all__ = ["GRACE", "INSIDE", "NOTICE", "Box", "Dockerd", "Refused"]
