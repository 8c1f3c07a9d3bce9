"""What is made on the engine for one trial, and its removal.

Rule: everything carries the trial's labels and is on the stage's lists before anybody can
forget it. A step whose trial is over makes nothing, and takes back what the engine made for
it meanwhile. The clean-up tries every item, whatever the others say, and then looks
for what no list has (a request that was answered too late).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import events as e
from harness import images
from harness.errors import EnvironmentInvalid
from harness.machine import choose
from harness.runner import mounts
from harness.runner.pretask import SHELL, on_host
from harness.runner.recipe import create_body, limits
from harness.runner.stage import MAIN, StepFailed, needed

if TYPE_CHECKING:
    from harness.engine import Answer
    from harness.model.container import ContainerSpec, ImageSpec
    from harness.runner.stage import Stage

# Of the clean-up's own deadline, what one request may take: one that hangs leaves time for others.
SHARE = 0.3
BUILT_IN = frozenset({"bridge", "none", "host", "default"})


def everyone(stage: Stage) -> list[tuple[str, ContainerSpec]]:
    """(name, container) of the trial, in an order in which shared namespaces exist.

    Whoever takes a namespace from another comes after it; else those beside the subject
    come first.
    """
    experiment = stage.spec.experiment
    waiting = [
        *((other.name or "", other) for other in experiment.beside),
        (MAIN, experiment.container),
    ]
    done: list[tuple[str, ContainerSpec]] = []
    while waiting:
        there = {name for name, _ in done}
        free = [w for w in waiting if {n for _, n in w[1].shares_with()} <= there]
        if not free:
            raise StepFailed("containers wait for each other's namespaces")
        done.append(free[0])
        waiting.remove(free[0])
    return done


def prepare(stage: Stage) -> None:
    """Images, networks, sources of binds, and the hook before the trial."""
    experiment = stage.spec.experiment
    if experiment.before_trial is not None:
        result = on_host(stage, experiment.before_trial, "before-trial")
        if not result.ok:
            raise StepFailed(f"before_trial: {result.why()}")
    for name, spec in everyone(stage):
        stage.tags[name] = _image(stage, spec.image)
        _sources(stage, spec)
        # A trial starts from fresh volumes too; the engine makes them with the container.
        for mount in spec.mounts:
            if mount.volume is not None:
                stage.volumes[mount.volume] = f"{stage.token}-{mount.volume}"
        if spec.network not in BUILT_IN and ":" not in spec.network:
            _network(stage, spec.network)
    if experiment.remount.how == "propagate":
        source = source_at(experiment.container, experiment.remount.target or "")
        _living(stage)
        result = mounts.share(stage.machine, source, deadline=10)
        if not result.ok:
            raise StepFailed(f"sharing {source} for propagation: {result.why()}")
        stage.shared[source] = int(result.text.strip() or 0)


def _image(stage: Stage, wanted: ImageSpec) -> str:
    """The image's tag. What was made for an earlier trial is not read and hashed again."""
    known = stage.known.get(wanted)
    if known is None or not stage.engine.image(known).ok:
        try:
            known = images.ensure(stage.engine, wanted, machine=stage.machine)
        except EnvironmentInvalid as error:
            raise StepFailed(str(error)) from error
        stage.known[wanted] = known
    return known


def _living(stage: Stage) -> None:
    if stage.abandoned.is_set():
        raise StepFailed("the trial is over")


def _network(stage: Stage, word: str) -> None:
    if word in stage.networks:
        return
    _living(stage)
    name = f"{stage.token}-{word}"
    stage.networks[word] = name
    needed(stage.engine.network_create(name, {"Labels": dict(stage.labels)}), f"network {word}")


