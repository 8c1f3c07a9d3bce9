"""The judge: what came before an end, and what ties it to that end; and what leaves no trace."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import events as e
from harness.attribution import judge
from harness.history import build
from harness.model.verdicts import Certainty, Outcome, SenderKind

sys.path.insert(0, str(Path(__file__).parent))
from stories import BASE, DOCKERD, MACHINE, MAIN, SOURCES, C, Story

CHILD = 4300
WRITABLE = "31 30 8:1 /src /work rw,relatime - ext4 /dev/loop0 rw"


def verdict(story):
    return judge(build(story.events)).verdict


def left(story, ms=3000, code=1, log=""):
    """The main process leaves by itself, with these last words, on a machine with room."""
    room = {"total": 1 << 30, "free": 1 << 29, "inodes": 9, "inodes_free": 5, "device": 2049}
    story.say(ms - 20, e.MachineSample, source="machine", memory={}, load=[], processes=3,
              pressure={}, disks={"/data": room})  # fmt: skip
    story.ends(ms, code << 8)
    return story.harness(ms + 5000, e.Logs, container=C, text=log).over(ms + 6000, code=code)


def mounts(story, ms, removed, added):
    return story.say(ms, e.MountChange, source="mounts", container=C, removed=removed, added=added)


def refused_fork(story, ms):
    return story.kernel(ms, f"cgroup: fork rejected by pids controller in {MACHINE}/docker/{C}")


def read_only(story, ms):
    return mounts(story, ms, [WRITABLE], [WRITABLE.replace("rw,relatime", "ro,relatime")])


def taken_away(story, ms):
    return mounts(story, ms, [WRITABLE], [])


def cut_off(story, ms):
    return story.say(ms, e.NetworkChange, source="network", container=C, added=[], removed=["eth0"])


TRIGGERS = {
    refused_fork: ("pids-limit", "sh: can't fork: Resource temporarily unavailable"),
    read_only: ("mount-readonly", "sh: can't create /work/x: Read-only file system"),
    taken_away: ("mount-lost", "cat: /work/x: No such file or directory"),
}


@pytest.mark.parametrize("trigger", [*TRIGGERS, cut_off])
def test_a_second_between_a_trigger_and_an_end_may_be_a_coincidence(trigger):
    """Without words of its own a main process that leaves a second later is not decided."""
    assert verdict(left(trigger(Story().run(), 2000))).cause == "unknown"


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_its_last_words_tie_a_trigger_to_its_end(trigger):
    """With its last words it is certain; without them one came after the other, however soon."""
    cause, words = TRIGGERS[trigger]
    told = verdict(left(trigger(Story().run(), 2000), log=f"hello\n{words}\n"))
    assert (told.cause, told.certainty) == (cause, Certainty.CERTAIN)
    if trigger is not refused_fork:
        silent = verdict(left(trigger(Story().run(), 2987)))
        assert (silent.cause, silent.certainty) == ("unknown", Certainty.UNKNOWN)


def test_a_fork_refused_to_nobody_but_its_own():
    """Alone in its container it was refused a fork and left at once: likely. With an exec there: nobody knows whose."""
    silent = verdict(left(refused_fork(Story().run(), 2950)))
    assert (silent.cause, silent.certainty) == ("pids-limit", Certainty.LIKELY)
    story = Story().run().docker(2000, "exec_start", execID="e1")
    assert verdict(left(refused_fork(story, 2950))).cause == "unknown"
    story = (
        Story().run().docker(2000, "exec_start", execID="e1").docker(2500, "exec_die", execID="e1")
    )
    assert verdict(left(refused_fork(story, 2950))).cause == "pids-limit"


def test_a_network_that_its_last_words_name():
    """A lost interface and words of an unreachable network: likely, never more."""
    told = verdict(left(cut_off(Story().run(), 2000), log="ping: sendto: Network is unreachable"))
    assert (told.cause, told.certainty) == ("network-lost", Certainty.LIKELY)
    assert verdict(left(Story().run(), log="ping: Network is unreachable")).cause == "unknown"


def test_old_words_in_a_log_tie_nothing():
    """What a log said many lines ago is an old story."""
    words = "cat: /work/x: No such file or directory\n" + "all is well again\n" * 20
    assert verdict(left(taken_away(Story().run(), 2000), log=words)).cause == "unknown"


def test_a_volume_that_nobody_measures():
    """A writable file system that is none of the machine's watched disks may have been full."""
    strange = WRITABLE.replace("8:1", "8:17")
    assert verdict(left(Story().run())).cause == "main-exit-error"
    story = mounts(Story().run(), 100, [WRITABLE], [strange])
    assert verdict(left(story)).cause == "unknown"


