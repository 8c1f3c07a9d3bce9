"""What of a colima machine can be known without one: flags, words, pids, logs, and what a judge makes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import clock, process
from harness import events as e
from harness.attribution import judge
from harness.errors import EnvironmentInvalid
from harness.history import build
from harness.machine import colima, colima_call, colima_home, colima_start, colima_state, lima
from harness.machine.colima_start import Wish
from harness.machine.watch import Watch, standing
from harness.model.sizes import differences
from harness.model.verdicts import Certainty, Outcome
from harness.parse.lima import parse_lima

sys.path.insert(0, str(Path(__file__).parent))
from stories import BASE, C, Story

GIB = 1 << 30
NEW = """
  --cpus int
  -V, --mount strings        directories to mount, suffix ':w' for writable, disable with 'none'
  --binfmt
  --activate
  --ssh-config
  --save-config
  --template
  --disk-image string
  --force-disk-image
  --port-forwarder string    port forwarder to use (ssh, grpc, none)
"""


def arguments(wish, offered):
    return colima_start.arguments(wish, offered, nothing="/empty")


def value(argv, flag):
    return argv[argv.index(flag) + 1]


def test_flags_follow_what_it_offers():
    """An older colima says --cpu and lacks some flags; memory arrives as a binary fraction."""
    wish = Wish(memory=1300 << 20, cpus=1, disk=4 * GIB)
    new = arguments(wish, NEW)
    assert value(new, "--memory") == "1.26953125"
    assert (value(new, "--cpus"), value(new, "--mount")) == ("1", "none")
    assert value(new, "--port-forwarder") == "none"
    assert {"--binfmt=false", "--activate=false", "--ssh-config=false", "--template=false",
            "--save-config=false"} <= set(new)  # fmt: skip
    old = arguments(wish, "--cpu int --mount --activate\n --port-forwarder  (ssh, grpc)")
    assert "--cpus" not in old
    assert value(old, "--cpu") == "1"
    assert not {"--save-config=false", "--port-forwarder"} & set(old)


def test_the_users_choices_are_flags(tmp_path):
    """vm_type and mount_type are what people compare; their own flags come last."""
    mount = f"{tmp_path}:w"
    wish = Wish(
        vm_type="vz", mount_type="virtiofs", mounts=(mount,), arch="host", disk_image="/i",
        flags=("--cpu-type", "max"),
    )  # fmt: skip
    offered = NEW + "\n -t, --vm-type string\n --mount-type string"
    if sys.platform == "darwin":
        argv = arguments(wish, offered)
        assert (value(argv, "--vm-type"), value(argv, "--mount-type")) == ("vz", "virtiofs")
    else:
        with pytest.raises(EnvironmentInvalid, match="virtiofs"):
            arguments(wish, offered)
    argv = arguments(Wish(mounts=(mount,), flags=("--x", "1"), disk_image="/i"), NEW)
    assert value(argv, "--mount") == mount
    assert argv[-5:] == ["--disk-image", "/i", "--force-disk-image", "--x", "1"]
    with pytest.raises(EnvironmentInvalid, match="--vm-type"):
        arguments(Wish(vm_type="vz"), NEW)
    with pytest.raises(EnvironmentInvalid, match="no directory"):
        arguments(Wish(mounts=(f"{tmp_path}/none:w",)), NEW)
    assert "--vm-type" not in arguments(Wish(vm_type="qemu"), NEW)


def test_an_older_colima_is_not_asked_for_what_it_does_not_know():
    """Before 0.10 nothing but another directory keeps the home from being mounted; 0.5 has whole GiB."""
    old = """
  -m, --memory int    memory in GiB (default 2)
  -V, --mount strings directories to mount, suffix ':w' for writable
