"""`clean` finds what dead runs left, names it, removes it, and spares the living."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import clock, engine, images, lease
from harness.machine import cgroups, leftovers
from harness.machine.pen import Pen

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A state directory of the test's own: others are at work on this machine."""
    run = Path(f"/run/deathbench-test-{os.getpid()}")
    monkeypatch.setenv("DEATHBENCH_STATE", str(run))
    yield lease.places()
    subprocess.run(["rm", "-rf", str(run)], check=True)


def owner(script: str) -> tuple[subprocess.Popen, list[str]]:
    """A process that prints a line when it has made something, and then waits."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    return child, child.stdout.readline().split()


def finish(child: subprocess.Popen) -> None:
    child.kill()
    child.communicate()


PEN = """
    import sys
    from harness.machine.pen import Pen
    pen = Pen(memory=512 << 20, disk=1 << 30)
    pen.start()
    print(pen.name, pen.init_pid, flush=True)
    sys.stdin.read()
"""


def test_a_killed_owners_pen_is_cleaned_and_a_living_one_spared(places):
    """After kill -9 of a harness and of its init at once, `clean` removes the rest and says so; the neighbour lives."""
    child, (name, init) = owner(PEN)
    with Pen(memory=512 << 20, disk=1 << 30) as neighbour:
        os.kill(int(init), 9)
        finish(child)
        found = leftovers.clean(where=places, engines=False)
        assert not found.stuck
        said = "\n".join(found.removed)
        assert name in said and f"cgroup /deathbench-{name}" in said
        assert [line for line in found.spared if neighbour.name in line]
        assert neighbour.root(("true",)).ok
        assert not any(name in n for n in cgroups.layout().named("deathbench-"))
        assert not (places.run / name).exists()
        assert leftovers.clean(where=places, engines=False).removed == []


def test_a_pen_that_hangs_after_its_owner_is_ended(places):
    """A stopped init can not hear its owner die: the lease names it and `clean` ends it."""
    child, (name, init) = owner(PEN)
    os.kill(int(init), 19)
    finish(child)
    dry = leftovers.clean(where=places, engines=False, dry=True)
    assert f"process {init} of {name}" in dry.removed
    assert Path(f"/proc/{init}").exists(), "dry removes nothing"
    found = leftovers.clean(where=places, engines=False)
    assert f"process {init} of {name}" in found.removed and not found.stuck
    assert clock.wait_until(lambda: not Path(f"/proc/{init}").exists(), deadline=5)


def test_a_kept_pen_outlives_its_owner_until_clean(places):
    """`keep` hands a machine over to whoever wants to look; `clean` takes it away."""
    script = PEN.replace("sys.stdin.read()", "pen.keep()")
    child, (name, init) = owner(script)
    child.communicate()
    assert child.returncode == 0
    assert Path(f"/proc/{init}").exists(), "it outlived its owner"
    found = leftovers.clean(where=places, engines=False)
    assert any(name in line for line in found.removed) and not found.stuck
    assert clock.wait_until(lambda: not Path(f"/proc/{init}").exists(), deadline=5)
    assert not (places.run / name).exists()


def test_things_without_a_lease(places, monkeypatch):
    """An old empty cgroup and a disk file that no lease names are nobody's; a used or young cgroup may be somebody's."""
    where = cgroups.layout()
    limits = cgroups.Limits(memory=64 << 20)
    cgroups.make(where, "/deathbench-orphan", limits, leaf="daemons")
    used = cgroups.make(where, "/deathbench-used", limits, leaf="daemons")
    sleeper = subprocess.Popen(["sleep", "100"])
    for procs in used:
        procs.write_text(str(sleeper.pid))
    places.disk.mkdir(parents=True)
    orphan = places.disk / "p000000.ext4"
    orphan.write_bytes(b"x")
    try:
        leftovers.clean(where=places, engines=False)
        assert "deathbench-orphan" in where.named("deathbench-"), (
            "another state directory's, perhaps"
        )
        # Others are at work here: only the test's own may be old enough.
        monkeypatch.setattr(leftovers, "MAKING", 0)
        mine = type(where).named
        monkeypatch.setattr(
            type(where),
            "named",
            lambda self, prefix: [
                n for n in mine(self, prefix) if n in ("deathbench-orphan", "deathbench-used")
            ],
        )
        orphan.write_bytes(b"x")
        found = leftovers.clean(where=places, engines=False)
        assert "cgroup /deathbench-orphan" in found.removed
        assert f"file {orphan}" in found.removed
        assert not orphan.exists()
        assert "deathbench-used" in where.named("deathbench-")
    finally:
        sleeper.kill()
        sleeper.wait()
        assert clock.wait_until(lambda: cgroups.remove(where, "/deathbench-used"), deadline=5)


def test_the_verb_says_nothing_to_clean(places):
    """On a clean machine the verb says so in text and in one JSON document."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from harness.verbs import clean; sys.exit(clean.main(json=True))",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert json.loads(said.stdout)["format"] == "deathbench.clean/1"


def test_a_dead_owners_containers_on_a_foreign_engine(places):
    """Containers and networks of ours on an engine that is not go when their owner is dead, and not before."""
    with Pen(memory=512 << 20, disk=1 << 30) as pen:
        client = engine.connect(pen.docker_host)
        image = images.ensure(client, SimpleNamespace(rootfs="busybox", ref=None, build=None))
        child, (name,) = owner(
            f"""
            import sys
            from harness.machine.host import Host
            host = Host(context={pen.docker_host!r})
            host.start()
            print(host.name, flush=True)
            sys.stdin.read()
            """
        )
        labels = {"deathbench": "x", "deathbench.owner": name}
        ours = client.create(
            "ours", {"Image": image, "Cmd": ["sleep", "9"], "Labels": labels}
        ).need("create")
        client.start(ours).need("start")
        client.create("theirs", {"Image": image, "Cmd": ["sleep", "9"]}).need("create")
        client.network_create("our-net", {"Labels": labels}).need("network")
        assert not leftovers.clean(where=places).removed
        finish(child)
        found = leftovers.clean(where=places)
        assert {"container ours", "network our-net"} <= set(found.removed) and not found.stuck
        assert [c["Names"] for c in client.ps().need("ps")] == [["/theirs"]]
        client.close()


def test_a_users_directory_that_was_put_aside_comes_back(places, tmp_path):
    """An injection took a bind's source away and its harness was killed: `clean` gives it back."""
    aside, source = tmp_path / "work.deathbench-inject-1", tmp_path / "work"
    aside.mkdir()
    (aside / "file").write_text("the user's")
    held = lease.take("inject", where=places)
    held.owns(moved=f"{aside}\0{source}")
    assert not leftovers.clean(where=places, engines=False).removed
    held.abandon()
    found = leftovers.clean(where=places, engines=False)
    assert not found.stuck and any("moved back" in line for line in found.removed)
    assert (source / "file").read_text() == "the user's"
