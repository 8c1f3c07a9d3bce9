"""Which trial next and why a cell stops, from counts alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from harness.schedule import Schedule, replay
from harness.stats import sequential


@dataclass(frozen=True)
class Spec:
    trial: str
    cell: str
    block: int = 0
    warm_up: bool = False


def specs(cells=("a", "b"), trials=10, blocks=1, warm_up=0):
    found = []
    for block in range(blocks):
        found += [Spec(f"a/warm-{block}-{n}", "a", block, True) for n in range(warm_up)]
        found += [
            Spec(f"{cell}/{block * trials + n}", cell, block)
            for n in range(1, trials + 1)
            for cell in cells
        ]
    return found


def run(schedule, rates, rng, budget_step=0.0):
    """Everything a sweep does, with coins for containers."""
    order, elapsed = [], 0.0
    for block in schedule.blocks():
        while (spec := schedule.next(block, elapsed)) is not None:
            order.append(spec.trial)
            died = rng.random() < rates[spec.cell]
            schedule.finished(
                spec.trial, spec.cell, "died" if died else "survived", warm_up=spec.warm_up
            )
            elapsed += budget_step
    return order


def test_without_a_rule_every_planned_trial_runs_in_order():
    """No rule, no limit: the plan is the order."""
    plan = specs(blocks=2, warm_up=1)
    schedule = Schedule(plan)
    assert run(schedule, {"a": 0.5, "b": 0.5}, random.Random(1)) == [s.trial for s in plan]
    assert schedule.stopped() == {"a": "all planned trials ran", "b": "all planned trials ran"}
    assert not schedule.watched


def test_a_decided_cell_stops_and_says_why():
    """A cell without deaths stops below 10 %, one that always dies stops above 1 % at once."""
    rule = sequential.rule(80, below=0.01, above=0.10)
    schedule = Schedule(specs(trials=80), rule)
    order = run(schedule, {"a": 0.0, "b": 1.0}, random.Random(1))
    assert schedule.stopped() == {"a": "below 10%", "b": "above 1%"}
    assert sum(t.startswith("a/") for t in order) == 31
    assert sum(t.startswith("b/") for t in order) == 1
    assert schedule.watched
    assert [d.cell for d in schedule.decisions] == ["b", "a"]


def test_until_deaths_stops_at_the_count():
    """Three deaths are enough for who asked for three."""
    schedule = Schedule(specs(trials=20), until_deaths=3)
    order = run(schedule, {"a": 1.0, "b": 0.0}, random.Random(1))
    assert schedule.stopped()["a"] == "3 deaths"
    assert len(order) == 3 + 20


def test_blind_and_broken_trials_decide_nothing():
    """Unobserved and invalid trials are in no count that a rule sees."""
    schedule = Schedule(specs(trials=3), until_deaths=1)
    for n in range(1, 4):
        assert schedule.finished(f"a/{n}", "a", "unobserved") is None
    assert schedule.finished("b/1", "b", "died", warm_up=True) is None
    assert schedule.finished("b/2", "b", "died") == "1 deaths"


def test_a_budget_is_spent_where_the_table_is_least_decided():
    """With little time, a cell near the level gets more trials than clear ones."""
    plan = specs(cells=("clean", "near", "dead"), trials=100)
    rule = sequential.Fixed(1000, level=0.05)
    schedule = Schedule(plan, rule, budget=90.0)
    order = run(
        schedule, {"clean": 0.0, "near": 0.06, "dead": 0.9}, random.Random(3), budget_step=1.0
    )
    assert len(order) == 90
    taken = {c: sum(t.startswith(c) for t in order) for c in ("clean", "near", "dead")}
    assert taken["near"] > taken["clean"] > taken["dead"]


def test_every_block_gets_its_share_of_the_budget():
    """A budget does not starve the machines that come last."""
    schedule = Schedule(specs(trials=50, blocks=4), budget=40.0)
    order = run(schedule, {"a": 0.1, "b": 0.1}, random.Random(3), budget_step=1.0)
    blocks = [(int(t.split("/")[1]) - 1) // 50 for t in order]
    assert [blocks.count(b) for b in range(4)] == [10, 10, 10, 10]


def test_a_machine_is_not_started_for_decided_cells():
    """Blocks whose cells have all stopped are not waiting, warm-up or not."""
    schedule = Schedule(specs(cells=("a",), trials=5, blocks=2, warm_up=1), until_deaths=1)
    schedule.finished("a/1", "a", "died")
    assert schedule.blocks() == []
    assert schedule.next(1) is None


@given(st.integers(0, 2**32), st.floats(0, 1), st.floats(0, 1))
def test_a_recorded_order_can_be_replayed(seed, rate_a, rate_b):
    """The same trials finishing in the same order give the same decisions."""
    rule = sequential.rule(40, below=0.01, above=0.10)
    rng = random.Random(seed)
    plan = specs(trials=40)
    schedule, log = Schedule(plan, rule), []
    while (spec := schedule.next(0)) is not None:
        outcome = "died" if rng.random() < {"a": rate_a, "b": rate_b}[spec.cell] else "survived"
        schedule.finished(spec.trial, spec.cell, outcome)
        log.append({"trial": spec.trial, "cell": spec.cell, "outcome": outcome, "warm_up": False})
    assert replay(plan, log, rule=rule).decisions == schedule.decisions
    assert len({entry["trial"] for entry in log}) == len(log)


def test_the_control_is_stopped_by_nothing_but_the_end_of_the_others():
    """A rule, a number of deaths: the control goes on; once it is alone, it has done its work."""
    rule = sequential.rule(80, below=0.01, above=0.10)
    schedule = Schedule(specs(cells=("a", "b", "control"), trials=80), rule, control="control")
    order = run(schedule, {"a": 1.0, "b": 0.0, "control": 0.5}, random.Random(4))
    assert sum(t.startswith("control") for t in order) == 30
    assert schedule.stopped() == {
        "a": "above 1%", "b": "below 10%", "control": "the control is needed no longer"
    }  # fmt: skip


def test_a_budget_neither_starves_nor_prefers_the_control():
    """Where the least decided cell is next, the control still gets its share all the time."""
    plan = specs(cells=("clean", "near", "dead", "control"), trials=60)
    schedule = Schedule(plan, budget=120.0, control="control")
    rates = {"clean": 0.0, "near": 0.06, "dead": 0.9, "control": 0.5}
    order = run(schedule, rates, random.Random(2), budget_step=1.0)
    for at in range(0, 120, 24):
        assert 5 <= sum(t.startswith("control") for t in order[at : at + 24]) <= 7


def test_a_budget_does_not_pull_apart_what_must_stay_in_order():
    """Two sides in blocks of two: cut off by the budget, as many of one as of the other."""
    plan = specs(cells=("before", "after"), trials=60)
    schedule = Schedule(plan, budget=41.0, in_order=True)
    order = run(schedule, {"before": 0.9, "after": 0.0}, random.Random(2), budget_step=1.0)
    assert order == [s.trial for s in plan[:41]]
    assert not schedule.watched