"""
    assert value(arguments(Wish(), old), "--mount") == "/empty"
    assert value(arguments(Wish(), NEW), "--mount") == "none"
    assert value(arguments(Wish(memory=2 * GIB), old), "--memory") == "2"
    with pytest.raises(EnvironmentInvalid, match="whole GiB"):
        arguments(Wish(memory=1536 << 20), old)
    with pytest.raises(EnvironmentInvalid, match="own file"):
        arguments(Wish(profile="mine", ours=False), old)


@pytest.mark.parametrize(("vm", "mount"), [("qemu", "virtiofs"), ("vz", "9p")])
def test_what_colima_would_exchange_is_refused(monkeypatch, tmp_path, vm, mount):
    """It takes another mount type, says so in a warning, and exits with 0."""
    monkeypatch.setattr(colima_start.platform, "system", lambda: "Darwin")
    wish = Wish(vm_type=vm, mount_type=mount, mounts=(str(tmp_path),))
    offered = NEW + "\n -t, --vm-type string\n --mount-type string"
    with pytest.raises(EnvironmentInvalid, match=f"no {mount} with {vm}"):
        arguments(wish, offered)


def test_a_profile_of_the_users_keeps_what_it_was_made_with():
    """Its runtime, mounts and port forwarder are not ours to choose."""
    argv = arguments(Wish(profile="mine", ours=False, cpus=2), NEW)
    assert value(argv, "-p") == "mine"
    assert not {"--runtime", "--mount", "--port-forwarder"} & set(argv)
    assert "--save-config=false" in argv


def result(code=0, out="", err="", **more):
    return process.Result(("runuser", "-u", "x", "--", "colima", "start"), code, out.encode(),
                          err.encode(), 3.0, **more)  # fmt: skip


def test_every_failure_is_one_exit_code_and_words():
    """The fatal line of either stream; a deadline says what had no end; a warning is kept."""
    fatal = (
        'time="x" level=info msg="starting"\ntime="x" level=fatal msg="error starting vm: \\"y\\""'
    )
    assert colima_call.reason(result(1, err=fatal)) == 'error starting vm: "y"'
    assert colima_call.reason(result(1, err="FATA[0600] did not receive")) == "did not receive"
    # limactl's own reason stands on the other stream; colima only says that it failed.
    agent = 'level=fatal msg="hostagent (`ha.pid`) did not start up in 5s"'
    generic = """level=fatal msg="error starting vm: error at 'starting': exit status 1\""""
    said = colima_call.reason(result(1, out=agent, err=generic))
    assert said.endswith("exit status 1: hostagent (`ha.pid`) did not start up in 5s")
    assert "too busy" in colima._mend(said)
    late = colima_call.reason(result(-9, timed_out=True))
    assert late == "no end of `colima start` after 3 s"
    again = result(0, err='level=warning msg="already running, ignoring"')
    assert colima_call.was_running(again)
    assert "already" in colima_call.reason(again)


def test_no_environment_leads_to_the_users_own(monkeypatch, tmp_path):
    """Docker's and colima's variables of the caller do not reach it; knobs of Lima do."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "COLIMA_PROFILE", "LIMA_INSTANCE"):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("LIMA_USERNET_RESOLVE_IP_ADDRESS_TIMEOUT", "10")
    monkeypatch.setenv("LIMA_HOME", str(tmp_path / "theirs"))
    env = colima_call.environment(tmp_path, None, private=tmp_path)
    assert "theirs" not in env.values()
    assert env["LIMA_USERNET_RESOLVE_IP_ADDRESS_TIMEOUT"] == "10"
    assert env["COLIMA_HOME"] == str(tmp_path)
    assert env["LIMA_HOME"] == str(tmp_path / "_lima")
    assert env["DOCKER_CONFIG"] == str(tmp_path / "docker")
    assert env["TMPDIR"] == str(tmp_path / "tmp")


def test_a_profile_of_the_users_stands_where_he_put_it(monkeypatch, tmp_path):
    """His LIMA_HOME counts, and docker's configuration is ours all the same: a stop removes a context."""
    monkeypatch.setenv("LIMA_HOME", str(tmp_path / "lima"))
    env = colima_call.environment(tmp_path / "home", None, private=tmp_path / "ours")
    assert env["LIMA_HOME"] == str(tmp_path / "lima")
    assert env["DOCKER_CONFIG"] == str(tmp_path / "ours/docker")
    assert "DOCKER_CONFIG" not in colima_call.environment(tmp_path / "home", None)


