"""The table of rules for deaths: specific before general, the first that applies speaks.

Each row says which cause, what it needs, what it forbids, what would have been seen were
it something else, and what it can say at most. Reading order is the order of decision:
what the kernel did; what the daemons did to it; what somebody asked the engine for; who
else sent the signal; what had just happened to a main process that then left; and last
that it simply left or crashed.
"""

from __future__ import annotations

from harness.attribution import around as a
from harness.attribution import engine as d
from harness.attribution import oom as m
from harness.attribution import rlimits as r
from harness.attribution import senders as s
from harness.attribution import startup as u
from harness.attribution import surroundings as w
from harness.attribution.leaving import BY_ITSELF, TRIGGERS
from harness.attribution.paths import ended, kernel, oom_path, path, stopped
from harness.attribution.table import Rule
from harness.model.verdicts import Certainty, SenderKind

LIKELY = Certainty.LIKELY


_OOM_SUPPORT = (s.raw_status, m.counted, m.engine_oom)
_END = (s.raw_status, s.end_seen, d.engine_die)

KERNEL = (
    Rule(
        cause="memory-limit-main",
        needs=(m.chose_main, m.own_limit),
        supports=_OOM_SUPPORT,
        path=oom_path("memory-limit-main"),
        sender=kernel(SenderKind.KERNEL_CONTAINER_LIMIT),
        otherwise="another victim's pid, oom_memcg of a cgroup above, or an earlier SIGKILL of somebody",
    ),
    Rule(
        cause="parent-cgroup-oom",
        needs=(m.chose_main, m.parent_limit),
        supports=_OOM_SUPPORT,
        path=oom_path("parent-cgroup-oom"),
        sender=kernel(SenderKind.KERNEL_ANCESTOR_LIMIT),
        otherwise="oom_memcg naming the container's own cgroup, or the machine's",
    ),
    Rule(
        cause="vm-oom",
        needs=(m.chose_main, m.machine_limit),
        supports=(*_OOM_SUPPORT, w.pressed),
        path=oom_path("vm-oom"),
        sender=kernel(SenderKind.KERNEL_MACHINE),
        otherwise="oom_memcg naming the container's own cgroup",
    ),
    Rule(
        cause="memory-limit-child",
        needs=(m.chose_child, m.own_limit_child),
        forbids=(s.any_user_signal, d.leaving),
        proof=(m.because_of_it,),
        supports=(a.left, m.counted, m.engine_oom),
        should_watch=("trace",),
        path=path("memory-limit-child", "child-killed", "main-exited"),
        sender=kernel(SenderKind.KERNEL_CONTAINER_LIMIT),
        otherwise="no OOM victim of the container in the seconds before, or a signal that it could obey",
    ),
    Rule(
        cause="parent-cgroup-oom",
        needs=(m.chose_child, m.parent_limit_child),
        forbids=(s.any_user_signal, d.leaving),
        proof=(m.because_of_it,),
        supports=(a.left, m.counted, m.engine_oom),
        should_watch=("trace",),
        path=path("parent-cgroup-oom", "child-killed", "main-exited"),
        sender=kernel(SenderKind.KERNEL_ANCESTOR_LIMIT),
        otherwise="oom_memcg naming the container's own cgroup, or the machine's",
    ),
    Rule(
        cause="vm-oom",
        needs=(m.chose_child, m.machine_limit_child),
        forbids=(s.any_user_signal, d.leaving),
        proof=(m.because_of_it,),
        supports=(a.left, m.counted, m.engine_oom, w.pressed),
        should_watch=("trace",),
        path=path("vm-oom", "child-killed", "main-exited"),
        sender=kernel(SenderKind.KERNEL_MACHINE),
        otherwise="oom_memcg naming the container's own cgroup",
    ),
    Rule(
        cause="memory-limit-main",
        needs=(m.chose_main, m.own_failcnt),
        supports=_OOM_SUPPORT,
        most=LIKELY,
        path=oom_path("memory-limit-main"),
        sender=kernel(SenderKind.KERNEL_CONTAINER_LIMIT),
        otherwise="a machine, or a cgroup above, that was refused memory as well",
    ),
    Rule(
        cause="vm-oom",
        needs=(m.chose_main, m.machine_failcnt),
        supports=(*_OOM_SUPPORT, w.pressed),
        most=LIKELY,
        path=oom_path("vm-oom"),
        sender=kernel(SenderKind.KERNEL_MACHINE),
        otherwise="a container, or a cgroup between, that was refused memory as well",
    ),
    Rule(
        cause="memory-limit-child",
        needs=(m.chose_child, m.own_failcnt),
        forbids=(s.any_user_signal, d.leaving),
        supports=(a.left, m.counted, m.engine_oom),
        most=LIKELY,
        path=path("memory-limit-child", "child-killed", "main-exited"),
        sender=kernel(SenderKind.KERNEL_CONTAINER_LIMIT),
        otherwise="a machine, or a cgroup above, that was refused memory as well",
    ),
    Rule(
        cause="memory-limit",
        needs=(u.victim_of_unknown_rank, d.engine_die),
        forbids=(s.any_user_signal, s.kill_events, d.leaving),
        supports=(m.engine_oom,),
        must_watch=("docker",),
        most=LIKELY,
        path=path("memory-limit", "child-killed"),
        sender=kernel(SenderKind.KERNEL_CONTAINER_LIMIT),
        otherwise="a signal of somebody, or a request to the engine",
    ),
    Rule(
        cause="cpu-rlimit",
        needs=(a.timer_kill, a.cpu_limit),
        forbids=(m.chose_main, m.any_sign),
        supports=(s.raw_status, a.left),
        path=ended("cpu-rlimit"),
        sender=kernel(SenderKind.KERNEL),
        otherwise="an OOM victim of the same pid, or a sender outside the process",
    ),
)

