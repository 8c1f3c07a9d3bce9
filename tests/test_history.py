"""The history of a trial: one clock, its own gaps, requests paired with answers."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from harness import events as e
from harness.history import build
from harness.history.clock import Clock, at, segments

sys.path.insert(0, str(Path(__file__).parent))
from stories import BASE, WALL, C, Story

MS = 1_000_000


def link(t, offset, error=50_000):
    return e.ClockLink(t=t, seen=t, source="link", clock="harness", offset=offset, error=error)


def reading(boot, wall):
    return e.ClockReading(
        t=boot, seen=boot, source="clock", boot=boot, wall=wall, mono=boot, error=300
    )


def phase(t, clock="harness"):
    return e.Phase(t=t, seen=t, source="runner", clock=clock, phase="setup", edge="begin")


def kernel(t, text="x"):
    return e.KernelLine(t=t, seen=t, source="kernel", level=3, kseq=1, text=text)


def docker(wall, seen, action="die"):
    return e.DockerEvent(
        t=seen, seen=seen, source="docker", type="container", action=action, id=C, wall=wall
    )


def test_harness_times_are_put_on_the_machines_clock():
    """A harness time is moved by the offset that was measured around it, and its error told."""
    history = build([link(1000 * MS, 7 * MS), phase(1500 * MS), kernel(1508 * MS)])
    placed = [p for p in history.placed if isinstance(p.event, e.Phase)]
    assert (placed[0].at, placed[0].error) == (1507 * MS, 250_000)


def test_without_a_tie_a_foreign_clock_has_no_order():
    """Two clocks that nothing ties together give no common time: the error says so."""
    history = build([phase(1500 * MS), kernel(9 * MS)])
    placed = next(p for p in history.placed if isinstance(p.event, e.Phase))
    assert placed.error > 10**15


def test_a_frozen_machine_makes_another_segment():
    """Where boottime stood still the offset jumps, and each side keeps its own."""
    parts = segments([(0, 5 * MS, 1000), (10**9, 5 * MS, 1000), (20 * 10**9, -4 * 10**9, 1000)])
    assert at(parts, 5 * 10**8).offset == 5 * MS
    assert at(parts, 21 * 10**9).offset == -4 * 10**9


@given(
    st.lists(
        st.tuples(st.integers(0, 10**12), st.integers(-1000, 1000), st.integers(0, 5000)),
        max_size=30,
    )
)
def test_readings_that_agree_are_one_line(points):
    """Readings within their errors never make a jump larger than those errors."""
    parts = segments(points)
    for a, b in pairwise(parts):
        assert abs(a.offset - b.offset) <= 2000
        assert a.since <= b.since


def test_the_history_knows_which_source_orders_how_well():
    """The kernel's sources within 0.2 ms, the engine's words and its log within 10 ms; a kernel log whose
    own clock nobody measured within 5 ms."""
    boot, wall = 10**9, WALL
    trace = e.TraceLine(t=boot + 3 * MS, seen=boot, source="trace", instance="A", text="x")
    proc = e.ProcEvent(
        t=boot + 3 * MS, seen=boot, source="proc", what="exit", pid=7, tgid=7, status=9
    )
    said = e.DaemonLog(t=boot + 4 * MS, seen=boot, source="daemon-log", daemon="dockerd", text="x")
    found = [trace, proc, kernel(boot + 3 * MS), docker(wall + 5 * MS, boot + 6 * MS), said]

    def errors(clock_reading):
        placed = {p.event.kind: p.error for p in build([clock_reading, *found]).placed}
        return [placed[k] for k in ("trace", "proc", "kernel", "docker", "daemon-log")]

    kernels, engines = 200_000, 10_000_000
    assert errors(replace(reading(boot, wall), kmsg=12)) == [kernels] * 3 + [engines] * 2
    assert errors(reading(boot, wall)) == [kernels] * 2 + [5_000_000] + [engines] * 2
    # 2 ms between an end in the kernel and the engine's word for it: that is no order.
    end, word = ((p.at, p.error) for p in build([reading(boot, wall), trace, found[3]]).placed
                 if p.event.kind in ("trace", "docker"))  # fmt: skip
    assert abs(end[0] - word[0]) == 2 * MS < end[1] + word[1]


def test_docker_times_survive_a_stepped_wall_clock():
    """An event is placed by the wall offset that held when it was read, not by the newest."""
    history = build([
        reading(1000 * MS, WALL + 1000 * MS),
        docker(WALL + 1500 * MS, 1501 * MS),
        reading(2000 * MS, WALL + 2000 * MS + 3600 * 10**9),
        docker(WALL + 2500 * MS + 3600 * 10**9, 2501 * MS),
    ])  # fmt: skip
    assert [s.at for s in history.engine] == [1500 * MS, 2500 * MS]


def test_a_reboot_begins_a_clock_anew():
    """Times of the second boot come after those of the first, whatever boottime says."""
    hello = {
        "source": "probe",
        "version": 1,
        "kernel": "6",
        "python": "3",
        "cgroup": 2,
        "hz": 100,
        "monitors": "light",
        "pid": 1,
    }
    events = [
        e.Hello(t=90 * 10**9, seen=90 * 10**9, boot_id="a", **hello),
        link(500 * 10**9, -410 * 10**9),
        kernel(95 * 10**9),
        e.Hello(t=3 * 10**9, seen=3 * 10**9, boot_id="b", **hello),
        link(530 * 10**9, -526 * 10**9),
        kernel(5 * 10**9, "Out of memory: Killed process 7 (hog) total-vm:1kB"),
        e.MainProcess(t=45 * 10**8, seen=45 * 10**8, source="main", container="c" * 64, pid=7,
                      start=400, nspids=[7, 1], cgroup="/x"),
    ]  # fmt: skip
    history = build(events)
    assert history.mains[0].begin == (4 + 526 - 410) * 10**9
    assert [h.what.boot_id for h in history.hellos] == ["a", "b"]
    assert history.kernel[0].at == (5 + 526 - 410) * 10**9


def test_silence_counts_only_where_somebody_watched():
    """A source that never spoke, took it back, or had a gap then is not active."""
    story = Story(sources=("trace", "kernel"))
    story.gap("kernel", 100, 200)
    story.say(500, e.SourceState, source="trace", name="trace", state="unsupported", why="gone")
    history = build(story.events)
    ms = lambda n: BASE + n * MS  # noqa: E731
    assert history.active("kernel", ms(0), ms(50))
    assert not history.active("kernel", ms(50), ms(150))
    assert history.active("kernel", ms(201), ms(300))
    assert history.active("trace", ms(0), ms(400))
    assert not history.active("trace", ms(0), ms(600))
    assert not history.active("docker", ms(0), ms(50))


def test_a_gap_of_the_probe_is_everybodys():
    """What speaks through the probe is blind while the probe is; our own words are not."""
    history = build(Story(sources=("trace", "docker")).gap("probe", 100, None).events)
    assert history.blind("trace", BASE + 150 * MS, BASE + 160 * MS)
    assert not history.blind("exec", BASE + 150 * MS, BASE + 160 * MS)


def test_an_open_gap_ends_when_it_is_told_again():
    """A gap told open and told again with its end blinds no longer than that."""
    story = Story(sources=("docker",)).gap("docker", 100, None)
    story.events += Story(sources=()).gap("docker", 100, 200).events[-1:]
    history = build(story.events)
    assert history.active("docker", BASE + 300 * MS, BASE + 400 * MS)


def test_a_tracepoint_that_decides_nothing_may_be_missing():
    """Partial for want of a helper tracepoint is as good as active; of a deciding one it is not."""
    for missing, good in (("cgroup_attach_task", True), ("signal_generate", False)):
        story = Story(sources=())
        story.say(
            0,
            e.SourceState,
            source="trace",
            name="trace",
            state="partial",
            why=f"no tracepoint {missing}",
        )
        assert build(story.events).active("trace", BASE + MS, BASE + 2 * MS) is good


def test_a_source_that_saw_in_part_is_not_among_those_that_saw():
    """The grade says what was missing, and from when to when; whole again is whole from then on."""

    def source(ms, name, state, why=""):
        t = BASE + ms * MS
        return e.SourceState(t=t, seen=t, source=name, name=name, state=state, why=why)

    history = build(
        [
            source(-9, "kernel", "active"),
            source(-8, "pressure", "unsupported", "no PSI support"),
            source(-7, "trace", "active"),
            source(-6, "docker", "partial", "connecting"),
            source(500, "docker", "active"),
            source(800, "trace", "partial", "no tracepoint mark_victim"),
            kernel(BASE + 900 * MS),
        ]
    )
    grade = history.grade(BASE + 100 * MS, BASE + 700 * MS)
    assert grade.saw == ("docker", "kernel", "trace")
    spans = [(b.source, b.begin - BASE, b.end and b.end - BASE, b.why) for b in grade.blind]
    assert spans == [
        ("docker", 100 * MS, 500 * MS, "in part: connecting"),
        ("pressure", 100 * MS, None, "no PSI support"),
    ]
    late = history.grade(BASE + 850 * MS, BASE + 900 * MS)
    assert late.saw == ("docker", "kernel")
    assert [(b.source, b.why) for b in late.blind] == [
        ("pressure", "no PSI support"),
        ("trace", "in part: no tracepoint mark_victim"),
    ]


def test_execs_are_paired_across_a_recreate():
    """An exec asked for by name keeps the container it was meant for, whoever answers."""
    story = Story(sources=())
    story.harness(10, e.Exec, label="pre-task", container=C, edge="request")
    story.harness(
        30,
        e.Exec,
        label="pre-task",
        container="f0" * 32,
        edge="answer",
        http=404,
        error="No such container: x",
    )
    (attempt,) = build(story.events).attempts
    assert (attempt.container, attempt.http, attempt.end - attempt.begin) == (C, 404, 20 * MS)


def test_an_exec_that_was_never_answered_stays_open():
    """No answer is no answer: neither end nor code is made up."""
    story = Story(sources=())
    story.harness(10, e.Exec, label="pre-task", container=C, edge="request")
    (attempt,) = build(story.events).attempts
    assert (attempt.end, attempt.exit_code, attempt.cites) == (None, None, (attempt.n,))


def test_a_file_name_can_not_forge_a_signal():
    """A line that a hostile program's name wrote into the lineage instance is no signal."""
    forged = "            runc-7      [001] d..2.  5000.000001: signal_generate: sig=9 errno=0 code=0 comm=sh pid=4200 grp=1 res=0"
    story = Story(sources=("trace",))
    story.say(5, e.TraceLine, source="lineage", instance="B", text=forged)
    assert build(story.events).signals == ()


