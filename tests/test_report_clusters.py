"""What stands below the table: deaths grouped by cause and path, and what depends on the delay."""

import json
import math
import random

import pytest

from harness.report import tally
from harness.report.table import build, from_tally
from harness.stats import dependence


def trial(cell, n, delay, *, memory=None):
    return {
        "format": "deathbench.trial/1", "trial": f"{cell}/{n}", "cell": cell, "n": n,
        "config": {"container.memory": memory, "delay": delay}, "seed": 1, "block": 0,
        "warm_up": False,
    }  # fmt: skip


def judged(cell, n, outcome, cause=None, hypothesis="process-exit", path=(), sure="certain"):
    verdict = cause and {
        "hypothesis": hypothesis, "cause": cause, "certainty": sure, "path": [cause, *path],
        "cites": [1], "grade": {"saw": ["trace"], "blind": []},
    }  # fmt: skip
    return {
        "trial": f"{cell}/{n}",
        "outcome": outcome,
        "death": None,
        "verdict": verdict or None,
        "why": None,
    }


def sweep(rates, n=20, *, cause="main-exit-error", hypothesis="process-exit", memory=None):
    """(records, verdicts) of one cell for each delay, with so many deaths of n."""
    records, verdicts = [], []
    for delay, died in rates.items():
        cell = f"c{delay}-{memory}"
        for i in range(n):
            records.append(trial(cell, i, delay, memory=memory))
            ended = ("died", cause, hypothesis) if i < died else ("survived",)
            verdicts.append(judged(cell, i, *ended))
    return records, verdicts


# --- clusters ---


def test_the_same_cause_by_the_same_path_is_one_cluster_with_its_best_known_trial():
    """Across cells; another path is another cluster; the line shows what to type."""
    records = [trial(c, n, 0.0) for c in "ab" for n in range(3)]
    verdicts = [
        judged("a", 0, "died", "memory-limit-child", path=("main-exited",), sure="likely"),
        judged("a", 1, "died", "memory-limit-child", path=("main-exited",)),
        judged("a", 2, "died", "memory-limit-child", path=("whole-cgroup-killed",)),
        judged("b", 0, "died", "memory-limit-child", path=("main-exited",)),
        judged("b", 1, "exec-failed", "exec-error"),
        judged("b", 2, "survived"),
    ]
    table = from_tally(tally.count(records, verdicts), campaign="night", called="./inv")
    first = table.clusters[0]
    assert (first.trials, first.cells, first.trial) == (3, 2, "a/1")
    assert [c.trials for c in table.clusters] == [3, 1, 1]
    shown = table.document()["clusters"][0]
    assert shown["show"] == "./inv show night:a/1"
    assert shown["path"] == ["memory-limit-child", "main-exited"]
    line = next(x for x in table.text().splitlines() if "show night:a/1" in x)
    assert "3 died in 2 cells: memory-limit-child → main-exited" in line


def test_lines_and_objects_give_the_same_clusters():
    """Reading quickly reads the path as well."""
    records = [trial("a", n, 0.0) for n in range(4)]
    verdicts = [
        judged("a", n, "died", "main-exit-error", path=("x", "y")[: n % 3]) for n in range(4)
    ]
    quick = tally.count_lines(
        [json.dumps(r, separators=(",", ":")).encode() + b"\n" for r in records],
        [json.dumps(v, separators=(",", ":")).encode() + b"\n" for v in verdicts],
    )
    assert quick.clusters == tally.count(records, verdicts).clusters
    assert {c.path[1:] for c in quick.clusters} == {(), ("x",), ("x", "y")}


def test_warm_up_trials_are_in_no_cluster():
    records = [trial("a", 0, 0.0) | {"warm_up": True}]
    assert build(records, [judged("a", 0, "died", "main-exit-error")]).clusters == ()


# --- the delay ---


def test_a_window_in_the_middle_is_told_though_no_trend_sees_it():
    """Deaths called exit only near 50 ms: the sentence names the delay and the counts."""
    table = build(*sweep({0.0: 0, 0.05: 12, 1.0: 0}))
    assert [d.flagged for d in table.dependences] == [True]
    line = next(x for x in table.text().splitlines() if "depend on the delay" in x)
    assert "deaths called exit" in line
    assert "12/20" in line
    assert table.document()["dependences"][0]["flagged"]


@pytest.mark.parametrize(("rates", "more"), [
    pytest.param({0.0: 9, 0.05: 11, 1.0: 10}, {}, id="the-same-everywhere"),
    pytest.param({0.0: 0, 0.05: 2, 1.0: 0}, {}, id="too-few-to-tell"),
    pytest.param({0.0: 0, 0.05: 20, 1.0: 0}, {"hypothesis": "race", "cause": "remount-race"}, id="called-a-race"),
])  # fmt: skip
def test_nothing_is_said_of(rates, more):
    table = build(*sweep(rates, **more))
    assert not any(d.flagged for d in table.dependences)
    assert "depend on" not in table.text()


def test_other_settings_are_no_delay():
    """The limit kills, and it was swept together with the delay: strata keep them apart."""
    small, large = sweep({0.0: 19, 0.05: 18}, memory=1), sweep({0.05: 0, 1.0: 1}, memory=2)
    table = build(small[0] + large[0], small[1] + large[1])
    assert [d.flagged for d in table.dependences] == [False]


def test_a_campaign_that_was_watched_says_nothing():
    """Stopping at deaths makes cells differ that do not: the test would lie."""
    assert build(*sweep({0.0: 0, 0.05: 12, 1.0: 0}), watched=True).dependences == ()


def test_nothing_to_differ_is_no_p():
    assert dependence.test([[(0, 20), (0, 20)], [(3, 3)], []]) is None


def test_it_is_wrong_as_seldom_as_it_says():
    """Seeded: of 400 sweeps in which the delay does not matter, no more than 5 % and chance below 0.05."""
    chance = random.Random(5)
    below = 0
    for number in range(400):
        strata = [
            [(sum(chance.random() < rate for _ in range(n)), n) for n in (12, 9, 15)]
            for rate in (0.1, 0.5)
        ]
        p = dependence.test(strata, seed=number)
        below += p is not None and p < 0.05
    # Three standard errors of a binomial of 400 at 5 %.
    assert below <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_many_tests_share_the_error():
    """Holm's way, by hand: 3, 2, 1 times, never falling."""
    assert dependence.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