DAEMONS = (
    Rule(
        cause="vm-oom-daemon",
        needs=(d.daemon_oom, d.gone_before, d.successor),
        forbids=(s.by_host, s.by_inside, s.by_other_container, m.chose_main),
        supports=(s.by_engine,),
        path=ended("vm-oom-daemon", "dockerd-killed", "successor-kill"),
        sender=s.sender,
        otherwise="a dockerd that left in order, or one that nobody chose as OOM victim",
    ),
    Rule(
        cause="daemon-pids-limit",
        needs=(d.starved, d.gone_before, d.successor),
        forbids=(s.by_host, s.by_inside, s.by_other_container, m.chose_main),
        supports=(s.by_engine,),
        path=ended("daemon-pids-limit", "dockerd-crash", "successor-kill"),
        sender=s.sender,
        otherwise="a dockerd that crashed of something else",
    ),
    Rule(
        cause="dockerd-restart",
        needs=(d.ordered_out, d.left_after),
        forbids=(s.by_host, s.by_inside, s.by_other_container, m.chose_main, u.unasked),
        supports=(s.by_engine, d.force),
        should_watch=("trace",),
        path=ended("dockerd-restart", "engine-stop"),
        sender=s.sender,
        otherwise="a dockerd that lived on, with no order to leave",
    ),
    Rule(
        cause="dockerd-crash",
        needs=(d.gone_before, d.successor, s.by_engine),
        forbids=(d.daemon_oom, m.chose_main),
        supports=(s.raw_status, d.force),
        path=ended("dockerd-crash", "successor-kill"),
        sender=s.sender,
        otherwise="an order to leave in dockerd's log, or a main process that ended before the next dockerd came",
    ),
    Rule(
        cause="shim-killed",
        needs=(d.shim_first, d.swept_up),
        forbids=(m.chose_main,),
        supports=(d.code_255, d.shim_log, s.raw_status),
        path=path("shim-killed", "shim-cleanup", "main-killed"),
        sender=s.sender,
        otherwise="a shim that outlives the main process, and a kill event for the SIGKILL",
    ),
)

REQUESTS = tuple(
    Rule(
        cause=f"docker-{request}",
        needs=(s.by_engine, s.kill_events, d.asked(request)),
        forbids=(d.leaving, m.chose_main),
        supports=(s.raw_status, d.engine_die, d.force),
        must_watch=("docker",),
        path=stopped if request == "stop" else ended(f"docker-{request}"),
        sender=s.sender,
        otherwise="no kill in the engine's events, a sender that is not the engine's, or dockerd on its way out",
    )
    for request in ("restart", "stop", "rm", "kill", "api")
)

# A stop signal of the image's own (SIGWINCH, SIGUSR1) is none that is traced as deadly,
# and a slow program may take its whole grace: the engine's own word that its stop is done
# says that it had waited for this end.
REQUESTS += tuple(
    Rule(
        cause=f"docker-{request}",
        needs=(a.left, d.waited_for, d.asked(request)),
        forbids=(d.leaving, m.any_sign, u.others_signal),
        supports=(d.engine_die,),
        must_watch=("docker", "trace"),
        path=ended(f"docker-{request}"),
        sender=u.the_api,
        otherwise="an end that no stop of the engine waited for",
    )
    for request in ("restart", "stop")
)

UNTRACED = tuple(
    Rule(
        cause=f"docker-{request}",
        needs=(u.nobody_traced, d.kill_then_die, d.asked(request)),
        forbids=(d.leaving, d.stream_lost, u.any_oom),
        supports=(s.raw_status,),
        must_watch=("docker",),
        most=LIKELY,
        path=ended(f"docker-{request}"),
        sender=u.the_api,
        otherwise="an end without a kill in the engine's events",
    )
    for request in ("restart", "stop", "rm", "kill", "api")
)

