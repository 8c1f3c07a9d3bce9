"""Two configurations side by side: every pair together, in random order, comparable after."""

from __future__ import annotations

import json

import pytest

from harness import scale, spec
from harness.errors import BadInput
from harness.scale import Ending, Options
from harness.store import Ended
from harness.verbs import against, hunting

EXPERIMENT = """
name: e
container:
  image: {rootfs: busybox}
  command: [sh, -c, "sleep 9"]
  memory: 128MiB
pre_task: {run: "true"}
"""
MATRIX = """
name: m
experiment: e.yaml
machine: {kind: pen}
axes: {delay: [0s, 1s]}
trials: {max: 20}
"""


def loaded(experiment=EXPERIMENT, matrix=MATRIX):
    return spec.loads_matrix({"/m.yaml": matrix, "/e.yaml": experiment}, "/m.yaml")


def test_each_pair_is_together_and_in_random_order():
    """Every block of two holds both halves of one cell; either one begins."""
    other = EXPERIMENT.replace("128MiB", "64MiB")
    specs = against.interleave(loaded(), loaded(other), 7)
    assert len(specs) == 2 * 2 * 20
    firsts = []
    for one, two in zip(specs[::2], specs[1::2], strict=True):
        assert {one.config["against"], two.config["against"]} == {"before", "after"}
        assert one.config["delay"] == two.config["delay"]
        assert one.n == two.n
        firsts.append(one.config["against"])
    assert 8 < firsts.count("before") < 32
    assert {s.block for s in specs} == {0}
    limits = {s.config["against"]: s.experiment.container.memory for s in specs}
    assert limits == {"before": 128 << 20, "after": 64 << 20}
    assert len({s.trial for s in specs}) == len(specs)
    assert specs == against.interleave(loaded(), loaded(other), 7)


def test_different_machines_cost_one_restart_a_pair():
    """The machine that is up goes first; a new block wherever it changes."""
    small = MATRIX.replace("kind: pen", "kind: pen, memory: 512MiB")
    specs = against.interleave(loaded(), loaded(matrix=small), 7)
    restarts = len({s.block for s in specs}) - 1
    assert restarts == len(specs) // 2
    for block in {s.block for s in specs}:
        assert len({s.machine for s in specs if s.block == block}) == 1


def test_nothing_in_common_is_refused():
    """Cells that only one side has can not be compared."""
    other = MATRIX.replace("[0s, 1s]", "[2s, 3s]")
    with pytest.raises(BadInput, match="no cell in common"):
        against.interleave(loaded(), loaded(matrix=other), 7)


def test_a_run_prints_the_comparison(tmp_path, monkeypatch, capsys):
    """One campaign with both halves, compared by cell and block; exit 4 for worse."""
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    monkeypatch.setattr(hunting, "prepare", lambda cells, options: None)

    def run(campaign, plan, *, progress, options):
        with (
            open(campaign.path / "trials.jsonl", "w") as trials,
            open(campaign.path / "verdicts.jsonl", "w") as verdicts,
        ):
            while (one := plan.next(0)) is not None:
                died = one.config["against"] == "after" and one.n <= 15
                line = {
                    "trial": one.trial,
                    "cell": one.cell,
                    "config": dict(one.config),
                    "block": 0,
                }
                trials.write(json.dumps({**line, "warm_up": False, "n": one.n}) + "\n")
                verdict = {"hypothesis": "race", "cause": "remount-race", "certainty": "likely"}
                outcome = (
                    {"outcome": "died", "verdict": verdict} if died else {"outcome": "survived"}
                )
                verdicts.write(json.dumps({"trial": one.trial, **outcome}) + "\n")
                plan.finished(one.trial, one.cell, outcome["outcome"])
        return Ending(Ended.COMPLETE)

    monkeypatch.setattr(scale, "run", run)
    (tmp_path / "m.yaml").write_text(MATRIX)
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    now = spec.load_matrix(tmp_path / "m.yaml")
    (tmp_path / "e2.yaml").write_text(EXPERIMENT.replace("128MiB", "64MiB"))
    (tmp_path / "m2.yaml").write_text(MATRIX.replace("e.yaml", "e2.yaml"))
    code = against.main(now, str(tmp_path / "m2.yaml"), Options(), seed=3, json=True)
    document = json.loads(capsys.readouterr().out)
    assert code == document["exit"] == 4
    assert document["overall"]["stratified_by"] == "cell and block"
    assert [c["config"] for c in document["cells"]] == [{"delay": 0.0}, {"delay": 1.0}]
    assert all(c["direction"] == "worse" for c in document["cells"])
    assert {d["what"]: (d["a"], d["b"]) for d in document["environment"]}["matrix: experiment"] == (
        "e2.yaml", "e.yaml",
    )  # fmt: skip
