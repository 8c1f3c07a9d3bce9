"""The remount of a trial: one function per way in which mounts change.

Rule: every stop that we order is told as planned, so that the end it causes is no death; a
start is not, so that an end after it is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.lifecycle import Phase
from harness.model.container import Mount
from harness.runner import mounts
from harness.runner.making import make, source_at
from harness.runner.stage import MAIN, StepFailed, call, needed

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.model.container import ContainerSpec
    from harness.runner.stage import Stage


def remount(stage: Stage, then: Callable[[int], object] = bool) -> None:
    """Change the mounts in the way the experiment says.

    Told between two marks with the instants of the work itself: what a delay is counted from.

    Args:
        then: Called first of all when it is done, with the instant.
    """
    stage.say(e.Phase(**stage.now(), phase=Phase.REMOUNT.value, edge="begin"))
    ended = None
    try:
        _WAYS[stage.spec.experiment.remount.how](stage)
        ended = stage.clock.now()
        then(ended)
    finally:
        stage.say(e.Phase(**stage.at(ended), phase=Phase.REMOUNT.value, edge="end"))


def _restart(stage: Stage) -> None:
    subject, remount = stage.subject, stage.spec.experiment.remount
    deadline = stage.spec.experiment.deadlines.remount
    answer = call(
        stage,
        "restart",
        subject,
        lambda: stage.engine.restart(subject, grace=remount.stop_timeout, deadline=deadline),
        planned=True,
    )
    needed(answer, "restart")


def _recreate(stage: Stage) -> None:
    engine, old = stage.engine, stage.subject
    grace = stage.spec.experiment.remount.stop_timeout
    deadline = stage.spec.experiment.deadlines.remount
    stop = call(
        stage, "stop", old, lambda: engine.stop(old, grace=grace, deadline=deadline), planned=True
    )
    needed(stop, "stop")
    removed = call(
        stage,
        "remove",
        old,
        lambda: engine.remove(old, force=True, deadline=deadline),
        planned=True,
    )
    needed(removed, "remove")
    fresh = make(stage, MAIN, remounted(stage))
    needed(call(stage, "start", fresh, lambda: engine.start(fresh, deadline=deadline)), "start")


def remounted(stage: Stage) -> ContainerSpec:
    """The subject as it is after a recreate: one mount changed, or one more."""
    spec, change = stage.spec.experiment.container, stage.spec.experiment.remount
    if change.target is None:
        return spec
    updates = {"mode": change.mode, "source": change.source, "propagation": change.propagation}
    given: dict[str, Any] = {key: value for key, value in updates.items() if value is not None}
    if change.source is not None:
        given["volume"] = None  # a mount shows one thing
    if all(m.target != change.target for m in spec.mounts) and change.source is not None:
        added = Mount(target=change.target, **given)
        return spec.model_copy(update={"mounts": (*spec.mounts, added)})
    changed = tuple(
        m.model_copy(update=given) if m.target == change.target else m for m in spec.mounts
    )
    tmpfs = {
        target: t.model_copy(update={"mode": change.mode})
        if target == change.target and change.mode is not None
        else t
        for target, t in spec.tmpfs.items()
    }
    return spec.model_copy(update={"mounts": changed, "tmpfs": tmpfs})


def _in_place(stage: Stage) -> None:
    change, deadline = stage.spec.experiment.remount, stage.spec.experiment.deadlines.remount
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


def _propagate(stage: Stage) -> None:
    change = stage.spec.experiment.remount
    source = source_at(stage.spec.experiment.container, change.target or "")
    result = mounts.propagate(
        stage.machine,
        over=source,
        source=change.source or source,
        mode=change.mode,
        deadline=stage.spec.experiment.deadlines.remount,
    )
    if not result.ok:
        raise StepFailed(f"propagate: {result.why()}")
    if stage.abandoned.is_set():
        # The clean-up may have passed by already.
        mounts.restore(stage.machine, source, stage.shared.get(source, 0), deadline=10)
        raise StepFailed("the trial is over")


_WAYS = {
    "none": lambda stage: None,
    "restart": _restart,
    "recreate": _recreate,
    "in-place": _in_place,
    "propagate": _propagate,
}
