"""A colima machine against programs that behave as the real ones were seen to, traps included."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness import lease
from harness.errors import EnvironmentInvalid
from harness.machine import choose, colima_call, colima_start, colima_state, lima
from harness.machine.colima import Colima
from harness.model.sweep import MachineSpec

pytestmark = pytest.mark.real

GIB = 1 << 30
USER = "nobody"


@pytest.fixture
def programs(monkeypatch):
    """The stand-ins first on PATH, where another user can run them too; their folder."""
    folder = Path(tempfile.mkdtemp(prefix="db-standins-"))
    for one in (Path(__file__).parents[1] / "standins").iterdir():
        shutil.copy(one, folder)
        (folder / one.name).chmod(0o755)
    folder.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    monkeypatch.setenv("DOCKER_HOST", "unix:///the/users/own")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def places():
    """A state directory of the test's own, with short paths."""
    folder = Path(tempfile.mkdtemp(prefix="db-"))
    yield lease.Places(folder / "run", folder / "disk")
    shutil.rmtree(folder)


def calls(machine):
    return [json.loads(line) for line in (machine.home / "calls").read_text().splitlines()]


def of(home):
    """Processes whose arguments name that home."""
    said = subprocess.run(
        ["ps", "-axww", "-o", "args="], capture_output=True, text=True, check=True
    )
    return [line for line in said.stdout.splitlines() if f"{home}/" in line]


def test_a_profile_of_our_own_from_start_to_nothing(programs, places):
    """Started with nothing of the user's touched, asked inside, and gone with all it left running."""
    machine = Colima(
        memory=1536 << 20, cpus=1, disk=4 * GIB, user=USER, places=places, start_deadline=60
    )
    machine.start()
    try:
        home = machine.home
        (start,) = [c for c in calls(machine) if c[0] == "start" and "--help" not in c]
        assert start[start.index("--memory") + 1] == "1.5"
        assert start[start.index("--disk") + 1] == "4"
        assert start[start.index("--mount") + 1] == "none"
        for flag in ("--activate=false", "--ssh-config=false", "--save-config=false"):
            assert flag in start
        facts = machine.facts()
        assert facts.boot_id == "the-boot-id"
        assert facts.versions["colima"] == "v0.10.3"
        assert facts.versions["lima"] == "2.2.0"
        assert facts.effective["memory"] < 1536 << 20
        assert machine.root(("a b", "c")).text == "sudo -n 'a b' c\n"
        assert machine.root(("x",)).code == 7
        assert machine.probe_site().python[-3:] == ("sudo", "-n", "python3")
        assert "ControlPath=none" in machine.probe_site().python
        assert len(machine.profile) <= 4
        assert of(home)
    finally:
        machine.stop()
    machine.stop()
    assert not home.exists()
    assert of(home) == []
    assert not list(places.run.iterdir())


def test_the_guest_tells_what_it_has(programs, places, monkeypatch):
    """A VM smaller than asked is refused with both numbers, and nothing of it stays."""
    monkeypatch.setenv("STANDIN_MEMORY", str(GIB))
    machine = Colima(memory=2 * GIB, user=USER, places=places, start_deadline=60)
    with pytest.raises(EnvironmentInvalid, match=r"memory: 2GiB asked for, 967MiB inside"):
        machine.start()
    assert not list(places.run.iterdir())


def test_a_failure_says_what_colima_said(programs, places, monkeypatch):
    """Every failure is exit code 1: the fatal line is what tells."""
    monkeypatch.setenv("STANDIN_FAIL", "error starting vm: error at 'creating and starting'")
    machine = Colima(user=USER, places=places, start_deadline=60)
    with pytest.raises(EnvironmentInvalid, match="creating and starting"):
        machine.start()


def test_a_profile_of_the_users_is_changed_only_by_stop_and_start(programs, places, monkeypatch):
    """A running VM ignores new sizes; it is stopped first, its file kept, and never deleted."""
    home = Path(tempfile.mkdtemp(prefix="db-home-"))
    home.chmod(0o777)
    monkeypatch.setenv("COLIMA_HOME", str(home))
    try:
        colima_call.call(
            ("colima", "start", "-p", "mine", "--disk", "8"), home=home, user=USER, deadline=30
        )
        machine = Colima(
            profile="mine", own=True, cpus=1, user=USER, places=places, start_deadline=60
        )
        with machine:
            done = [c for c in calls(machine) if "--help" not in c and c[0] in ("start", "stop")]
            assert [c[0] for c in done] == ["start", "stop", "start"]
            assert "--save-config=false" in done[-1]
            assert "--runtime" not in done[-1]
        assert "delete" not in (home / "calls").read_text()
        assert json.loads((home / "standin.json").read_text())["mine"]["running"]
        # Its disk only grows: what was asked for is not what there is.
        with pytest.raises(EnvironmentInvalid, match="only grows"):
            Colima(
                profile="mine", own=True, disk=4 * GIB, user=USER, places=places, start_deadline=60
            ).start()
    finally:
        lima.kill(lima.processes(str(home)))
        shutil.rmtree(home)


def test_what_colima_can_not_do_is_refused(programs):
    """Fractions of processors and GiB, a profile that is not ours, and root are named at once."""
    with pytest.raises(EnvironmentInvalid) as told:
        Colima(cpus=0.5, disk=GIB + 1, profile="mine")
    for word in ("whole processors", "whole GiB", "own: true"):
        assert word in str(told.value)
    if os.geteuid() == 0:
        assert "refuses root" in colima_start.why_not()
    assert colima_start.why_not(USER) == ""
    assert "no user" in colima_start.why_not("no-such-user")
    made = choose.make(MachineSpec(kind="colima", user=USER, cpus=1))
    assert isinstance(made, Colima)


def test_a_flag_that_this_version_lacks_is_a_clear_refusal(programs, places):
    """--vm-type exists on macOS only: asking for vz elsewhere is not silently dropped."""
    machine = Colima(vm_type="vz", user=USER, places=places, start_deadline=60)
    with pytest.raises(EnvironmentInvalid, match="--vm-type"):
        machine.start()


def test_doctor_looks_at_the_users_own_profiles(programs, monkeypatch):
    """One that runs and has no docker.sock is said to be so; nothing of it is touched."""
    home = Path(tempfile.mkdtemp(prefix="db-home-"))
    home.chmod(0o777)
    monkeypatch.setenv("COLIMA_HOME", str(home))
    monkeypatch.setenv("SUDO_USER", USER)
    try:
        made = colima_call.call(("colima", "start", "-p", "mine"), home=home, user=USER)
        assert made.ok
        found = [f.what for f in colima_state.findings() if "colima profile" in f.what]
        assert found == [
            "colima profile mine is well, but its docker.sock is dead: the ssh connection that"
            " carried it has ended"
        ]
        calls = [json.loads(line)[0] for line in (home / "calls").read_text().splitlines()]
        assert calls == ["start", "list", "status", "ssh"]
    finally:
        lima.kill(lima.processes(str(home)))
        shutil.rmtree(home)