@pytest.mark.parametrize(
    ("there", "variables", "home"),
    [
        ((".colima", "xdg", "named"), {"COLIMA_HOME": "named", "XDG_CONFIG_HOME": "xdg"}, "named"),
        ((".colima", "xdg"), {"COLIMA_HOME": "named", "XDG_CONFIG_HOME": "xdg"}, ".colima"),
        (("xdg",), {"XDG_CONFIG_HOME": "xdg"}, "xdg/colima"),
        ((), {}, ".colima" if sys.platform == "darwin" else ".config/colima"),
    ],
)
def test_the_users_home_of_colima_is_where_colima_looks(
    monkeypatch, tmp_path, there, variables, home
):
    """A COLIMA_HOME that is no directory is passed over in silence, as colima does it."""
    monkeypatch.setattr(colima_home, "passwd", lambda user: SimpleNamespace(pw_dir=str(tmp_path)))
    for name in ("COLIMA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in there:
        (tmp_path / name).mkdir()
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    assert colima_home.existing(None) == tmp_path / home


def test_only_a_home_of_ours_is_removed(tmp_path):
    """Whatever a lease says, the user's own directory is none of ours."""
    home = tmp_path / ".colima"
    home.mkdir()
    assert colima_home.remove(f":{home}") is False
    assert home.exists()


# --- what Lima leaves on this host ----------------------------------------------------------


def line(message, **more):
    return json.dumps({"level": "info", "msg": message, "time": "2026-11-25T06:16:05Z", **more})


GRACEFUL = (
    "Received SIGINT, shutting down the host agent",
    "Sending QMP system_powerdown command",
    "QEMU has exited",
)
KILLED = (
    "Driver stopped due to error: `signal: killed`",
    "failed to open the QMP socket `/x/qmp.sock`, forcibly killing QEMU",
    "QEMU has already exited",
)


@pytest.mark.parametrize(
    ("said", "state"), [(GRACEFUL, "shut-down"), (KILLED, "killed"), ((), "none")]
)
def test_a_vms_end_is_read_from_its_agents_log(tmp_path, said, state):
    """An order came first, or the hypervisor went first; without a word it never ran."""
    (tmp_path / "ha.stderr.log").write_text("".join(line(m) + "\n" for m in said))
    assert lima.Instance(tmp_path).condition().state == state
    if said:
        assert said[0] in lima.Instance(tmp_path).condition(77).why


def test_a_process_that_stands_still_is_told_from_one_that_runs(tmp_path):
    """SIGSTOP, an agent that is gone, and the end: what this host sees of each."""
    vm = subprocess.Popen(["sleep", "60"])
    agent = subprocess.Popen(["sleep", "60"])
    instance = lima.Instance(tmp_path)
    try:
        (tmp_path / "qemu.pid").write_text(f"{vm.pid}\n")
        (tmp_path / "ha.pid").write_text(str(agent.pid))
        assert instance.condition().state == "running"
        instance.signal(signal.SIGSTOP)
        # The shell's word for it: the child has changed its state when the parent is told.
        os.waitid(os.P_PID, vm.pid, os.WSTOPPED)
        assert instance.condition().state == "still"
        assert standing(vm.pid) == "still"
        instance.signal(signal.SIGCONT)
        agent.kill()
        agent.wait()
        assert instance.condition().state == "agentless"
    finally:
        vm.kill()
        vm.wait()
        agent.kill()
        agent.wait()
    assert standing(vm.pid) == "gone"
    with pytest.raises(EnvironmentInvalid, match="no hypervisor"):
        instance.signal(signal.SIGKILL)


def test_the_last_words_are_for_people(tmp_path):
    """The agent's messages without their JSON and its debugging; a console's lines as they are."""
    (tmp_path / "ha.stderr.log").write_text(
        line("Waiting for ssh") + "\n" + json.dumps({"level": "debug", "msg": "noise"}) + "\n"
    )
    (tmp_path / "serial.log").write_text("login: \n")
    words = lima.Instance(tmp_path).last_words()
    assert words == "ha.stderr.log: Waiting for ssh\nserial.log: login: "


def test_what_kind_of_vm_was_made_is_read_from_what_lima_runs_it_by(tmp_path):
    """In colima's words; nothing where nothing is said."""
    assert lima.Instance(tmp_path).kinds() == {}
    (tmp_path / "lima.yaml").write_text(
        "vmType: vz\nos: Linux\narch: aarch64\nmounts:\n    - arch: none\nmountType: reverse-sshfs\n"
    )
    assert lima.Instance(tmp_path).kinds() == {
        "vm_type": "vz", "arch": "aarch64", "mount_type": "sshfs",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"msg":5}',
        '{"msg":"READY"}',
        '{"status":{"running":true}}',
        "{" * 9000,
    ],
)
def test_lines_that_say_nothing_of_an_end(text):
    """Never an exception, never a guess."""
    assert parse_lima(text) is None


