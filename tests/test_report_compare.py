"""Two campaigns side by side: what changed, what differs around them, the exit code."""

from __future__ import annotations

import json

import pytest

from harness.errors import BadInput
from harness.report import compare, compare_text, environment
from harness.report.tally import CellCounts, Tally
from harness.verbs import compare as verb


def side(*cells):
    """cells: (config, died, observed, hypotheses, blocks)."""
    tally = Tally()
    for i, (config, died, observed, *more) in enumerate(cells):
        counts = CellCounts(str(i), config, died=died, survived=observed - died)
        counts.hypotheses.update(more[0] if more else {"race": died} if died else {})
        counts.blocks.update(more[1] if len(more) > 1 else {0: [died, observed]})
        tally.cells[str(i)] = counts
    return tally


SMALL, LARGE = {"container.memory": 128 << 20}, {"container.memory": None}


def test_a_cell_that_got_worse_is_exit_four():
    """One cell rises from 1/60 to 15/60, one stays: worse, and only the one."""
    found = compare.build(
        [("a", side((SMALL, 1, 60), (LARGE, 0, 60)))],
        [("b", side((SMALL, 15, 60), (LARGE, 0, 60)))],
    )
    assert [c.direction for c in found.cells] == ["worse", None]
    assert found.exit == 4
    text = compare_text.render(found, only_changed=True)
    assert "128MiB" in text
    assert "none" not in text.split("hypothesis")[0]


def test_better_is_no_alarm_and_no_change_is_exit_zero():
    """Exit 4 is for worse alone."""
    better = compare.build([("a", side((SMALL, 30, 60)))], [("b", side((SMALL, 5, 60)))])
    assert better.cells[0].direction == "better"
    assert better.exit == 0
    same = compare.build([("a", side((SMALL, 3, 60)))], [("b", side((SMALL, 4, 60)))])
    assert same.exit == 0
    assert not same.cells[0].document()["changed"]


def test_hypotheses_that_swap_places_are_told_apart():
    """The rate stays, race goes up and memory goes down: that is something worse."""
    a = side((SMALL, 20, 60, {"race": 2, "container-resources": 18}))
    b = side((SMALL, 20, 60, {"race": 18, "container-resources": 2}))
    found = compare.build([("a", a)], [("b", b)])
    assert found.cells[0].direction is None
    assert {h.hypothesis: h.direction for h in found.hypotheses} == {
        "race": "worse",
        "container-resources": "better",
    }
    assert found.exit == 4


def test_a_margin_must_be_shown():
    """0/52 against 0/52 rules out 5 points; 0/20 against 0/20 does not, and that is exit 2."""
    enough = compare.build(
        [("a", side((SMALL, 0, 53)))], [("b", side((SMALL, 0, 53)))], margin=0.05
    )
    assert (enough.no_regression, enough.exit) == (True, 0)
    few = compare.build([("a", side((SMALL, 0, 20)))], [("b", side((SMALL, 0, 20)))], margin=0.05)
    assert (few.no_regression, few.exit) == (False, 2)


def test_nothing_in_common_is_inconclusive():
    """Cells match by configuration; what only one side has is listed."""
    found = compare.build([("a", side((SMALL, 1, 9)))], [("b", side((LARGE, 1, 9)))])
    assert found.exit == 2
    assert (found.only_a, found.only_b) == ((SMALL,), (LARGE,))
    assert "no cell in common" in compare_text.render(found)


def test_groups_add_up_and_pairs_are_stratified_by_block():
    """Seven nights are one side; two halves of one campaign are compared block by block."""
    night = side((SMALL, 2, 10))
    found = compare.build([(f"n{i}", night) for i in range(7)], [("b", night)])
    assert (found.cells[0].a.died, found.cells[0].a.observed) == (14, 70)
    blocks = {n: [n % 2, 2] for n in range(6)}
    a = side(({"how": "x", **SMALL}, 3, 12, {"race": 3}, blocks))
    b = side(({"how": "y", **SMALL}, 3, 12, {"race": 3}, blocks))
    paired = compare.build([("c", a)], [("c", b)], paired=True, drop=["how"])
    assert paired.overall.strata == 3
    assert paired.cells[0].config == SMALL


def test_the_document_has_every_promised_key():
    """The compare document carries its keys always."""
    found = compare.build([("a", side((SMALL, 0, 9)))], [("b", side((SMALL, 0, 9)))])
    document = json.loads(json.dumps(found.document()))
    assert {"format", "a", "b", "exit", "environment", "cells", "overall"} <= set(document)
    assert document["format"] == "deathbench.compare/1"
    cell = document["cells"][0]
    assert {"config", "a", "b", "difference", "p", "q", "changed"} <= set(cell)
    assert {"died", "trials"} <= set(cell["a"])
    assert "no deaths in either" in compare_text.render(found)


