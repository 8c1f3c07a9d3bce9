"""Rules for a main process that left by itself: what had just happened to it, or nothing had.

Rule: the same as of `rules`, of whose table this is the last part. Of the triggers none
comes before another: two that apply with different hypotheses do not decide.
"""

from __future__ import annotations

from harness.attribution import around as a
from harness.attribution import engine as d
from harness.attribution import lastwords as words
from harness.attribution import oom as m
from harness.attribution import rlimits as r
from harness.attribution import senders as s
from harness.attribution import startup as u
from harness.attribution import surroundings as w
from harness.attribution.paths import ended, kernel, path
from harness.attribution.table import Rule
from harness.model.verdicts import Certainty, SenderKind

LIKELY = Certainty.LIKELY

_QUIET = (s.earlier_signal, m.any_sign, d.leaving, s.heeded_kills)
"""What a trigger must not share the moment with: somebody's signal, the OOM killer, dockerd leaving."""

TRIGGERS = (
    Rule(
        cause="inside-child-kill",
        needs=(a.child_killed_inside,),
        forbids=_QUIET,
        supports=(a.left, d.engine_die),
        path=path("inside-child-kill", "child-killed", "main-exited"),
        sender=a.child_sender,
        otherwise="a sender outside, an OOM victim, or a main process that was killed itself",
    ),
    Rule(
        cause="host-kill",
        needs=(a.child_killed_by_host,),
        forbids=_QUIET,
        supports=(a.left, d.engine_die),
        path=path("host-kill", "child-killed", "main-exited"),
        sender=a.child_sender,
        otherwise="a sender inside the container",
    ),
    Rule(
        cause="other-container-kill",
        needs=(a.child_killed_by_other,),
        forbids=_QUIET,
        supports=(a.left, d.engine_die),
        path=path("other-container-kill", "child-killed", "main-exited"),
        sender=a.child_sender,
        otherwise="a sender inside the container, or in none",
    ),
    Rule(
        cause="child-crash",
        needs=(a.child_crashed, a.left_with_error),
        forbids=_QUIET,
        supports=(a.child_fault, a.engine_agrees),
        path=path("child-crash", "child-crashed", "main-exited"),
        otherwise="a raw status that says the main process itself was killed",
    ),
    Rule(
        cause="pids-limit",
        needs=(a.left_with_error, w.fork_refused),
        forbids=_QUIET,
        proof=(words.said_no_fork,),
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        path=path("pids-limit", "main-exited"),
        otherwise="no refused fork just before",
    ),
    Rule(
        cause="tmpfs-full",
        needs=(a.left_with_error, w.tmpfs_full),
        forbids=(*_QUIET, w.disk_full),
        proof=(words.said_no_space,),
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        path=path("tmpfs-full", "main-exited"),
        otherwise="room on its tmpfs mounts, or none on the machine's disks",
    ),
    Rule(
        cause="nproc-rlimit",
        needs=(a.left_with_error, r.few_processes),
        forbids=(*_QUIET, w.fork_refused),
        supports=(a.engine_agrees,),
        must_watch=("trace", "cgroup"),
        most=LIKELY,
        path=path("nproc-rlimit", "main-exited"),
        otherwise="a fork that the pids controller refused",
    ),
    Rule(
        cause="nofile-rlimit",
        needs=(a.left_with_error, r.few_files),
        forbids=_QUIET,
        supports=(a.engine_agrees,),
        must_watch=("trace",),
        most=LIKELY,
        path=path("nofile-rlimit", "main-exited"),
        otherwise="a log with other last words",
    ),
    Rule(
        cause="fsize-rlimit",
        needs=(r.ended_by_it, r.file_too_large),
        forbids=_QUIET,
        proof=(words.said_too_large, r.killed_by_it),
        supports=(a.engine_agrees,),
        path=ended("fsize-rlimit"),
        sender=kernel(SenderKind.KERNEL),
        otherwise="no SIGXFSZ before it left",
    ),
    Rule(
        cause="disk-full",
        needs=(a.left_with_error, w.disk_full),
        forbids=_QUIET,
        proof=(words.said_no_space,),
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        path=path("disk-full", "main-exited"),
        otherwise="room on the engine's file systems",
    ),
    Rule(
        cause="mount-readonly",
        needs=(a.left_with_error, w.became_read_only),
        forbids=_QUIET,
        proof=(words.said_read_only,),
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        path=path("mount-readonly", "main-exited"),
        otherwise="a mount table that did not change",
    ),
    Rule(
        cause="mount-readonly",
        needs=(a.left_with_error, w.own_mount_change, words.said_read_only),
        forbids=_QUIET,
        must_watch=("trace",),
        most=LIKELY,
        path=path("mount-readonly", "main-exited"),
        otherwise="a log with other last words",
    ),
    Rule(
        cause="mount-source-deleted",
        needs=(a.left_with_error, w.source_deleted),
        forbids=_QUIET,
        proof=(words.said_missing,),
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        path=path("mount-source-deleted", "main-exited"),
        otherwise="a mount table that did not change",
    ),
    Rule(
        cause="mount-lost",
        needs=(a.left_with_error, w.lost_mount),
        forbids=(*_QUIET, w.became_read_only),
        proof=(words.said_missing,),
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        path=path("mount-lost", "main-exited"),
        otherwise="a mount table that did not change",
    ),
    Rule(
        cause="rootfs-lost",
        needs=(a.left_with_error, w.layer_missed),
        forbids=_QUIET,
        supports=(words.said_missing, a.engine_agrees),
        should_watch=("trace",),
        most=LIKELY,  # a program need not write, nor mind that it can not
        path=path("rootfs-lost", "main-exited"),
        otherwise="a writable layer that was there until it ended",
    ),
    Rule(
        cause="network-lost",
        needs=(a.left_with_error, w.cut_off),
        forbids=_QUIET,
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        most=LIKELY,  # one after the other is not one because of the other
        path=path("network-lost", "main-exited"),
        otherwise="interfaces that stayed until it ended",
    ),
    Rule(
        cause="io-error",
        needs=(a.left_with_error, w.storage_failed),
        forbids=_QUIET,
        supports=(a.engine_agrees,),
        should_watch=("trace",),
        most=LIKELY,
        path=path("io-error", "main-exited"),
        otherwise="a kernel log without errors of the storage",
    ),
)
"""Of several that apply with different hypotheses none is right for certain: see `judge`."""

