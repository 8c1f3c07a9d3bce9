"""The engine's client in memory: the same requests, answers as values, deadlines.

Rule: a request takes its way, `latency` there and back; past its deadline nobody waits for
it and what it brings is dropped, but what it *did* is done. A daemon that dies cuts off
everything that was under way. What shall go wrong is said with `trouble`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from harness import engine as real
from harness.clock import NS
from harness.engine import Answer, ExecAnswer, Failure, Trouble
from harness.fakes.dockerd import GRACE, Box, Dockerd, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from harness.fakes.clock import Clock
    from harness.fakes.machine import Machine

T = TypeVar("T")

LATENCY = 0.001
START = 0.05
"""In a restart, from the old main process's `die` to the new one: a shim, a file system."""


class Gone(Exception):
    """The connection broke: the daemon died, or nobody listens."""


@dataclass(eq=False)
class Fault:
    """What goes wrong with the next `times` calls of this name.

    Attributes:
        how: hang (no answer, nothing done) | slow (done and answered `seconds` later) |
            refuse | absent (nobody listens) | lost (done, the answer never comes).
    """

    call: str
    how: str
    times: int = 1
    seconds: float = 0.0
    http: int = 500
    text: str = "server error"


class Engine(real.Engine):
    """Requests to the fake machine's dockerd."""

    def __init__(self, machine: Machine, *, deadline: float = 30.0) -> None:
        super().__init__(machine.docker_host, deadline=deadline, version="1.41")
        self.machine = machine
        self.calls: list[str] = []
        self.latency = LATENCY
        self._faults: list[Fault] = []

    @property
    def _clock(self) -> Clock:
        return self.machine.clock

    @property
    def _docker(self) -> Dockerd:
        return self.machine.dockerd

    def trouble(self, call: str, how: str, **more: Any) -> Fault:
        """From now on so many calls of this name go wrong."""
        fault = Fault(call, how, **more)
        self._faults.append(fault)
        return fault

    def _fault(self, call: str) -> Fault | None:
        for fault in self._faults:
            if fault.call in {call, "*"} and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    # --- a request ------------------------------------------------------------------

    def close(self) -> None:
        """There is no connection to drop."""

    def _request(self, call: str, work: Callable[[], T], deadline: float | None) -> Answer[T]:
        asked = self._clock.now()
        self.calls.append(call)
        came: list[Answer[T]] = []

        def body() -> None:
            value: T | None = None
            failure: Failure | None = None
            try:
                value = self.travel(call, work)
            except Refused as error:
                failure = Failure(Trouble.REFUSED, error.text, error.http)
            except Gone as error:
                failure = Failure(Trouble.ABSENT, str(error))
            came.append(Answer(value, failure, asked, self._clock.now()))

        self._clock.thread(f"engine-{call}", body)
        seconds = deadline or self.deadline
        if self._clock.wait(lambda: bool(came), asked + int(seconds * NS)):
            return came[0]
        late = Failure(Trouble.LATE, f"no answer within {seconds:g} s")
        return Answer(None, late, asked, self._clock.now())

    def travel(self, call: str, work: Callable[[], T]) -> T:
        """There, done, and back, in the caller's thread."""
        docker, epoch = self._docker, self._docker.epoch
        if not docker.up:
            raise Gone("Connection refused")
        fault = self._fault(call)
        how = fault.how if fault is not None else ""
        if how == "absent":
            raise Gone("Connection refused")
        self._pass(self.latency / 2, epoch)
        if how == "hang":
            self._pass(None, epoch)
        if fault is not None and how == "slow":
            self._pass(fault.seconds, epoch)
        if fault is not None and how == "refuse":
            raise Refused(fault.http, fault.text)
        value = work()
        if how == "lost":
            self._pass(None, epoch)
        self._pass(self.latency / 2, epoch)
        return value

    def _pass(self, seconds: float | None, epoch: int) -> None:
        until = None if seconds is None else self._clock.now() + int(seconds * NS)
        self.until(lambda: False, until, epoch)

    def until(
        self, ready: Callable[[], bool], until: int | None = None, epoch: int | None = None
    ) -> bool:
        """Wait inside dockerd; cut off when it dies."""
        docker = self._docker
        epoch = docker.epoch if epoch is None else epoch

        def dead() -> bool:
            return docker.epoch != epoch or not docker.up

        # Nobody may wait for ever on a machine where nothing moves: an hour is for ever.
        end = self._clock.now() + 3600 * NS if until is None else until
        self._clock.wait(lambda: ready() or dead(), end)
        if dead():
            raise Gone("Connection reset by peer")
        return ready()

    # --- the engine -----------------------------------------------------------------

    def ping(self, *, deadline: float | None = None) -> Answer[bool]:
        return self._request("ping", lambda: True, deadline)

    def about(self, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        said = {"Version": "fake", "ApiVersion": "1.41", "KernelVersion": "fake"}
        return self._request("version", lambda: dict(said), deadline)

    def info(self, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        return self._request("info", lambda: {"KernelVersion": "fake", "NCPU": 2}, deadline)

    def df(self, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        def work() -> dict[str, Any]:
            return {
                "LayersSize": 0,
                "Images": [{"RepoTags": [i]} for i in self._docker.images],
                "Containers": [{"Id": b} for b in self._docker.boxes],
            }

        return self._request("df", work, deadline)

    # --- containers -----------------------------------------------------------------

    def create(
        self, name: str | None, body: Mapping[str, Any], *, deadline: float | None = None
    ) -> Answer[str]:
        return self._request("create", lambda: self._docker.create(name, body), deadline)

    def start(self, container: str, *, deadline: float | None = None) -> Answer[None]:
        def work() -> None:
            self._docker.start(container)

        return self._request("start", work, deadline)

    def _down(self, box: Box, grace: float | None) -> None:
        """SIGTERM, the grace period, SIGKILL; back when dockerd has noticed."""
        box.manual = True
        if box.status == "restarting":
            box.status = "exited"
        if not box.running:
            return
        seconds = box.body.get("StopTimeout", GRACE) if grace is None else grace
        self._docker.signal(box, 15)
        if not self.until(lambda: not box.running, self._clock.now() + int(seconds * NS)):
            self._docker.signal(box, 9)
            self.until(lambda: not box.running)

    def stop(
        self, container: str, *, grace: float | None = None, deadline: float | None = None
    ) -> Answer[None]:
        def work() -> None:
            box = self._docker.find(container)
            if not box.running and box.status != "restarting":
                return  # 304
            self._down(box, grace)
            self._docker.tell("stop", box)

        return self._request("stop", work, deadline)

    def restart(
        self, container: str, *, grace: float | None = None, deadline: float | None = None
    ) -> Answer[None]:
        def work() -> None:
            box = self._docker.find(container)
            if box.running:
                self._down(box, grace)
                self._docker.tell("stop", box)
            self._pass(START, self._docker.epoch)
            self._docker.start(box.id)
            self._docker.tell("restart", box)

        return self._request("restart", work, deadline)

    def kill(
        self, container: str, *, signal: str = "SIGKILL", deadline: float | None = None
    ) -> Answer[None]:
        from harness.fakes.programs import SIGNALS

        def work() -> None:
            box = self._docker.find(container)
            if not box.running:
                raise Refused(
                    409,
                    f"Cannot kill container: {container}: Container {box.id} is not running",
                )
            number = int(signal) if signal.isdigit() else SIGNALS[signal.removeprefix("SIG")]
            box.manual = True
            self._docker.signal(box, number)
            if number == 9:
                self.until(lambda: not box.running)

        return self._request("kill", work, deadline)

    def pause(self, container: str, *, deadline: float | None = None) -> Answer[None]:
        def work() -> None:
            box = self._docker.find(container)
            if not box.running:
                raise Refused(409, f"Container {box.id} is not running")
            box.paused = True
            self._docker.tell("pause", box)

        return self._request("pause", work, deadline)

    def unpause(self, container: str, *, deadline: float | None = None) -> Answer[None]:
        def work() -> None:
            box = self._docker.find(container)
            box.paused = False
            self._docker.tell("unpause", box)

        return self._request("unpause", work, deadline)

    def remove(
        self,
        container: str,
        *,
        force: bool = True,
        volumes: bool = True,
        deadline: float | None = None,
    ) -> Answer[None]:
        def work() -> None:
            box = self._docker.find(container)
            if box.running and not force:
                raise Refused(
                    409,
                    f"You cannot remove a running container {box.id}. Stop the container before"
                    " attempting removal or force remove",
                )
            if box.running:
                box.manual = True
                self._docker.signal(box, 9)
                self.until(lambda: not box.running)
            box.status = "removing"
            self._docker.removed(box)

        return self._request("remove", work, deadline)

    def update(
        self, container: str, body: Mapping[str, Any], *, deadline: float | None = None
    ) -> Answer[Any]:
        def work() -> Any:
            box = self._docker.find(container)
            box.body.setdefault("HostConfig", {}).update(body)
            return {"Warnings": None}

        return self._request("update", work, deadline)

    def inspect(self, container: str, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        def work() -> dict[str, Any]:
            box = self._docker.find(container)
            return {
                "Id": box.id,
                "Name": f"/{box.name}",
                "Created": self._docker.date(box.made),
                "State": self._docker.state(box),
                "RestartCount": box.restarts,
                "HostConfig": dict(box.body.get("HostConfig") or {}),
                "Config": {k: v for k, v in box.body.items() if k != "HostConfig"},
                "Mounts": [],
                "NetworkSettings": {},
            }

        return self._request("inspect", work, deadline)

    def logs(
        self, container: str, *, tail: int = 100, deadline: float | None = None
    ) -> Answer[bytes]:
        def work() -> bytes:
            lines = "".join(self._docker.find(container).log).splitlines(keepends=True)
            return "".join(lines[-tail:]).encode()

        return self._request("logs", work, deadline)

    def ps(
        self,
        *,
        everything: bool = True,
        filters: Mapping[str, Any] | None = None,
        deadline: float | None = None,
    ) -> Answer[list[dict[str, Any]]]:
        wanted = [str(label) for label in (filters or {}).get("label", ())]

        def work() -> list[dict[str, Any]]:
            return [
                {
                    "Id": box.id,
                    "Names": [f"/{box.name}"],
                    "State": box.status,
                    "Status": box.status,
                    "Labels": box.body.get("Labels") or {},
                }
                for box in self._docker.boxes.values()
                if (everything or box.running) and _labelled(box.body.get("Labels") or {}, wanted)
            ]

        return self._request("ps", work, deadline)

    # --- exec -----------------------------------------------------------------------

    def exec_create(
        self,
        container: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str = "",
        privileged: bool = False,
        deadline: float | None = None,
    ) -> Answer[str]:
        return self._request(
            "exec_create", lambda: self._docker.exec_create(container, argv), deadline
        )

    def exec_start(
        self, exec_id: str, *, deadline: float | None = None
    ) -> Answer[tuple[bytes, bytes]]:
        def work() -> tuple[bytes, bytes]:
            entry = self._docker.exec_start(exec_id)
            self.until(lambda: entry["code"] is not None)
            return "".join(entry["out"]).encode(), b""

        return self._request("exec_start", work, deadline)

    def exec_inspect(
        self, exec_id: str, *, deadline: float | None = None
    ) -> Answer[dict[str, Any]]:
        def work() -> dict[str, Any]:
            entry = self._docker.execs.get(exec_id)
            if entry is None:
                raise Refused(404, f"No such exec instance: {exec_id}")
            return {
                "ID": exec_id,
                "Running": entry["code"] is None,
                "ExitCode": entry["code"],
                "ContainerID": entry["box"].id,
            }

        return self._request("exec_inspect", work, deadline)

    def prepare_exec(
        self, container: str, argv: Sequence[str], **options: Any
    ) -> real.PreparedExec:
        return PreparedExec(self, container, argv, **options)

    def command_exec(self, container: str, argv: Sequence[str], **options: Any) -> real.Aimed:
        """There is no program in memory, and nothing that strace could write."""
        options.pop("strace")
        return PreparedExec(self, container, argv, **options)

    # --- networks, volumes, images --------------------------------------------------

    def networks(
        self, *, filters: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> Answer[list[dict[str, Any]]]:
        wanted = [str(label) for label in (filters or {}).get("label", ())]

        def work() -> list[dict[str, Any]]:
            return [n for n in self._docker.networks.values() if _labelled(n["Labels"], wanted)]

        return self._request("networks", work, deadline)

    def network_create(
        self, name: str, body: Mapping[str, Any] | None = None, *, deadline: float | None = None
    ) -> Answer[str]:
        def work() -> str:
            labels = dict((body or {}).get("Labels") or {})
            identity = f"{len(self._docker.networks) + 1:064x}"
            self._docker.networks[name] = {"Name": name, "Id": identity, "Labels": labels}
            return identity

        return self._request("network_create", work, deadline)

    def network_remove(self, network: str, *, deadline: float | None = None) -> Answer[None]:
        def work() -> None:
            for name, entry in list(self._docker.networks.items()):
                if network in {name, entry["Id"]}:
                    del self._docker.networks[name]
                    return
            raise Refused(404, f"network {network} not found")

        return self._request("network_remove", work, deadline)

    def volume_remove(self, volume: str, *, deadline: float | None = None) -> Answer[None]:
        def work() -> None:
            self._docker.volumes.pop(volume, None)

        return self._request("volume_remove", work, deadline)

    def image(self, ref: str, *, deadline: float | None = None) -> Answer[dict[str, Any]]:
        def work() -> dict[str, Any]:
            if ref not in self._docker.images:
                raise Refused(404, f"No such image: {ref}")
            return {"Id": f"sha256:{ref}", "RepoTags": [ref]}

        return self._request("image", work, deadline)

    def import_tar(
        self,
        tar: bytes,
        repository: str,
        tag: str,
        *,
        changes: Sequence[str] = (),
        deadline: float | None = None,
    ) -> Answer[None]:
        def work() -> None:
            self._docker.images.add(f"{repository}:{tag}")

        return self._request("import", work, deadline)

    def pull(self, ref: str, *, deadline: float | None = None) -> Answer[None]:
        def work() -> None:
            raise Refused(404, f"pull access denied for {ref}, repository does not exist")

        return self._request("pull", work, deadline)

    def build(
        self, folder: str, tag: str, *, labels: Mapping[str, str], deadline: float | None = None
    ) -> Answer[None]:
        def work() -> None:
            self._docker.images.add(tag)

        return self._request("build", work, deadline)

    def events(self, *, since: float | None = None) -> Iterator[dict[str, Any]]:
        raise Gone("the fake's events come through its probe")


class PreparedExec(real.PreparedExec):
    """An exec at a wanted instant, step by step as the real one tells it."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str = "",
        deadline: float = 30.0,
        tell: Callable[[ExecAnswer], None] | None = None,
    ) -> None:
        self.container, self.argv, self.deadline = container, tuple(argv), deadline
        self._fake, self._told = engine, tell
        self._clock = engine.machine.clock
        self._answer = ExecAnswer()
        self._over = False
        self._ready, self._begun, self._dropped = False, False, False
        self._when: int | None = None
        self._clock.thread("exec", self._live)

    def warm(self, *, deadline: float = 5.0) -> bool:
        return self._clock.wait(lambda: self._ready, self._clock.now() + int(deadline * NS))

    def go(self, at: int | None = None) -> None:
        self._when, self._begun = at, True

    def cancel(self) -> None:
        self._dropped = self._begun = True

    def give_up(self) -> None:
        self.cancel()
        if self._answer.requested is not None:
            self._late("nobody waits for it any more")

    def wait(self) -> ExecAnswer:
        begin = max(self._when or 0, self._clock.now())

        def over() -> bool:
            return self._over or (self._dropped and self._answer.requested is None)

        if not self._clock.wait(over, begin + int(self.deadline * NS)):
            self._late(f"no answer within {self.deadline:g} s")
        return self._answer

    def _late(self, why: str) -> None:
        stage = "create" if self._answer.created is None else "start"
        self._step(
            edge="answer",
            timed_out=True,
            failure=Failure(Trouble.LATE, why),
            failed_at="run" if self._answer.started is not None else stage,
            ended=self._clock.now(),
        )

    def _step(self, **changes: Any) -> None:
        if self._over:
            return
        self._answer = replace(self._answer, **changes)
        self._over = self._answer.edge == "answer"
        if self._told is not None:
            self._told(self._answer)

    def _live(self) -> None:
        self._ready = self._fake.machine.dockerd.up
        self._clock.wait(lambda: self._begun)
        self._clock.wait(lambda: self._dropped, self._when or 0)
        if self._dropped:
            return
        stage = "create"
        out: Iterable[str] = ()
        self._answer = replace(self._answer, requested=self._clock.now())
        self._fake.calls.append("exec")
        try:
            docker = self._fake.machine.dockerd
            identity = self._fake.travel(
                "exec_create", lambda: docker.exec_create(self.container, self.argv)
            )
            self._step(edge="created", created=self._clock.now(), exec_id=identity)
            stage = "start"
            entry = self._fake.travel("exec_start", lambda: docker.exec_start(identity))
            self._step(edge="started", started=self._clock.now())
            stage, out = "run", entry["out"]
            self._fake.until(lambda: entry["code"] is not None)
            self._step(
                edge="answer", ended=self._clock.now(), exit_code=entry["code"],
                out="".join(out).encode(),
            )  # fmt: skip
        except (Refused, Gone) as error:
            failure = (
                Failure(Trouble.REFUSED, error.text, error.http)
                if isinstance(error, Refused)
                else Failure(Trouble.ABSENT, str(error))
            )
            self._step(
                edge="answer", ended=self._clock.now(), failure=failure, failed_at=stage,
                out="".join(out).encode(),
            )  # fmt: skip


def _labelled(labels: Mapping[str, str], wanted: Sequence[str]) -> bool:
    for want in wanted:
        key, _, value = want.partition("=")
        if key not in labels or (value and labels[key] != value):
            return False
    return True
