"""The work of each phase of a trial: blocking calls, each told as an event when it happens.

Rules. These functions run in one-shot threads: they speak only through `Stage.say` and
their return value, and touch nothing of the trial's loop. Every exec is surrounded by the
container's status, before and after. A failure is a `StepFailed` with words for people; what
the engine said is in the events already.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import clock, images, process
from harness import events as e
from harness.errors import EnvironmentInvalid
from harness.runner import mounts
from harness.runner.recipe import create_body, limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.engine import Answer, Engine, ExecAnswer, PreparedExec
    from harness.machine import Machine
    from harness.model.container import ContainerSpec
    from harness.model.experiment import Script, TrialSpec
    from harness.runner.link import ProbeLink

MAIN = "main"
SHELL = "/bin/sh"


class StepFailed(Exception):
    """The phase's work could not be done; says why."""


@dataclass
class Stage:
    """What every step needs, and what they have made so far.

    Attributes:
        say: Puts an event into the trial's queue; from any thread.
        token: Short, unique on this engine: part of every name made for the trial.
        ids: Name within the experiment → container id.
        made: Every container id made, for the clean-up.
        abandoned: Set when the loop has left: a late step must make nothing new.
    """

    spec: TrialSpec
    machine: Machine
    engine: Engine
    link: ProbeLink
    say: Callable[[e.Event], None]
    token: str
    labels: Mapping[str, str]
    cgroup: str
    ids: dict[str, str] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def subject(self) -> str:
        return self.ids.get(MAIN, "")

    def title(self, name: str) -> str:
        """What a container of the trial is called on the engine."""
        return f"{self.token}-{name}"

    def environment(self) -> dict[str, str]:
        """What a script on the host is told."""
        return {
            **os.environ,
            "DOCKER_HOST": self.machine.docker_host,
            "CONTAINER_ID": self.subject,
            "DEATHBENCH_TRIAL": self.spec.trial,
        }


# --- telling ---------------------------------------------------------------------------


def now() -> dict[str, Any]:
    """The common members of an event of ours that happens at this instant."""
    at = clock.now()
    return {"t": at, "seen": at, "source": "runner", "clock": "harness"}


def _at(instant: int | None) -> dict[str, Any]:
    seen = clock.now()
    return {
        "t": seen if instant is None else instant,
        "seen": seen,
        "source": "runner",
        "clock": "harness",
    }


def call(
    stage: Stage,
    name: str,
    container: str,
    request: Callable[[], Answer[Any]],
    *,
    planned: bool = False,
) -> Answer[Any]:
    """One request of ours to the engine, told before and after."""
    stage.say(e.ApiCall(**now(), call=name, container=container, edge="request", planned=planned))
    answer = request()
    stage.say(
        e.ApiCall(
            **_at(answer.answered),
            call=name,
            container=container,
            edge="answer",
            planned=planned,
            http=answer.http,
            error=answer.error,
        )
    )
    return answer


def needed(answer: Answer[Any], what: str) -> Any:
    if answer.failure is not None:
        raise StepFailed(f"{what}: {answer.failure}")
    return answer.value


def status(
    stage: Stage, label: str, container: str, *, deadline: float = 5.0
) -> dict[str, Any] | None:
    """Ask the engine for the State and tell it; the whole inspect answer, None without one."""
    answer = stage.engine.inspect(container, deadline=deadline)
    inspected = answer.value
    stage.say(
        e.Status(
            **_at(answer.answered),
            label=label,
            container=container,
            by="inspect",
            state=None if inspected is None else inspected.get("State"),
            error=answer.error,
            http=answer.http,
        )
    )
    return inspected


def tell_exec(stage: Stage, label: str) -> Callable[[ExecAnswer], None]:
    """Turn an exec's steps into events. The request itself is told with its own instant."""
    told: set[str] = set()

    def tell(answer: ExecAnswer) -> None:
        common: dict[str, Any] = {
            "label": label, "container": stage.subject, "exec_id": answer.exec_id,
        }  # fmt: skip
        if "request" not in told and answer.requested is not None:
            told.add("request")
            stage.say(e.Exec(**_at(answer.requested), **{**common, "exec_id": None}, edge="request"))
        if answer.edge in told:
            return
        told.add(answer.edge)
        if answer.edge == "created":
            stage.say(e.Exec(**_at(answer.created), **common, edge="created"))
        elif answer.edge == "started":
            stage.say(e.Exec(**_at(answer.started), **common, edge="started"))
        elif answer.edge == "answer":
            stage.say(
                e.Exec(
                    **_at(answer.ended),
                    **common,
                    edge="answer",
                    exit_code=answer.exit_code,
                    http=answer.http,
                    error=answer.error,
                    seconds=answer.seconds,
                    output=answer.output,
                    timed_out=answer.timed_out,
                )
            )

    return tell


