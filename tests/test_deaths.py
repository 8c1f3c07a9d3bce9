"""Deaths from a history: one per start, at the kernel's time, planned ones told apart."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import events as e
from harness.attribution import judge
from harness.deaths import deaths, endings
from harness.history import build
from harness.model.verdicts import Outcome

sys.path.insert(0, str(Path(__file__).parent))
from stories import BASE, MAIN, OTHER, C, Story

MS = 1_000_000
NEW = "e7" * 32


def of(story):
    return deaths(build(story.events))


def test_one_death_however_many_tell_of_it():
    """Tracer, connector, pidfd, engine and status tell of one death, at the kernel's time."""
    (death,) = of(Story().run().ends(1000, 9).over(code=137))
    assert (death.at, death.at_source, death.pid) == (BASE + 1000 * MS, "trace", MAIN)
    assert (death.wait_status, death.signal, death.exit_code, death.planned) == (9, 9, 137, False)


def test_docker_merges_what_the_raw_status_tells_apart():
    """Exit code 137 is a status it left with, or signal 9: only the raw status says which."""
    (left,) = of(Story().run().ends(1000, 0x8900).over(code=137))
    assert (left.exit_code, left.signal) == (137, None)


@pytest.mark.parametrize(
    ("sources", "by"),
    [(("proc", "trace"), "trace"), (("docker",), "docker"), ((), "status")],
)
def test_the_best_witness_there_is(sources, by):
    """Without the kernel's word the engine's stands, without that the status."""
    (death,) = of(Story(sources=sources).run().ends(1000, 9).over(code=137))
    assert death.at_source == by


def test_a_planned_restart_is_no_death():
    """What the harness stopped itself is planned, and the trial survives it."""
    story = Story().run()
    story.harness(1000, e.ApiCall, call="restart", container=C, edge="request", planned=True)
    story.ends(1011, 0).run(1100, pid=4900, shim=4800, call=False)
    story.harness(
        1180, e.ApiCall, call="restart", container=C, edge="answer", planned=True, http=204
    )
    story.pre_task(1300).over(status="running")
    (death,) = of(story)
    assert death.planned
    assert judge(build(story.events)).outcome is Outcome.SURVIVED


def test_a_death_just_before_the_planned_stop_is_one():
    """The kernel ended it before our request was sent: that was no plan of ours."""
    story = Story().run().ends(995, 9)
    story.harness(1000, e.ApiCall, call="stop", container=C, edge="request", planned=True)
    story.harness(1050, e.ApiCall, call="stop", container=C, edge="answer", planned=True, http=304)
    (death,) = of(story.over(code=137))
    assert not death.planned


def test_a_die_that_comes_half_a_minute_late():
    """The engine's late notice moves nothing: the death is when the kernel says."""
    story = (
        Story()
        .run()
        .ends(1000, 9, die=False)
        .docker(26000, "kill", signal=9)
        .docker(36000, "die", exitCode=137)
    )
    (death,) = of(story)
    assert death.at == BASE + 1000 * MS


def test_what_the_clean_up_ends_is_no_death():
    """The removal after the trial is not part of it."""
    story = Story().run().over(status="running", ms=2000)
    story.ends(2100, 9).docker(2120, "destroy")
    assert of(story) == ()
    assert judge(build(story.events)).outcome is Outcome.SURVIVED


def test_a_container_of_three_milliseconds():
    """The `start` event that comes after the exit begins no second life."""
    story = Story()
    story.say(
        40,
        e.MainProcess,
        source="main",
        container=C,
        pid=MAIN,
        start=0,
        nspids=[MAIN, 1],
        cgroup="/x",
    )
    story.ends(43, 0x100, die=False).docker(62, "start").docker(84, "die", exitCode=1)
    (death,) = of(story)
    assert (death.at, death.exit_code) == (BASE + 43 * MS, 1)


def test_a_pid_that_is_used_again():
    """An exit of the same number after the container's own end is somebody else's."""
    story = Story().run().ends(1000, 0x100)
    story.exits(5000, MAIN, 9, ppid=1)
    (death,) = of(story.over(code=1))
    assert death.wait_status == 0x100


