"""A benchmark's line says ours, theirs, the ratio with its spread, and whether the aim is met."""

import pytest

from harness.errors import BadInput
from harness.machine.cgroups import Layout
from harness.verbs import bench
from harness.verbs.bench.ratio import alone, lines, paired
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


@pytest.mark.parametrize(("what", "only"), [("nothing", ""), ("observe", "cost,colour")])
def test_an_unknown_benchmark_or_part_is_refused_before_anything_runs(what, only):
    """With what there is instead."""
    with pytest.raises(BadInput, match="there is no such"):
        bench.main(what=what, only=only)
