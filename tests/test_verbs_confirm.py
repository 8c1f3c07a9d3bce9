"""The counterfactual: exactly the suspected cause is taken away, and the two run side by side."""

from __future__ import annotations

import random

import pytest

from harness import matrix, spec
from harness.errors import BadInput
from harness.model.causes import CAUSES
from harness.schedule import Asking
from harness.stats.certify import Pair
from harness.store import Campaign
from harness.verbs import confirm, hunting, remedies

EXPERIMENT = """
name: e
container:
  image: {rootfs: busybox}
  command: [sh, -c, "sleep 9"]
  memory: 128MiB
  memory_swap: 256MiB
  pids: 64
  mounts: [{source: /run/w, target: /w, mode: rw}]
remount: {how: recreate, target: /w, mode: ro}
pre_task: {run: "true"}
"""
INJECT = """
inject:
  - {at: delay, after: 100ms, what: docker-kill}
"""
MATRIX = "name: m\nexperiment: e.yaml\nmachine: {kind: pen, memory: 1GiB}\n"


def cell(experiment=EXPERIMENT):
    loaded = spec.loads_matrix({"/m.yaml": MATRIX, "/e.yaml": experiment}, "/m.yaml")
    return matrix.cells(loaded)[0]


@pytest.mark.parametrize(
    ("cause", "changed"),
    [
        ("memory-limit-main", {"container.memory": None, "container.memory_swap": None}),
        ("pids-limit", {"container.pids": None}),
        ("vm-oom", {"machine.memory": 4 << 30}),
        ("remount-race", {"delay.seconds": 5.0}),
        ("mount-readonly", {"remount.how": "none"}),
    ],
)
def test_only_the_suspected_cause_is_taken_away(cause, changed):
    """Everything else in the configuration stays as it was."""
    base = cell()
    other, changes = remedies.without(base, cause)
    assert {c.what: c.after for c in changes} == changed
    before, after = base.experiment.model_dump(), other.experiment.model_dump()
    before["machine"], after["machine"] = base.machine.model_dump(), other.machine.model_dump()

    def flat(content, prefix=""):
        for key, value in content.items():
            if isinstance(value, dict) and value:
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    a, b = dict(flat(before)), dict(flat(after))
    different = {k for k in a if a[k] != b.get(k)}
    allowed = set(changed) | (
        {"remount.target", "remount.mode"} if "remount.how" in changed else set()
    )
    assert different == allowed
    assert other.name != base.name


def test_an_injected_failure_is_taken_away_where_no_setting_is_the_cause():
    """docker-kill by our own injection: without the injection."""
    base = cell(EXPERIMENT + INJECT)
    _, changes = remedies.without(base, "docker-kill")
    assert [c.what for c in changes] == ["inject"]


@pytest.mark.parametrize("cause", sorted(CAUSES))
def test_every_cause_has_a_remedy_or_a_reason(cause):
    """No cause is answered with silence."""
    found = remedies.without(cell(), cause)
    assert (isinstance(found, str) and found) or found[1]


def run(pair, dies, seed):
    base = cell()
    other, changes = remedies.without(base, "memory-limit-main")
    hunt = confirm.build(pair, (base, other), "memory-limit-main", changes)
    rng = random.Random(seed)
    asking = Asking(
        pair,
        2,
        hunting.arm_of(hunt, 1),
        lambda q: hunt.cell_of(q).machine,
        most=pair.looks.most * 2,
    )
    while asking.blocks():
        while (trial := asking.next(0)) is not None:
            died = rng.random() < dies(trial)
            asking.finished(trial.trial, trial.cell, "died" if died else "survived")
    return hunt.answer()


def test_a_rate_that_drops_confirms_and_one_that_stays_does_not():
    """8 in 10 die with the limit: none without it confirms; the same without it does not."""
    found = run(Pair(confirm.design(8, 10), 1), lambda t: 0.9 if t.config == {} else 0.0, 1)
    assert found.found
    assert found.lines[0].startswith("confirmed")
    assert found.value["difference"]["high"] < 0
    found = run(Pair(confirm.design(8, 10), 1), lambda t: 0.8, 2)
    assert not found.found
    assert "no difference" in found.lines[0]


def test_different_machines_take_turns_by_whole_stages():
    """A restart between every two trials would cost more than the trials."""
    pair = Pair(confirm.design(8, 10), 1)
    order = []
    for _ in range(2 * pair.looks.stage):
        last = order[-1] if order else 0
        order.append(pair.ask([1.0 + 5 * (q != last) for q in (0, 1)]))
        pair.tell(order[-1], died=False)
    stage = pair.looks.stage
    assert order == [0] * stage + [1] * stage
    assert pair.ran == [stage, stage]


def test_the_suspect_is_what_the_verdicts_say(tmp_path, monkeypatch):
    """A trial's own verdict, or the commonest of its cell; a cell without deaths has none."""
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    campaign = Campaign.create("m", {})
    with (
        open(campaign.path / "trials.jsonl", "w") as trials,
        open(campaign.path / "verdicts.jsonl", "w") as verdicts,
    ):
        import json

        for n, cause in enumerate(["vm-oom", "vm-oom", "pids-limit", None]):
            line = {"trial": f"c/{n}", "cell": "c", "warm_up": False, "config": {}, "block": 0}
            trials.write(json.dumps(line) + "\n")
            verdict = {"cause": cause} if cause else None
            outcome = "died" if cause else "survived"
            verdicts.write(
                json.dumps({"trial": f"c/{n}", "outcome": outcome, "verdict": verdict}) + "\n"
            )
    assert confirm._suspect(campaign, "c", "")["cause"] == "vm-oom"
    found = confirm._suspect(campaign, "c/2", "")
    assert (found["cause"], found["died"], found["observed"]) == ("pids-limit", 3, 4)
    with pytest.raises(BadInput, match="nothing died"):
        confirm._suspect(campaign, "c/3", "")
    with pytest.raises(BadInput, match="no such trial"):
        confirm._suspect(campaign, "x", "")
    assert confirm._find(campaign.name)[1] == ""
    assert confirm._find("c/2")[1] == "c/2"
    assert confirm._suspect(campaign, "", "")["cell"] == "c"


def test_of_several_cells_one_must_be_named(tmp_path, monkeypatch):
    """A campaign alone will do while it has one cell; else the cells are listed."""
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    campaign = Campaign.create("m", {})
    line = '{{"trial": "{0}/1", "cell": "{0}", "warm_up": false, "config": {{}}, "block": 0}}\n'
    (campaign.path / "trials.jsonl").write_text(line.format("a") + line.format("b"))
    with pytest.raises(BadInput, match="which cell") as refused:
        confirm._suspect(campaign, "", "")
    assert refused.value.problems[0].fix == "one of a, b"