def test_a_leader_that_leaves_before_its_threads():
    """The leader's thread leaving (group_dead=false) is not the process's end."""
    story = Story().run()
    text = f"              sh-{MAIN:<7} [000] ..... {story.stamp(900)}: sched_process_exit: comm=sh pid={MAIN} prio=120 group_dead=false"
    story.say(900, e.TraceLine, source="trace", instance="A", text=text)
    (death,) = of(story.ends(1000, 0).over())
    assert death.at == BASE + 1000 * MS


def test_deaths_of_neighbours_are_not_the_trials():
    """Only subjects die in a trial's name."""
    story = (
        Story()
        .run()
        .container_is(5, OTHER, role="neighbour")
        .run(12, container=OTHER, pid=6000, shim=5900)
    )
    story.ends(500, 9, pid=6000, container=OTHER, shim=5900)
    assert of(story.over(status="running")) == ()


def test_a_start_that_failed_is_an_end_without_a_process():
    """The engine refused to start it: there was never a main process, and its words are kept."""
    story = Story()
    story.harness(10, e.ApiCall, call="start", container=C, edge="request")
    story.harness(60, e.ApiCall, call="start", container=C, edge="answer", http=500, error="no")
    (ending,) = endings(build(story.over(status="created", code=128).events))
    assert ending.never_ran
    assert ending.death.pid is None


# --- outcomes -------------------------------------------------------------------------


def test_survival_needs_a_witness():
    """Seen running at the end: survived. Watched without a gap to the end: survived too."""
    assert (
        judge(build(Story().run().pre_task(500).over(status="running").events)).outcome
        is Outcome.SURVIVED
    )
    watched = Story(sources=("trace",)).run().pre_task(500)
    watched.harness(900, e.Phase, phase="clean", edge="begin")
    assert judge(build(watched.events)).outcome is Outcome.SURVIVED


@pytest.mark.parametrize("why", ["no-tracer", "tracer-gap", "probe-gap"])
def test_silence_is_not_survival(why):
    """Nobody saw it die and nobody saw it alive: unobserved, and it says who was blind."""
    story = Story(sources=() if why == "no-tracer" else ("trace",)).run().pre_task(500)
    if why == "tracer-gap":
        story.gap("trace", 700, 720)
    if why == "probe-gap":
        story.gap("probe", 700, None)
    story.harness(900, e.Phase, phase="clean", edge="begin")
    judged = judge(build(story.events))
    assert judged.outcome is Outcome.UNOBSERVED
    assert judged.why


