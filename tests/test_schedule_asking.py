"""A search in the place of a plan: the loop that runs sweeps runs it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from harness.schedule import Arm, Asking
from harness.stats import sequential, twosample
from harness.stats.certify import Certify, Chain, Pair
from harness.stats.culprit import Culprit, Culprits, certification
from harness.stats.search import known
from harness.stats.step import Step
from harness.stats.threshold import Oriented


@dataclass(frozen=True)
class Spec:
    trial: str
    cell: str
    block: int
    machine: str
    warm_up: bool = False


def arms(machine_of=lambda q: "m"):
    def arm(question):
        cell = f"c{question}"
        return Arm(
            cell, {"at": question}, machine_of(question),
            lambda n, block: Spec(f"{cell}/{n}", cell, block, machine_of(question)),
        )  # fmt: skip

    return arm


def run(asking, dies, rng):
    """As the sweep's loop does it: blocks, machines, trials, verdicts."""
    machines = []
    while asking.blocks():
        block = asking.blocks()[0]
        machines.append(asking.peek(block).machine)
        while (spec := asking.next(block)) is not None:
            assert spec.block == block
            assert spec.machine == machines[-1]
            at = int(spec.cell[1:])
            outcome = "died" if rng.random() < dies(at) else "survived"
            asking.finished(spec.trial, spec.cell, outcome)
    return machines


def test_a_step_is_found_through_the_loop():
    """Questions become trials, outcomes become answers, each step is recorded."""
    heard = []
    search = Step(17, rates=known(0.0, 1.0))
    asking = Asking(search, 17, arms(), lambda q: "m", most=100, hear=heard.append)
    run(asking, lambda at: float(at >= 5), random.Random(0))
    assert search.first_bad == 5
    assert len(heard) == len(asking.steps) == 4
    assert asking.restarts == 0
    assert set(asking.stopped()) == {s.trial.split("/")[0] for s in heard}


def test_restarts_are_charged():
    """Machines alternate along the axis: dear restarts make the search change them less often."""
    restarts = {}
    for price in (0.0, 20.0):
        search = Step(33, rates=known(0.02, 0.6))
        side = lambda q: "even" if q % 2 else "odd"  # noqa: E731
        asking = Asking(search, 33, arms(side), side, most=300, restart=price)
        machines = run(asking, lambda at: 0.6 if at >= 20 else 0.02, random.Random(1))
        assert search.first_bad == 20
        assert len(machines) == asking.restarts + 1
        restarts[price] = asking.restarts
    assert restarts[20.0] < restarts[0.0]


def test_a_search_can_be_resumed():
    """Told what was run already, it asks what it would have asked next."""
    whole = Asking(Step(17), 17, arms(), lambda q: "m", most=25)
    run(whole, lambda at: 0.7 if at >= 9 else 0.01, random.Random(2))
    log = [
        {"trial": s.trial, "cell": f"c{s.question}", "n": int(s.trial.split("/")[1]),
         "outcome": "died" if s.died else "survived", "warm_up": False}
        for s in whole.steps
    ]  # fmt: skip
    again = Asking(Step(17), 17, arms(), lambda q: "m", most=25)
    again.resume(log[:12], {f"c{q}": q for q in range(17)})
    spec = again.next(0)
    assert spec is not None
    assert spec.trial == log[12]["trial"]


def test_it_gives_up_with_a_reason():
    """At the most trials, when it is hopeless, when nothing can be observed."""
    asking = Asking(Step(9), 9, arms(), lambda q: "m", most=7)
    run(asking, lambda at: 0.5, random.Random(3))
    assert len(asking.steps) == 7
    asking = Asking(
        Step(9), 9, arms(), lambda q: "m", most=99, hopeless=lambda left: "no difference"
    )
    run(asking, lambda at: 0.5, random.Random(3))
    assert (asking.given_up, len(asking.steps)) == ("no difference", 1)
    asking = Asking(Step(9), 9, arms(), lambda q: "m", most=99)
    while (spec := asking.next(0)) is not None:
        asking.finished(spec.trial, spec.cell, "unobserved")
    assert "10 trials in a row" in asking.given_up


def test_culprit_then_certification():
    """The answer is checked by trials of its own: what it says must die dies, the rest lives."""
    truth = Culprits("and", (1, 4))
    search = Culprit(6, rates=known(0.02, 0.9))

    def then():
        checks = certification(search.answer, 6)
        rule = sequential.rule(60, below=0.05, above=0.5)
        return Certify([search.index(c.mask) for c in checks], rule)

    chain = Chain(search, then)
    asking = Asking(chain, len(search.questions), arms(), lambda q: "m", most=300)
    run(asking, lambda at: 0.9 if truth.kills(search.questions[at]) else 0.02, random.Random(4))
    assert search.answer == truth
    said = {search.questions[q]: v for q, v in chain.second.verdicts.items()}
    assert said == {0b010010: "above 5%", 0b111101: "below 50%", 0b101111: "below 50%"}


def test_a_pair_alternates_in_blocks_of_two():
    """Every block has both configurations, in an order that the seed decides."""
    pair = Pair(twosample.design(5), seed=3)
    asking = Asking(pair, 2, arms(), lambda q: "m", most=100)
    run(asking, lambda at: (0.05, 0.95)[at], random.Random(5))
    order = [s.question for s in asking.steps]
    assert all(set(order[i : i + 2]) == {0, 1} for i in range(0, len(order) - 1, 2))
    assert 0 < sum(order[::2]) < len(order[::2])
    assert pair.verdict == "b dies more"


def test_the_direction_of_an_axis_is_found_out():
    """Nobody said that more memory means fewer deaths."""
    search = Oriented(16)
    asking = Asking(search, 16, arms(), lambda q: "m", most=400)
    run(asking, lambda at: 0.7 if at <= 6 else 0.01, random.Random(6))
    assert search.likelier.rising is False
    assert search.likelier.answer.between == (6, 7)