def argv_of(script: Script, name: str) -> tuple[str, ...]:
    """/bin/sh -c TEXT NAME ARGS…"""
    return (SHELL, "-c", script.text, name, *script.args)


def prepare_exec(stage: Stage, script: Script, label: str) -> PreparedExec:
    """Thread and connection of an exec in the subject, ready to go."""
    return stage.engine.prepare_exec(
        # By name, as people do it: while a recreate is under way the name is the old
        # container's, nobody's, then the new one's.
        stage.title(MAIN),
        argv_of(script, label),
        env=script.env,
        workdir=script.workdir,
        user=script.user or "",
        deadline=script.timeout,
        tell=tell_exec(stage, label),
    )


def on_host(stage: Stage, script: Script, label: str) -> process.Result:
    """Run a script on the harness's own host, told as a note."""
    result = process.run(
        argv_of(script, label),
        deadline=script.timeout,
        env={**stage.environment(), **script.env},
        cwd=script.workdir,
    )
    stage.say(
        e.Note(
            **now(),
            what=f"{label} on host",
            data={
                "code": result.code,
                "seconds": result.seconds,
                "timed_out": result.timed_out,
                "output": (result.out + result.err)[-8192:].decode(errors="backslashreplace"),
            },
        )
    )
    return result


# --- phases ----------------------------------------------------------------------------


def prepare(stage: Stage) -> None:
    """Images, networks, sources of binds, and the hook before the trial."""
    experiment = stage.spec.experiment
    if experiment.before_trial is not None:
        result = on_host(stage, experiment.before_trial, "before-trial")
        if not result.ok:
            raise StepFailed(f"before_trial: {result.why()}")
    for name, spec in _all(stage):
        try:
            stage.tags[name] = images.ensure(stage.engine, spec.image, machine=stage.machine)
        except EnvironmentInvalid as error:
            raise StepFailed(str(error)) from error
        _sources(stage, spec)
        # A trial starts from fresh volumes too; the engine makes them with the container.
        for mount in spec.mounts:
            if mount.volume is not None:
                stage.volumes[mount.volume] = f"{stage.token}-{mount.volume}"
        if spec.network not in {"bridge", "none", "host"} and ":" not in spec.network:
            _network(stage, spec.network)
    remount = experiment.remount
    if remount.how == "propagate":
        source = _source_at(experiment.container, remount.target or "")
        result = mounts.share(stage.machine, source, deadline=10)
        if not result.ok:
            raise StepFailed(f"sharing {source} for propagation: {result.why()}")
        stage.shared.append(source)


def _all(stage: Stage) -> list[tuple[str, ContainerSpec]]:
    experiment = stage.spec.experiment
    return [
        *((other.name or "", other) for other in experiment.beside),
        (MAIN, experiment.container),
    ]


def _network(stage: Stage, word: str) -> None:
    if word in stage.networks:
        return
    name = f"{stage.token}-{word}"
    stage.networks[word] = name
    body = {"Labels": dict(stage.labels), "Internal": False}
    needed(stage.engine.network_create(name, body), f"network {word}")


def _sources(stage: Stage, spec: ContainerSpec) -> None:
    folders = [m.source for m in spec.mounts if m.source is not None]
    remount = stage.spec.experiment.remount
    if remount.source is not None:
        folders.append(remount.source)
    for folder in folders:
        result = stage.machine.root(
            (SHELL, "-c", '[ -e "$1" ] || mkdir -p "$1"', "mkdir", folder), deadline=10
        )
        if not result.ok:
            raise StepFailed(f"mount source {folder}: {result.why()}")


def _source_at(spec: ContainerSpec, target: str) -> str:
    for mount in spec.mounts:
        if mount.target == target and mount.source is not None:
            return mount.source
    raise StepFailed(f"no bind mount at {target}")


def create(stage: Stage) -> None:
    """Every container of the trial, in an order in which shared namespaces exist."""
    for name, spec in _in_order(stage):
        make(stage, name, spec)