def test_the_kernel_beats_a_status_that_says_running():
    """The engine can say running for ever (a lost exit): the kernel saw the end."""
    story = (
        Story()
        .run()
        .signal(1000, 9, MAIN, sender=8000, comm="sh", place="host")
        .ends(1000.2, 9, die=False)
    )
    judged = judge(build(story.over(status="running").events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "host-kill")


def test_broken_by_the_harness_is_invalid_unless_it_died():
    """A trial the harness broke off counts nowhere; a death that was seen counts all the same."""
    alive = build(Story().run().over(status="running").events)
    assert judge(alive, aborted="disk full here").outcome is Outcome.INVALID
    dead = build(Story().run().ends(1000, 0).over().events)
    assert judge(dead, aborted="disk full here").outcome is Outcome.DIED
    assert judge(build([])).outcome is Outcome.INVALID


def test_a_race_is_a_death_of_its_own():
    """An exec refused inside our own planned stop: the trial died, of race."""
    story = Story().run()
    story.harness(1000, e.ApiCall, call="stop", container=C, edge="request", planned=True)
    story.ends(1011, 0)
    story.pre_task(1050, 1055, exit_code=None, http=409, error=f"container {C} is not running")
    story.harness(1090, e.ApiCall, call="stop", container=C, edge="answer", planned=True, http=204)
    story.container_is(1100, NEW).run(1110, container=NEW, pid=4900, shim=4800)
    judged = judge(build(story.over(status="running", container=NEW).events))
    assert (judged.outcome, judged.verdict.cause, judged.death.planned) == (
        Outcome.DIED,
        "remount-race",
        True,
    )


def test_a_refusal_in_somebody_elses_restart_is_no_race():
    """The same refusal, but the stop was not ours: it died of the restart."""
    story = Story().run().sender_engine(1000, 15).docker(1002, "kill", signal=15).ends(1001, 0x8F00)
    story.pre_task(1050, 1055, exit_code=None, http=409, error=f"container {C} is not running")
    story.docker(1080, "stop").run(1100, pid=4900, shim=4800, call=False).docker(1170, "restart")
    judged = judge(build(story.over(status="running").events))
    assert judged.verdict.cause == "docker-restart"


# --- whatever comes ------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 9, 15, 137, MAIN, BASE, BASE + MS, BASE + 2 * MS, 1 << 62, -1])
WORDS = st.sampled_from(
    [C, OTHER, "", "request", "answer", "begin", "end", "start", "stop", "pre-task", "subject", "die",
     "kill", "container", "exit", "alive", "gone", "dockerd", "shim", "active", "trace", "A", "machine",
     "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/docker/"
     + C + ",task_memcg=/docker/" + C + f",task=x,pid={MAIN},uid=0",
     f"            runc-7      [001] d..2.  5000.000001: signal_generate: sig=9 errno=0 code=0 comm=sh pid={MAIN} grp=1 res=0",
     "31 30 8:1 /src//deleted /work ro,relatime - tmpfs x rw,size=4k", f"container {C} is not running"]
)  # fmt: skip
VALUES = {
    "int": NUMBERS, "int | None": st.none() | NUMBERS, "str": WORDS, "str | None": st.none() | WORDS,
    "bool": st.booleans(), "float": st.floats(allow_nan=False), "float | None": st.none() | st.floats(0, 1e6),
    "list[int]": st.lists(NUMBERS, max_size=3), "list[str]": st.lists(WORDS, max_size=3),
    "list[float]": st.lists(st.floats(0, 9), max_size=3), "dict[str, str]": st.dictionaries(WORDS, WORDS, max_size=3),
    "dict[str, int]": st.dictionaries(WORDS, NUMBERS, max_size=3),
    "dict[str, list[int]]": st.dictionaries(WORDS, st.lists(NUMBERS, max_size=2), max_size=2),
    "dict[str, Any]": st.dictionaries(WORDS, WORDS | NUMBERS | st.none(), max_size=3),
    "dict[str, Any] | None": st.none() | st.fixed_dictionaries({"Status": WORDS, "ExitCode": NUMBERS | WORDS}),
    "dict[str, dict[str, int]]": st.dictionaries(WORDS, st.dictionaries(WORDS, NUMBERS, max_size=2), max_size=2),
    "list[dict[str, Any]]": st.just([]),
}  # fmt: skip
ANY = st.one_of(
    [
        st.builds(kind, **{f.name: VALUES[str(f.type)] for f in fields(kind) if f.name != "n"})
        for kind in e.KINDS.values()
    ]
)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ANY, max_size=25), st.booleans())
def test_any_events_at_all_are_judged(events, within):
    """Events that make no sense, alone or inside a real trial, give a judgement, not an exception."""
    story = Story().run() if within else Story(sources=())
    judged = judge(build([*story.events, *events]))
    assert judged.outcome in Outcome
    assert (judged.verdict is not None) == (judged.outcome in (Outcome.DIED, Outcome.EXEC_FAILED))


def test_a_main_process_that_a_restart_started_is_not_ended_by_it():
    """It crashed before the restart was answered: a death of its own, and no race."""
    story = Story().run(10).harness(1000, e.Phase, phase="remount", edge="begin")
    call = {"call": "restart", "container": C, "planned": True}
    story.harness(1000, e.ApiCall, edge="request", **call).ends(1010, 0)
    story.main = 5000
    story.run(1060, pid=5000, call=False).ends(1120, 3 << 8, pid=5000)
    story.harness(1200, e.ApiCall, edge="answer", http=204, **call)
    story.harness(1200, e.Phase, phase="remount", edge="end")
    refused = f"Container {C} is not running"
    story.pre_task(1201, 1210, exit_code=None, http=409, error=refused).over(code=3)
    planned, own = deaths(build(story.events))
    assert (planned.planned, own.planned) == (True, False)
    assert own.exit_code == 3


# --- starts ----------------------------------------------------------------------------