def test_what_is_not_as_asked_is_said():
    """A few per cent are worth a word; the kernel's share of 1 GiB is."""
    assert differences({"disk": 4 * GIB}, {"disk": 4141580288}) == [
        "disk: 4GiB asked for, 3949MiB inside (3.6 % less)"
    ]
    assert differences({"cpus": 2, "memory": GIB}, {"cpus": 2, "memory": None}) == []
    assert differences({"memory": 8 * GIB}, {"memory": int(7.9 * GIB)}) == []


# --- what a judge makes of this host's word -------------------------------------------------


def host(story, ms, what, until=None, why="process 7 is gone"):
    shift = None if until is None else BASE + int(until * 1e6)
    return story.harness(ms, e.HostState, what=what, why=why, until=shift)


def gone(story, ms):
    """The probe's connection ends with its machine."""
    return story.say(ms, e.Gap, source="link", clock="harness", name="probe", begin=BASE + int(ms * 1e6),
                     end=None, why="the probe ended")  # fmt: skip


def test_a_machine_that_was_killed_takes_its_container_along():
    """Nothing on it could tell, and it does not boot again: this host's word is the witness."""
    story = gone(Story().run(), 2000).pre_task(1000, 2500, exit_code=None, http=None, error="EOF")
    judged = judge(build(host(story, 2000, "killed").events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "vm-reboot")
    assert "process 7 is gone" in judged.verdict.sentence


def test_what_the_kernel_saw_before_the_machine_went_is_its_own():
    """A death seen on the machine is not put down to the machine's end a second later."""
    story = (
        Story().run().signal(1000, 9, 4200, sender=8000, comm="sh", place="host").ends(1000.2, 9)
    )
    judged = judge(build(host(gone(story, 2000), 2000, "killed").events))
    assert judged.verdict.cause == "host-kill"


@pytest.mark.parametrize("end", ["killed", "shut-down"])
def test_what_the_engine_told_before_the_machine_went_is_its_own(end):
    """With the kernel's sources blind the engine alone told of an exit; the machine went later."""
    story = Story(sources=("docker", "daemons", "machine")).run()
    story.docker(1000, "die", exitCode="3")
    judged = judge(build(host(gone(story.over(1500, code=3), 9000), 9000, end).events))
    assert judged.outcome is Outcome.DIED
    assert judged.verdict.cause not in ("vm-reboot", "vm-shutdown")


def test_a_machine_that_was_shut_down_is_no_crash():
    """Somebody ordered it: likely a shutdown, never a power cut."""
    story = host(gone(Story().run(), 2000), 2100, "shut-down")
    judged = judge(build(story.events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "vm-shutdown")
    assert judged.verdict.certainty is Certainty.LIKELY


def boot(story):
    """Twelve seconds after the beginning the probe speaks from another boot."""
    hello = {"source": "probe", "version": 1, "kernel": "6", "python": "3", "cgroup": 2, "hz": 100,
             "monitors": "light", "pid": 1}  # fmt: skip
    story.events.append(e.Hello(t=3 * 10**9, seen=3 * 10**9, boot_id="boot-2", **hello))
    at = BASE + 12 * 10**9
    story.events.append(
        e.ClockLink(t=at, seen=at, source="link", clock="harness", offset=4 * 10**9 - at, error=9)
    )
    return story


def test_a_container_may_travel_back_in_time():
    """After a power cut its State can say `created`: another boot id decides, State does not."""
    story = boot(Story().run())
    judged = judge(build(story.over(15000, status="created", code=0).events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "vm-reboot")


@pytest.mark.parametrize("asked", ["unreachable", "channel"])
def test_a_way_that_was_lost_to_a_machine_that_booted_is_no_excuse(asked):
    """Nobody was there to be asked; or who was asked, answered after the boot."""
    story = lost(gone(Story().run(), 1200))
    boot(story)
    story = host(story, 1300, asked, until=14_000, why="our ssh connection was lost")
    judged = judge(build(story.over(16_000, status="exited", code=255).events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "vm-reboot")


def lost(story, error="EOF"):
    return story.pre_task(1000, 1400, exit_code=None, http=None, error=error)


def test_a_way_that_was_lost_is_no_death_and_no_dead_daemon():
    """Asked inside, the engine answered: the trial is invalid, with that reason."""
    story = host(
        lost(Story().run()), 1300, "channel", until=2500, why="our ssh connection was lost"
    )
    judged = judge(build(story.over(9000, status="running").events))
    assert judged.outcome is Outcome.INVALID
    assert "our ssh connection was lost" in judged.why


def test_a_way_that_was_lost_beside_a_request_that_was_answered_spoils_nothing():
    """The pre-task had its answer long before."""
    story = Story().run().pre_task(1000, 1400)
    judged = judge(
        build(host(story, 5000, "channel", until=6000).over(9000, status="running").events)
    )
    assert judged.outcome is Outcome.SURVIVED


def test_a_daemon_that_went_is_not_put_down_to_the_way():
    """dockerd was seen to go while the connection was lost: then it is not the connection's fault."""
    story = lost(Story().run()).daemon(1200, "dockerd", 700, "gone")
    judged = judge(
        build(host(story, 1300, "channel", until=2500).over(9000, status="running").events)
    )
    assert judged.outcome is not Outcome.INVALID


def test_an_exec_in_a_machine_that_stands_still():
    """The hypervisor was stopped while nobody answered: the machine stood still."""
    story = Story().run().pre_task(1000, 9000, exit_code=None, http=None, timed_out=True)
    story = host(story, 1500, "still", until=10_000, why="process 7 was stopped by a signal")
    judged = judge(build(story.over(12_000, status="running").events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.EXEC_FAILED, "vm-suspended")
    assert C[:12] in judged.verdict.sentence


@pytest.mark.parametrize(
    ("blind", "outcome"), [(False, Outcome.INVALID), (True, Outcome.UNOBSERVED)]
)
def test_where_nobody_inside_could_be_asked_the_probe_tells(blind, outcome):
    """It watched the daemons over a connection of its own, or nobody knows what happened."""
    story = lost(Story().run())
    if blind:
        story = gone(story, 1100)
    story = host(story, 1300, "unreachable", until=2500, why="our ssh connection was lost")
    assert judge(build(story.over(9000, status="running").events)).outcome is outcome


def test_an_engine_that_did_not_answer_inside_either_is_no_lost_way():
    """Asked inside, it was dead: that is judged."""
    story = host(lost(Story().run(), "Connection refused"), 1300, "engine", until=2500)
    judged = judge(build(story.over(9000, status="running").events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.EXEC_FAILED, "dockerd-unreachable")


def test_a_machine_that_stands_still_for_good():
    """It was watched alive until then, and nothing dies in a machine that stands still."""
    story = Story().run().pre_task(1000, 9000, exit_code=None, http=None, timed_out=True)
    story = host(gone(story, 4000), 4200, "still", why="process 7 was stopped by a signal")
    story.harness(15_000, e.Phase, phase="clean", edge="begin")
    judged = judge(build(story.events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.EXEC_FAILED, "vm-suspended")


# --- the user's own profiles in a person's words ----------------------------------------------


WELL = {
    "name": "mine",
    "status": "Running",
    "answers": True,
    "engine": True,
    "asked": {},
    "inside": {},
}


@pytest.mark.parametrize(
    ("state", "words", "mend"),
    [
        ({"status": "Broken"}, "without the host agent", "colima stop -f -p mine"),
        ({"answers": None}, "stands still", "kill -CONT"),
        (
            {"answers": False, "words": "error retrieving current runtime: empty value"},
            "empty value",
            "colima restart",
        ),
        ({"engine": False}, "its docker.sock is dead", "colima restart"),
        (
            {"asked": {"memory": 8 * GIB, "cpus": 2}, "inside": {"memory": 3 * GIB, "cpus": 2}},
            "8GiB asked for, 3GiB inside",
            "colima stop -p mine",
        ),
        (
            {"status": "Stopped", "strays": 2, "folder": Path("/h/_lima/colima-mine")},
            "2 processes",
            "pgrep -fl /h/_lima/colima-mine/",
        ),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_with_what_mends_it(state, words, mend):
    """One finding for each trap of colima's that `list` does not show."""
    (finding,) = colima_state.explain(colima_state.Profile(**{**WELL, **state}))
    assert words in finding.what
    assert mend in finding.mend
    assert finding.harm


@pytest.mark.parametrize(
    "state",
    [{}, {"status": "Stopped", "answers": False, "engine": False},
     {"asked": {"memory": GIB}, "inside": {"memory": 989872 << 10}}],
)  # fmt: skip
def test_a_profile_that_is_well_is_no_finding(state):
    """Stopped is no fault, and neither is the kernel's own share of a small VM."""
    assert colima_state.explain(colima_state.Profile(**{**WELL, **state})) == []


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"asked": {"cpus": 2, "memory": GIB, "disk": 4 * GIB}},
         "profile mine: runs, docker answers (2 CPUs, 1GiB, disk 4GiB)"),
        ({"engine": False}, "profile mine: runs, docker does not answer"),
        ({"answers": None}, "profile mine: stands still"),
        ({"status": "Broken"}, "profile mine: broken"),
    ],
)  # fmt: skip
def test_every_profile_has_a_line(state, line):
    """Well or not: whoever asks sees that it was looked at."""
    assert colima_state.describe(colima_state.Profile(**{**WELL, **state})) == line


def test_a_clock_that_lima_set_is_an_event(tmp_path):
    """Its line has this host's wall clock: it lies on our own line, oldest first."""
    now = clock.RealClock().wall() // 10**9
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    (tmp_path / "ha.stderr.log").write_text(
        json.dumps({"msg": "Time sync: guest clock adjusted (was 1555ms off)", "time": stamp})
        + "\n"
    )
    watch = Watch(lima.Instance(tmp_path), gone=lambda: None)
    (step,) = watch.told(0)
    assert (step.what, step.ended) == ("clock-step", False)
    assert "1555ms" in step.why
    assert watch.told(clock.now() + 10**9) == ()


@pytest.fixture
def sleeper():
    """Starts processes that stand for a hypervisor and its agent; ends what is left of them."""
    there = []

    def start():
        there.append(subprocess.Popen(["sleep", "600"]))
        return there[-1]

    yield start
    for one in there:
        one.kill()
        one.wait()


def ended(process):
    process.kill()
    process.wait()


def test_a_hypervisor_that_nobody_found_has_not_ended(tmp_path, sleeper):
    """It is looked for until it is there; then its end is an end."""
    gone = threading.Event()
    watch = Watch(lima.Instance(tmp_path), gone=gone.set)
    watch.start()
    try:
        vm = sleeper()
        (tmp_path / "qemu.pid").write_text(str(vm.pid))
        assert clock.wait_until(lambda: watch._pid == vm.pid, deadline=20, every=0.05)
        assert not gone.is_set()
        ended(vm)
        assert gone.wait(20)
        assert watch.told(0)[-1].ended
    finally:
        watch.stop()


def test_a_vm_whose_agent_died_runs_on(tmp_path, sleeper):
    """Since when, and what colima calls it; the end of both at once is one end."""
    vm, agent = sleeper(), sleeper()
    (tmp_path / "qemu.pid").write_text(str(vm.pid))
    (tmp_path / "ha.pid").write_text(str(agent.pid))
    watch = Watch(lima.Instance(tmp_path), gone=lambda: None)
    watch.start()
    try:
        assert watch.told(0) == ()
        ended(agent)
        assert clock.wait_until(lambda: watch.told(0), deadline=20, every=0.05)
        (said,) = watch.told(0)
        assert (said.what, said.until, said.ended, said.spoils) == ("agentless", None, False, True)
        assert str(agent.pid) in said.why and "Broken" in said.why
        ended(vm)
        assert clock.wait_until(lambda: watch.told(0)[-1].what == "killed", deadline=20, every=0.05)
    finally:
        watch.stop()