def _in_order(stage: Stage) -> list[tuple[str, ContainerSpec]]:
    """Those that share the subject's namespaces come after it, all others before."""
    after = {name for name, spec in _all(stage) if any(n == MAIN for _, n in spec.shares_with())}
    return sorted(_all(stage), key=lambda one: one[0] in after)


def make(stage: Stage, name: str, spec: ContainerSpec) -> str:
    """Create one container, announce it to the probe, tell who it is."""
    if stage.abandoned.is_set():
        raise StepFailed("the trial is over")
    body = create_body(
        spec,
        image=stage.tags[name],
        labels=stage.labels,
        ids=stage.ids,
        networks=stage.networks,
        volumes=stage.volumes,
        cgroup=stage.cgroup,
    )
    deadline = stage.spec.experiment.deadlines.create
    answer = stage.engine.create(stage.title(name), body, deadline=deadline)
    identity = str(needed(answer, f"create {name}"))
    stage.made.append(identity)
    stage.ids[name] = identity
    role = "subject" if name == MAIN else "beside"
    stage.link.watch(identity, role=role)
    inspected = stage.engine.inspect(identity, deadline=deadline).value or {}
    config = inspected.get("Config") or {}
    stage.say(
        e.ContainerRef(
            **_at(answer.answered),
            role=role,
            container=identity,
            name=name,
            image=stage.tags[name],
            limits=limits(inspected),
            config={k: config.get(k) for k in ("Cmd", "Entrypoint", "Tty", "OpenStdin", "User")},
        )
    )
    return identity


def start(stage: Stage) -> None:
    """The containers beside it, then the subject, then those that live in its namespaces."""
    deadline = stage.spec.experiment.deadlines.start
    for name, _ in _in_order(stage):
        identity = stage.ids[name]
        request = lambda i=identity: stage.engine.start(i, deadline=deadline)  # noqa: E731
        answer = call(stage, "start", identity, request)
        if answer.failure is not None:
            status(stage, "after start", identity)
            raise StepFailed(f"start {name}: {answer.failure}")


def setup(stage: Stage) -> None:
    """The set-up script, in the container or on the host."""
    script = stage.spec.experiment.setup
    if script is None:
        return
    if script.on == "host":
        status(stage, "before setup", stage.subject)
        result = on_host(stage, script, "setup")
        status(stage, "after setup", stage.subject)
        if not result.ok:
            raise StepFailed(f"setup: {result.why()}")
        return
    status(stage, "before setup", stage.subject)
    prepared = prepare_exec(stage, script, "setup")
    prepared.warm()
    prepared.go()
    answer = prepared.wait()
    status(stage, "after setup", stage.subject)
    if answer.failure is not None:
        raise StepFailed(f"setup: {answer.failure}")
    if answer.exit_code != 0:
        said = answer.output.strip().splitlines()
        raise StepFailed(f"setup: exit code {answer.exit_code}; {said[-1] if said else 'it said nothing'}")


def remount(stage: Stage) -> None:
    """Change the mounts in the way the experiment says."""
    experiment = stage.spec.experiment
    how, deadline = experiment.remount.how, experiment.deadlines.remount
    subject = stage.subject
    grace = experiment.remount.stop_timeout
    if how == "restart":
        restart = lambda: stage.engine.restart(subject, grace=grace, deadline=deadline)  # noqa: E731
        needed(call(stage, "restart", subject, restart, planned=True), "restart")
    elif how == "recreate":
        stop = lambda: stage.engine.stop(subject, grace=grace, deadline=deadline)  # noqa: E731
        needed(call(stage, "stop", subject, stop, planned=True), "stop")
        remove = lambda: stage.engine.remove(subject, force=True, deadline=deadline)  # noqa: E731
        needed(call(stage, "remove", subject, remove, planned=True), "remove")
        fresh = make(stage, MAIN, remounted(stage))
        begin = lambda: stage.engine.start(fresh, deadline=deadline)  # noqa: E731
        needed(call(stage, "start", fresh, begin), "start")
    elif how == "in-place":
        _in_place(stage, deadline)
    elif how == "propagate":
        source = _source_at(experiment.container, experiment.remount.target or "")
        result = mounts.propagate(
            stage.machine,
            over=source,
            source=experiment.remount.source or source,
            mode=experiment.remount.mode,
            deadline=deadline,
        )
        if not result.ok:
            raise StepFailed(f"propagate: {result.why()}")


