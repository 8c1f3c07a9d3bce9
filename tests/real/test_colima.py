"""A colima machine against programs that behave as the real ones were seen to, traps included."""

from __future__ import annotations

import json
import os
import platform
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
    for name in (f"qemu-system-{platform.machine()}", "qemu-img"):
        shutil.copy(folder / "docker", folder / name)  # asked for, never run: there is no VM
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


def starts_and_stops(home):
    found = [json.loads(line) for line in (home / "calls").read_text().splitlines()]
    return [c for c in found if "--help" not in c and c[0] in ("start", "stop", "delete")]


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
        assert facts.versions["vm_type"] == "qemu"
        assert facts.versions["mount_type"] == "sshfs"
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
            done = starts_and_stops(home)
            assert [c[0] for c in done] == ["start", "stop", "start"]
            assert "--save-config=false" in done[-1]
            assert "--runtime" not in done[-1]
        assert "delete" not in (home / "calls").read_text()
        assert json.loads((home / "standin.json").read_text())["mine"]["running"]
        # Neither a smaller disk nor a profile that is not there: nothing is called but `list`.
        for wrong, why in (
            ({"profile": "mine", "disk": 4 * GIB}, "has 8GiB: it can not become 4GiB"),
            ({"profile": "other"}, "there is no colima profile other"),
        ):
            spec = MachineSpec(kind="colima", own=True, user=USER, **wrong)
            with pytest.raises(EnvironmentInvalid, match=why):
                choose.check(spec)
            with pytest.raises(EnvironmentInvalid, match=why):
                Colima(own=True, user=USER, places=places, start_deadline=60, **wrong).start()
        assert starts_and_stops(home) == done
        # What was chosen when it was made is discarded with a warning and exit code 0.
        other = Colima(profile="mine", own=True, mount_type="9p", user=USER, places=places)
        with pytest.raises(EnvironmentInvalid, match="'mountType' cannot be updated"):
            other.start()
        assert not list(places.run.iterdir())
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


@pytest.fixture
def users_home(programs, monkeypatch):
    """A colima home of the user's, who asks by sudo; gone afterwards with all that runs for it."""
    home = Path(tempfile.mkdtemp(prefix="db-home-"))
    home.chmod(0o777)
    monkeypatch.setenv("COLIMA_HOME", str(home))
    monkeypatch.setenv("SUDO_USER", USER)
    yield home
    lima.kill(lima.processes(str(home)))
    shutil.rmtree(home)


def test_doctor_looks_at_the_users_own_profiles(users_home):
    """One that runs and has no docker.sock is said to be so; nothing of it is touched."""
    assert colima_state.report().lines == [f"no profiles in {users_home}"]
    for name in ("mine", "idle"):
        assert colima_call.call(("colima", "start", "-p", name), home=users_home, user=USER).ok
    assert colima_call.call(("colima", "stop", "-f", "-p", "idle"), home=users_home, user=USER).ok
    before = {path: path.stat().st_mtime_ns for path in users_home.rglob("*.yaml")}
    seen = colima_state.report()
    assert seen.lines == [
        "profile mine: runs, docker does not answer (2 CPUs, 2GiB, disk 100GiB)",
        "profile idle: stopped (2 CPUs, 2GiB, disk 100GiB)",
    ]
    assert [f.what for f in seen.findings if "/dev/kvm" not in f.what] == [
        "colima profile mine is well, but its docker.sock is dead: the ssh connection that"
        " carried it has ended",
        "1 limactl usernet of VMs that are gone still run",
    ]
    calls = [json.loads(line)[0] for line in (users_home / "calls").read_text().splitlines()]
    assert calls == ["list", "start", "start", "stop", "list", "status", "ssh"]
    assert {path: path.stat().st_mtime_ns for path in users_home.rglob("*.yaml")} == before
    assert not (users_home / "docker").exists()


def test_doctor_says_what_there_is_of_colima(programs, monkeypatch):
    """Nothing, or root's nothing."""
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert "limactl refuses root" in colima_state.report().lines[0]
    (programs / "lima").unlink()
    assert colima_state.report().lines == ["installed, but not lima, which it needs"]
    (programs / "colima").unlink()
    assert colima_state.report().lines[0].startswith("not installed")