@pytest.mark.parametrize(
    ("name", "soft", "cause"),
    [
        ("fsize", 65536, "unknown"),
        ("nofile", 64, "unknown"),
        ("nofile", 65536, "main-exit-error"),
        ("memlock", -1, "main-exit-error"),
        ("core", 0, "main-exit-error"),
    ],
)
def test_a_low_limit_that_leaves_no_word(name, soft, cause):
    """Under a low limit nobody can say that it left by itself."""
    assert verdict(left(limited(name, soft))).cause == cause


def limited(name, soft):
    story = Story()
    return story.harness(
        5, e.ContainerRef, role="subject", container=C, name="main", image="busybox:1",
        limits={"Ulimits": [{"Name": name, "Soft": soft, "Hard": soft}]},
    ).run()  # fmt: skip


def test_a_file_that_grew_too_large():
    """SIGXFSZ under RLIMIT_FSIZE: ignored by an init, deadly for a child whose status it passes on."""
    own = limited("fsize", 65536).signal(2999, 25, MAIN, sender=MAIN, comm="dd", res=1)
    assert verdict(left(own)).cause == "fsize-rlimit"
    child = limited("fsize", 65536).signal(2990, 25, CHILD, sender=CHILD, comm="dd")
    told = verdict(left(child.exits(2992, CHILD, 25), code=153))
    assert (told.cause, told.certainty) == ("fsize-rlimit", Certainty.CERTAIN)
    free = Story().run().signal(2999, 25, MAIN, sender=MAIN, comm="dd", res=1)
    assert verdict(left(free)).cause == "main-exit-error"


def test_a_timer_has_no_sender():
    """A POSIX timer's signal names whoever ran at that instant: that is nobody's kill."""
    story = Story().run().signal(2990, 15, CHILD, sender=1, comm="swapper", code=-2, place="host")
    assert verdict(left(story.exits(2991, CHILD, 15), code=143)).cause == "unknown"


def test_a_signal_that_may_mean_anything_counts_at_once_only():
    """A handled SIGUSR1 half a second before an end decides nothing, in its handler it does."""
    for ms, cause in ((2995, "host-kill"), (2500, "unknown"), (500, "main-exit-error")):
        story = Story().run().signal(ms, 10, MAIN, sender=8000, comm="sh", place="host")
        told = verdict(left(story))
        assert told.cause == cause
        assert told.certainty is not Certainty.CERTAIN


def test_sigkill_for_an_init_never_comes_from_inside():
    """A sender in the container's own cgroup that could kill its init was of another namespace."""
    story = Story().run()
    story.signal(2999, 9, MAIN, sender=8000, comm="sh", place="same-container", home=C)
    told = verdict(story.ends(3000, 9).over(code=137))
    assert (told.cause, told.certainty) == ("host-kill", Certainty.LIKELY)


def test_a_child_killed_from_another_container():
    """The sender of a child's death is said as the main process's would be."""
    story = Story().run()
    story.signal(2990, 9, CHILD, sender=8000, comm="sh", place="other-container", home="d1" * 32)
    told = verdict(left(story.exits(2991, CHILD, 9), code=137))
    assert told.cause == "other-container-kill"
    assert told.sender.kind is SenderKind.OTHER_CONTAINER


