"""Searches built from files, run with coins in the place of containers."""

from __future__ import annotations

import json
import random

import pytest

from harness import spec
from harness.errors import BadInput
from harness.schedule import Asking
from harness.store import Campaign
from harness.verbs import bisect, hunting, hunts

EXPERIMENT = """
name: e
container:
  image: {rootfs: busybox}
  command: [sh, -c, "sleep 9"]
  memory: 128MiB
  pids: 64
  cpus: 1
pre_task: {run: "true"}
"""
MATRIX = """
name: m
experiment: e.yaml
machine: {kind: pen}
axes:
  container.memory: [32MiB, 128MiB]
"""


def loaded(overrides=(), experiment=EXPERIMENT, matrix=MATRIX):
    return spec.loads_matrix({"/m.yaml": matrix, "/e.yaml": experiment}, "/m.yaml", overrides)


def run(hunt, dies, seed=0, most=400):
    """The sweep's loop with coins; dies: cell → chance."""
    rng = random.Random(seed)
    asking = Asking(
        hunt.asker, hunt.questions, hunting.arm_of(hunt, 1), lambda q: hunt.cell_of(q).machine,
        most=most, hopeless=hunt.hopeless,
    )  # fmt: skip
    while asking.blocks():
        while (trial := asking.next(asking.blocks()[0] if asking.blocks() else -1)) is not None:
            outcome = "died" if rng.random() < dies(trial) else "survived"
            asking.finished(trial.trial, trial.cell, outcome)
    return asking


def test_an_axis_with_two_ends_gets_points_between():
    """32 to 128 MiB become 33 sizes in whole MiB; an axis that is no axis is named."""
    values = hunts.axis_values(loaded(), "container.memory")
    assert values[0] == "32MiB"
    assert values[-1] == "128MiB"
    assert len(values) == 33
    with pytest.raises(BadInput, match=r"container\.memory"):
        hunts.axis_values(loaded(), "delay")


def test_a_threshold_in_memory_is_found():
    """Below 80 MiB it dies: the answer lies there, and the direction was found out."""
    base = loaded()
    values = ",".join(hunts.axis_values(base, "container.memory"))
    cells = hunts.along(loaded([f"container.memory={values}"]), "container.memory")
    hunt = hunts.threshold(cells, "container.memory", 0.2, 0.1, None)
    run(hunt, lambda t: 0.9 if t.config["container.memory"] < 80 << 20 else 0.01)
    answer = hunt.answer()
    assert answer.found
    low, high = answer.value["between"]
    assert low < 80 << 20 <= high
    assert answer.value["rising"] is False
    assert len(answer.value["curve"]) == 33
    assert "crosses 20%" in answer.lines[0]


def test_other_axes_must_stand_still():
    """Two things that change at once tell nothing: the fix is in the message."""
    two = loaded(["delay=0s,1s"])
    with pytest.raises(BadInput, match="-o delay=0s"):
        hunts.along(two, "container.memory")


def test_a_step_in_a_list_of_values():
    """The first bad value and the last good one, with both rates."""
    cells = hunts.along(
        loaded(["container.memory=128MiB,96MiB,64MiB,48MiB,32MiB"]), "container.memory"
    )
    hunt = hunts.step(cells, "container.memory")
    run(hunt, lambda t: 0.8 if t.config["container.memory"] > 64 << 20 else 0.02)
    answer = hunt.answer()
    assert answer.found
    assert answer.value["first_bad"] > answer.value["last_good"]


@pytest.mark.parametrize("small_dies", [True, False])
def test_of_amounts_nobody_has_to_say_which_end_is_bad(small_dies):
    """Both directions are hypotheses; the answer names its own, and its certificates follow."""
    values = "container.memory=32MiB,48MiB,56MiB,64MiB,80MiB,96MiB,112MiB,128MiB"
    cells = hunts.along(loaded([values]), "container.memory")
    hunt = hunts.step(cells, "container.memory")
    run(
        hunt,
        lambda t: 0.9 if (t.config["container.memory"] < 72 << 20) is small_dies else 0.02,
    )
    answer = hunt.answer()
    assert answer.found, answer
    found = {answer.value["last_good"], answer.value["first_bad"]}
    assert found == {64 << 20, 80 << 20}
    assert answer.value["direction"] == ("falling" if small_dies else "rising")
    assert (answer.value["first_bad"] == 64 << 20) is small_dies
    assert [c["says"] for c in answer.value["certified"]] == (
        ["80MiB lives", "64MiB dies"] if small_dies else ["64MiB lives", "80MiB dies"]
    )


