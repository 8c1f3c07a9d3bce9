"""Leases: who lives is decided by a lock, who it was is written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import lease
from harness.errors import EnvironmentInvalid
from harness.lease import Places


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "run", tmp_path / "disk")


def test_a_held_lease_can_not_be_claimed(places):
    """While its owner lives nobody gets the lock; when it lets go, anybody does."""
    held = lease.take("pen", where=places)
    held.owns(cgroup="/deathbench-x")
    (record,) = lease.records(places)
    assert record.name == held.name
    assert record.things == {"cgroup": ["/deathbench-x"]}
    assert (record.pid, record.start) == (os.getpid(), lease.start_time())
    assert lease.claim(record) is None
    assert lease.living(places) == [record]
    held.abandon()
    lock = lease.claim(record)
    assert lock is not None
    lease.remove(record, lock)
    assert lease.records(places) == []


def test_release_leaves_nothing(places):
    """Released is gone: directory, lock and record; twice does no harm."""
    held = lease.take("pen", where=places)
    held.release()
    held.release()
    assert list(places.run.iterdir()) == []


def test_a_dead_process_holds_nothing(places):
    """The kernel drops the lock with its owner, however it ends."""
    code = (
        "import os, pathlib; from harness import lease\n"
        f"p = lease.Places(pathlib.Path({str(places.run)!r}), pathlib.Path({str(places.disk)!r}))\n"
        "lease.take('pen', where=p).owns(file='/x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)
    (record,) = lease.records(places)
    assert record.things == {"file": ["/x"]}
    lock = lease.claim(record)
    assert lock is not None
    os.close(lock)


def test_names_do_not_repeat(places):
    """Two owners never share a name, asked for or not."""
    one = lease.take("pen", where=places, name="same")
    with pytest.raises(EnvironmentInvalid):
        lease.take("pen", where=places, name="same")
    two = lease.take("pen", where=places)
    assert two.name != one.name
    for held in (one, two):
        held.release()
    assert list(places.run.iterdir()) == []


def test_a_lease_in_the_making_is_nobodys_business(places):
    """A directory that has no name yet is skipped for a minute, then it is a dead one's."""
    fresh = places.run / ".new-p1-abc"
    fresh.mkdir(parents=True)
    assert lease.records(places) == []
    os.utime(fresh, (0, 0))
    assert [r.name for r in lease.records(places)] == [".new-p1-abc"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"name": 1}', json.dumps({"kind": "pen", "pid": "x"})]
)
def test_a_broken_record_is_a_record_without_things(places, text):
    """Cut short by a crash: the directory still counts, nothing is invented."""
    folder = places.run / "p1"
    folder.mkdir(parents=True)
    (folder / "lease.json").write_text(text)
    (record,) = lease.records(places)
    assert (record.name, record.things) == ("p1", {})


def test_a_state_directory_that_can_not_be_written_is_said(tmp_path):
    """The directory, the reason and the way out stand in the message."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentInvalid, match="DEATHBENCH_STATE"):
        lease.take("pen", where=Places(tmp_path / "file", tmp_path))
