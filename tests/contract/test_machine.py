"""What the harness may rely on of a machine: the fake and the pen behave the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness import engine, fakes, images
from harness.machine.pen import Pen

BUSYBOX = SimpleNamespace(rootfs="busybox", ref=None, build=None)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def world(request):
    """(machine, function that gives a client of it with one image)."""
    if request.param == "fake":
        with fakes.Clock() as clock:
            machine = fakes.Machine(clock)
            yield machine, lambda: (fakes.Engine(machine), "busybox")
            machine.stop()
        return

    machine = Pen(memory=512 << 20, disk=1 << 30)

    def client():
        made = engine.connect(machine.docker_host)
        return made, images.ensure(made, BUSYBOX)

    yield machine, client
    machine.stop()


def test_stop_may_come_at_any_time(world):
    """Before the start, after it, and twice."""
    machine, _ = world
    machine.stop()
    machine.start()
    machine.stop()
    machine.stop()


def test_a_new_start_is_a_fresh_machine(world):
    """What was on it is gone; its name may be another, its engine answers."""
    machine, client = world
    machine.start()
    one, image = client()
    one.create("here", {"Image": image, "Cmd": ["true"]}).need("create")
    assert len(one.ps().need("ps")) == 1
    one.close()
    machine.stop()
    machine.start()
    two, _ = client()
    assert two.ps().need("ps") == []
    two.close()


def test_facts_and_the_probes_place(world):
    """Facts have what was asked for, the probe's settings what a probe needs, root is root."""
    machine, _ = world
    machine.start()
    facts = machine.facts()
    assert facts.kind == machine.kind
    assert {"kernel", "engine", "api", "boot_id", "effective"} <= set(facts.document())
    site = machine.probe_site()
    assert site.python
    assert {"cgroup", "docker_socket", "roots"} <= set(site.config)
    assert machine.root(("true",)).ok


def test_a_stopped_machines_engine_is_absent(world):
    """Nobody listens any more: told as such, not as a refusal."""
    machine, client = world
    machine.start()
    one, _ = client()
    assert one.ping().ok
    machine.stop()
    assert one.ping().absent
    one.close()