def test_who_was_started_again_had_ended():
    """A second start without any word of the first one's end is an end all the same."""
    story = Story(sources=("docker",)).run().docker(2000, "start")
    (death,) = of(story.over(status="running"))
    assert (death.at_source, death.planned) == ("start", False)


def test_a_main_process_that_is_found_late():
    """Found after the engine's `start`, it is that start's, not another one."""
    story = Story(sources=("docker",)).run()
    story.say(
        400,
        e.MainProcess,
        source="main",
        container=C,
        pid=MAIN,
        start=0,
        nspids=[MAIN, 1],
        cgroup="/x",
    )
    assert of(story.over(status="running")) == ()


def rebooted(story, status, code=0):
    """The machine goes away at 2 s and is there again: another boot id, boottime from zero."""
    hello = {"source": "probe", "version": 1, "kernel": "6", "python": "3", "cgroup": 2, "hz": 100,
             "monitors": "light", "pid": 1}  # fmt: skip
    story.events.append(e.Hello(t=3 * 10**9, seen=3 * 10**9, boot_id="boot-2", **hello))
    at = BASE + 12 * 10**9
    story.events.append(
        e.ClockLink(
            t=at, seen=at, source="link", clock="harness", offset=4 * 10**9 - at, error=50_000
        )
    )
    return story.over(15000, status=status, code=code)


def test_a_machine_that_booted_again():
    """Nobody saw it end before the machine had booted again: the machine went down."""
    judged = judge(build(rebooted(Story().run(), "exited", 255).events))
    assert (judged.outcome, judged.verdict.cause) == (Outcome.DIED, "vm-reboot")


def test_a_death_before_the_boot_is_its_own():
    """What the kernel saw before the machine went down is not the boot's doing."""
    story = (
        Story().run().signal(1000, 9, MAIN, sender=8000, comm="sh", place="host").ends(1000.2, 9)
    )
    judged = judge(build(rebooted(story, "exited", 137).events))
    assert judged.verdict.cause == "host-kill"


def first_thread(story, ms, last):
    """The main process's first thread ends: what the tracer and the connector say of it."""
    said = "" if last is None else f" group_dead={'true' if last else 'false'}"
    text = f"              sh-{MAIN:<7} [000] ..... {story.stamp(ms)}: sched_process_exit: comm=sh pid={MAIN} prio=120{said}"
    story.say(ms, e.TraceLine, source="trace", instance="A", text=text)
    story.say(ms, e.DeathSeen, source="death", container=C, pid=MAIN, by="proc")
    return story.exits(ms + 0.1, MAIN, 0, ppid=4100)


def test_a_process_outlives_its_first_thread():
    """Another thread lives on, or becomes a new program in the first one's place: no death."""
    assert of(first_thread(Story().run(), 900, last=False)) == ()


def test_the_end_of_the_last_thread_is_the_end():
    """The first thread's status (0) is not the process's; the engine has that one's (5)."""
    story = first_thread(Story().run(), 900, last=False)
    story.say(2400, e.PidfdExit, source="pidfd", pid=MAIN, container=C)
    story.docker(2440, "die", exitCode=5)
    (death,) = of(story)
    assert (death.at, death.wait_status, death.exit_code) == (BASE + 2400 * MS, None, 5)


def test_a_first_thread_that_ends_with_the_others():
    """In a process of many threads the first is seldom the last: its end counts if the engine agrees."""
    story = first_thread(Story().run(), 900, last=False)
    story.say(905, e.PidfdExit, source="pidfd", pid=MAIN, container=C)
    story.docker(940, "die", exitCode=0)
    (death,) = of(story)
    assert (death.at_source, death.wait_status) == ("proc", 0)


def test_a_kernel_that_does_not_say_which_thread_was_last():
    """Before 6.15 an exec that ran to its good end is what shows that the process lives."""
    story = first_thread(Story().run(), 900, last=None)
    assert len(of(story)) == 1
    for edge in ("request", "answer"):
        story.harness(
            1500 if edge == "request" else 1600,
            e.Exec,
            label="pre-task",
            container=C,
            edge=edge,
            exec_id=None,
            exit_code=0 if edge == "answer" else None,
        )
    assert of(story) == ()