def test_a_grandchild_killed_from_outside():
    """Who fell to the host just before need not be a child of the main process: not decided."""
    story = Story().run()
    story.signal(2995, 9, 4400, sender=8000, comm="sh", place="host")
    assert verdict(left(story)).cause == "unknown"


def test_what_falls_with_the_namespace_is_no_trigger():
    """Children that are killed because the main process left are no reason for its leaving."""
    told = verdict(left(Story().run().exits(3000.1, CHILD, 9)))
    assert told.cause == "main-exit-error"


def test_a_thread_that_crashed_is_the_process():
    """A fault names the thread; the running process is the main one."""
    story = Story().run().signal(2999, 11, MAIN + 7, sender=MAIN, comm="sh", code=1)
    told = verdict(story.ends(3000, 11 | 0x80).over(code=139))
    assert (told.cause, told.certainty) == ("main-crash", Certainty.CERTAIN)


def test_a_crash_that_nobody_traced_may_have_been_sent():
    """A child ended by SIGSEGV is a crash only if the kernel or the tracer says so."""

    def blind(line):
        story = Story(sources=tuple(s for s in Story().sources if s != "trace")).run()
        story.say(60, e.MainProcess, source="main", container=C, pid=MAIN, start=BASE // 10**7 + 4,
                  nspids=[MAIN, 1], cgroup=story.home(), name="sh")  # fmt: skip
        if line:
            story.kernel(2990, f"x[{CHILD}]: segfault at 0 ip 0 sp 0 error 6 in x[4000+1]")
        return verdict(left(story.exits(2991, CHILD, 0x8B), code=139))

    assert blind(True).cause == "child-crash"
    assert blind(False).cause == "unknown"


def test_a_grace_that_did_not_expire():
    """137 under a stop that asked for no SIGKILL: without a tracer nobody knows whose it was."""
    story = Story(sources=("docker",)).run()
    story.docker(2000, "kill", signal=15).docker(3000, "die", exitCode=137).docker(3010, "stop")
    assert verdict(story.over(code=137)).cause == "unknown"


def test_engine_and_kernel_at_odds():
    """Two exit codes stand in the sentence, and the engine's word is cited."""
    story = Story().run().signal(2999, 9, MAIN, sender=8000, comm="sh", place="host")
    told = verdict(story.ends(3000, 9, code=0).over(code=0))
    assert told.cause == "host-kill"
    assert "The sources disagree: the engine says exit code 0, the kernel 137" in told.sentence


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("failed to create task: fork/exec /usr/bin/x: cannot allocate memory: unknown", "unknown"),
        ("pipe2: too many open files: unknown", "unknown"),
        ("container init was OOM-killed (memory limit too low?): unknown", "memory-limit"),
    ],
)
def test_a_start_that_failed_for_want_of_something(error, cause):
    """The engine's words name what ran out; whose it was they do not always."""
    story = Story()
    story.harness(10, e.ApiCall, call="start", container=C, edge="request")
    story.harness(60, e.ApiCall, call="start", container=C, edge="answer", http=400, error=error)
    assert verdict(story.over(status="created", code=128, error=error)).cause == cause


# --- execs in a living container -------------------------------------------------------


def failed(story, **answer):
    """The pre-task failed like this, and the container runs."""
    story.pre_task(3000, 3100, **{"exit_code": None, **answer})
    judgement = judge(build(story.over(status="running").events))
    assert judgement.outcome is Outcome.EXEC_FAILED
    return judgement.verdict


def test_a_dockerd_that_can_not_start():
    """Refused connections, and dockerd's own word that it could not start, until it is ready."""
    words = 'level=fatal msg="failed to start daemon: pid file found, ensure docker is not running"'
    gone = {"http": None, "error": "connection refused"}
    for later, cause in (("", "dockerd-start-failed"), ("API listen on /x", "dockerd-unreachable")):
        story = Story().run().daemon(1000, "dockerd", DOCKERD, "gone")
        story.say(2000, e.DaemonLog, source="daemon-log", daemon="dockerd", text=words)
        if later:
            story.say(2500, e.DaemonLog, source="daemon-log", daemon="dockerd", text=f'level=info msg="{later}"')  # fmt: skip
        assert failed(story, **gone).cause == cause


