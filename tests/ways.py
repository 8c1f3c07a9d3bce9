"""docs/ways.md, made from data: each way, what causes it here, and the recorded trials behind it.

Rule: ways and their entries of the gallery stand in `model.ways`; which recorded cases show
a way stands here; under which hierarchy a case was recorded, and its twins, are read from
the files. `python tests/ways.py` writes the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from harness.model.ways import WAYS  # noqa: E402

PAGE = ROOT / "docs" / "ways.md"
VERDICTS = ROOT / "tests" / "verdicts"

SHOWN: dict[str, tuple[str, ...]] = {
    parts[0]: tuple(parts[1:])
    for line in """
C01 memory-limit-main v2-memory-limit-main
C02 memory-limit-child-survives v2-memory-limit-child-survives
C03 memory-limit-child-exit1
C04 memory-limit-child-137
C05 docker-kill-after-child-oom
C06 memory-limit-at-exec exec-memory-limit exec-oom-then-exit1
C08 v2-memory-limit-group
C09 parent-cgroup-oom neighbour-oom
C10 memory-stall
C12 pids-limit
C13 exec-pids-limit exec-takes-all-pids
C15 cpu-throttled
C16 cpu-rlimit cpu-rlimit-hard fsize-rlimit-child fsize-rlimit-main
C18 nofile-start nofile-rlimit
C19 nproc-rlimit
C20 tmpfs-full shm-full shm-bus
C22 dockerd-term dockerd-term-restart leaves-while-dockerd-leaves
C23 dockerd-kill9-restart
C24 live-restore-stop
C25 live-restore-crash
C27 dockerd-kill9-pid1-dies-meanwhile
C28 containerd-killed
C29 lost-exit
C30 shim-killed shim-term
C31 shim-hung
C32 dockerd-hung containerd-hung
C33 dockerd-fds
C34 dockerd-reload
C35 dockerd-start-failed dockerd-kill9
C36 daemon-pids-limit dockerd-crash-at-pids-limit
C38 engine-upgrade
C40 v2-vm-oom-main v2-vm-oom-global v2-colima-vm-oom
C42 vm-oom-daemon
C43 vm-oom-main vm-oom-child
C44 userspace-oom userspace-oom-pressed
C45 disk-full disk-full-silent inodes-full disk-full-exec
C47 v2-power-cut
C49 v2-clock-step
C50 v2-suspended
C51 v2-cgroup-kill
C52 exit-zero
C53 exit-one exit-137-by-itself shim-child-passes
C54 main-crash thread-segv
C55 main-abort
C56 child-segv child-stack-overflow
C58 shell-eof
C61 inside-kill9-ignored
C62 docker-kill-term-ignored host-term-ignored
C63 inside-term inside-init-term
C64 inside-child-kill
C66 entrypoint-missing
C67 bad-user
C68 exec-format exec-format-slow
C69 restart-loop
C70 exit-then-rm
C72 docker-kill
C73 docker-stop
C74 docker-stop-forced
C76 host-kill host-term-handled other-container-kill frozen-then-host-kill
C77 docker-rm
C78 docker-restart
C80 docker-pause docker-commit
C81 cgroup-frozen
C82 main-stopped
C84 recreate-by-other recreate-by-other-removing
C85 mount-source-deleted
C86 mount-source-missing
C88 remount-readonly-writer read-only-silent-writer
C89 mount-lost
C90 mount-below-detached
C92 rootfs-lost-exec rootfs-lost-main
C94 network-lost network-disconnected
C95 network-missing
C96 network-link-deleted
C99 mount-race
C100 race-restart restart-no-race
C101 race-recreate recreate-no-race
C102 exec-in-death-window
C104 exec-command-missing exec-shell-missing exec-bad-cwd exec-bad-user exec-not-executable exec-error
C105 exec-killed
C107 exec-timeout
""".strip().splitlines()
    if (parts := line.split())
}
"""Way → recorded cases."""

NOT_RECORDED = {
    "C41": "needs a VM with the older hierarchies",
    "C48": "needs a VM that is shut down under a trial",
}
"""Ways whose entry no trial has been kept of, and why."""


def hierarchy(case: str) -> int:
    """1 or 2: the version of control groups that a case was recorded under."""
    for line in (VERDICTS / f"{case}.case").read_text().splitlines():
        if line.startswith('{"kind":"hello"'):
            return 2 if '"cgroup":2' in line else 1
    raise ValueError(f"{case} says nothing of its machine")


def twins(case: str) -> list[str]:
    """The sources that its twins lack."""
    names = sorted(p.stem for p in VERDICTS.glob(f"{case}.blind-*.case"))
    return [name.partition(".blind-")[2] for name in names]


def _cells(cases: tuple[str, ...], version: int) -> str:
    return "<br>".join(c for c in cases if hierarchy(c) == version) or "-"


def made() -> str:
    """The page."""
    lines = [
        "# Ways",
        "",
        "How containers are known to end, or to look dead to an exec: what causes each here on purpose (`./inv selftest --cause NAME`), and the",
        "recorded trials that hold the verdicts to it (`tests/verdicts`), by the version of control groups they were recorded under. A twin is the",
        "same trial with sources blind. This page is written by `python tests/ways.py`.",
        "",
        "| | way | caused by | v1 | v2 | twins without |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way in WAYS:
        cases = SHOWN.get(way.id, ())
        caused = "<br>".join(f"[{g}](../experiments/causes/{g}.yaml)" for g in way.gallery)
        blind = "<br>".join(sorted({t for case in cases for t in twins(case)})) or "-"
        lines.append(
            f"| {way.id} | {way.about} | {caused or 'not here: ' + way.why_not} | {_cells(cases, 1)} | {_cells(cases, 2)} | {blind} |"
        )
    lines += ["", "Without a recorded trial:", ""]
    lines += [f"- {way}: {why}." for way, why in sorted(NOT_RECORDED.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(made())