def test_environments_are_compared_key_by_key():
    """Kernel, engine and settings that differ are named; names and comments are not."""
    a = {
        "machine": {"kernel": "6.1", "name": "pen-1"},
        "frozen": {
            "main": "/x/m.yaml",
            "files": {"/x/m.yaml": "name: m\ntrials: {max: 6}\n", "/x/setup.sh": "true"},
        },
    }
    b = {
        "machine": {"kernel": "6.8", "name": "pen-2"},
        "frozen": {
            "main": "/y/m.yaml",
            "files": {"/y/m.yaml": "# new\nname: n\ntrials: {max: 9}\n", "/y/setup.sh": "false"},
        },
    }
    found = environment.differences(a, b)
    assert [d["what"] for d in found] == ["machine.kernel", "matrix: trials.max", "setup.sh"]
    assert environment.differences(a, a) == []


def test_differences_warn_unless_they_are_what_is_compared():
    """Between two campaigns they may be the reason; between two halves of one they are meant."""
    x, y = side(({"how": "x"}, 3, 12)), side(({"how": "y"}, 3, 12))
    differs = [{"what": "e.yaml: container.pids", "a": 1, "b": 2}]
    for paired, said in ((False, "warning: "), (True, "in the same blocks, side by side:")):
        found = compare.build(
            [("c", x)], [("d", y)], environment=differs, paired=paired, drop=["how"]
        )
        text = compare_text.render(found)
        assert said in text
        assert "e.yaml: container.pids" in text
        assert ("warning" in text) is not paired


def test_pivot_puts_two_axes_against_each_other():
    """--row and --col: one square per pair of values, the other axes added up."""
    cells = [({"delay": d, **m}, 1, 10) for d in (0.0, 0.25) for m in (SMALL, LARGE)]
    found = compare.build([("a", side(*cells))], [("b", side(*cells))])
    text = compare_text.render(found, row="container.memory", col="delay")
    assert "10% > 10%" in text
    assert "container.memory \\ delay" in text


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Three nights of one matrix, on the disk."""
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    for night, died in enumerate([0, 0, 9]):
        folder = tmp_path / "results" / f"2026-11-2{night}T0100Z-memory-000{night}"
        folder.mkdir(parents=True)
        (folder / "campaign.yaml").write_text("matrix: memory\n")
        with (
            open(folder / "trials.jsonl", "w") as trials,
            open(folder / "verdicts.jsonl", "w") as v,
        ):
            for n in range(12):
                config = {"delay": 0.25}
                line = {
                    "trial": f"c/{n}",
                    "cell": "c",
                    "config": config,
                    "block": 0,
                    "warm_up": False,
                }
                trials.write(json.dumps(line) + "\n")
                verdict = {
                    "hypothesis": "race",
                    "cause": "exec-during-restart",
                    "certainty": "certain",
                }
                outcome = {"outcome": "died", "verdict": verdict}
                if n >= died:
                    outcome = {"outcome": "survived", "verdict": None}
                v.write(json.dumps({"trial": f"c/{n}", **outcome}) + "\n")
    return tmp_path


def test_the_verb_opens_campaigns_and_groups(results, capsys):
    """A name, or the last N of a matrix; JSON alone on stdout; exit 4 for worse."""
    code = verb.main("2026-11-20T0100Z-memory-0000", "2026-11-22T0100Z-memory-0002", json=True)
    document = json.loads(capsys.readouterr().out)
    assert (code, document["exit"]) == (4, 4)
    assert verb.main("memory*2", "memory*2") == 0
    assert "0002" in capsys.readouterr().out


def test_a_night_is_not_compared_with_itself(results, capsys):
    """The nights before the last, and the last: the group leaves out who stands on the other side."""
    code = verb.main("memory*7", "2026-11-22T0100Z-memory-0002", json=True)
    document = json.loads(capsys.readouterr().out)
    assert code == 4
    assert document["a"] == ["2026-11-20T0100Z-memory-0000", "2026-11-21T0100Z-memory-0001"]
    assert document["b"] == ["2026-11-22T0100Z-memory-0002"]


def test_large_sides_are_read_side_by_side_and_count_the_same(results, capsys, monkeypatch):
    """In a process of its own or one after the other: the same document."""
    both = "2026-11-20T0100Z-memory-0000", "2026-11-22T0100Z-memory-0002"
    said = []
    for large in (verb.LARGE, 0):
        monkeypatch.setattr(verb, "LARGE", large)
        verb.main(*both, json=True)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_the_verb_names_what_can_not_be_taken(results):
    """A filter or a margin that fits nothing is said with what would."""
    name = "2026-11-20T0100Z-memory-0000"
    with pytest.raises(BadInput, match="delay=250ms"):
        verb.main(name, name, filters=["delay=1s"])
    with pytest.raises(BadInput, match="5pp"):
        verb.main(name, name, margin="much")
    assert verb.main(name, name, filters=["delay=250ms"], margin="60pp") == 0
