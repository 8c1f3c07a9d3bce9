"""What the runner may rely on of a probe: the fake and the real one tell the same of a container."""

import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness import events as e
from harness import fakes, images
from harness.clock import NS, RealClock
from harness.model.experiment import ImageSpec

sys.path.insert(0, str(Path(__file__).parent.parent))
from worlds import LIVES, pen_world


@dataclass
class Side:
    """A probe that listens, an engine to give it something to hear, and everything it said."""

    engine: object
    link: object
    clock: object
    image: str
    said: list
    lock: object = field(default_factory=threading.Lock)

    def create(self, *command, watch=True):
        body = {
            "Image": self.image,
            "Cmd": list(command or LIVES),
            "HostConfig": {"NetworkMode": "none"},
        }
        identity = self.engine.create(None, body).need("create")
        if watch:
            self.link.watch(identity)
        return identity

    def run(self, *command):
        identity = self.create(*command)
        self.engine.start(identity).need("start")
        return identity

    def of(self, kind, **members):
        assert self.link.flush(5)
        return [
            x
            for x in list(self.said)
            if isinstance(x, kind) and all(getattr(x, k) == v for k, v in members.items())
        ]

    def until(self, kind, **members):
        end = self.clock.now() + 10 * NS
        while not (found := self.of(kind, **members)):
            assert self.clock.now() < end, [x.kind for x in self.said]
            self.clock.sleep(0.01)
        return found[0]


@pytest.fixture(scope="module")
def real_side():
    with pen_world() as real:
        tag = images.ensure(real.engine, ImageSpec(rootfs="busybox"), machine=real.machine)
        said = []
        real.held.append(_Listener(said))
        yield Side(real.engine, real.link, RealClock(), tag, said)


@dataclass
class _Listener:
    said: list

    def take(self, event):
        self.said.append(event)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def side(request):
    if request.param == "real":
        side = request.getfixturevalue("real_side")
        side.said.clear()
        yield side
        for row in side.engine.ps().need("ps"):
            side.engine.remove(row["Id"]).need("remove")
        return
    with fakes.Clock() as clock:
        machine = fakes.Machine(clock)
        said = []
        link = fakes.Link(machine, on_event=said.append)
        link.start()
        yield Side(fakes.Engine(machine), link, clock, "busybox", said)


def test_a_container_that_is_announced_before_its_start_is_known_by_its_main_process(side):
    """Kernel pid, PID 1 in its own namespace, its cgroup: whatever Docker says of it later."""
    identity = side.run()
    main = side.until(e.MainProcess, container=identity)
    assert main.nspids[0] == main.pid
    assert main.nspids[-1] == 1
    assert identity in main.cgroup
    assert main.pid in _pids(side, identity)


def _pids(side, identity):
    """The main process's pid as the engine's machine and as the kernel number it."""
    inside = side.engine.inspect(identity).need("inspect")["State"]["Pid"]
    main = side.of(e.MainProcess, container=identity)[0]
    return {main.pid} if inside in main.nspids else set()


def test_a_container_that_is_announced_late_is_found_all_the_same(side):
    """It runs already when the probe hears of it."""
    identity = side.create(watch=False)
    side.engine.start(identity).need("start")
    side.clock.sleep(0.1)
    side.link.watch(identity)
    assert side.until(e.MainProcess, container=identity)


def test_an_end_is_told_by_the_kernel_before_the_engine_tells_it(side):
    """The death of exactly that main process; Docker's die comes later, with its code."""
    identity = side.run("sh", "-c", "sleep 0.3; exit 3")
    death = side.until(e.DeathSeen, container=identity)
    die = side.until(e.DockerEvent, id=identity, action="die")
    (main,) = side.of(e.MainProcess, container=identity)
    assert death.pid == main.pid
    assert death.t < die.t
    assert die.attributes["exitCode"] == "3"
    (status,) = {x.status for x in side.of(e.ProcEvent, what="exit", pid=main.pid)}
    assert status == 3 << 8
    side.until(e.PidfdExit, container=identity)


def test_a_main_process_that_lives_for_milliseconds_is_seen_to_end(side):
    """Known or not, its end is told; the engine's inspect says Pid 0 by then."""
    identity = side.run("true")
    side.until(e.DockerEvent, id=identity, action="die")
    deaths = side.of(e.DeathSeen, container=identity)
    mains = side.of(e.MainProcess, container=identity)
    assert [d.pid for d in deaths] == [m.pid for m in mains]


def actions(side, identity):
    """Docker's own order of what happened to a container, without its networks and execs."""
    return [
        x.action
        for x in side.of(e.DockerEvent, type="container", id=identity)
        if not x.action.startswith("exec")
    ]


