"""The state table: every trial ends, whatever happens on the way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.lifecycle import Action, Happened, Phase, Plan, State, step

PLAN = Plan()


def walk(happenings, plan=PLAN):
    """The phases a trial goes through when these things happen, and all actions."""
    state, phases, actions = State(), [Phase.PREPARE], []
    for happened in happenings:
        state, more = step(state, happened, plan)
        phases.append(state.phase)
        actions.extend(more)
    return phases, actions, state


def test_a_trial_in_which_nothing_goes_wrong_passes_all_phases_in_order():
    """Ten times done: the ten phases, nothing special asked for."""
    phases, actions, _ = walk([Happened.DONE] * 10)
    wanted = [p for p in Phase if p is not Phase.OVERLAP]
    assert wanted == phases
    assert actions == []


def test_what_the_experiment_does_not_have_is_skipped():
    """No set-up and no remount: from start straight to the delay."""
    phases, _, _ = walk([Happened.DONE] * 3, Plan(setup=False, remount=False))
    assert phases == [Phase.PREPARE, Phase.CREATE, Phase.START, Phase.DELAY]


def test_a_container_that_dies_in_its_setup_is_not_remounted_but_still_asked():
    """The user's script would run its pre-task and be refused; those words are evidence."""
    phases, actions, state = walk(
        [Happened.DONE, Happened.DONE, Happened.DONE, Happened.DIED, Happened.FAILED]
    )
    assert phases[-3:] == [Phase.SETUP, Phase.PRE_TASK, Phase.LINGER]
    assert state.died
    assert actions == []


def test_a_container_that_can_not_be_created_voids_the_trial():
    """Before the start nothing can have died: aborted, cleaned, done."""
    phases, actions, _ = walk([Happened.DONE, Happened.FAILED, Happened.DONE])
    assert phases[-2:] == [Phase.CLEAN, Phase.DONE]
    assert actions == [Action.ABORT]


@pytest.mark.parametrize("first", [Happened.REMOUNT_ENDED, Happened.EXEC_ENDED])
def test_an_overlap_ends_when_both_halves_have_ended(first):
    """Whichever half ends first, the trial waits for the other."""
    (second,) = {Happened.REMOUNT_ENDED, Happened.EXEC_ENDED} - {first}
    phases, _, _ = walk([Happened.DONE] * 4 + [first, second], Plan(overlap=True))
    assert phases[-3:] == [Phase.OVERLAP, Phase.OVERLAP, Phase.LINGER]


def test_an_interrupt_cleans_and_discards_from_every_phase():
    """Ctrl-C never leaves a container behind and never counts a half trial."""
    for phase in Phase:
        if phase is Phase.DONE:
            continue
        state, actions = step(State(phase), Happened.INTERRUPTED, Plan())
        assert phase is Phase.CLEAN or state.phase is Phase.CLEAN
        assert actions == (Action.DISCARD,)


def test_a_phase_that_passes_its_deadline_is_left():
    """A hung exec does not hang the sweep: every phase has a way on."""
    for phase in Phase:
        if phase is Phase.DONE:
            continue
        opened = frozenset({Happened.EXEC_ENDED}) if phase is Phase.OVERLAP else frozenset()
        state, _ = step(State(phase, open=opened), Happened.DEADLINE, Plan())
        assert state.phase is not phase


@given(
    st.lists(
        st.sampled_from(
            [
                Happened.DONE,
                Happened.FAILED,
                Happened.ENGINE_FAILED,
                Happened.DEADLINE,
                Happened.DIED,
            ]
        )
    ),
    st.builds(Plan, st.booleans(), st.booleans(), st.just(False)),
)
def test_every_trial_ends_and_never_goes_back(happenings, plan):
    """Whatever happens, phases only go forward, and dones always reach the end."""
    order = list(Phase)
    state = State()
    for happened in [*happenings, *[Happened.DONE] * len(order)]:
        if state.phase is Phase.DONE:
            break
        failed = happened in {Happened.FAILED, Happened.ENGINE_FAILED}
        if failed and state.phase in {Phase.DELAY, Phase.LINGER}:
            continue  # nothing is worked on there that could fail
        after, _ = step(state, happened, plan)
        assert order.index(after.phase) >= order.index(state.phase)
        state = after
    assert state.phase is Phase.DONE


def test_an_engine_that_fails_the_set_up_is_met_by_the_pre_task():
    """A daemon that goes away after the start is a finding; a script's own error is not."""
    assert step(State(Phase.SETUP), Happened.ENGINE_FAILED, Plan())[0].phase is Phase.PRE_TASK
    state, actions = step(State(Phase.SETUP), Happened.FAILED, Plan())
    assert (state.phase, actions) == (Phase.POST_MORTEM, (Action.ABORT,))


def test_a_trial_that_takes_too_long_is_void_only_where_nothing_was_tried():
    """With the pre-task asked for, the missing answer is the finding."""
    for phase in (Phase.START, Phase.SETUP, Phase.REMOUNT, Phase.DELAY):
        _, actions = step(State(phase), Happened.OVERDUE, Plan())
        assert Action.ABORT in actions
    for phase in (Phase.PRE_TASK, Phase.OVERLAP, Phase.LINGER):
        state, actions = step(State(phase), Happened.OVERDUE, Plan())
        assert (state.phase, actions) == (Phase.POST_MORTEM, (Action.GIVE_UP,))


def test_what_can_not_happen_is_a_bug_and_says_so():
    """A half of an overlap outside one is refused by name."""
    with pytest.raises(ValueError, match="exec-ended can not happen in setup"):
        step(State(Phase.SETUP), Happened.EXEC_ENDED, Plan())
