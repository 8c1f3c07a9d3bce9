"""The catalogue of ways: how containers are known to end or to look dead, and what causes each on purpose.

Rule: one line a way, with its entries of the gallery (experiments/causes), or the reason
why none can cause it. A cause is what a verdict says; several ways may come to one cause,
and an impostor's way to none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Way:
    """One way.

    Attributes:
        id: Stable; gaps are ways that turned out to be others.
        about: What happens, in one line.
        gallery: Names of the entries that cause it.
        why_not: Why no entry can; empty where one does.
    """

    id: str
    about: str
    gallery: tuple[str, ...] = ()
    why_not: str = ""


def _way(id_: str, about: str, gallery: str = "", why_not: str = "") -> Way:
    return Way(id_, about, tuple(gallery.split()), why_not)


WAYS: tuple[Way, ...] = (
    # --- the container's own limits
    _way("C01", "the main process is killed at the container's memory limit", "memory-limit-main"),
    _way("C02", "a child is killed at the limit, the main process lives on", "impostor-child-oom"),
    _way("C03", "a child is killed at the limit, the main process leaves with 1", "memory-limit-child-exit-1"),
    _way("C04", "a child is killed at the limit, the main process passes 137 on", "memory-limit-child-exit-137"),
    _way("C05", "an old OOM kill of a child, and a docker kill later", "docker-kill-after-child-oom"),
    _way("C06", "an exec trips the limit, and the main process or the exec is the victim", "memory-limit-exec exec-memory-limit"),
    _way("C08", "memory.oom.group: everything in it is killed at once, and the engine sees no OOM (v2)", "vm-memory-oom-group"),
    _way("C09", "a limit above the container is hit", "parent-cgroup-oom"),
    _way("C10", "it stands still at its limit, with the OOM killer off (v1)", "memory-stall"),
    _way("C12", "its pids limit refuses the main process a fork", "pids-limit"),
    _way("C13", "its pids limit refuses the exec a fork", "pids-limit-exec"),
    _way("C15", "its CPU quota leaves an exec no time", "cpu-throttled"),
    _way("C16", "RLIMIT_CPU or RLIMIT_FSIZE ends it", "cpu-rlimit fsize-rlimit"),
    _way("C18", "RLIMIT_NOFILE is too low to start", "nofile-rlimit"),
    _way("C19", "RLIMIT_NPROC of its user refuses a fork", "nproc-rlimit"),
    _way("C20", "a tmpfs or /dev/shm of its own is full", "tmpfs-full shm-full"),
    # --- the daemons
    _way("C22", "dockerd is stopped or restarted in order", "dockerd-restart dockerd-stop"),
    _way("C23", "dockerd dies, and its successor kills what it finds running", "dockerd-crash"),
    _way("C24", "dockerd is stopped in order with live-restore", "impostor-live-restore-stop"),
    _way("C25", "dockerd dies with live-restore", "impostor-live-restore-crash"),
    _way("C27", "the main process dies while dockerd is down", "host-kill-dockerd-down"),
    _way("C28", "containerd dies: the container lives, no exec can be had", "containerd-kill"),
    _way("C29", "the main process dies while containerd is down: called running for ever", "lost-exit"),
    _way("C30", "its shim dies", "shim-killed"),
    _way("C31", "its shim stands still", "shim-hung"),
    _way("C32", "dockerd or containerd stands still", "dockerd-hung containerd-hung"),
    _way("C33", "dockerd has no file descriptors left", "dockerd-fds"),
    _way("C34", "dockerd reloads its configuration", "impostor-dockerd-reload"),
    _way("C35", "dockerd does not come up again over a stale pid file", "dockerd-start-failed dockerd-unreachable"),
    _way("C36", "the daemons' own cgroup takes no more processes", "daemon-pids-limit"),
    _way("C37", "the client asks another engine than it thinks", why_not="the harness names its engine itself and keeps its connections: it can not be sent to another one"),
    _way("C38", "an upgrade of their packages restarts the daemons", "engine-upgrade"),
    # --- the machine
    _way("C40", "the whole machine runs out of memory (v2)", "vm-oom-global vm-oom-self"),
    _way("C41", "the same under the older hierarchies, without a word of the engine's", "vm-oom-global-v1"),
    _way("C42", "the OOM killer takes dockerd or containerd", "vm-oom-daemon"),
    _way("C43", "a process of the machine takes all memory, and a container is killed for it", "vm-oom"),
    _way("C44", "a userspace OOM daemon kills it", "userspace-oom"),
    _way("C45", "the disk under the engine's data is full, of bytes or of inodes", "disk-full inodes-full"),
    _way("C47", "the machine loses its power", "vm-power-cut"),
    _way("C48", "the machine is shut down in order", "vm-reboot-in-order"),
    _way("C49", "the wall clock jumps", "vm-impostor-clock-step"),
    _way("C50", "the machine stands still", "vm-suspended"),
    _way("C51", "somebody writes its cgroup.kill (v2)", "vm-cgroup-kill"),
    # --- the main process
    _way("C52", "the main process ends with 0", "main-exit-zero"),
    _way("C53", "the main process leaves with an error", "main-exit-error main-exit-137 main-exit-143"),
    _way("C54", "the main process crashes", "main-crash"),
    _way("C55", "the main process aborts", "main-abort"),
    _way("C56", "a child crashes, and the main process passes its status on", "child-crash"),
    _way("C58", "a shell without a terminal reads end-of-file", "shell-without-stdin"),
    _way("C61", "kill -9 1 from inside", "impostor-kill-9-from-inside"),
    _way("C62", "SIGTERM to a main process that has no handler", "impostor-term-ignored"),
    _way("C63", "SIGTERM from inside to a main process that obeys", "inside-signal"),
    _way("C64", "the child under an init is killed from inside", "inside-child-kill"),
    _way("C66", "the entrypoint is missing or not executable", "entrypoint-missing entrypoint-not-executable"),
    _way("C67", "the engine can not start it as it was asked to", "start-failed-user"),
    _way("C68", "the entrypoint is no program for this machine", "exec-format"),
    _way("C69", "a restart policy starts what fails again and again", "restart-loop"),
    _way("C70", "it ends by itself and is removed", "main-exit-then-rm"),
    # --- somebody else
    _way("C72", "docker kill", "docker-kill"),
    _way("C73", "docker stop, obeyed", "docker-stop"),
    _way("C74", "docker stop whose grace runs out", "docker-stop-forced"),
    _way("C76", "a process of the machine, or of another container, kills or ends it", "host-kill host-term other-container-kill"),
    _way("C77", "docker rm -f", "docker-rm"),
    _way("C78", "docker restart", "docker-restart"),
    _way("C80", "docker pause", "docker-pause"),
    _way("C81", "its cgroup is frozen behind the engine's back", "cgroup-frozen"),
    _way("C82", "the main process is stopped by SIGSTOP", "impostor-main-stopped"),
    _way("C84", "another client recreates it under its name", "recreate-by-other"),
    # --- mounts and networks
    _way("C85", "a bind's source is deleted under a running container", "mount-source-deleted mount-source-deleted-workdir"),
    _way("C86", "a bind's source is missing at the next start", "mount-source-missing"),
    _way("C88", "a mount turns read-only under a writer", "mount-readonly"),
    _way("C89", "a mount is taken away inside", "mount-lost"),
    _way("C90", "what lies below a bind is detached on the machine", "impostor-mount-below-detached"),
    _way("C92", "the writable layer of its root file system is deleted", "rootfs-lost rootfs-lost-exec"),
    _way("C94", "it is disconnected from its network", "network-lost impostor-network-lost"),
    _way("C95", "a network it needs is gone at its next start", "network-missing"),
    _way("C96", "its network link is deleted", "veth-lost"),
    # --- races
    _way("C99", "an exec meets a remount in place", "mount-race"),
    _way("C100", "an exec meets a restart, or waits for its end", "race-restart impostor-planned-restart"),
    _way("C101", "an exec meets a recreation", "race-recreate"),
    _way("C102", "an exec meets a death", "exec-in-death-window"),
    _way("C103", "the exec's end and the main process's end pass each other, and the exec's client waits for ever", why_not="a fault of some versions of containerd that shows by luck: nothing causes it at will"),
    # --- the exec itself
    _way("C104", "the exec's request is wrong, and the container is well", "exec-command-missing exec-command-not-found exec-not-executable exec-bad-cwd exec-bad-user exec-error"),
    _way("C105", "the exec's process is killed, and the container is well", "exec-killed"),
    _way("C107", "the exec's client gives up, and its process goes on", "exec-timeout"),
    _way("C108", "the docker program refuses what it was asked for", why_not="the harness speaks to the engine and not through the docker program: there is no program to refuse"),
)  # fmt: skip