BY_ITSELF = (
    Rule(
        cause="exec-format",
        needs=(a.left_with_error, u.said_exec_format, u.never_became_a_program),
        forbids=_QUIET,
        supports=(a.engine_agrees,),
        path=path("exec-format", "main-exited"),
        otherwise="a main process that became its program before it left",
    ),
    Rule(
        cause="tmpfs-full",
        needs=(a.bus_error, w.tmpfs_was_full),
        forbids=(s.any_user_signal, m.any_victim),
        supports=(a.fault, d.engine_die),
        path=path("tmpfs-full", "main-crashed"),
        otherwise="room on its tmpfs mounts",
    ),
    Rule(
        cause="main-crash",
        needs=(a.killed_by_core, a.fault),
        forbids=(s.any_user_signal, m.any_victim, a.bus_unexplained),
        supports=(d.engine_die,),
        path=path("main-crash", "main-crashed"),
        otherwise="a sender other than itself",
    ),
    Rule(
        cause="main-exit-zero",
        needs=(a.left_with_zero, a.engine_agrees, u.began),
        forbids=(
            *_QUIET,
            a.any_child_killed,
            a.child_told,
            a.inmate_told,
            u.any_trigger,
            u.shim_gone_early,
        ),
        supports=(s.end_seen,),
        must_watch=("trace", "docker", "proc"),
        should_watch=("kernel",),
        path=path("main-exit-zero", "main-exited"),
        otherwise="a signal, an OOM victim or a request to the engine in the seconds before",
    ),
    Rule(
        cause="main-exit-error",
        needs=(a.left_with_error, a.engine_agrees, u.began, w.room),
        forbids=(
            *_QUIET,
            a.any_child_killed,
            a.child_hit,
            a.child_told,
            a.inmate_told,
            u.any_trigger,
            u.shim_gone_early,
            words.complains,
            words.said_cut_off,
            u.said_exec_format,
            words.could_not_make,
            w.layer_gone,
            w.unwatched_volume,
            r.tight,
        ),
        supports=(s.end_seen,),
        must_watch=("trace", "docker", "proc", "kernel", "mounts", "network", "cgroup"),
        # That it left by itself is seen; that nothing made it leave is not.
        most=LIKELY,
        path=path("main-exit-error", "main-exited"),
        otherwise="a signal, an OOM victim, a refused fork, a full disk or a changed mount in the seconds before",
    ),
)
