"""What a plan learns from campaigns that were run before."""

from __future__ import annotations

import json

import pytest
import yaml

from harness.verbs.learned import MOST, learn


@pytest.fixture
def ran(tmp_path):
    """ran(name, kind, [(cell, block, began, seconds)…]): a stored campaign; seconds of one minute."""

    def make(name, kind, trials):
        path = tmp_path / name
        path.mkdir()
        meta = {"started": "2026-01-01T00:00:00+00:00", "machine": {"kind": kind}}
        (path / "campaign.yaml").write_text(yaml.safe_dump(meta))
        (path / "trials.jsonl").write_text(
            "".join(
                json.dumps(
                    {
                        "cell": cell,
                        "block": block,
                        "began": f"2026-01-01T00:00:{began:06.3f}Z",
                        "spans": {"create": [0, seconds / 2], "clean": [seconds / 2, seconds]},
                    }
                )
                + "\n"
                for cell, block, began, seconds in trials
            )
        )

    return make


def test_trials_by_cell_and_the_pauses_before_a_block(ran, tmp_path):
    """Medians of each cell, of all for a cell that is new, and of the pauses between blocks."""
    ran("2026-01-01T0000Z-m-0000", "pen", [("a", 0, 2, 4), ("b", 0, 7, 8), ("a", 1, 18, 6)])
    found = learn("m", "pen", root=tmp_path)
    assert (found.campaigns, found.seconds("a"), found.seconds("b")) == (1, 5, 8)
    assert found.seconds("never run") == 6
    assert found.start == pytest.approx(2.5)  # 2 s before block 0, 3 s before block 1


def test_blocks_side_by_side_tell_nothing_of_a_start(ran, tmp_path):
    """With --jobs a block begins while another one runs: no pause, no figure of it."""
    ran("2026-01-01T0000Z-m-0000", "pen", [("a", 0, 2, 30), ("a", 1, 9, 30)])
    assert learn("m", "pen", root=tmp_path).start == pytest.approx(2)


def test_another_matrix_another_kind_and_an_empty_campaign_are_left_out(ran, tmp_path):
    """Only the same matrix on the same kind counts; `auto` takes what there is."""
    ran("2026-01-01T0000Z-other-m-0000", "pen", [("a", 0, 1, 1)])
    ran("2026-01-01T0000Z-m-0000", "vm", [("a", 0, 1, 50)])
    ran("2026-01-01T0001Z-m-0000", "pen", [])
    assert learn("m", "pen", root=tmp_path) is None
    assert learn("m", "vm", root=tmp_path).trial == 50
    assert learn("m", "auto", root=tmp_path).trial == 50


def test_the_newest_campaigns_only(ran, tmp_path):
    """What was long ago is forgotten."""
    ran("2025-01-01T0000Z-m-0000", "pen", [("a", 0, 1, 55)])
    for n in range(MOST):
        ran(f"2026-01-01T000{n}Z-m-0000", "pen", [("a", 0, 1, 3)])
    found = learn("m", "pen", root=tmp_path)
    assert (found.campaigns, found.trial) == (MOST, 3)