def test_a_dockerd_that_the_oom_killer_took():
    """The machine ran out of memory, and the engine went: the root is the machine."""
    story = Story().run().victim(1999, DOCKERD)
    story.oom_lines(1999, DOCKERD, whole=True, home="/init", comm="dockerd")
    story.daemon(2000, "dockerd", DOCKERD, "gone")
    told = failed(story, http=None, error="connection refused")
    assert (told.cause, told.certainty) == ("vm-oom-daemon", Certainty.CERTAIN)


def test_an_exit_that_the_engine_never_noticed():
    """Refused as stopped, called running seconds later, and containerd had been away."""

    def refused(away):
        story = Story(sources=("docker", "daemons")).run()
        if away:
            story.daemon(2000, "containerd", 650, "gone")
        return failed(story, exit_code=126, output="cannot exec in a stopped state: unknown")

    assert refused(True).cause == "lost-exit"
    assert refused(False).cause == "unknown"


def test_a_main_process_that_was_stopped():
    """Nobody answers while SIGSTOP holds the main process; after SIGCONT it is something else."""
    late = {"timed_out": True, "http": None}
    story = Story().run().signal(2000, 19, MAIN, sender=8000, comm="sh", place="host")
    assert failed(story, **late).cause == "main-stopped"
    story = Story().run().signal(2000, 19, MAIN, sender=8000, comm="sh", place="host")
    story.signal(2500, 18, MAIN, sender=8000, comm="sh", place="host")
    assert failed(story, **late).cause == "unknown"


def test_a_writable_layer_that_is_gone():
    """A file that can not be made is an ordinary error only where nothing else says so."""
    words = "sh: can't create /x: nonexistent directory"
    assert failed(Story().run(), exit_code=1, output=words).cause == "unknown"
    story = Story().run()
    story.say(2000, e.MountChange, source="mounts", container=C, removed=[], added=[], gone=["upperdir"])  # fmt: skip
    assert failed(story, exit_code=1, output=words).cause == "rootfs-lost"
    story = Story().run()
    story.say(2990, e.MountChange, source="mounts", container=C, removed=[], added=[], gone=["upperdir"])  # fmt: skip
    assert verdict(left(story, log=words)).cause == "rootfs-lost"


def test_a_shortage_in_a_commands_own_words():
    """No space left: the machine's disk if that was full, else nobody knows of what."""
    words = "dd: error writing '/x': No space left on device"
    assert failed(Story().run(), exit_code=1, output=words).cause == "unknown"
    story = Story().run().say(3050, e.MachineSample, source="machine", memory={}, load=[], processes=3,
        pressure={}, disks={"/data": {"total": 1 << 30, "free": 0, "inodes": 9, "inodes_free": 5}})  # fmt: skip
    assert failed(story, exit_code=1, output=words).cause == "disk-full"


def test_whose_processes_ran_out():
    """A fork that was refused outside every container is the daemons' own limit."""
    words = "fork/exec /usr/sbin/runc: resource temporarily unavailable: unknown"
    assert failed(Story().run(), exit_code=126, output=words).cause == "unknown"
    story = Story().run().kernel(3050, "cgroup: fork rejected by pids controller in /system.slice/docker.service")  # fmt: skip
    assert failed(story, exit_code=126, output=words).cause == "daemon-pids-limit"


@pytest.mark.parametrize(
    ("blind", "cause"),
    [((), "memory-limit-child"), (("trace", "lineage"), "unknown"), (("trace", "lineage", "proc"), "unknown")],
)  # fmt: skip
def test_a_childs_oom_is_no_reason_where_a_signal_may_have_come(blind, cause):
    """Without the tracer a TERM between a child's OOM and an exit with 1 would leave the same."""
    story = Story(sources=tuple(s for s in SOURCES if s not in blind)).run()
    story.oom(2800, 5100).exits(2804, 5100, 9, ppid=story.main)
    assert verdict(left(story)).cause == cause
