"""What the harness may rely on of an engine's client: the fake and the real one say the same.

Each test runs on both; the real one is a pen's. Texts are compared where the harness
reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from harness import clock, engine, fakes, images
from harness.engine import Trouble
from harness.machine.pen import Pen

LOOP = ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"]


@dataclass
class World:
    """An engine, a clock that goes with it, and an image that it has."""

    engine: Any
    now: Any
    wait: Any
    image: str

    def state(self, container):
        return self.engine.inspect(container).need("inspect")["State"]

    def run(self, argv, **host):
        made = self.engine.create(None, {"Image": self.image, "Cmd": argv, "HostConfig": host})
        identity = made.need("create")
        self.engine.start(identity).need("start")
        return identity

    def ended(self, container, seconds=20):
        assert self.wait(lambda: self.state(container)["Status"] == "exited", seconds)
        return self.state(container)


@pytest.fixture(scope="module")
def real_world():
    with Pen(memory=1 << 30, disk=2 << 30) as pen:
        client = engine.connect(pen.docker_host)
        image = images.ensure(client, SimpleNamespace(rootfs="busybox", ref=None, build=None))

        def wait(predicate, seconds):
            return clock.wait_until(predicate, deadline=seconds, every=0.02)

        yield World(client, clock.now, wait, image)
        client.close()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def world(request):
    if request.param == "real":
        yield request.getfixturevalue("real_world")
        return
    with fakes.Clock() as time:
        machine = fakes.Machine(time)

        def wait(predicate, seconds):
            end = time.now() + int(seconds * clock.NS)
            while not predicate():
                if time.now() >= end:
                    return False
                time.sleep(0.02)
            return True

        yield World(fakes.Engine(machine), time.now, wait, "busybox")


def test_a_container_lives_and_is_told(world):
    """Created, running with a pid, stopped with its handler's code, gone."""
    made = world.engine.create(None, {"Image": world.image, "Cmd": LOOP})
    identity = made.need("create")
    assert re.fullmatch("[0-9a-f]{64}", identity)
    assert world.state(identity)["Status"] == "created"
    assert world.engine.start(identity).ok
    state = world.state(identity)
    assert (state["Status"], state["Running"]) == ("running", True)
    assert state["Pid"] > 0
    assert world.engine.stop(identity, grace=5).ok
    state = world.state(identity)
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 3, False)
    assert world.engine.remove(identity).ok
    assert world.engine.inspect(identity).http == 404


def test_a_kill_is_137_and_says_no_oom(world):
    """Another client's SIGKILL: 137, OOMKilled false."""
    identity = world.run(LOOP)
    assert world.engine.kill(identity).ok
    state = world.ended(identity)
    assert (state["ExitCode"], state["OOMKilled"]) == (137, False)
    world.engine.remove(identity)


def test_a_limit_kills_with_oomkilled(world):
    """A hog in 32 MiB dies of 137, and the engine says what it thinks of it."""
    identity = world.run(["tail", "/dev/zero"], Memory=32 << 20)
    state = world.ended(identity)
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True)
    world.engine.remove(identity)


def test_exec_in_a_running_container(world):
    """Every step in order, the exit code, the output."""
    identity = world.run(LOOP)
    told = []
    ready = world.engine.prepare_exec(
        identity, ["sh", "-c", "echo hello; exit 5"], tell=told.append
    )
    assert ready.warm()
    ready.go()
    said = ready.wait()
    assert (said.exit_code, said.out, said.failure, said.timed_out) == (5, b"hello\n", None, False)
    assert [t.edge for t in told] == ["created", "started", "answer"]
    assert said.requested <= said.created <= said.started <= said.ended
    world.engine.remove(identity)


def test_exec_where_there_is_nobody(world):
    """409 with the id for a container that has ended, 404 for one that never was."""
    identity = world.run(["sh", "-c", "exit 4"])
    world.ended(identity)
    for name, http, text in (
        (identity, 409, rf"(?i)^container {identity} is not running$"),
        ("nosuch", 404, "(?i)^no such container: nosuch$"),
    ):
        ready = world.engine.prepare_exec(name, ["true"])
        ready.go()
        said = ready.wait()
        assert (said.http, said.failed_at, said.exit_code) == (http, "create", None)
        assert re.search(text, said.error), said.error
        assert said.failure.trouble is Trouble.REFUSED
    world.engine.remove(identity)


def test_exec_in_a_paused_container(world):
    """Refused, with the name as it was given."""
    identity = world.run(LOOP)
    assert world.engine.pause(identity).ok
    refused = world.engine.exec_create(identity, ["true"])
    assert refused.http == 409
    assert "is paused, unpause the container before exec" in refused.error
    assert world.engine.unpause(identity).ok
    assert world.engine.exec_create(identity, ["true"]).ok
    world.engine.remove(identity)


def test_an_exec_past_its_deadline(world):
    """What there is, timed out, in about the time that was given."""
    identity = world.run(LOOP)
    stuck = world.engine.prepare_exec(identity, ["sleep", "60"], deadline=1.0)
    begin = world.now()
    stuck.go()
    said = stuck.wait()
    assert said.timed_out and said.exit_code is None
    assert 0.9 <= (world.now() - begin) / clock.NS < 5
    world.engine.remove(identity)


def test_an_exec_that_is_called_off(world):
    """Cancelled before it was asked for, it never is, and nobody waits for it."""
    identity = world.run(LOOP)
    ready = world.engine.prepare_exec(identity, ["true"])
    ready.warm()
    ready.cancel()
    assert ready.wait().created is None
    world.engine.remove(identity)


def test_labels_find_what_is_ours(world):
    """ps by label: ours and nobody else's, running or not."""
    body = {"Image": world.image, "Cmd": LOOP, "Labels": {"deathbench": "contract"}}
    ours = world.engine.create("ours", body).need("create")
    theirs = world.engine.create("theirs", {**body, "Labels": {}}).need("create")
    found = world.engine.ps(filters={"label": ["deathbench=contract"]}).need("ps")
    assert [one["Id"] for one in found] == [ours]
    again = world.engine.create("ours", body)
    assert again.http == 409 and "already in use" in again.error
    for one in (ours, theirs):
        assert world.engine.remove(one).ok


def test_images_are_there_or_not(world):
    """An image that is there is described; one that is not is a 404."""
    assert world.engine.image(world.image).ok
    missing = world.engine.image("nosuch/image:1")
    assert missing.http == 404 and "No such image" in missing.error
    refused = world.engine.create(None, {"Image": "nosuch/image:1", "Cmd": ["true"]})
    assert refused.http == 404
