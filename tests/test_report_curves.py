"""Dose-response curves and drift: fitted, said, drawn, and silent where nothing is known."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET

import pytest

from harness.report import curves, tally
from harness.report.table import from_tally
from harness.stats import curve, drift


def test_a_falling_rate_crosses_where_the_counts_say():
    """Delay from 0 to 1 s, deaths from nine in ten to none: 50 % near 100 ms."""
    counts = zip([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0], [27, 24, 15, 5, 1, 0, 0], strict=True)
    found = curve.fit([curve.Dose(v, d, 30) for v, d in counts], 0.5)
    assert found.falling > 0.99
    crossing = found.crossing
    assert crossing.low < 0.1 < crossing.high
    assert 0.06 < crossing.point < 0.14
    assert all(a <= m <= b for a, m, b in zip(found.low, found.mean, found.high, strict=True))


def test_a_wide_range_is_taken_by_its_logarithm():
    """32 MiB to 2 GiB: the crossing lies between the two doses that differ."""
    sizes = [32, 64, 128, 256, 512, 1024, 2048]
    doses = [curve.Dose(float(s << 20), 20 if s <= 64 else 0, 20) for s in sizes]
    found = curve.fit(doses, 0.5)
    assert found.logarithmic
    assert 64 << 20 < found.crossing.point < 128 << 20


def test_a_flat_curve_crosses_nothing():
    """No death anywhere: the band stays low, and no crossing is made up."""
    found = curve.fit([curve.Dose(float(v), 0, 30) for v in range(5)], 0.1)
    assert found.crossing.point is None
    assert max(found.mean) < 0.1
    with pytest.raises(ValueError, match="2 doses"):
        curve.fit([curve.Dose(0.0, 1, 2), curve.Dose(1.0, 1, 2)], 0.1)


def test_the_crossing_is_covered_by_its_interval():
    """Simulated: the true crossing lies in the 95 % interval in most of 10 runs."""
    rng, hits = random.Random(1), 0
    for _ in range(10):
        doses = []
        for v in range(9):
            rate = 0.02 + 0.7 / (1 + 2.718 ** ((v - 4.3) / 0.7))
            doses.append(curve.Dose(float(v), sum(rng.random() < rate for _ in range(25)), 25))
        found = curve.fit(doses, 0.2).crossing
        truth = 4.3 + 0.7 * 1.0598  # where 0.02 + 0.7 / (1 + e^x) is 0.2
        hits += found.low <= truth <= found.high
    assert hits >= 8


def counted(axis, doses, extra=None):
    result = tally.Tally()
    for value, died in doses:
        config = {axis: value, **(extra or {})}
        result.cells[str(value)] = tally.CellCounts(
            str(value), config, died=died, survived=20 - died
        )
    return result


def test_the_table_has_a_line_and_a_picture_for_a_swept_number():
    """Four doses or more: a line below the table, keys in JSON, an SVG that is XML."""
    table = from_tally(counted("delay", [(0.0, 19), (0.1, 15), (0.2, 4), (0.4, 0)]))
    (response,) = table.responses
    assert "falls under 10% at" in table.text()
    assert table.document()["responses"][0]["crossing"]["level"] == 0.1
    picture = ET.fromstring(curves.svg(response))
    assert picture.tag.endswith("svg")
    assert len(picture.findall(".//{*}circle")) == 4
    two = from_tally(counted("delay", [(0.0, 19), (0.4, 0)]))
    assert two.responses == ()
    assert two.document()["responses"] == []


def test_drift_is_seen_in_a_control_cell_and_not_in_a_steady_one():
    """A control cell that goes from 30 to 60 % is flagged; a steady one hardly ever."""
    rng = random.Random(2)
    flagged = {0.3: 0, 0.6: 0}
    for after in flagged:
        for _ in range(100):
            died = [rng.random() < (0.3 if t < 100 else after) for t in range(200)]
            flagged[after] += drift.test([(range(200), died)]).flagged
    assert flagged[0.3] <= 5  # 1 % declared
    assert flagged[0.6] >= 85


def test_cells_with_different_rates_are_no_drift():
    """All of a good cell, then all of a bad one: each is compared with itself only."""
    rng = random.Random(3)
    clean = [rng.random() < 0.1 for _ in range(100)]
    dirty = [rng.random() < 0.8 for _ in range(100)]
    found = drift.test([(range(100), clean), (range(100, 200), dirty)])
    assert not found.flagged


def test_the_table_says_when_the_machine_drifted():
    """A note in words, the numbers in JSON; nothing where the order followed the outcomes."""

    def table(**options):
        result = tally.Tally()
        cell = result.cells["c"] = tally.CellCounts("c", {}, died=70, survived=130)
        for t in range(200):
            cell.order.append(t)
            cell.died_in_order.append(t % 10 < (1 if t < 100 else 6))
        return from_tally(result, **options)

    assert "the machine drifted: more deaths later" in table().text()
    assert table().document()["drift"]["flagged"] is True
    assert table(watched=True).drift is None
    assert table(watched=True, control="c").drift.flagged