def _sources(stage: Stage, spec: ContainerSpec) -> None:
    folders = [m.source for m in spec.mounts if m.source is not None]
    remount = stage.spec.experiment.remount
    if remount.source is not None:
        folders.append(remount.source)
    for folder in folders:
        if stage.machine.kind in ("colima", "vm") and choose.holds_something(folder):
            # Made there, it would be an empty directory in the place of what is meant.
            if not stage.machine.root(("test", "-e", folder), deadline=10).ok:
                raise StepFailed(f"the VM does not see {folder} of this host (machine.mounts)")
            continue
        result = stage.machine.root(
            (SHELL, "-c", '[ -e "$1" ] || mkdir -p "$1"', "mkdir", folder), deadline=10
        )
        if not result.ok:
            raise StepFailed(f"mount source {folder}: {result.why()}")


def source_at(spec: ContainerSpec, target: str) -> str:
    """The machine's directory behind a bind mount of the container."""
    for mount in spec.mounts:
        if mount.target == target and mount.source is not None:
            return mount.source
    raise StepFailed(f"no bind mount at {target}")


def make(stage: Stage, name: str, spec: ContainerSpec) -> str:
    """Create one container, announce it to the probe, tell who it is."""
    _living(stage)
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
    if stage.abandoned.is_set():
        # The clean-up may have passed by already: whoever made it removes it.
        stage.engine.remove(identity, force=True)
        raise StepFailed("the trial is over")
    stage.is_now(name, identity)
    role = "subject" if name == MAIN else "beside"
    stage.link.watch(identity, role=role)
    inspected = stage.engine.inspect(identity, deadline=deadline).value or {}
    config = inspected.get("Config") or {}
    stage.say(
        e.ContainerRef(
            **stage.at(answer.answered),
            role=role,
            container=identity,
            name=name,
            image=stage.tags[name],
            limits=limits(inspected),
            config={k: config.get(k) for k in ("Cmd", "Entrypoint", "Tty", "OpenStdin", "User")},
        )
    )
    return identity


# --- the end ----------------------------------------------------------------------------


def clean(stage: Stage) -> None:
    """Everything that was made for the trial goes.

    Raises:
        StepFailed: names everything that could not be removed.
    """
    trouble: list[str] = []
    engine = stage.engine
    deadline = max(1.0, stage.spec.experiment.deadlines.clean * SHARE)

    def tried(what: str, answer: Answer[Any]) -> bool:
        """404: gone already; 409: its removal is under way."""
        if answer.failure is not None and answer.http not in {404, 409}:
            trouble.append(f"{what}: {answer.failure}")
        return not answer.absent

    there = True
    for identity in reversed(stage.made):
        stage.link.unwatch(identity)
        if there:
            what = f"container {identity[:12]}"
            there = tried(what, engine.remove(identity, force=True, deadline=deadline))
    if there:
        there = _strays(stage, deadline, tried)
    for name in stage.networks.values() if there else ():
        there = there and tried(f"network {name}", engine.network_remove(name, deadline=deadline))
    for name in stage.volumes.values() if there else ():
        there = there and tried(f"volume {name}", engine.volume_remove(name, deadline=deadline))
    for path, before in stage.shared.items():
        restored = mounts.restore(stage.machine, path, before, deadline=10)
        if not restored.ok:
            trouble.append(f"mounts at {path}: {restored.why()}")
    hook = stage.spec.experiment.after_trial
    if hook is not None:
        result = on_host(stage, hook, "after-trial", after=True)
        if not result.ok:
            trouble.append(f"after_trial: {result.why()}")
    if trouble:
        raise StepFailed("; ".join(trouble))


def _strays(stage: Stage, deadline: float, tried: Any) -> bool:
    """Containers with the trial's labels that are on no list: their create was answered too late."""
    wanted = {"label": [f"{key}={value}" for key, value in stage.labels.items()]}
    listed = stage.engine.ps(filters=wanted, deadline=deadline)
    there: bool = tried("the list of containers", listed)
    for row in listed.value or ():
        if there and row["Id"] not in stage.made:
            answer = stage.engine.remove(row["Id"], force=True, deadline=deadline)
            there = tried(f"container {row['Id'][:12]}", answer)
    return there
