"""The trial's state table: (phase, what happened) → (phase, actions).

Rules. Everything that decides what a trial does next stands in `TABLE`; the runner
performs and reports back, and decides nothing. Pure: no clock, no engine; a deadline
arrives here as something that happened.

    prepare → create → start → setup → remount → delay → pre-task → linger
            → post-mortem → clean → done

A death does not stop a trial: the pre-task is still asked for once, since the words the
engine refuses it with are what the user sees, and evidence. `overlap` stands in the place
of remount, delay and pre-task where the experiment lets them run at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Phase(StrEnum):
    """Where a trial is. The order is the order of a trial in which nothing goes wrong."""

    PREPARE = "prepare"
    CREATE = "create"
    START = "start"
    SETUP = "setup"
    REMOUNT = "remount"
    DELAY = "delay"
    PRE_TASK = "pre-task"
    OVERLAP = "overlap"
    LINGER = "linger"
    POST_MORTEM = "post-mortem"
    CLEAN = "clean"
    DONE = "done"


class Happened(StrEnum):
    """What the runner reports.

    DONE and FAILED end the work of the current phase, ENGINE_FAILED where it was the engine
    that was not there or did not answer; DIED is the subject's unplanned end; OVERDUE is the
    deadline of the whole trial; REMOUNT_ENDED and EXEC_ENDED are the two halves of an overlap.
    """

    DONE = "done"
    FAILED = "failed"
    ENGINE_FAILED = "engine-failed"
    DEADLINE = "deadline"
    DIED = "died"
    OVERDUE = "overdue"
    REMOUNT_ENDED = "remount-ended"
    EXEC_ENDED = "exec-ended"
    INTERRUPTED = "interrupted"


class Action(StrEnum):
    """What the runner is asked to do besides entering a phase."""

    ABORT = "abort"  # the trial is broken by the harness's own doing: keep the reason
    DISCARD = "discard"  # interrupted: it was never run
    SHORTEN = "shorten"  # nothing more to wait for but the engine's own notice of the death
    GIVE_UP = "give-up"  # the pre-task is not waited for any more


@dataclass(frozen=True, slots=True)
class Plan:
    """What of the experiment bears on the order of phases."""

    setup: bool = True
    remount: bool = True
    overlap: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """Where one trial is.

    Attributes:
        died: The subject's main process has ended, unplanned.
        open: In an overlap: which halves have not ended yet.
    """

    phase: Phase = Phase.PREPARE
    died: bool = False
    open: frozenset[Happened] = frozenset()


_HALVES = frozenset({Happened.REMOUNT_ENDED, Happened.EXEC_ENDED})

# What follows when a phase's work has ended well.
_NEXT = {
    Phase.PREPARE: Phase.CREATE,
    Phase.CREATE: Phase.START,
    Phase.START: Phase.SETUP,
    Phase.SETUP: Phase.REMOUNT,
    Phase.REMOUNT: Phase.DELAY,
    Phase.DELAY: Phase.PRE_TASK,
    Phase.PRE_TASK: Phase.LINGER,
    Phase.OVERLAP: Phase.LINGER,
    Phase.LINGER: Phase.POST_MORTEM,
    Phase.POST_MORTEM: Phase.CLEAN,
    Phase.CLEAN: Phase.DONE,
}

TABLE: dict[tuple[Phase, Happened], tuple[Phase, tuple[Action, ...]]] = {
    # Before the container started nothing can have died of anything: the trial is void.
    (Phase.PREPARE, Happened.FAILED): (Phase.CLEAN, (Action.ABORT,)),
    (Phase.CREATE, Happened.FAILED): (Phase.CLEAN, (Action.ABORT,)),
    # A container that can not start is what the user meets as "is not running": go and ask.
    (Phase.START, Happened.FAILED): (Phase.PRE_TASK, ()),
    (Phase.START, Happened.DIED): (Phase.START, ()),
    # A set-up that fails in a living container voids the trial; had the container died of
    # it, the judge finds the death in the history and it counts.
    (Phase.SETUP, Happened.FAILED): (Phase.POST_MORTEM, (Action.ABORT,)),
    (Phase.SETUP, Happened.DIED): (Phase.PRE_TASK, ()),
    # An engine that fails now is a finding, as it would be one phase later.
    (Phase.SETUP, Happened.ENGINE_FAILED): (Phase.PRE_TASK, ()),
    # The user's script would go on to its pre-task after a remount that went wrong.
    (Phase.REMOUNT, Happened.FAILED): (Phase.PRE_TASK, ()),
    (Phase.REMOUNT, Happened.DIED): (Phase.REMOUNT, ()),
    (Phase.DELAY, Happened.DIED): (Phase.DELAY, ()),
    (Phase.PRE_TASK, Happened.DIED): (Phase.PRE_TASK, ()),
    # A pre-task that failed is what the trial was run for.
    (Phase.PRE_TASK, Happened.FAILED): (Phase.LINGER, ()),
    (Phase.OVERLAP, Happened.DIED): (Phase.OVERLAP, ()),
    (Phase.LINGER, Happened.DIED): (Phase.LINGER, (Action.SHORTEN,)),
    # The whole trial takes too long. Where the pre-task was never asked for, nothing was
    # tried; where it was, that it has no answer is the finding.
    (Phase.CREATE, Happened.OVERDUE): (Phase.CLEAN, (Action.ABORT,)),
    **{
        (phase, Happened.OVERDUE): (Phase.POST_MORTEM, (Action.ABORT, Action.GIVE_UP))
        for phase in (Phase.START, Phase.SETUP, Phase.REMOUNT, Phase.DELAY)
    },
    **{
        (phase, Happened.OVERDUE): (Phase.POST_MORTEM, (Action.GIVE_UP,))
        for phase in (Phase.PRE_TASK, Phase.OVERLAP, Phase.LINGER)
    },
    # What could not be collected or removed is recorded; it changes nothing about the trial.
    (Phase.POST_MORTEM, Happened.FAILED): (Phase.CLEAN, ()),
    (Phase.POST_MORTEM, Happened.DIED): (Phase.POST_MORTEM, ()),
    (Phase.CLEAN, Happened.FAILED): (Phase.DONE, ()),
    (Phase.CLEAN, Happened.DIED): (Phase.CLEAN, ()),
    (Phase.CLEAN, Happened.INTERRUPTED): (Phase.CLEAN, (Action.DISCARD,)),
}


def step(state: State, happened: Happened, plan: Plan) -> tuple[State, tuple[Action, ...]]:
    """The next state and what to do on the way there.

    >>> step(State(Phase.SETUP), Happened.DONE, Plan(remount=False))
    (State(phase=<Phase.DELAY: 'delay'>, died=False, open=frozenset()), ())

    Raises:
        ValueError: this can not happen in this phase: a bug of the runner.
    """
    phase = state.phase
    if phase is Phase.DONE:
        raise ValueError(f"{happened} after the trial is done")
    if happened is Happened.DEADLINE:
        # Work that does not end has failed; waiting (delay, linger) that ends is done.
        happened = Happened.DONE if phase in {Phase.DELAY, Phase.LINGER} else Happened.FAILED
    if happened is Happened.DIED:
        state = replace(state, died=True)
    if happened is Happened.ENGINE_FAILED and (phase, happened) not in TABLE:
        happened = Happened.FAILED
    if (phase, happened) in TABLE:
        target, actions = TABLE[phase, happened]
        return _enter(state, target, plan), actions
    if happened is Happened.DIED:
        return state, ()
    if happened is Happened.INTERRUPTED:
        return replace(state, phase=Phase.CLEAN, open=frozenset()), (Action.DISCARD,)
    if happened in _HALVES and phase is Phase.OVERLAP:
        left = state.open - {happened}
        if left:
            return replace(state, open=left), ()
        return _enter(replace(state, open=frozenset()), Phase.LINGER, plan), ()
    if happened is Happened.FAILED and phase is Phase.OVERLAP:
        # A deadline over both halves: whatever is still open is given up.
        return _enter(replace(state, open=frozenset()), Phase.LINGER, plan), ()
    if happened is Happened.DONE:
        return _enter(state, _NEXT[phase], plan), ()
    raise ValueError(f"{happened} can not happen in {phase}")


def _enter(state: State, target: Phase, plan: Plan) -> State:
    """Skip the phases the experiment does not have."""
    if target is state.phase:
        return state
    state = replace(state, open=frozenset())
    if target is Phase.SETUP and not plan.setup:
        target = Phase.REMOUNT
    if target is Phase.REMOUNT and state.died:
        target = Phase.PRE_TASK  # there is nothing left to remount
    if target is Phase.REMOUNT and plan.overlap:
        return replace(state, phase=Phase.OVERLAP, open=_HALVES)
    if target is Phase.REMOUNT and not plan.remount:
        target = Phase.DELAY
    return replace(state, phase=target)
