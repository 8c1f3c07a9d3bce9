"""A night: what is compared with what, what is written, what is kept."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from harness import spec
from harness.report import compare, junit, nightly
from harness.report.table import build, from_tally
from harness.report.tally import CellCounts, Tally
from harness.scale import Ending
from harness.store import Campaign, Ended
from harness.verbs import hunting, sweep
from harness.verbs import nightly as verb

EXPERIMENT = """
name: e
container:
  image: {rootfs: busybox}
  command: [sh, -c, "sleep 9"]
  memory: 128MiB
pre_task: {run: "true"}
"""
MATRIX = """
name: night
experiment: e.yaml
machine: {kind: pen}
axes: {delay: [0s, 1s]}
trials: {max: 30}
tolerance: {any: 50%}
keep: 2
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(MATRIX)
    (tmp_path / "e.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(hunting, "prepare", lambda cells, options: None)
    return tmp_path


def machine(monkeypatch, deaths, ending=Ended.COMPLETE):
    """In the place of containers: each cell dies so often, first trials first."""

    def execute(loaded, seed, options, *, campaign, monitors, json):
        print("a table nobody asked for")
        with (
            open(campaign.path / "trials.jsonl", "w") as trials,
            open(campaign.path / "verdicts.jsonl", "w") as verdicts,
        ):
            for delay in (0.0, 1.0):
                for n in range(30):
                    trial = f"delay={delay:g}s/{n}"
                    (campaign.path / "trials" / trial).mkdir(parents=True)
                    line = {
                        "trial": trial, "cell": f"delay={delay:g}s", "config": {"delay": delay},
                        "block": 0, "warm_up": False, "n": n,
                    }  # fmt: skip
                    trials.write(json_line(line))
                    died = n < deaths[delay]
                    found = {"hypothesis": "race", "cause": "remount-race", "certainty": "likely"}
                    verdict = {"outcome": "died", "verdict": found}
                    verdicts.write(
                        json_line(
                            {"trial": trial, **(verdict if died else {"outcome": "survived"})}
                        )
                    )
        campaign.update_meta(
            ending=ending.value, why="the engine died" if ending != Ended.COMPLETE else ""
        )
        return 0

    monkeypatch.setattr(sweep, "execute", execute)


def json_line(value):
    return json.dumps(value) + "\n"


def latest(root):
    return (root / "results" / "latest").resolve()


def test_three_nights(root, monkeypatch, capsys):
    """A first night without a baseline, a second like it, a third that is worse."""
    machine(monkeypatch, {0.0: 1, 1.0: 0})
    assert verb.main("m.yaml") == 0
    assert "no earlier good campaign" in capsys.readouterr().out
    first = latest(root).name
    assert verb.main("m.yaml") == 0
    assert f"Against {first}" in capsys.readouterr().out
    second = latest(root).name

    machine(monkeypatch, {0.0: 14, 1.0: 0})
    assert verb.main("m.yaml", json=True) == 4
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "deathbench.nightly/1"
    assert document["baseline"] == second
    assert [c["direction"] for c in document["compare"]["cells"]] == ["worse", None]
    assert "no setting of the worst cell changed" in document["bisect"]["lines"][0]
    assert [(n["died"], n["trials"], n["exit"]) for n in document["trend"]] == [
        (1, 60, 0), (1, 60, 0), (14, 60, 4),
    ]  # fmt: skip
    folder = latest(root)
    assert {"summary.md", "junit.xml", "result.json"} <= {p.name for p in folder.iterdir()}
    suite = ET.parse(folder / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")

    # The bad night is no baseline for the next one.
    machine(monkeypatch, {0.0: 1, 1.0: 0})
    assert verb.main("m.yaml", json=True) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == second


def test_a_changed_setting_is_searched_with_what_the_nights_know(root, monkeypatch, capsys):
    """The limit was lowered and the cell got worse: the search starts from both nights' counts."""
    machine(monkeypatch, {0.0: 0, 1.0: 0})
    assert verb.main("m.yaml") == 0
    (root / "e.yaml").write_text(EXPERIMENT.replace("128MiB", "64MiB"))
    machine(monkeypatch, {0.0: 25, 1.0: 0})
    asked = {}

    def run(hunt, campaign, **options):
        asked["old"] = int(hunt.asker.first.ran.sum())

        class Done:
            steps, given_up = [], "no containers in this test"

        return Done, Ending(Ended.COMPLETE)

    monkeypatch.setattr(hunting, "run", run)
    capsys.readouterr()
    assert verb.main("m.yaml", json=True) == 4
    document = json.loads(capsys.readouterr().out)
    assert asked["old"] == 60
    assert "  container.memory: 128MiB -> 64MiB" in document["bisect"]["lines"]
    assert "matrix" not in str([d["what"] for d in document["compare"]["environment"]])
    assert latest(root).name == document["campaign"]


def test_a_night_that_broke_off_is_no_baseline(root, monkeypatch, capsys):
    """Exit 3, an error in JUnit, compared with nothing, and nothing is compared with it."""
    machine(monkeypatch, {0.0: 0, 1.0: 0})
    verb.main("m.yaml")
    good = latest(root).name
    machine(monkeypatch, {0.0: 9, 1.0: 9}, Ended.ENVIRONMENT)
    assert verb.main("m.yaml") == 3
    suite = ET.parse(latest(root) / "junit.xml").getroot()
    assert suite.get("errors") == "1"
    machine(monkeypatch, {0.0: 0, 1.0: 0})
    capsys.readouterr()
    assert verb.main("m.yaml", json=True) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == good


def test_old_nights_are_thinned_and_their_figures_stay(root, monkeypatch):
    """keep: 2: histories of older nights go, counts stay; a worse night keeps its evidence."""
    for deaths in (0, 14, 0, 0, 0):
        machine(monkeypatch, {0.0: deaths, 1.0: 0})
        verb.main("m.yaml", no_bisect=True)
    nights = sorted(p for p in (root / "results").iterdir() if p.is_dir() and not p.is_symlink())
    codes = {p: Campaign(p).meta()["night"] for p in nights}
    whole = {p for p in nights if (p / "trials").is_dir()}
    assert sum(1 for p in whole if codes[p] == 4) == 1
    assert sum(1 for p in whole if codes[p] != 4) == 2
    assert all((p / "trials.jsonl").stat().st_size for p in nights)
    assert len((root / "results" / "nights-night.jsonl").read_text().splitlines()) == 5


def test_junit_is_xml_whatever_a_cause_is_called():
    """Control characters and brackets do not break the file; straddling cells are skipped."""
    tally = Tally()
    tally.cells["c"] = CellCounts("c", {"x": "<&\x00>"}, died=1, survived=5)
    tally.cells["c"].causes["]]>\x1b"] = 1
    suite = ET.fromstring(junit.render(from_tally(tally, tolerance={"any": 0.3})).split("\n", 1)[1])
    assert suite.get("skipped") == "1"
    assert suite.get("failures") == "0"


def test_the_worst_cell_is_the_surest_one():
    """Of two that got worse, the one with the smaller q."""
    a, b = Tally(), Tally()
    for name, before, after in (("x", 0, 30), ("y", 0, 12), ("z", 3, 3)):
        a.cells[name] = CellCounts(name, {"n": name}, died=before, survived=40 - before)
        b.cells[name] = CellCounts(name, {"n": name}, died=after, survived=40 - after)
    assert nightly.worst(compare.build([("a", a)], [("b", b)])) == {"n": "x"}
    assert nightly.worst(compare.build([("a", a)], [("a", a)])) is None


def test_worse_in_all_cells_together_is_bisected_in_the_likeliest():
    """A few deaths more in each are proof together; the cell with the most is looked at."""
    a, b = Tally(), Tally()
    for name, after in (("x", 1), ("y", 3)):
        a.cells[name] = CellCounts(name, {"n": name}, survived=3)
        b.cells[name] = CellCounts(name, {"n": name}, died=after, survived=3 - after)
    found = compare.build([("a", a)], [("b", b)])
    assert [c.direction for c in found.cells] == [None, None]
    assert nightly.worst(found) == {"n": "y"}


def test_the_summary_has_denominators():
    """Deaths are never shown without the trials they are of."""
    table = build([], [], cells=[("c", {"delay": 0.0})], matrix="night")
    nights = [{"campaign": "2026-11-22T", "started": None, "died": 3, "trials": 60, "exit": 0}]
    text = nightly.summary(
        table, code=0, comparison=None, baseline=None, bisect=None, nights=nights
    )
    assert "3/60" in text
    assert "5.0% [" in text


def test_the_shipped_matrix_runs_every_night():
    """matrix/nightly.yaml has a stop rule, a budget and nights to keep."""
    from pathlib import Path

    loaded = spec.load_matrix(Path(__file__).parent.parent / "matrix" / "nightly.yaml")
    assert loaded.matrix.trials.stop is not None
    assert loaded.matrix.budget == 1800
    assert loaded.matrix.keep == 14
