"""The closed list of causes: what can end a container, or fail an exec of a living one.

Rule: a cause is an id that never changes its meaning (stored verdicts live for ever),
one hypothesis, and one line for people. What evidence decides it stands in
`attribution`, never here. Adding one touches this list, one rule and one recorded case.

    >>> cause("vm-oom").hypothesis
    <Hypothesis.VM_PRESSURE: 'vm-pressure'>
    >>> cause("memory-limit-main").broader
    'memory-limit'
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.model.verdicts import Hypothesis


@dataclass(frozen=True, slots=True)
class Cause:
    """One way a container ends or an exec fails.

    Attributes:
        id: Stable, kebab-case.
        hypothesis: Where it is counted.
        about: One line, completes "the container died because …".
        broader: The cause that is said when the evidence does not reach for this one.
        of: "death", "exec" (the container lives) or "both".
    """

    id: str
    hypothesis: Hypothesis
    about: str
    broader: str | None = None
    of: str = "death"


_C, _D, _V = Hypothesis.CONTAINER_RESOURCES, Hypothesis.DAEMON, Hypothesis.VM_PRESSURE
_P, _N, _R, _X = (
    Hypothesis.PROCESS_EXIT,
    Hypothesis.NETWORK_STORAGE,
    Hypothesis.RACE,
    Hypothesis.EXTERNAL,
)

_ALL = (
    # --- the container's own limits ---------------------------------------------------
    Cause("memory-limit", _C, "its own memory limit was hit; which of its processes the kernel chose is not known"),
    Cause("memory-limit-main", _C, "the kernel killed its main process at the container's own memory limit", "memory-limit"),
    Cause("memory-limit-child", _C, "the kernel killed one of its processes at the container's own memory limit and the main process left because of it", "memory-limit"),
    Cause("parent-cgroup-oom", _C, "a memory limit on a cgroup above it (not the machine's) was hit and the kernel chose one of its processes"),
    Cause("memory-stall", _C, "it stands still at its memory limit, with the OOM killer switched off", of="exec"),
    Cause("pids-limit", _C, "its pids limit refused a fork", of="both"),
    Cause("cpu-throttled", _C, "its CPU quota left it almost no time to run", of="exec"),
    Cause("cpu-rlimit", _C, "a process used up its RLIMIT_CPU"),
    Cause("nofile-rlimit", _C, "RLIMIT_NOFILE left it too few file descriptors", of="both"),
    Cause("fsize-rlimit", _C, "RLIMIT_FSIZE let one of its files grow no further"),
    Cause("nproc-rlimit", _C, "RLIMIT_NPROC of its user refused a fork", of="both"),
    Cause("tmpfs-full", _C, "a tmpfs of its own (or /dev/shm) ran full", of="both"),
    # --- the daemons ------------------------------------------------------------------
    Cause("dockerd-restart", _D, "dockerd was stopped or restarted in order and stopped its containers"),
    Cause("dockerd-crash", _D, "dockerd died without an order and its successor killed the containers left running"),
    Cause("dockerd-unreachable", _D, "dockerd was not there to answer", of="both"),
    Cause("dockerd-hung", _D, "dockerd was there and did not answer", of="exec"),
    Cause("dockerd-fds", _D, "dockerd had no file descriptors left", of="exec"),
    Cause("dockerd-start-failed", _D, "dockerd could not start again", "dockerd-unreachable", of="both"),
    Cause("containerd-down", _D, "containerd was not there to answer dockerd", of="both"),
    Cause("containerd-hung", _D, "containerd was there and did not answer dockerd", of="exec"),
    Cause("shim-killed", _D, "its containerd shim died, and containerd cleaned up after it by killing it", of="both"),
    Cause("shim-hung", _D, "its containerd shim stood still", of="exec"),
    Cause("lost-exit", _D, "its main process is gone and the engine never noticed", of="exec"),
    # --- the machine ------------------------------------------------------------------
    Cause("vm-oom", _V, "the machine ran out of memory and the kernel chose one of its processes"),
    Cause("vm-oom-daemon", _V, "the machine ran out of memory, the kernel chose the engine, and the containers went with it", of="both"),
    Cause("userspace-oom", _V, "a userspace OOM daemon killed it under memory pressure"),
    Cause("disk-full", _V, "the disk under the engine's data ran full", of="both"),
    Cause("daemon-pids-limit", _V, "the daemons' own cgroup refused a fork", of="both"),
    Cause("vm-reboot", _V, "the machine went down without an orderly stop", of="both"),
    Cause("vm-shutdown", _V, "the machine was shut down in order", of="both"),
    Cause("vm-suspended", _V, "the machine stood still", of="exec"),
    # --- the main process -------------------------------------------------------------
    Cause("main-exit-zero", _P, "its main process ended by itself with status 0"),
    Cause("main-exit-error", _P, "its main process ended by itself with an error status"),
    Cause("main-crash", _P, "its main process crashed"),
    Cause("child-crash", _P, "one of its processes crashed and the main process left because of it"),
    Cause("inside-signal", _P, "a process inside it told its main process to end"),
    Cause("inside-child-kill", _P, "a process inside it killed another one and the main process left because of it"),
    Cause("entrypoint-missing", _P, "its command does not exist or may not be executed"),
    Cause("exec-format", _P, "its command is no program for this machine, or its interpreter is missing"),
    Cause("start-failed", _P, "the engine could not start it as it was asked to"),
    Cause("restart-loop", _P, "its main process keeps ending and its restart policy keeps starting it"),
    # --- mounts and networks ----------------------------------------------------------
    Cause("mount-source-missing", _N, "the source of one of its mounts is gone, so it could not be started"),
    Cause("mount-readonly", _N, "one of its mounts became read-only", of="both"),
    Cause("mount-lost", _N, "one of its mounts was taken away", of="both"),
    Cause("mount-source-deleted", _N, "the source of one of its mounts was deleted under it", of="both"),
    Cause("io-error", _N, "the storage under it reported I/O errors", of="both"),
    Cause("rootfs-lost", _N, "its root file system lost its writable layer", of="both"),
    Cause("network-lost", _N, "it lost a network interface", of="both"),
    Cause("network-missing", _N, "a network it needs is gone, so it could not be started"),
    # --- races ------------------------------------------------------------------------
    Cause("remount-race", _R, "the exec fell into the harness's own planned stop of the container", of="both"),
    Cause("mount-race", _R, "the exec fell between an unmount and a mount of the remount", of="exec"),
    # --- somebody else ----------------------------------------------------------------
    Cause("docker-api", _X, "somebody else ended it through the engine; by which request is not known"),
    Cause("docker-kill", _X, "somebody else killed it through the engine", "docker-api"),
    Cause("docker-stop", _X, "somebody else stopped it through the engine", "docker-api"),
    Cause("docker-restart", _X, "somebody else restarted it through the engine", "docker-api"),
    Cause("docker-rm", _X, "somebody else removed it through the engine", "docker-api"),
    Cause("host-kill", _X, "a process of the machine, outside every container, killed it"),
    Cause("cgroup-kill", _X, "somebody killed its whole cgroup by way of cgroup.kill"),
    Cause("other-container-kill", _X, "a process in another container killed it"),
    Cause("docker-pause", _X, "it was paused through the engine", of="exec"),
    Cause("cgroup-frozen", _X, "its cgroup was frozen behind the engine's back", of="exec"),
    Cause("main-stopped", _X, "its main process was stopped by a signal", of="exec"),
    Cause("no-such-container", _X, "the engine does not know the container", of="exec"),
    # --- the exec itself; the container is well ---------------------------------------
    Cause("exec-command-missing", _P, "the exec's command does not exist in the container", of="exec"),
    Cause("exec-not-executable", _P, "the exec's command may not be executed", of="exec"),
    Cause("exec-bad-cwd", _P, "the exec's working directory does not exist", of="exec"),
    Cause("exec-bad-user", _P, "the exec's user does not exist", of="exec"),
    Cause("exec-bad-request", _P, "the engine refused the exec's request itself", of="exec"),
    Cause("exec-error", _P, "the exec's command ran and ended with an error status", of="exec"),
    Cause("exec-killed", _X, "the exec's process was killed, the container lives", of="exec"),
    Cause("exec-memory-limit", _C, "the exec's process was killed at the container's memory limit, the container lives", of="exec"),
    Cause("exec-timeout", _P, "the exec's command did not end before its deadline", of="exec"),
    Cause("unknown", Hypothesis.UNKNOWN, "the evidence does not decide", of="both"),
)  # fmt: skip

CAUSES: dict[str, Cause] = {c.id: c for c in _ALL}
"""Every cause by its id, in the order tables print them."""

MECHANISMS: dict[str, str] = {
    "main-killed": "the main process was killed",
    "main-exited": "the main process ended by itself",
    "main-crashed": "the main process crashed",
    "main-never-ran": "the main process never ran",
    "child-killed": "a process of the container other than the main one was killed",
    "child-crashed": "a process of the container other than the main one crashed",
    "whole-cgroup-killed": "every process of the cgroup was killed at once (memory.oom.group)",
    "engine-stop": "the engine stopped the container on its way down",
    "successor-kill": "the next dockerd killed the containers it found running",
    "shim-cleanup": "containerd cleaned up after the shim",
    "grace-expired": "the stop's grace period ran out and SIGKILL followed",
    "dockerd-killed": "dockerd was killed",
    "containerd-killed": "containerd was killed",
    "exec-refused": "the exec was refused",
    "exec-hung": "the exec was never answered",
    "exec-failed": "the exec ended with an error",
    "container-removed": "the container was removed",
}
"""The steps between root cause and end that are no causes of their own, for `Verdict.path`."""


def cause(name: str) -> Cause:
    """The cause of that id. Raises KeyError for anything else: the list is closed."""
    return CAUSES[name]


def words(step: str) -> str:
    """One line for a step of a path, be it a cause or a mechanism."""
    return CAUSES[step].about if step in CAUSES else MECHANISMS[step]
