"""Counting right and wrong: unknown is not wrong, and nothing wrong hides."""

import pytest

from harness.report.accuracy import Accuracy, Truth, grade

LIMIT = Truth("limit", "died", ("memory-limit-main",))
ALIVE = Truth("impostor", "survived")


def line(outcome, cause=None, hypothesis="container-resources"):
    verdict = None if cause is None else {"cause": cause, "hypothesis": hypothesis}
    return {"trial": "x/1", "outcome": outcome, "verdict": verdict}


@pytest.mark.parametrize(("truth", "said", "graded"), [
    pytest.param(LIMIT, line("died", "memory-limit-main"), "right", id="the-cause"),
    pytest.param(LIMIT, line("died", "unknown", "unknown"), "unknown", id="says-unknown"),
    pytest.param(LIMIT, line("died", "memory-limit"), "unknown", id="claims-less"),
    pytest.param(LIMIT, line("died", "docker-kill", "external"), "wrong", id="another-cause"),
    pytest.param(LIMIT, line("survived"), "wrong", id="a-death-not-seen"),
    pytest.param(LIMIT, line("unobserved"), "unknown", id="says-it-was-blind"),
    pytest.param(LIMIT, line("invalid"), "apart", id="never-ran"),
    pytest.param(ALIVE, line("survived"), "right", id="an-impostor-seen-through"),
    pytest.param(ALIVE, line("died", "docker-kill", "external"), "wrong", id="a-survivor-called-dead"),
])  # fmt: skip
def test_one_trial(truth, said, graded):
    """Each way a verdict can relate to the truth has one grade."""
    assert graded == grade(truth, said)[0]


def test_the_document_adds_up():
    """right + unknown + wrong = n, and the confusion has every trial once."""
    accuracy = Accuracy()
    for said in ("memory-limit-main", "unknown", "docker-kill"):
        hypothesis = {"unknown": "unknown", "docker-kill": "external"}.get(
            said, "container-resources"
        )
        accuracy.add(LIMIT, line("died", said, hypothesis))
    accuracy.add(ALIVE, line("survived"))
    body = accuracy.document()
    assert (4, 2, 1, 1) == (body["n"], body["right"], body["unknown"], body["wrong"])
    assert 4 == sum(sum(row.values()) for row in body["hypotheses"].values())
    assert "docker-kill" in accuracy.text()