def test_a_list_the_wrong_way_round_is_said_to_be_so():
    """The good end dies and the bad end does not: no rates are needed to see that."""
    cells = hunts.along(loaded(["container.memory=32MiB,64MiB,96MiB"]), "container.memory")
    hunt = hunts.step(cells, "container.memory", "rising")
    asking = run(hunt, lambda t: 1.0 if t.config["container.memory"] < 48 << 20 else 0.0)
    assert "wrong way round" in asking.given_up
    assert len(asking.steps) <= 60


def other(**changes):
    text = EXPERIMENT
    for old, new in changes.values():
        text = text.replace(old, new)
    return text


def pair(bad):
    def cell(text):
        one = spec.loads_matrix({"/e.yaml": text}, "/e.yaml")
        return hunts.from_mapping(one.frozen())[1]

    return cell(EXPERIMENT), cell(bad)


BAD = other(
    memory=("128MiB", "32MiB"), pids=("pids: 64", "pids: 16"), cpus=("cpus: 1", "cpus: 0.5"),
    task=('pre_task: {run: "true"}', 'pre_task: {run: "true"}\nlinger: 1s'),
)  # fmt: skip


def test_what_changed_between_two_configurations():
    """Four settings differ, two of them kill together: found, certified, named as a diff."""
    good, worse = pair(BAD)
    assert [k for k, _, _ in hunts.settings(good, worse)] == [
        "container.memory", "container.cpus", "container.pids", "linger",
    ]  # fmt: skip

    def dies(trial):
        small = trial.experiment.container.memory == 32 << 20
        return 0.9 if small and trial.experiment.container.pids == 16 else 0.02

    hunt = hunts.culprit(good, worse, seed=0)
    run(hunt, dies, seed=1)
    answer = hunt.answer()
    assert answer.found, answer
    assert answer.value["kind"] == "and"
    assert {s["what"] for s in answer.value["settings"]} == {"container.memory", "container.pids"}
    assert all(c["holds"] for c in answer.value["certified"])
    assert any("without container.memory it lives" in line for line in answer.lines)


def test_a_search_without_a_difference_is_refused():
    """Both ends live: after twenty trials at each it says so and stops."""
    good, worse = pair(BAD)
    hunt = hunts.culprit(good, worse, seed=0)
    whole = hunt.questions - 1
    hunt.asker.history(0, 0, 60)
    hunt.asker.history(whole, 0, 60)
    asking = run(hunt, lambda t: 0.0)
    assert "hopeless" in asking.given_up
    assert len(asking.steps) == 1


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_search_without_a_difference_is_refused_early(rate):
    """From nothing, and with the reason in numbers: not when the trials are used up."""
    good, worse = pair(BAD)
    used = []
    for seed in range(5):
        asking = run(hunts.culprit(good, worse, seed=0), lambda t: rate, seed=seed, most=300)
        assert asking.given_up is None or "hopeless: " in asking.given_up
        if asking.given_up:
            used.append(len(asking.steps))
    assert len(used) >= 4
    assert sorted(used)[2] <= 150


def test_what_is_out_of_reach_is_refused_with_what_it_would_take():
    """The largest difference that the ends leave possible needs more trials than are left."""
    search = hunts.certified_step(65).first
    for end in (0, 64):
        search.history(end, 9, 40)
    assert search.ends == (0, 64)
    assert "were the bad end" in hunts.no_difference(search, 20)
    assert "more trials would be needed, and 20 are allowed" in hunts.no_difference(search, 20)
    assert "were the bad end" not in (hunts.no_difference(search, 3000) or "")


def test_the_trials_left_count_what_certifies_the_answer():
    """Two configurations have to be looked at again after the search."""
    chain = hunts.certified_step(9)
    chain.history(0, 0, 50)
    chain.history(8, 30, 50)
    alone = chain.first.expected_left()
    assert alone + 4 < chain.expected_left() < alone + 80


