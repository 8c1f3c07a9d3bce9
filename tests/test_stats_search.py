"""Searches by noisy trials: right as often as they say, near the bound, and replayable."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from harness.stats import culprit, information
from harness.stats.culprit import Culprit, Culprits
from harness.stats.search import known
from harness.stats.step import Step
from harness.stats.threshold import Threshold


def run(search, dies, rng, most=3000):
    """Ask and tell until it is done. dies: question → chance of death."""
    while not search.done and search.trials < most:
        at = search.ask()
        search.tell(at, rng.random() < dies(at))
    return search


def test_entropy_capacity_and_the_bound():
    """Known values of the binary channel."""
    assert float(information.entropy(0.5)) == 1.0
    assert float(information.entropy(0.0)) == 0.0
    assert information.capacity(0.1, 0.1) == pytest.approx(0.0, abs=1e-9)
    # A binary symmetric channel: 1 - h(p).
    symmetric = 1 - float(information.entropy(0.11))
    assert information.capacity(0.11, 0.89) == pytest.approx(symmetric, abs=1e-9)
    assert information.least_trials(6, 64, 0.05, 0.3, 0.05) == pytest.approx(62.8, abs=0.1)


def test_without_noise_a_step_is_binary_search():
    """Rates 0 and 1, known: log2(n) questions, always right."""
    for first in range(1, 17):
        search = run(
            Step(17, rates=known(0.0, 1.0)),
            lambda at, first=first: float(at >= first),
            random.Random(0),
        )
        assert search.first_bad == first
        assert search.trials == 4


def test_a_step_with_known_rates_costs_little_more_than_the_bound():
    """64 candidates, 2 % against 60 %: at most 1.35 times the bound here, right in 92 % or more."""
    rng, right, trials, runs = random.Random(1), 0, 0, 60
    for _ in range(runs):
        first = rng.randint(1, 64)
        search = Step(65, rates=known(0.02, 0.6), stop=0.95)
        run(search, lambda at, first=first: 0.6 if at >= first else 0.02, rng)
        right += search.first_bad == first
        trials += search.trials
    bound = information.least_trials(6, 64, 0.02, 0.6, 0.05)
    assert right / runs >= 0.88  # 95 % less three standard errors
    assert trials / runs <= 1.4 * bound


def test_history_saves_trials_and_unknown_rates_are_not_plugged_in():
    """Trials known from before cut the cost; rates far from any guess still give the right answer."""
    rng = random.Random(2)
    cost = {0: 0, 50: 0}
    wrong = 0
    for _ in range(8):
        first = rng.randint(1, 16)
        for old in cost:
            search = Step(17)
            search.history(0, round(old * 0.1), old)
            search.history(16, round(old * 0.6), old)
            run(search, lambda at, first=first: 0.6 if at >= first else 0.1, rng)
            cost[old] += search.trials
            wrong += search.first_bad != first
    assert cost[50] < cost[0]
    assert wrong <= 3


def test_a_thousand_old_trials_do_not_underflow():
    """Large histories are taken in logs."""
    search = Step(9)
    search.history(0, 12, 4000)
    search.history(8, 2500, 4000)
    low, high = search.rates()
    assert low < 0.01
    assert high == pytest.approx(0.6, abs=0.05)


def test_a_search_without_a_difference_is_seen_to_be_hopeless():
    """Both ends die alike: the model without a difference wins. A real difference: it loses."""
    search = Step(9)
    search.history(0, 40, 400)
    search.history(8, 41, 400)
    assert search.no_difference() > 0.8
    search = Step(9)
    search.history(0, 1, 40)
    search.history(8, 20, 40)
    assert search.no_difference() < 0.01


@pytest.mark.parametrize("rate", [0.0, 0.4, 0.9])
def test_without_a_difference_the_ends_are_asked_and_no_answer_is_given(rate):
    """Both ends die alike: the search doubts, looks at the ends, and is not done."""
    rng = random.Random(5)
    sure, looked = 0, []
    for _ in range(10):
        search = Step(17)
        for _ in range(60):
            if search.done:
                sure += 1
                break
            search.tell(search.ask(), rng.random() < rate)
        else:
            looked.append(min(search.ran[0], search.ran[16]))
    assert sorted(looked)[len(looked) // 2] >= 8
    # Without the doubt all of them would be sure of something by then.
    assert sure <= 2


def test_a_doubtful_search_says_what_settling_the_doubt_will_take():
    """Until the ends are known to differ, the trials left are those of the ends."""
    search = Step(9)
    for _ in range(3):
        for end in (0, 8):
            search.tell(end, died=False)
    assert search.no_difference() > 0.1
    assert search.expected_left() >= 1
    assert Step(2, rates=known(0.1, 0.6)).ends is None


def test_the_least_that_is_left_shrinks_with_what_is_known():
    """Fano's bound from here on: less with every answer, none when it is done."""
    search = Step(65, rates=known(0.02, 0.6), stop=0.95)
    before = search.least_left(0.02, 0.6)
    assert before == pytest.approx(15.8, abs=0.1)
    search.tell(32, died=True)
    assert search.least_left(0.02, 0.6) < before
    assert search.least_left(0.02, 0.6) > search.least_left(0.0, 1.0)


