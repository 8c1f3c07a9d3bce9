"""A container's life and its execs, in memory and on a real engine: answers, refusals, order."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import fakes, images
from harness.clock import NS, RealClock
from harness.engine import Engine, Trouble
from harness.model.experiment import ImageSpec

sys.path.insert(0, str(Path(__file__).parent.parent))
from worlds import DEAF, LIVES, pen_world

GONE = "0" * 64


@dataclass
class Side:
    """An engine with its machine, clock and image, and the means to break it."""

    engine: object
    machine: object
    clock: object
    image: str
    made: int = 0

    def body(self, *command, **host):
        return {
            "Image": self.image,
            "Cmd": list(command or LIVES),
            "HostConfig": {"NetworkMode": "none", **host},
        }

    def create(self, *command, name=None, **host):
        self.made += 1
        name = name or f"contract-{self.made}"
        return self.engine.create(name, self.body(*command, **host)).need("create")

    def run(self, *command, **host):
        identity = self.create(*command, **host)
        self.engine.start(identity).need("start")
        return identity

    def state(self, identity):
        return self.engine.inspect(identity).need("inspect")["State"]

    def until(self, identity, status):
        end = self.clock.now() + 10 * NS
        while self.state(identity)["Status"] != status:
            assert self.clock.now() < end, self.state(identity)
            self.clock.sleep(0.01)

    def execute(self, identity, text, **options):
        prepared = self.engine.prepare_exec(identity, ("/bin/sh", "-c", text), **options)
        assert prepared.warm()
        prepared.go()
        return prepared.wait()


@pytest.fixture(scope="module")
def real_side():
    with pen_world() as real:
        tag = images.ensure(real.engine, ImageSpec(rootfs="busybox"), machine=real.machine)
        yield Side(real.engine, real.machine, RealClock(), tag)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def side(request):
    if request.param == "real":
        side = request.getfixturevalue("real_side")
        yield side
        for row in side.engine.ps().need("ps"):
            side.engine.remove(row["Id"]).need("remove")
        return
    with fakes.Clock() as clock:
        machine = fakes.Machine(clock)
        yield Side(fakes.Engine(machine), machine, clock, "busybox")


# --- a container's life -------------------------------------------------------------------


def test_a_main_process_that_ends_by_itself_leaves_its_code(side):
    """exit 3 is ExitCode 3."""
    identity = side.run("sh", "-c", "sleep 0.1; exit 3")
    side.until(identity, "exited")
    assert side.state(identity)["ExitCode"] == 3


def test_a_deaf_main_process_is_killed_after_the_grace(side):
    """SIGTERM without a handler does nothing to PID 1: one second later it is 137."""
    identity = side.run(*DEAF)
    begin = side.clock.now()
    side.engine.stop(identity, grace=1).need("stop")
    assert 1.0 <= (side.clock.now() - begin) / NS < 3.0
    assert side.state(identity)["ExitCode"] == 137


def test_a_restart_is_the_same_container_with_another_main_process(side):
    """Same id, new pid, running."""
    identity = side.run()
    before = side.state(identity)["Pid"]
    side.engine.restart(identity).need("restart")
    after = side.state(identity)
    assert after["Status"] == "running"
    assert after["Pid"] != before


def test_a_kill_is_137_and_a_second_one_is_refused(side):
    """409 with the words of an engine that has nothing to kill."""
    identity = side.run()
    side.engine.kill(identity).need("kill")
    side.until(identity, "exited")
    assert side.state(identity)["ExitCode"] == 137
    again = side.engine.kill(identity)
    assert (again.http, again.failure.trouble) == (409, Trouble.REFUSED)
    assert f"Container {identity} is not running" in again.error


def test_a_removed_container_is_not_known_any_more(side):
    """404 for every request that names it."""
    identity = side.run()
    side.engine.remove(identity, force=True).need("remove")
    answers = [
        side.engine.inspect(identity), side.engine.start(identity), side.engine.stop(identity),
        side.engine.restart(identity), side.engine.kill(identity), side.engine.remove(identity),
        side.engine.logs(identity), side.engine.exec_create(identity, ["true"]),
    ]  # fmt: skip
    assert [a.http for a in answers] == [404] * len(answers)
    assert all("No such container" in a.error for a in answers)


def test_a_running_container_is_not_removed_without_force(side):
    """409, and it runs on."""
    identity = side.run()
    answer = side.engine.remove(identity, force=False)
    assert answer.http == 409
    assert "cannot remove a running container" in answer.error
    assert side.state(identity)["Running"]


def test_a_name_that_is_taken_is_refused(side):
    """409: a recreate must remove first."""
    side.create(name="taken")
    answer = side.engine.create("taken", side.body())
    assert answer.http == 409
    assert "is already in use by container" in answer.error


def test_what_is_started_stopped_or_gone_already_is_no_error(side):
    """304: nothing to do."""
    identity = side.run()
    assert side.engine.start(identity).ok
    side.engine.stop(identity, grace=1).need("stop")
    assert side.engine.stop(identity).ok


def test_a_name_and_a_short_id_mean_the_same_container(side):
    """As people write them."""
    identity = side.create(name="by-name")
    for ref in ("by-name", identity[:12], identity):
        assert side.engine.inspect(ref).need("inspect")["Id"] == identity


def test_what_the_main_process_wrote_is_in_its_log(side):
    """The tail of both streams."""
    identity = side.run("sh", "-c", "echo one; echo two")
    side.until(identity, "exited")
    assert side.engine.logs(identity, tail=1).need("logs").endswith(b"two\n")


def test_a_restart_policy_starts_it_again(side):
    """It comes back by itself after an end of its own, not after our stop."""
    identity = side.run("sh", "-c", "sleep 0.3; exit 1", RestartPolicy={"Name": "always"})
    end = side.clock.now() + 10 * NS
    while side.engine.inspect(identity).need("inspect")["RestartCount"] == 0:
        assert side.clock.now() < end
        side.clock.sleep(0.05)
    side.engine.stop(identity, grace=1).need("stop")
    side.clock.sleep(0.5)
    assert side.state(identity)["Status"] == "exited"


# --- execs --------------------------------------------------------------------------------


def test_an_exec_in_a_stopped_container_is_refused_in_the_engines_words(side):
    """409 "Container <id> is not running", never created: what the user sees."""
    for identity in (side.create(), side.run("true")):
        if side.state(identity)["Status"] != "created":
            side.until(identity, "exited")
        answer = side.execute(identity, "true")
        assert (answer.http, answer.failed_at, answer.created) == (409, "create", None)
        assert answer.error == f"Container {identity} is not running"


def test_an_exec_dies_with_its_container(side):
    """Killed by the end of the PID namespace: 137, and no error of the engine."""
    identity = side.run()
    prepared = side.engine.prepare_exec(identity, ("/bin/sh", "-c", "sleep 30"))
    prepared.go()
    side.clock.sleep(0.5)
    side.engine.kill(identity).need("kill")
    answer = prepared.wait()
    assert answer.exit_code == 137


def test_an_exec_at_an_instant_is_asked_for_then_and_not_before(side):
    """Within milliseconds on any host, and never early."""
    identity = side.run()
    prepared = side.engine.prepare_exec(identity, ("/bin/true",))
    assert prepared.warm()
    at = side.clock.now() + NS // 10
    prepared.go(at)
    answer = prepared.wait()
    assert 0 <= answer.requested - at < 50_000_000


@pytest.mark.parametrize("waiting", [True, False])
def test_a_cancelled_exec_is_never_asked_for(side, waiting):
    """Before `go`, and between `go` and its instant; whoever waits is free."""
    identity = side.run()
    prepared = side.engine.prepare_exec(identity, ("/bin/touch", "/tmp/was-here"))
    assert prepared.warm()
    if waiting:
        prepared.go(side.clock.now() + NS // 5)
    prepared.cancel()
    begin = side.clock.now()
    assert prepared.wait().requested is None
    assert side.clock.now() - begin < NS
    side.clock.sleep(0.3)
    found = side.execute(identity, "echo there")
    assert found.exit_code == 0
    if isinstance(side.engine, fakes.Engine):
        assert side.engine.calls.count("exec") == 1
    else:
        assert side.execute(identity, "test -e /tmp/was-here").exit_code == 1


def test_an_exec_that_is_given_up_is_told_as_not_answered(side):
    """At once, with `timed_out`; what it brings later is dropped."""
    told = []
    identity = side.run()
    prepared = side.engine.prepare_exec(
        identity, ("/bin/sh", "-c", "sleep 0.4"), tell=lambda a: told.append(a.edge)
    )
    prepared.go()
    side.clock.sleep(0.25)
    prepared.give_up()
    answer = prepared.wait()
    assert answer.timed_out
    side.clock.sleep(0.5)
    assert told.count("answer") == 1


# --- networks -----------------------------------------------------------------------------


def test_a_network_is_made_found_and_removed(side):
    """By label; a second removal is 404."""
    side.engine.network_create("net-x", {"Labels": {"team": "red"}}).need("network")
    found = side.engine.networks(filters={"label": ["team=red"]}).need("networks")
    assert [n["Name"] for n in found] == ["net-x"]
    side.engine.network_remove("net-x").need("remove")
    assert side.engine.network_remove("net-x").http == 404


def test_a_network_that_is_not_there_stops_a_start(side):
    """The container is there, the start is refused with 404."""
    identity = side.create(NetworkMode="nowhere")
    answer = side.engine.start(identity)
    assert answer.http == 404
    assert "network nowhere not found" in answer.error


# --- an engine that is not there ----------------------------------------------------------


def test_an_engine_that_is_not_there_is_absent_and_not_refusing():
    """Nobody listens: the operating system's word, no HTTP status."""
    with fakes.Clock() as clock:
        machine = fakes.Machine(clock)
        machine.kill_engine()
        fake = fakes.Engine(machine).ping()
    real = Engine("unix:///nowhere/docker.sock").ping()
    for answer in (fake, real):
        assert answer.absent
        assert answer.http is None


def test_a_call_past_its_deadline_is_late_and_its_answer_dropped(side):
    """The stop goes on inside the engine; its caller has its LATE and nothing else."""
    identity = side.run(*DEAF)
    answer = side.engine.stop(identity, grace=2, deadline=0.3)
    assert answer.failure.trouble is Trouble.LATE
    assert not answer.absent
    assert 0.25 < answer.seconds < 1.5
    side.until(identity, "exited")


def test_an_engine_that_dies_cuts_off_what_is_under_way():
    """Absent, not late: the connection breaks at once (the real one: tests of the pen)."""
    with fakes.Clock() as clock:
        machine = fakes.Machine(clock)
        engine = fakes.Engine(machine)
        body = {"Image": "busybox", "Cmd": list(DEAF)}
        identity = engine.create("x", body).need("create")
        engine.start(identity).need("start")
        clock.after(1.0, machine.kill_engine)
        answer = engine.stop(identity, grace=5)
        assert answer.absent
        assert answer.seconds == pytest.approx(1.0, abs=0.01)
        assert engine.ping().absent
        machine.engine_returns()
        clock.sleep(0.1)
        assert engine.inspect(identity).need("inspect")["State"]["Status"] == "exited"
