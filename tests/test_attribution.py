"""The judge: what it says of deaths whose causes are known, and what it leaves undecided."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import events as e
from harness.attribution import judge
from harness.history import build
from harness.model.causes import CAUSES
from harness.model.verdicts import Certainty, Outcome

sys.path.insert(0, str(Path(__file__).parent))
from stories import BASE, DOCKERD, MACHINE, MAIN, OTHER, SHIM, SOURCES, C, Story

CHILD = 4300


def memory_limit_main():
    return Story().run().oom(1000, MAIN).ends(1008, 9).over(code=137, oom=True)


def memory_limit_child():
    return (
        Story()
        .run()
        .oom(1000, CHILD)
        .exits(1004, CHILD, 9)
        .ends(1006, 0x100)
        .over(code=1, oom=True)
    )


def memory_limit_child_passed_on():
    return (
        Story()
        .run()
        .oom(1000, CHILD)
        .exits(1004, CHILD, 9)
        .ends(1006, 0x8900)
        .over(code=137, oom=True)
    )


def vm_oom_pen():
    return (
        Story(limit=None)
        .run()
        .oom(1000, MAIN, limit=MACHINE)
        .ends(1008, 9)
        .over(code=137, oom=True)
    )


def vm_oom_global():
    return (
        Story(limit=None).run().oom(1000, MAIN, whole=True).ends(1008, 9).over(code=137, oom=True)
    )


def parent_cgroup():
    s = Story(limit=None).run()
    return s.oom(1000, MAIN, limit=f"{MACHINE}/docker").ends(1008, 9).over(code=137, oom=True)


def exit_zero():
    return Story().run().ends(1000, 0).over(code=0)


def exit_one():
    return Story().run().ends(1000, 0x100).over(code=1)


def docker_kill():
    return (
        Story()
        .run()
        .sender_engine(1000, 9)
        .docker(1002, "kill", signal=9)
        .ends(1000.3, 9)
        .over(code=137)
    )


def docker_kill_after_old_child_oom():
    s = Story().run().oom(1000, CHILD).exits(1004, CHILD, 9)
    return (
        s.sender_engine(2000, 9)
        .docker(2002, "kill", signal=9)
        .ends(2000.3, 9)
        .over(code=137, oom=True)
    )


def docker_stop_obeyed():
    s = Story().run().sender_engine(1000, 15).docker(1002, "kill", signal=15).ends(1001, 0x8F00)
    return s.docker(1080, "stop").over(code=143)


def docker_stop_forced():
    s = Story().run().sender_engine(1000, 15, res=1).docker(1002, "kill", signal=15)
    s.sender_engine(2000, 9).docker(2003, "kill", signal=9).ends(2000.2, 9)
    return s.docker(2080, "stop").over(code=137)


def docker_rm():
    return docker_kill_or_rm().harness(
        1060, e.Status, label="death", container=C, by="inspect", state={"Status": "removing"}
    )


def docker_kill_or_rm():
    s = Story().run()
    s.sender_engine(1000, 9).docker(1002, "kill", signal=9).ends(1000.3, 9).docker(1090, "destroy")
    return s.harness(
        9005,
        e.Status,
        label="post-mortem",
        container=C,
        by="inspect",
        state=None,
        http=404,
        error="No such container: x",
    ).harness(9010, e.Phase, phase="clean", edge="begin")


def docker_restart():
    s = Story().run().sender_engine(1000, 15).docker(1002, "kill", signal=15).ends(1001, 0x8F00)
    s.docker(1080, "stop").run(1100, pid=4900, shim=4800, call=False).docker(1170, "restart")
    return s.over(status="running")


def host_kill():
    s = Story().run().signal(1000, 9, MAIN, sender=8000, comm="sh", place="host").ends(1000.2, 9)
    return s.over(code=137)


def host_term_handled():
    s = Story().run().signal(1000, 15, MAIN, sender=8000, comm="sh", place="host").ends(1020, 0)
    return s.over(code=0)


def other_container():
    s = Story().container_is(5, OTHER, role="neighbour").run()
    s.signal(1000, 9, MAIN, sender=8000, comm="runc", place="other-container", home=OTHER)
    return s.ends(1000.2, 9).over(code=137)


def inside_signal():
    s = Story().run().signal(1000, 15, MAIN, sender=4400, comm="sh", place="same-container", home=C)
    return s.ends(1003, 0x8F00).over(code=143)


def dockerd_restart():
    s = Story().run()
    s.say(
        1000,
        e.DaemonLog,
        source="daemon-log",
        daemon="dockerd",
        text='time="x" level=info msg="Processing signal \'terminated\'"',
    )
    s.sender_engine(1010, 15, res=1).docker(1012, "kill", signal=15)
    s.sender_engine(11010, 9).docker(11013, "kill", signal=9).ends(11010.3, 9).docker(11090, "stop")
    s.say(
        11100,
        e.DaemonLog,
        source="daemon-log",
        daemon="dockerd",
        text='level=info msg="Daemon shutdown complete"',
    )
    s.daemon(11120, "dockerd", DOCKERD, "gone")
    s.gap("docker", 11120, None, "the engine went")
    return s.over(14000, code=137)


def dockerd_crash():
    s = (
        Story()
        .run()
        .daemon(1000, "dockerd", DOCKERD, "gone", status=9)
        .gap("docker", 1000, 14000, "the engine went")
    )
    s.daemon(3000, "dockerd", 7100)
    s.say(
        3010,
        e.DaemonLog,
        source="daemon-log",
        daemon="dockerd",
        text='level=info msg="Starting up"',
    )
    s.say(
        3200,
        e.DaemonLog,
        source="daemon-log",
        daemon="dockerd",
        text='level=info msg="Loading containers: start."',
    )
    s.sender_engine(3300, 15, res=1).sender_engine(13300, 9).ends(13300.3, 9, die=False)
    return s.over(16000, code=137)


def vm_oom_daemon():
    s = Story().run()
    s.victim(999, DOCKERD).oom_lines(
        999.5, DOCKERD, whole=True, home=f"{MACHINE}/init", comm="dockerd"
    )
    s.daemon(1000, "dockerd", DOCKERD, "gone", status=9).gap(
        "docker", 1000, 14000, "the engine went"
    )
    s.daemon(3000, "dockerd", 7100)
    s.say(
        3010,
        e.DaemonLog,
        source="daemon-log",
        daemon="dockerd",
        text='level=info msg="Starting up"',
    )
    s.say(
        3200,
        e.DaemonLog,
        source="daemon-log",
        daemon="dockerd",
        text='level=info msg="Loading containers: start."',
    )
    return s.sender_engine(13300, 9).ends(13300.3, 9, die=False).over(16000, code=137)


def shim_killed():
    s = Story().run().signal(1000, 9, SHIM, sender=8000, comm="sh", place="host", container=None)
    s.exits(1000.2, SHIM, 9, ppid=1).daemon(1001, "shim", SHIM, "gone", container=C)
    s.sender_engine(1020, 9, sender=5200).ends(1020.2, 9, die=False).docker(
        1070, "die", exitCode=255
    )
    return s.over(code=137)


def cgroup_kill():
    s = (
        Story()
        .run()
        .signal(1000, 9, MAIN, sender=8000, comm="sh", grp=0, place="host")
        .ends(1000.2, 9)
    )
    return s.over(code=137)


def pids_limit():
    s = (
        Story()
        .run()
        .kernel(1000, f"cgroup: fork rejected by pids controller in {MACHINE}/docker/{C}")
    )
    return s.cgroup(1050, {"pids.events": "max 1"}).ends(1003, 0x200).over(code=2)


def segv():
    s = Story().run().signal(1000, 11, MAIN, sender=MAIN, comm="segv", code=1)
    return (
        s.kernel(1000.2, f"segv[{MAIN}]: segfault at 0 ip 0 sp 0 error 6 in segv[4000+1]")
        .ends(1000.9, 0x8B & 0x7F | 0x80)
        .over(code=139)
    )


def child_crash():
    s = Story().run().signal(1000, 11, CHILD, sender=CHILD, comm="segv", code=1)
    s.kernel(1000.2, f"segv[{CHILD}]: segfault at 0 ip 0 sp 0 error 6 in segv[4000+1]").exits(
        1001, CHILD, 0x8B
    )
    return s.ends(1003, 0x8B00).over(code=139)


def inside_child_kill():
    s = Story().run().signal(1000, 9, CHILD, sender=4400, comm="sh", place="same-container", home=C)
    return s.exits(1001, CHILD, 9).ends(1003, 0x8900).over(code=137)


def cpu_rlimit():
    s = Story().run().signal(1000, 24, MAIN, sender=MAIN, comm="sh", code=128, res=1)
    return s.signal(2000, 9, MAIN, sender=MAIN, comm="sh", code=128).ends(2000.5, 9).over(code=137)


def disk_full():
    s = (
        Story()
        .run()
        .say(
            2900,
            e.MachineSample,
            source="machine",
            memory={},
            load=[],
            processes=3,
            pressure={},
            disks={
                "/data": {
                    "total": 1 << 30,
                    "free": 0,
                    "inodes": 10,
                    "inodes_free": 5,
                    "device": 2049,
                }
            },
        )
    )
    s.ends(3000, 0x100)
    s.harness(3500, e.Logs, container=C, text="dd: No space left on device")
    return s.over(code=1)


def mount_readonly():
    s = Story().run()
    s.say(
        900,
        e.MountChange,
        source="mounts",
        container=C,
        removed=["31 30 8:1 /src /work rw,relatime - ext4 /dev/loop0 rw"],
        added=["31 30 8:1 /src /work ro,relatime - ext4 /dev/loop0 rw"],
    )
    s.ends(1000, 0x100)
    return s.harness(1050, e.Logs, container=C, text="/work/x: Read-only file system").over(code=1)


def start_refused():
    s = Story()
    s.harness(10, e.ApiCall, call="start", container=C, edge="request")
    s.harness(
        60,
        e.ApiCall,
        call="start",
        container=C,
        edge="answer",
        http=400,
        error="failed to create shim task: OCI runtime create failed: runc create failed: unable to start container "
        'process: exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory: unknown',
    )
    s.pre_task(100, exit_code=None, http=409, error=f"container {C} is not running")
    return s.over(
        status="created",
        code=127,
        error='exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory: unknown',
    )


def race():
    s = Story().run()
    s.harness(1000, e.Phase, phase="remount", edge="begin")
    s.harness(1000, e.ApiCall, call="restart", container=C, edge="request", planned=True)
    s.sender_engine(1010, 15).docker(1012, "kill", signal=15).ends(1011, 0).docker(1090, "stop")
    s.pre_task(1050, 1060, exit_code=None, http=409, error=f"Container {C} is not running")
    s.run(1100, pid=4900, shim=4800, call=False).docker(1170, "restart")
    s.harness(1180, e.ApiCall, call="restart", container=C, edge="answer", planned=True, http=204)
    s.harness(1180, e.Phase, phase="remount", edge="end")
    return s.over(status="running")


STORIES = {
    "memory-limit-main": (memory_limit_main, "memory-limit-main", ("memory-limit-main", "main-killed")),
    "memory-limit-child": (memory_limit_child, "memory-limit-child", ("memory-limit-child", "child-killed", "main-exited")),
    "memory-limit-child-137": (memory_limit_child_passed_on, "memory-limit-child", ("memory-limit-child", "child-killed", "main-exited")),
    "vm-oom-pen": (vm_oom_pen, "vm-oom", ("vm-oom", "main-killed")),
    "vm-oom-global": (vm_oom_global, "vm-oom", ("vm-oom", "main-killed")),
    "parent-cgroup": (parent_cgroup, "parent-cgroup-oom", ("parent-cgroup-oom", "main-killed")),
    "exit-zero": (exit_zero, "main-exit-zero", ("main-exit-zero", "main-exited")),
    "exit-one": (exit_one, "main-exit-error", ("main-exit-error", "main-exited")),
    "docker-kill": (docker_kill, "docker-kill", ("docker-kill", "main-killed")),
    "docker-kill-after-child-oom": (docker_kill_after_old_child_oom, "docker-kill", ("docker-kill", "main-killed")),
    "docker-stop": (docker_stop_obeyed, "docker-stop", ("docker-stop", "main-exited")),
    "docker-stop-forced": (docker_stop_forced, "docker-stop", ("docker-stop", "grace-expired", "main-killed")),
    "docker-rm": (docker_rm, "docker-rm", ("docker-rm", "main-killed")),
    "docker-kill-or-rm": (docker_kill_or_rm, "docker-api", ("docker-api", "main-killed")),
    "docker-restart": (docker_restart, "docker-restart", ("docker-restart", "main-exited")),
    "host-kill": (host_kill, "host-kill", ("host-kill", "main-killed")),
    "host-term": (host_term_handled, "host-kill", ("host-kill", "main-exited")),
    "other-container": (other_container, "other-container-kill", ("other-container-kill", "main-killed")),
    "inside-signal": (inside_signal, "inside-signal", ("inside-signal", "main-exited")),
    "dockerd-restart": (dockerd_restart, "dockerd-restart", ("dockerd-restart", "engine-stop", "main-killed")),
    "dockerd-crash": (dockerd_crash, "dockerd-crash", ("dockerd-crash", "successor-kill", "main-killed")),
    "vm-oom-daemon": (vm_oom_daemon, "vm-oom-daemon", ("vm-oom-daemon", "dockerd-killed", "successor-kill", "main-killed")),
    "shim-killed": (shim_killed, "shim-killed", ("shim-killed", "shim-cleanup", "main-killed")),
    "cgroup-kill": (cgroup_kill, "cgroup-kill", ("cgroup-kill", "main-killed")),
    "pids-limit": (pids_limit, "pids-limit", ("pids-limit", "main-exited")),
    "segv": (segv, "main-crash", ("main-crash", "main-crashed")),
    "child-crash": (child_crash, "child-crash", ("child-crash", "child-crashed", "main-exited")),
    "inside-child-kill": (inside_child_kill, "inside-child-kill", ("inside-child-kill", "child-killed", "main-exited")),
    "cpu-rlimit": (cpu_rlimit, "cpu-rlimit", ("cpu-rlimit", "main-killed")),
    "disk-full": (disk_full, "disk-full", ("disk-full", "main-exited")),
    "mount-readonly": (mount_readonly, "mount-readonly", ("mount-readonly", "main-exited")),
    "entrypoint-missing": (start_refused, "entrypoint-missing", ("entrypoint-missing", "main-never-ran")),
    "race": (race, "remount-race", ("remount-race", "exec-refused")),
}  # fmt: skip

# What ended first is seen; that it is the reason is not, where nothing says so.
MAY_BE_LIKELY = {"disk-full", "pids-limit", "exit-one", "mount-readonly"}


def judged(story, **more):
    return judge(build(story.events), **more)


@pytest.mark.parametrize("name", STORIES)
def test_a_death_seen_by_all_sources_is_decided_for_certain(name):
    """Where every source watched, the cause and its path are named, with two witnesses."""
    make, cause, path = STORIES[name]
    verdict = judged(make()).verdict
    assert verdict is not None
    assert (verdict.cause, verdict.path) == (cause, path), verdict
    assert verdict.certainty is Certainty.CERTAIN or name in MAY_BE_LIKELY
    assert verdict.hypothesis is CAUSES[cause].hypothesis
    assert len(verdict.cites) >= 2
    assert C[:12] in verdict.sentence


# --- what the sources owe ------------------------------------------------------------


def broader(cause):
    """The cause itself and what may be said in its place when less was seen.

    Which request it was is told by one last word of the engine (stop, restart, destroy):
    without it the others of the family are what is left.
    """
    wide = CAUSES[cause].broader
    family = {c.id for c in CAUSES.values() if c.broader and c.broader == wide == "docker-api"}
    return {cause, "unknown", wide or cause} | family


RANK = {Certainty.UNKNOWN: 0, Certainty.LIKELY: 1, Certainty.CERTAIN: 2}


def weaker(full, less, where):
    """`less` was judged with less evidence than `full`: it may say less, never something else."""
    if less.outcome is not Outcome.DIED:
        return
    allowed = broader(full.verdict.cause) | set(full.verdict.path)
    assert less.verdict.cause in allowed, (where, full.verdict.cause, less.verdict)
    if less.verdict.cause != "unknown":
        assert RANK[less.verdict.certainty] <= RANK[full.verdict.certainty], (where, less.verdict)


def without(events, source):
    """The same trial where this source was never there."""
    names = {"trace": ("trace", "sender", "death", "main"), "docker": ("docker",)}.get(
        source, (source,)
    )
    return [
        x
        for x in events
        if x.source not in names and not (isinstance(x, e.SourceState) and x.name == source)
    ]


@pytest.mark.parametrize("name", STORIES)
def test_one_event_less_never_makes_another_verdict(name):
    """Whatever single event is lost without a word, the verdict stays, weakens, or is unknown."""
    events = STORIES[name][0]().events
    full = judge(build(events))
    for i, lost in enumerate(events):
        if isinstance(lost, e.ContainerRef | e.ApiCall | e.Hello | e.Phase | e.Exec):
            continue  # the harness's own words: it does not lose those
        if isinstance(lost, e.MountChange) and lost.removed:
            continue  # told once, by the only witness there is
        weaker(full, judge(build(events[:i] + events[i + 1 :])), lost)


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "machine"])
@pytest.mark.parametrize("name", STORIES)
def test_a_source_less_never_makes_another_verdict(name, source):
    """A source that was never there makes a verdict weaker or unknown, never another one."""
    events = STORIES[name][0]().events
    weaker(judge(build(events)), judge(build(without(events, source))), source)


@pytest.mark.parametrize("source", ["trace", "kernel", "docker", "proc", "probe"])
@pytest.mark.parametrize("name", STORIES)
def test_a_gap_never_makes_another_verdict(name, source):
    """A source that was blind and said so makes a verdict weaker or unknown, never another one."""
    story = STORIES[name][0]()
    full = judge(build(story.events))
    names = {"trace": ("trace", "sender"), "probe": (*SOURCES, "sender", "main", "death")}.get(
        source, (source,)
    )
    for begin, end in ((900, 20000), (995, 1010), (0, 20000)):
        kept = [
            x
            for x in story.events
            if x.source not in names or not BASE + begin * 10**6 <= x.t <= BASE + end * 10**6
        ]
        gap = Story(sources=()).gap(source, begin, end).events[-1]
        weaker(full, judge(build([*kept, gap])), (source, begin, end))


@pytest.mark.parametrize("name", STORIES)
def test_arrival_order_does_not_matter(name):
    """The same events in another order of arrival give the same judgement."""
    events = [e.numbered(x, n) for n, x in enumerate(STORIES[name][0]().events, 1)]
    first = judge(build(events))
    mixed = list(events)
    random.Random(name).shuffle(mixed)
    assert judge(build(mixed)) == first


@pytest.mark.parametrize("name", STORIES)
def test_other_containers_change_nothing(name):
    """Deaths, kills and OOMs of a neighbour leave the verdict and its certainty as they are."""
    story = STORIES[name][0]()
    full = judge(build(story.events))
    noise = (
        Story(sources=SOURCES)
        .container_is(3, OTHER, role="neighbour")
        .run(12, container=OTHER, pid=6000, shim=5900)
    )
    noise.signal(990, 9, 6000, sender=8100, comm="sh", place="host", container=OTHER).ends(
        990.3, 9, pid=6000, container=OTHER, shim=5900
    )
    noise.docker(992, "kill", container=OTHER, signal=9).docker(995, "oom", container=OTHER)
    noise.oom_lines(996, 6001, home=f"{MACHINE}/docker/{OTHER}").victim(996, 6001)
    noise.kernel(997, f"cgroup: fork rejected by pids controller in {MACHINE}/docker/{OTHER}")
    known = {id(x) for x in Story().events}
    other = [x for x in noise.events if _about_other(x)]
    assert known and len(other) > 10
    judged_now = judge(build([*story.events, *other]))
    assert judged_now.outcome is full.outcome
    assert (judged_now.verdict.cause, judged_now.verdict.certainty) == (
        full.verdict.cause,
        full.verdict.certainty,
    )


def _about_other(event):
    text = e.encode(event)
    return OTHER in text or "6000" in text or "6001" in text


@pytest.mark.parametrize("name", STORIES)
def test_only_existing_events_are_cited(name):
    """Every citation is the number of an event of the history, and of one about this death."""
    events = STORIES[name][0]().events
    verdict = judge(build(events)).verdict
    assert set(verdict.cites) <= set(range(1, len(events) + 1))


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(sorted(STORIES)), st.randoms(use_true_random=False))
def test_any_part_of_a_history_is_judged_without_an_exception(name, rng):
    """Whatever part of the events is there, there is a judgement."""
    events = [x for x in STORIES[name][0]().events if rng.random() < 0.7]
    assert judge(build(events)).outcome in Outcome


# --- single clues ---------------------------------------------------------------------


def test_a_link_that_goes_down_first_is_a_reason():
    """Its own veth switched off before it says that its network is gone: network-lost; after it left: nothing."""
    words = "ping: sendto: Network is unreachable"
    for down, said, cause in (
        (980, words, "network-lost"),
        (980, "", "unknown"),
        (1010, "", "main-exit-error"),
    ):
        story = Story().kernel(40, "docker0: port 1(veth1) entered blocking state").run()
        story.kernel(41, "docker0: port 1(veth1) entered forwarding state")
        story.kernel(down, "docker0: port 1(veth1) entered disabled state")
        story.ends(1000, 0x100).harness(6000, e.Logs, container=C, text=said)
        assert judged(story.over(code=1)).verdict.cause == cause


def test_somebody_elses_link_is_no_reason():
    """A veth that did not come up with the container is not its own."""
    story = Story().kernel(-500, "docker0: port 1(veth1) entered blocking state").run()
    story.events = [x for x in story.events if x.t > BASE - 400 * 10**6 or x.kind != "kernel"]
    story.kernel(980, "docker0: port 1(veth1) entered disabled state")
    assert judged(story.ends(1000, 0x100).over(code=1)).verdict.cause == "main-exit-error"


def test_a_disk_that_may_have_been_full_shows_no_room():
    """Space that shrank so fast that none may have been left: not decided."""
    story = Story().run()
    for ms, free in ((500, 400 << 20), (900, 60 << 20)):
        story.say(ms, e.MachineSample, source="machine", memory={}, load=[], processes=3, pressure={},
                  disks={"/data": {"total": 1 << 30, "free": free, "inodes": 9, "inodes_free": 5, "device": 2049}})  # fmt: skip
    assert judged(story.ends(1000, 0x100).over(code=1)).verdict.cause == "unknown"


def test_two_triggers_of_different_hypotheses_do_not_decide():
    """A refused fork and a mount turned read-only at the same moment: unknown, both named."""
    story = (
        Story()
        .run()
        .kernel(990, f"cgroup: fork rejected by pids controller in {MACHINE}/docker/{C}")
    )
    story.say(980, e.MountChange, source="mounts", container=C,
              removed=["31 30 8:1 /src /work rw,relatime - ext4 /dev/loop0 rw"],
              added=["31 30 8:1 /src /work ro,relatime - ext4 /dev/loop0 rw"])  # fmt: skip
    story.ends(1000, 0x100)
    assert judged(story.over(code=1)).verdict.cause == "unknown"
    both = "can't fork: Resource temporarily unavailable\n/work/x: Read-only file system"
    story.harness(1050, e.Logs, container=C, text=both)
    verdict = judged(story).verdict
    assert (verdict.cause, verdict.runner_up) == ("unknown", "pids-limit")


def test_a_timeout_that_kills_its_own_child():
    """A main process that kills its child and leaves with 137 left by itself."""
    story = (
        Story()
        .run()
        .signal(1000, 9, CHILD, sender=MAIN, comm="timeout", place="same-container", home=C)
    )
    story.exits(1001, CHILD, 9).ends(1003, 0x8900)
    assert judged(story.over(code=137)).verdict.cause == "main-exit-error"


def test_old_oom_and_a_later_exit():
    """A child's OOM half a minute before is no reason for leaving now."""
    story = Story().run().oom(1000, CHILD).exits(1004, CHILD, 9)
    story.say(31000, e.MachineSample, source="machine", memory={}, load=[], processes=3, pressure={},
              disks={"/data": {"total": 1 << 30, "free": 1 << 29, "inodes": 9, "inodes_free": 5, "device": 2049}})  # fmt: skip
    verdict = judged(story.ends(31500, 0x100).over(33000, code=1, oom=True)).verdict
    assert verdict.cause in ("main-exit-error", "unknown")
    assert "memory-limit-main" in {r.cause for r in verdict.rejected} | {
        verdict.cause,
        "memory-limit-main",
    }