def _in_place(stage: Stage, deadline: float) -> None:
    change = stage.spec.experiment.remount
    inspected = needed(stage.engine.inspect(stage.subject, deadline=deadline), "inspect")
    pid = (inspected.get("State") or {}).get("Pid") or 0
    if not pid:
        raise StepFailed("in-place: the container has no main process")
    result = mounts.in_place(
        stage.machine,
        pid=pid,
        target=change.target or "",
        mode=change.mode,
        source=change.source,
        deadline=deadline,
    )
    if not result.ok:
        raise StepFailed(f"in-place: {result.why()}")


def remounted(stage: Stage) -> ContainerSpec:
    """The subject as it is after a recreate: one mount changed, or one more."""
    spec, change = stage.spec.experiment.container, stage.spec.experiment.remount
    if change.target is None:
        return spec
    updates = {"mode": change.mode, "source": change.source, "propagation": change.propagation}
    given: dict[str, Any] = {key: value for key, value in updates.items() if value is not None}
    if all(m.target != change.target for m in spec.mounts) and change.source is not None:
        from harness.model.container import Mount

        added = Mount(target=change.target, **given)
        return spec.model_copy(update={"mounts": (*spec.mounts, added)})
    changed = tuple(
        m.model_copy(update=given) if m.target == change.target else m for m in spec.mounts
    )
    return spec.model_copy(update={"mounts": changed})


def post_mortem(stage: Stage, *, usage: bool) -> None:
    """What only the engine can tell, when it has noticed: State, logs, the list of containers."""
    for identity in [i for n, i in stage.ids.items() if n == MAIN]:
        inspected = status(stage, "post-mortem", identity)
        if inspected is not None:
            stage.say(e.Note(**now(), what="inspect", data={"container": identity, **_brief(inspected)}))
        logs = stage.engine.logs(identity, tail=100, deadline=5)
        text = b"" if logs.value is None else logs.value
        stage.say(
            e.Logs(
                **now(),
                container=identity,
                text=text[-65536:].decode(errors="backslashreplace"),
                error=logs.error,
            )
        )
    listed = stage.engine.ps(filters={"label": [f"{k}={v}" for k, v in stage.labels.items()]}, deadline=5)
    rows = [
        {"id": row.get("Id"), "names": row.get("Names"), "status": row.get("Status")}
        for row in listed.value or []
    ]
    stage.say(e.Note(**now(), what="ps -a", data={"rows": rows, "error": listed.error}))
    if usage:
        df = stage.engine.df(deadline=10)
        data = {
            "layers_size": (df.value or {}).get("LayersSize"),
            "images": len((df.value or {}).get("Images") or []),
            "containers": len((df.value or {}).get("Containers") or []),
            "error": df.error,
        }
        stage.say(e.Note(**now(), what="system df", data=data))


def _brief(inspected: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("Id", "Created", "State", "RestartCount", "Driver", "Platform", "Mounts", "NetworkSettings")
    return {"limits": limits(inspected), **{k: inspected.get(k) for k in keys}}


def clean(stage: Stage) -> None:
    """Everything that was made for the trial goes. Every item is tried, whatever the others say."""
    trouble: list[str] = []
    deadline = stage.spec.experiment.deadlines.clean
    for identity in reversed(stage.made):
        answer = stage.engine.remove(identity, force=True, deadline=deadline)
        stage.link.unwatch(identity)
        # 404: already removed by the remount; 409: a removal is under way.
        if answer.failure is not None and answer.http not in {404, 409}:
            trouble.append(f"container {identity[:12]}: {answer.failure}")
            if answer.absent:
                break
    for name in stage.networks.values():
        answer = stage.engine.network_remove(name, deadline=deadline)
        if answer.failure is not None and answer.http != 404 and not answer.absent:
            trouble.append(f"network {name}: {answer.failure}")
    for name in stage.volumes.values():
        answer = stage.engine.volume_remove(name, deadline=deadline)
        if answer.failure is not None and answer.http != 404 and not answer.absent:
            trouble.append(f"volume {name}: {answer.failure}")
    for path in stage.shared:
        # Once for the bind that made it shared, once for what was put over it.
        stage.machine.root(("umount", "-l", path), deadline=10)
        stage.machine.root(("umount", "-l", path), deadline=10)
    hook = stage.spec.experiment.after_trial
    if hook is not None:
        result = on_host(stage, hook, "after-trial")
        if not result.ok:
            trouble.append(f"after_trial: {result.why()}")
    if trouble:
        raise StepFailed("; ".join(trouble))