def test_equal_configurations_are_refused():
    """Nothing differs, so nothing can be found."""
    good, worse = pair(EXPERIMENT.replace("name: e", "name: other"))
    with pytest.raises(BadInput, match="the same"):
        hunts.settings(good, worse)


def test_one_configuration_for_somebody_else_s_bisection():
    """Exit codes of `git bisect run`: 0 good, 1 bad, 125 can not be told."""
    good, _ = pair(BAD)
    for rate, code in ((0.0, 0), (1.0, 1)):
        hunt = bisect.one(good, 0.01, 0.10)
        run(hunt, lambda t, rate=rate: rate)
        assert hunt.answer().value["exit"] == code
    hunt = bisect.one(good, 0.01, 0.10)
    run(hunt, lambda t: 0.0, most=3)
    assert hunt.answer().value["exit"] == 125


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    (tmp_path / "m.yaml").write_text(MATRIX)
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    return tmp_path


def test_a_command_is_a_trial_too(root, capsys):
    """--run: exit 0 lived, 1 died, 125 tells nothing; resumable; one JSON document."""
    command = "case {} in a|b) exit 0;; c) exit 1;; *) exit 125;; esac"
    assert bisect.main(candidates="a,b,c", run=command, json=True, most=3) == 2
    first = json.loads(capsys.readouterr().out)
    assert (first["answer"], first["trials"]) == (None, 3)
    assert bisect.main(resume=first["campaign"], json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answer"] == {
        "first_bad": "c",
        "last_good": "b",
        "rates": found["answer"]["rates"],
        "certified": found["answer"]["certified"],
    }
    assert [(c["says"], c["holds"]) for c in found["answer"]["certified"]] == [
        ("b lives", True),
        ("c dies", True),
    ]
    assert found["format"] == "deathbench.bisect/1"
    assert found["steps"][:3] == first["steps"]
    with pytest.raises(BadInput, match="exit code 127"):
        bisect.main(candidates="a,b,c", run="no-such-command-here")


def test_hopeless_budgets_are_refused_before_anything_runs(root, monkeypatch, capsys):
    """Thirty-three points in two trials: the number needed is said, nothing is written."""
    monkeypatch.setattr(hunting, "prepare", lambda cells, options: None)
    code = bisect.main(str(root / "m.yaml"), axis="container.memory", rate="20%", most=2, json=True)
    said = json.loads(capsys.readouterr().out)
    assert code == said["exit"] == 2
    assert "are needed" in said["why"]
    assert not list((root / "results").glob("*")) if (root / "results").exists() else True


def test_history_counts_only_from_the_same_world(root):
    """Earlier campaigns help when experiment, host and version are theirs too."""
    one = loaded()
    cells = dict(enumerate(hunts.along(one, "container.memory")))
    meta = {"host": {"kernel": "6.1"}, "frozen": one.frozen()}
    record = {"warm_up": False, "block": 0, "cell": "c", "config": {"container.memory": 32 << 20}}
    for kernel in ("6.1", "6.8"):
        old = Campaign.create("m", {**meta, "host": {"kernel": kernel}})
        with (
            open(old.path / "trials.jsonl", "w") as trials,
            open(old.path / "verdicts.jsonl", "w") as v,
        ):
            for n in range(5):
                trials.write(json.dumps({"trial": f"c/{n}", **record}) + "\n")
                v.write(
                    json.dumps({"trial": f"c/{n}", "outcome": "survived", "verdict": None}) + "\n"
                )
    hunt = hunts.threshold(list(cells.values()), "container.memory", 0.2, 0.1, rising=False)
    assert hunting.history(hunt, cells, meta) == 5
    assert hunt.asker.ran[0] == 5


@pytest.mark.parametrize("code", [0, 1])
def test_a_list_without_a_step_has_no_first_bad(root, capsys, code):
    """
    The search takes it as given that the first lives and the last dies. Where nothing dies, or
    everything, the trials of its own answer refute it.
    """
    assert bisect.main(candidates="a,b,c,d", run=f"exit {code} # {{}}", most=150) == 2
    assert capsys.readouterr().out.startswith("not certain: ")
    assert bisect.main(candidates="a,b,c,d", run=f"exit {code} # {{}}", most=150, json=True) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["answer"] is None
    assert document["why"]