def test_what_can_not_be_run_is_not_asked_and_dear_trials_are_asked_less():
    """Costs: infinite is never; a restart is charged."""
    search = Step(9, rates=known(0.0, 1.0))
    free = search.ask()
    cost = [1.0] * 9
    cost[free] = math.inf
    assert search.ask(cost) != free
    cost[free] = 100.0
    assert search.ask(cost) != free


def test_the_same_outcomes_give_the_same_questions():
    """No randomness inside: a recorded search can be gone through again."""
    one, other = Step(33), Step(33)
    rng = random.Random(3)
    for _ in range(30):
        at = one.ask()
        assert other.ask() == at
        died = rng.random() < (0.5 if at >= 20 else 0.02)
        one.tell(at, died)
        other.tell(at, died)
    assert one.expected_left() == other.expected_left()


@pytest.mark.parametrize("answer", [
    Culprits("single", (3,)), Culprits("and", (1, 6)), Culprits("or", (0, 5)),
], ids=["single", "both-together", "either"])  # fmt: skip
def test_each_kind_of_culprit_is_found(answer):
    """Among eight settings, a single one, two that must meet, or either of two."""
    rng, right = random.Random(4), 0
    for _ in range(3):
        search = Culprit(8, rates=known(0.02, 0.8))

        def dies(at, search=search):
            return 0.8 if answer.kills(search.questions[at]) else 0.02

        run(search, dies, rng)
        right += search.answer == answer
    assert right >= 2


def test_the_exact_culprit_without_noise():
    """Rates 0 and 1: every hypothesis of the class is found, in few questions."""
    for answer in culprit.class_of(6):
        search = Culprit(6, rates=known(0.0, 1.0))

        def dies(at, search=search, answer=answer):
            return float(answer.kills(search.questions[at]))

        run(search, dies, random.Random(0))
        assert search.answer == answer
        assert search.trials <= 9


def test_many_settings_are_asked_about_in_chosen_sets():
    """Twenty settings: 4096 questions, the telling ones among them, and the culprit is found."""
    answer = Culprits("and", (4, 17))
    search = Culprit(20, rates=known(0.0, 1.0))
    assert len(search.questions) == 4096
    run(search, lambda at: float(answer.kills(search.questions[at])), random.Random(0))
    assert search.answer == answer


def test_only_allowed_sets_are_questions():
    """Two settings that exclude each other are never tried together."""
    search = Culprit(5, allowed=lambda mask: mask & 0b11 != 0b11)
    assert all(q & 3 != 3 for q in search.questions)


def test_certification_asks_what_only_the_right_answer_passes():
    """For every answer of four settings, no other hypothesis passes all of its checks."""
    every = culprit.class_of(4)
    for answer in every:
        checks = culprit.certification(answer, 4)
        passing = [h for h in every if all(h.kills(c.mask) == c.dies for c in checks)]
        assert answer in passing
        # Settings that are needed, and enough: what else passes says the same of them.
        assert all(set(answer.settings) <= set(h.settings) or answer.kind == "or" for h in passing)


@pytest.mark.parametrize(("rising", "width"), list(itertools.product([True, False], [0.0, 3.0])))
def test_a_threshold_is_found_on_steps_and_slopes(rising, width):
    """The answer's two rates meet level ± tolerance, whichever way the axis goes."""
    points, rng, good, runs = 24, np.random.default_rng(5), 0, 5
    x = np.arange(points)
    for _ in range(runs):
        middle = rng.uniform(5, points - 5)
        slope = (x - middle) / width if width else np.where(x >= middle, 60.0, -60.0)
        truth = 0.02 + 0.58 / (1 + np.exp(-slope))
        truth = truth if rising else truth[::-1]
        search = Threshold(points, level=0.2, tolerance=0.1, rising=rising)
        run(search, lambda at, truth=truth: truth[at], random.Random(int(middle * 1e6)), most=300)
        left, right = search.answer.between or (0, 0)
        low, high = sorted((truth[left], truth[right]))
        good += high >= 0.1 and low <= 0.3
    assert good >= runs - 1


def test_a_level_that_is_never_crossed_is_said():
    """Nobody dies anywhere on the axis: below, not a crossing at the edge."""
    search = run(Threshold(12), lambda at: 0.0, random.Random(6), most=200)
    assert search.answer.side == "below"
    assert search.answer.between is None


def test_the_curve_has_a_band_around_its_mean():
    """Posterior mean and 95 % band, narrower where trials are."""
    search = Threshold(12)
    for _ in range(60):
        search.tell(3, died=False)
    mean, low, high = search.curve()
    assert all(a <= m <= b for a, m, b in zip(low, mean, high, strict=True))
    assert high[3] - low[3] < 0.1 < high[11] - low[11]