def test_pressure_alone_makes_no_oom_daemon():
    """A sender called earlyoom on a machine with memory to spare: unknown, not userspace-oom."""
    story = Story().run().signal(1000, 9, MAIN, sender=8000, comm="earlyoom", place="host")
    assert judged(story.ends(1000.2, 9).over(code=137)).verdict.cause == "unknown"


def test_names_prove_nothing():
    """A process of the machine that calls itself runc is a process of the machine."""
    story = Story().run().signal(1000, 9, MAIN, sender=8000, comm="runc", place="host")
    assert judged(story.ends(1000.2, 9).over(code=137)).verdict.cause == "host-kill"


def test_notes_are_no_evidence():
    """What an injection writes down about itself changes nothing."""
    story = exit_one()
    full = judged(story)
    story.harness(990, e.Note, what="inject", data={"what": "docker-kill", "container": C})
    assert judged(story).verdict.cause == full.verdict.cause


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ({"http": 409, "error": "Container main is paused, unpause the container before exec"}, "docker-pause"),
        ({"http": None, "error": "connection refused"}, "dockerd-unreachable"),
        ({"exit_code": 126, "output": 'OCI runtime exec failed: exec failed: unable to start container process: exec: "/x": stat /x: no such file or directory: unknown'}, "exec-command-missing"),
        ({"exit_code": 126, "output": 'OCI runtime exec failed: exec failed: unable to start container process: exec: "/x": permission denied: unknown'}, "exec-not-executable"),
        ({"exit_code": 126, "output": 'connection error: desc = "transport: x": unavailable'}, "containerd-down"),
        ({"exit_code": 126, "output": "cannot exec in a stopped state: unknown"}, "unknown"),
        ({"http": 400, "error": "No exec command specified"}, "exec-bad-request"),
        ({"exit_code": 3, "output": "x"}, "exec-error"),
        ({"exit_code": 1, "output": "container c0 is not running"}, "exec-error"),
        ({"exit_code": 137}, "unknown"),
        ({"exit_code": None, "timed_out": True, "http": None}, "unknown"),
    ],
)  # fmt: skip
def test_execs_that_fail_in_a_living_container(answer, cause):
    """Each answer has its place; a command's own words are not the engine's."""
    story = Story().run().pre_task(500, 600, **{"exit_code": None, **answer}).over(status="running")
    judgement = judged(story)
    assert (judgement.outcome, judgement.verdict.cause) == (Outcome.EXEC_FAILED, cause)
    told = (answer.get("error") or answer.get("output") or "")[:60].strip()
    assert told in judgement.verdict.sentence