SENDERS = (
    Rule(
        cause="userspace-oom",
        needs=(u.by_oom_daemon, s.by_host, w.pressed),
        forbids=(m.chose_main,),
        supports=(s.raw_status, u.oom_daemon_log),
        path=ended("userspace-oom"),
        sender=s.sender,
        otherwise="a machine with memory to spare, or a sender of another kind",
    ),
    Rule(
        cause="cgroup-kill",
        needs=(s.in_kernel_group, u.not_by_engine),
        forbids=(m.chose_main, s.kill_events, u.by_oom_daemon),
        supports=(s.raw_status, s.by_host, d.engine_die),
        path=ended("cgroup-kill"),
        sender=s.sender,
        otherwise="a signal that addresses a thread group (grp=1)",
    ),
    Rule(
        cause="other-container-kill",
        needs=(s.by_other_container,),
        forbids=(m.chose_main,),
        supports=_END,
        path=ended("other-container-kill"),
        sender=s.sender,
        otherwise="a sender that lives in no container, or in this one",
    ),
    Rule(
        cause="host-kill",
        needs=(s.by_host,),
        # A kill in the engine's events at that moment: the sender may be the engine's after all.
        forbids=(m.chose_main, u.by_oom_daemon, s.kill_events),
        supports=_END,
        path=ended("host-kill"),
        sender=s.sender,
        otherwise="a sender that the engine made, or that lives in a container",
    ),
    Rule(
        cause="inside-signal",
        needs=(s.by_inside,),
        forbids=(m.chose_main, d.leaving),
        supports=_END,
        path=ended("inside-signal"),
        sender=s.sender,
        otherwise="a sender outside the container",
    ),
    Rule(
        cause="host-kill",
        needs=(s.from_outside_unseen, u.lone_machine),
        forbids=(
            m.chose_main,
            s.kill_events,
            s.in_kernel_group,
            d.leaving,
            d.shim_first,
            u.by_oom_daemon,
        ),
        supports=_END,
        must_watch=("docker",),
        most=LIKELY,
        path=ended("host-kill"),
        sender=s.sender,
        otherwise="a kill in the engine's events, or a shim that died first",
    ),
)

MACHINE = (
    Rule(
        cause="vm-shutdown",
        needs=(d.rebooted, u.ended_before_boot, d.ordered_out),
        forbids=(u.unasked,),
        path=path("vm-shutdown", "engine-stop"),
        most=LIKELY,
        otherwise="the same boot id all along",
    ),
    *(
        Rule(
            cause="vm-shutdown",
            needs=(u.shut_down, how),
            path=path("vm-shutdown", "engine-stop"),
            most=LIKELY,
            otherwise="the machine went on",
        )
        for how in (d.ordered_out, u.told_from_outside)
    ),
    Rule(
        cause="vm-reboot",
        needs=(u.hypervisor_gone,),
        supports=(d.rebooted,),
        path=path("vm-reboot"),
        otherwise="the machine went on, or an end that the kernel saw before",
    ),
    Rule(
        cause="vm-reboot",
        needs=(d.rebooted, u.no_end_before_boot),
        supports=(u.engine_255,),
        path=path("vm-reboot"),
        otherwise="the same boot id all along, or an end that the kernel saw before",
    ),
)

# The engine's own words name what ran out, not whose it was.
_START_NEEDS = {"nofile-rlimit": (r.given_few_files,)}
_START_PROOF = {"disk-full": (w.disk_was_full,), "daemon-pids-limit": (u.daemons_refused_fork,)}

START = tuple(
    Rule(
        cause=cause,
        needs=(u.refused_start(*faults), *_START_NEEDS.get(cause, ())),
        supports=(u.state_error(*faults),),
        proof=_START_PROOF.get(cause, ()),
        most=LIKELY if cause == "start-failed" else Certainty.CERTAIN,
        path=path(cause, "main-never-ran"),
        otherwise="a main process, and a `start` in the engine's events",
    )
    for cause, faults in (
        ("mount-source-missing", ("source-missing",)),
        ("network-missing", ("network-missing",)),
        ("nofile-rlimit", ("nofile",)),
        ("disk-full", ("no-space",)),
        ("daemon-pids-limit", ("no-pids",)),
        ("memory-limit", ("no-memory",)),
        ("entrypoint-missing", ("command-missing", "not-executable")),
        ("exec-format", ("bad-format",)),
        ("start-failed", ("bad-user", "bad-cwd", "bad-request", "network-mode", "other")),
    )
)

RULES = (*START, *MACHINE, *KERNEL, *DAEMONS, *REQUESTS, *UNTRACED, *SENDERS, *TRIGGERS, *BY_ITSELF)
