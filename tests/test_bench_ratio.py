"""A benchmark's line says ours, theirs, the ratio with its spread, and whether the aim is met."""

import json as jsonlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.errors import BadInput
from harness.machine.cgroups import Layout
from harness.verbs import bench
from harness.verbs.bench import observe, workloads
from harness.verbs.bench.ratio import alone, lines, mirrored, paired
from harness.verbs.bench.workloads import FIRST, first_served

PAIRS = [(1.0, 100.0 + n) for n in range(12)]


def test_a_ratio_is_taken_within_each_pair():
    """A slow minute falls on both sides of a pair: the ratio does not see it."""
    slow = [(a * k, b * k) for k, (a, b) in enumerate(PAIRS, 1)]
    assert paired("x", slow, competitor="c", unit="ms").ratio == pytest.approx(
        paired("x", PAIRS, competitor="c", unit="ms").ratio
    )


@pytest.mark.parametrize(
    ("aim", "by", "met"),
    [((">=", 100), "point", True), ((">=", 120), "point", False), (("<=", 112), "high", True),
     (("<=", 105), "high", False), (None, "point", None)],
)  # fmt: skip
def test_an_aim_is_judged_by_what_it_names(aim, by, met):
    """The point for how much better we are, the interval's upper end for what we disturb."""
    assert paired("x", PAIRS, competitor="c", unit="ms", aim=aim, by=by).met is met


def test_a_number_of_ours_can_have_an_aim_of_its_own():
    """No competitor, no ratio; the document still has every key."""
    one = alone("missed", 0, n=1000, unit="deaths", aim=("<=", 0))
    assert one.met
    keys = {"name", "ours", "other", "competitor", "ratio", "low", "high", "n", "aim", "met"}
    assert keys <= set(one.document())
    assert len(lines([one, paired("x", PAIRS, competitor="c", unit="ms")])) == 4


@pytest.mark.parametrize(("version", "file"), [(1, "cpu.shares"), (2, "cpu.weight")])
def test_the_measured_are_served_first_and_only_for_that_time(tmp_path, version, file):
    """The group's weight is the highest there is inside, and what it was before outside."""
    (tmp_path / "pen").mkdir()
    weight = tmp_path / "pen" / file
    weight.write_text("1024\n")
    where = Layout(version, {"" if version == 2 else "cpu": tmp_path})
    with pytest.raises(ZeroDivisionError), first_served("/pen", where) as first:
        assert first
        assert weight.read_text() == FIRST[version][1]
        raise ZeroDivisionError
    assert weight.read_text() == "1024"
    with first_served("/elsewhere", where) as first:
        assert not first


def cut_short(parts, found, **_):
    found.append(alone("first", 1.0, n=3, unit="ms", aim=("<=", 2)))
    raise KeyboardInterrupt


@pytest.mark.parametrize("json", [False, True])
def test_what_was_measured_before_an_interruption_is_printed(monkeypatch, capsys, json):
    """The table, or the document, of the rows until then; exit code 130."""
    monkeypatch.setattr(observe, "run", cut_short)
    assert bench.main(what="observe", json=json) == 130
    said = capsys.readouterr()
    if json:
        document = jsonlib.loads(said.out)
        assert (document["exit"], document["machine"]) == (130, None)
        assert [row["name"] for row in document["ratios"]] == ["first"]
    else:
        assert "first" in said.out
    assert "interrupted" in said.err


def test_perturbation_that_is_cut_short_gives_its_whole_rounds(monkeypatch):
    """The round in which it was cut is left out; two whole ones are told."""
    blocks = []

    def block(bench, container, level, found):
        blocks.append(level)
        if len(blocks) > 12:
            raise KeyboardInterrupt
        for name in workloads.WORKLOADS:
            for measure in ("wall", "CPU"):
                of = found.setdefault((name, level, measure), {})
                of[len(of)] = 1.02 if level == "light" else 1.0

    monkeypatch.setattr(workloads, "_block", block)
    made = workloads._rounds(
        SimpleNamespace(start=lambda link, c: c, container=lambda **k: "c", say=lambda text: None),
        rounds=9, budget=1e9,
    )  # fmt: skip
    rows = []
    with pytest.raises(KeyboardInterrupt):
        for row in made:
            rows.append(row)
    assert {row.n for row in rows if row.aim} == {2}
    assert all(row.ratio == pytest.approx(1.02) for row in rows if row.aim)
    assert blocks[:6] == ["light", "off", "full", "full", "off", "light"]
    assert blocks[6:10] == ["off", "light", "light", "off"]


def test_an_interval_on_one_side_of_its_aim_is_decided():
    """Wholly below or wholly above; across it, more rounds are wanted."""

    def ratio(low, high):
        return replace(
            alone("x", 1, n=1, unit="s", aim=("<=", 1.02)), by="high", low=low, high=high
        )

    assert workloads._decided(ratio(0.99, 1.01))
    assert workloads._decided(ratio(1.03, 1.09))
    assert not workloads._decided(ratio(0.99, 1.03))


def test_what_too_few_rounds_say_meets_no_aim():
    """No interval, no verdict: the row says so, and its aim is not met."""
    few = mirrored("x", [(1.0, 2.0)] * 3, competitor="c", unit="s", alpha=0.05, aim=("<=", 1.02))
    assert (few.ratio, few.low, few.high, few.met) == (pytest.approx(0.5), None, None, False)
    assert "too few to tell" in lines([few])[2]
    many = mirrored("x", [(1.0, 2.0)] * 6, competitor="c", unit="s", alpha=0.05, aim=("<=", 1.02))
    assert many.met


@pytest.mark.parametrize(("what", "only"), [("nothing", ""), ("observe", "cost,colour")])
def test_an_unknown_benchmark_or_part_is_refused_before_anything_runs(what, only):
    """With what there is instead."""
    with pytest.raises(BadInput, match="there is no such"):
        bench.main(what=what, only=only)