def test_the_engine_tells_a_restart_in_its_order(side):
    """kill, die, stop, start, restart; the kernel's two main processes one after the other."""
    identity = side.run()
    side.clock.sleep(0.2)
    side.engine.restart(identity).need("restart")
    side.until(e.DockerEvent, id=identity, action="restart")
    told = [a for a in actions(side, identity) if a != "create"]
    assert told == ["start", "kill", "die", "stop", "start", "restart"]
    first, second = side.of(e.MainProcess, container=identity)
    (death,) = side.of(e.DeathSeen, container=identity)
    assert death.pid == first.pid != second.pid
    assert first.t < death.t < second.t


def test_the_engine_tells_a_removal_in_its_order(side):
    """A forced removal kills first."""
    identity = side.run()
    side.engine.remove(identity, force=True).need("remove")
    side.until(e.DockerEvent, id=identity, action="destroy")
    assert actions(side, identity)[-3:] == ["kill", "die", "destroy"]


def test_a_kill_is_told_with_its_signal_before_the_end(side):
    """The tracer's line of the signal, then the death."""
    identity = side.run()
    main = side.until(e.MainProcess, container=identity)
    side.engine.kill(identity).need("kill")
    death = side.until(e.DeathSeen, container=identity)
    lines = [
        x for x in side.of(e.TraceLine)
        if "signal_generate: sig=9" in x.text and f" pid={main.pid} " in x.text
    ]  # fmt: skip
    assert lines
    assert lines[0].t <= death.t
    sender = side.until(e.SignalSender, to=main.pid, signal=9)
    assert sender.place == "engine"


def test_a_memory_kill_is_told_by_the_kernel_in_both_its_voices(side):
    """mark_victim and the log's oom-kill line, before the end."""
    body = {
        "Image": side.image,
        "Cmd": ["sh", "-c", "sleep 0.2; exec tail /dev/zero"],
        "HostConfig": {"NetworkMode": "none", "Memory": 16 << 20},
    }
    identity = side.engine.create(None, body).need("create")
    side.link.watch(identity)
    side.engine.start(identity).need("start")
    death = side.until(e.DeathSeen, container=identity)
    victims = [x for x in side.of(e.TraceLine) if f"mark_victim: pid={death.pid}" in x.text]
    assert victims[0].t <= death.t
    lines = [x for x in side.of(e.KernelLine) if "oom-kill:" in x.text and identity in x.text]
    assert f"pid={death.pid}," in lines[0].text


def test_after_a_flush_everything_that_happened_before_has_arrived(side):
    """No waiting, no asking again: what was seen is handed over before the answer."""
    for _ in range(3):
        identity = side.run("sh", "-c", "sleep 0.05; exit 1")
        end = side.clock.now() + 10 * NS
        while side.engine.inspect(identity).need("inspect")["State"]["Running"]:
            assert side.clock.now() < end
            side.clock.sleep(0.01)
        assert side.link.flush(5)
        kinds = {x.kind for x in list(side.said) if getattr(x, "container", None) == identity}
        assert "death" in kinds


def test_a_history_can_begin_at_any_time(side):
    """Hello, every source's state, and the clocks: without waiting for the next ping."""
    side.clock.sleep(0.2)
    head = side.link.states()
    kinds = [x.kind for x in head]
    assert kinds[0] == "hello"
    assert "clock-link" in kinds
    active = {x.name for x in head if isinstance(x, e.SourceState) and x.state == "active"}
    assert {"trace", "docker", "kernel"} <= active


def test_who_is_not_watched_is_not_told(side):
    """Before it is announced, and after it is let go."""
    identity = side.create(watch=False)
    side.engine.start(identity).need("start")
    other = side.run()
    side.link.unwatch(other)
    side.link.flush(5)
    before = len(side.said)
    for one in (identity, other):
        side.engine.kill(one).need("kill")
    side.clock.sleep(0.2)
    side.link.flush(5)
    told = [x for x in side.said[before:] if isinstance(x, (e.DeathSeen, e.MainProcess))]
    assert [x for x in told if x.container in {identity, other}] == []


def test_a_flush_of_a_probe_that_does_not_answer_says_so():
    """False at its deadline; a gap begins after three seconds and ends when it speaks again."""
    with fakes.Clock() as clock:
        said = []
        link = fakes.Link(fakes.Machine(clock), on_event=said.append)
        link.start()
        link.fall_silent()
        begin = clock.now()
        assert link.flush(5) is False
        assert clock.now() - begin == 5 * NS
        link.speak()
        assert [x.end for x in said if isinstance(x, e.Gap)] == [None, clock.now()]
        assert link.flush(5) is True