def test_order_of_arrival_does_not_matter():
    """The same events in another order are the same history."""
    events = [e.numbered(x, n) for n, x in enumerate(Story().run().ends(1000, 0).over().events, 1)]
    first = build(events)
    random.Random(1).shuffle(events)
    again = build(events)
    assert (again.placed, again.attempts, again.calls, again.sources) == (
        first.placed, first.attempts, first.calls, first.sources,
    )  # fmt: skip


def test_lineage_is_followed_by_process_not_by_thread():
    """Who forked is the running thread's process where the tracer says it."""
    text = "  containerd-shim-312   [001] .....  5000.000001: task_newtask: pid=400 comm=runc clone_flags=1200000 oom_score_adj=0"
    story = Story(sources=("trace",))
    story.say(5, e.TraceLine, source="lineage", instance="B", text=text, tgid=310)
    history = build(story.events)
    assert [f.what.pid for f in history.makers(400, BASE + 10 * MS)] == [310]


def test_a_hundred_thousand_events_are_read_in_seconds():
    """A long history costs its length, no more."""
    import time

    line = "              sh-77      [001] .....  5000.000001: task_newtask: pid=78 comm=sh clone_flags=1200000 oom_score_adj=0"
    many = [
        e.TraceLine(t=n, seen=n, source="lineage", instance="B", text=line)
        for n in range(1, 20_001)
    ]
    begin = time.process_time()
    assert len(build(many).forks) == 20_000
    assert time.process_time() - begin < 3


def test_the_clock_of_one_source_alone_is_the_line():
    """Where only one clock is used, nothing has to tie it."""
    assert Clock([phase(5)]).place(phase(5))[0] == 5


def test_an_event_written_before_a_step_of_the_wall_and_read_after_it():
    """The wall clock's segment of the writing counts, not the one of the reading."""
    for step in (3600, -3600):
        wall = WALL + step * 10**9
        events = [
            e.ClockReading(t=0, seen=0, source="clock", boot=0, wall=WALL, mono=0, error=100),
            e.ClockReading(t=2 * 10**9, seen=2 * 10**9, source="clock", boot=2 * 10**9,
                           wall=wall + 2 * 10**9, mono=2 * 10**9, error=100),
            e.DockerEvent(t=2 * 10**9 + 5, seen=2 * 10**9 + 5, source="docker", type="container",
                          action="die", id="c" * 64, wall=WALL + 19 * 10**8),
            e.DockerEvent(t=3 * 10**9 + 5, seen=3 * 10**9 + 5, source="docker", type="container",
                          action="start", id="c" * 64, wall=wall + 3 * 10**9),
        ]  # fmt: skip
        assert [s.at for s in build(events).engine] == [19 * 10**8, 3 * 10**9]
