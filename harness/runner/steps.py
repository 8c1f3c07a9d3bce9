"""The work of the other phases of a trial: start, set-up, post-mortem.

Rules. These functions run in one-shot threads and touch nothing of the trial's loop. Every
exec is surrounded by the container's status, before and after. A failure is a `StepFailed`
with words for people; what the engine said is in the events already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.clock import NS
from harness.engine import Trouble
from harness.machine import Witnessed
from harness.runner import maclog
from harness.runner.making import everyone, make
from harness.runner.pretask import on_host, prepare_exec
from harness.runner.recipe import limits
from harness.runner.stage import StepFailed, call, status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.clock import Inbox
    from harness.machine import Machine
    from harness.runner.stage import Stage

WARM = 5.0
# Docker's `die` comes 30-90 ms after the kernel's exit when idle, a second under load; past
# this it is Docker's silence that is the finding.
NOTICE = 10.0
FLUSH = 5.0
# Kept of the post-mortem's time for its requests when the machine was away for most of it.
ASKING = 10.0
# From an engine's orderly stop to its machine's, emulated: five to twenty seconds were seen.
LEAVING = 30.0
# A machine that boots alone knows what became of its containers: emulated, on a busy host.
BOOT = 180.0


def create(stage: Stage) -> None:
    """Every container of the trial."""
    for name, spec in everyone(stage):
        make(stage, name, spec)


def start(stage: Stage) -> None:
    """In the order in which they were made: whoever lends a namespace first."""
    deadline = stage.spec.experiment.deadlines.start
    for name, _ in everyone(stage):
        identity = stage.ids[name]
        request = lambda i=identity: stage.engine.start(i, deadline=deadline)  # noqa: E731
        answer = call(stage, "start", identity, request)
        if answer.failure is not None:
            status(stage, "after start", identity)
            raise StepFailed(f"start {name}: {answer.failure}", engine=answer.http is None)


def setup(stage: Stage) -> None:
    """The set-up script, in the container or on the host."""
    script = stage.spec.experiment.setup
    if script is None:
        return
    status(stage, "before setup", stage.subject)
    if script.on == "host":
        result = on_host(stage, script, "setup")
        status(stage, "after setup", stage.subject)
        if not result.ok:
            raise StepFailed(f"setup: {result.why()}")
        return
    prepared = prepare_exec(stage, script, "setup")
    prepared.warm(deadline=WARM)
    prepared.go()
    answer = prepared.wait()
    status(stage, "after setup", stage.subject)
    if answer.failure is not None:
        # A script that takes too long is its author's; an engine that never began it is not.
        trouble, begun = answer.failure.trouble, answer.failed_at == "run"
        engines = trouble is Trouble.ABSENT or (trouble is not Trouble.REFUSED and not begun)
        raise StepFailed(f"setup: {answer.failure}", engine=engines)
    if answer.exit_code != 0:
        said = answer.output.strip().splitlines()
        raise StepFailed(
            f"setup: exit code {answer.exit_code}; {said[-1] if said else 'it said nothing'}"
        )


def post_mortem(stage: Stage, *, noticed: Inbox[bool] | None, usage: bool) -> bool:
    """What only the engine can tell; True when the probe has handed over all it saw until now.

    noticed: Filled when the engine has noticed the death; None: there is nothing to wait for.
    """
    clock = stage.clock
    if noticed is not None:
        noticed.get(clock.now() + int(NOTICE * NS))
    began = clock.now()
    end = began + int(stage.spec.experiment.deadlines.post_mortem * NS)
    more = int(patience(stage.machine) * NS)
    if not stage.link.flush(FLUSH):
        _await_machine(stage, max(end - int(ASKING * NS), began + more))
    elif _perhaps_leaving(stage):
        _await_machine(stage, began + int(LEAVING * NS))
    # On top of the deadline, which is made for a machine that answers.
    end += min(clock.now() - began, more)
    _hear_host(stage)

    def left(most: float) -> float:
        # A request without time is made all the same: that it was not answered is told.
        return max(0.05, min(most, (end - clock.now()) / NS))

    if maclog.applies():
        maclog.hear(stage, deadline=left(10))
    if stage.subject:
        _look_at(stage, stage.subject, left)
    wanted = {"label": [f"{key}={value}" for key, value in stage.labels.items()]}
    listed = stage.engine.ps(filters=wanted, deadline=left(5))
    rows = [
        {"id": row.get("Id"), "names": row.get("Names"), "status": row.get("Status")}
        for row in listed.value or []
    ]
    stage.say(e.Note(**stage.now(), what="ps -a", data={"rows": rows, "error": listed.error}))
    if usage:
        df = stage.engine.df(deadline=left(10))
        data = {
            "layers_size": (df.value or {}).get("LayersSize"),
            "images": len((df.value or {}).get("Images") or []),
            "containers": len((df.value or {}).get("Containers") or []),
            "error": df.error,
        }
        stage.say(e.Note(**stage.now(), what="system df", data=data))
    return stage.link.flush(FLUSH)


def patience(machine: Machine) -> float:
    """Seconds that a machine with a boot of its own may be away, beyond any deadline."""
    return BOOT if isinstance(machine, Witnessed) else 0.0


def _perhaps_leaving(stage: Stage) -> bool:
    """Is the engine gone from a VM that this host watches, with no experiment that did it?

    Whoever stops a VM stops its engine first: which of the two it was is known when the machine
    has gone, or its engine is there again.
    """
    watched = isinstance(stage.machine, Witnessed) and not stage.spec.experiment.inject
    return watched and not stage.engine.ping(deadline=5).ok


def _await_machine(stage: Stage, end: int) -> None:
    """A machine that boots, leaves or stands still alone knows what became of its containers.

    Until the probe and the engine answer, the machine has ended, or `end`.
    """
    while stage.clock.now() < end:
        if stage.link.flush(FLUSH) and stage.engine.ping(deadline=5).ok:
            return
        if _over(stage):
            return
        stage.clock.sleep(0.5)


def _over(stage: Stage) -> bool:
    """Has this host seen the machine's end? Nothing that is gone so comes back by itself."""
    machine = stage.machine
    return isinstance(machine, Witnessed) and any(
        said.ended for said in machine.testimony(stage.began)
    )


def _hear_host(stage: Stage) -> None:
    """What this host saw of the machine since the trial began goes into its history."""
    machine = stage.machine
    if not isinstance(machine, Witnessed):
        return
    for said in machine.testimony(stage.began):
        stage.say(e.HostState(**stage.at(said.at), what=said.what, why=said.why, until=said.until))


def _look_at(stage: Stage, container: str, left: Callable[[float], float]) -> None:
    inspected = status(stage, "post-mortem", container, deadline=left(5))
    if inspected is not None:
        data = {"container": container, **_brief(inspected)}
        stage.say(e.Note(**stage.now(), what="inspect", data=data))
    logs = stage.engine.logs(container, tail=100, deadline=left(5))
    text = b"" if logs.value is None else logs.value
    stage.say(
        e.Logs(
            **stage.now(),
            container=container,
            text=text[-65536:].decode(errors="backslashreplace"),
            error=logs.error,
        )
    )


def _brief(inspected: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("Id", "Created", "State", "RestartCount", "Driver", "Platform", "Mounts")
    network = {"NetworkSettings": inspected.get("NetworkSettings")}
    return {"limits": limits(inspected), **{k: inspected.get(k) for k in keys}, **network}
