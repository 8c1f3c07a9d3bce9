"""The part of docs/causes.md that is made from the lists: `python tests/pages.py` writes it.

Rule: causes come from `model.causes`, evidence of deaths from the rule table, what can be
caused on purpose from `experiments/causes`. Only how an exec's failure is decided is written
here, since there it is code and no table; a cause that no code says is told as such.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from harness.attribution.rules import RULES  # noqa: E402
from harness.attribution.table import title  # noqa: E402
from harness.model.causes import CAUSES, MECHANISMS  # noqa: E402
from harness.model.verdicts import Certainty, Hypothesis  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.attribution.table import Look

PAGE = ROOT / "docs" / "causes.md"
MARK = "<!-- From here on written by `python tests/pages.py`. -->\n"
GALLERY = ROOT / "experiments" / "causes"

OF = {
    "death": "ends the container",
    "exec": "fails the exec, the container lives",
    "both": "ends the container, or fails the exec",
}

BY_EXEC = {
    "memory-stall": "no answer, and `memory.oom_control` says `under_oom` with the OOM killer off",
    "pids-limit": "the kernel's line, or `pids.events`, counts a refused fork during the exec",
    "cpu-throttled": "no answer, and `cpu.stat` counts at least half of the periods as throttled",
    "exec-memory-limit": "the kernel's OOM record names a process of the container, at the container's own limit, during the exec",
    "dockerd-unreachable": "the connection itself failed (no socket, refused, reset); certain when dockerd was seen gone",
    "dockerd-hung": "no answer, and dockerd was seen stopped",
    "dockerd-fds": "the engine's words, or dockerd's log: too many open files",
    "containerd-down": "the engine's words (`unavailable`); certain when containerd was seen gone",
    "containerd-hung": "no answer, and containerd was seen stopped",
    "shim-killed": "the engine's words (`container is not running`, without an id); certain when the shim was seen gone",
    "lost-exit": "the runtime refuses an exec in a stopped container, and the engine goes on calling it running: long afterwards, or while containerd had been away",
    "main-stopped": "no answer, and its main process had been stopped by a signal; at most likely",
    "dockerd-start-failed": "the connection itself failed, and dockerd's log says that it could not start",
    "vm-oom-daemon": "the connection itself failed, and the kernel's OOM killer had chosen dockerd or containerd",
    "daemon-pids-limit": "the engine could not make a process, and the kernel log has a fork refused outside every container",
    "disk-full": "words of no space left, the engine's or the command's, and a file system of the engine that was full meanwhile",
    "rootfs-lost": "it ran and found or made no file, after the writable layer of the root file system had been deleted",
    "shim-hung": "no answer, and the container's shim was seen stopped",
    "vm-suspended": "the machine's clocks jumped by at least half of the time that the exec was waited for",
    "mount-source-deleted": "the mount table marks the source as deleted, and the command found nothing below it; or the engine refuses its working directory as outside the container",
    "mount-lost": "the mount table lost the mount, and the command complained of a path below it, or came right after",
    "mount-race": "the exec fell into the remount while the container's mount table changed",
    "remount-race": "the exec was refused or cut off inside a stop that the harness itself had ordered: the request of the stop, the refusal, and no later start between them (this one ends the trial as died)",
    "docker-pause": "the engine's words, or its `pause` event",
    "cgroup-frozen": "the engine's words, or no answer while `cgroup.events` or `freezer.state` says frozen and the engine was not asked to pause",
    "no-such-container": "the engine's words",
    "restart-loop": "the engine's words: it waits out the restart policy's pause",
    "exec-command-missing": "the engine's words, and neither a lost mount nor a remount under way explains them",
    "exec-not-executable": "the engine's words",
    "exec-bad-cwd": "the engine's words",
    "exec-bad-user": "the engine's words",
    "exec-bad-request": "the engine's words",
    "exec-error": "it ran and left with an error status, and nothing above was seen; certain with the raw wait status",
    "exec-killed": "status 137, and somebody's SIGKILL to a process of the container was seen meanwhile",
    "exec-timeout": "no answer; the engine started it, it has not ended, the engine answered afterwards, and nothing was seen standing still by tracer and control groups",
    "unknown": "no rule's evidence is there, or two rules with different hypotheses fit alike",
}
"""How `attribution.execs`, `standstill` and `race` decide, in one line each."""


def said() -> set[str]:
    """Every cause that some rule or branch of the judge can say."""
    text = "".join(
        (ROOT / "harness" / "attribution" / f"{name}.py").read_text()
        for name in ("execs", "standstill", "race", "judge")
    )
    return {rule.cause for rule in RULES} | (
        set(re.findall(r'"([a-z][a-z0-9-]+)"', text)) & set(CAUSES)
    )


def examples() -> dict[str, list[str]]:
    """Cause → experiments that are known to come to it alone."""
    found: dict[str, list[str]] = {}
    for path in sorted(GALLERY.glob("*.yaml")):
        expected = yaml.safe_load(path.read_text()).get("expect") or {}
        causes = expected.get("cause") or []
        causes = [causes] if isinstance(causes, str) else causes
        if len(causes) == 1:
            found.setdefault(causes[0], []).append(path.name)
    return found


def _list(looks: Iterable[Look]) -> str:
    return "; ".join(_words(look) for look in looks)


def _words(look: Look) -> str:
    """What is looked for; where one look is made for several reasons, with its reasons."""
    faults = inspect.getclosurevars(look).nonlocals.get("faults", ())
    words = {"other": "anything else"}
    return title(look) + (f" ({', '.join(words.get(f, f) for f in faults)})" if faults else "")


def rules(name: str) -> list[str]:
    lines: list[str] = []
    for rule in (r for r in RULES if r.cause == name):
        most = "" if rule.most is Certainty.CERTAIN else " (at most likely)"
        line = f"- **Needs{most}:** {_list(rule.needs)}."
        if rule.supports:
            line += f" **Supported by:** {_list(rule.supports)}."
        if rule.forbids:
            line += f" **Not if:** {_list(rule.forbids)}."
        if rule.must_watch:
            line += f" **Must have watched:** {', '.join(rule.must_watch)}."
        line += f" **Otherwise one would see:** {rule.otherwise}."
        if line not in lines:
            lines.append(line)
    return lines


def made() -> str:
    """The whole generated part."""
    there, speaks = examples(), said()
    lines: list[str] = []
    for hypothesis in Hypothesis:
        lines += [f"## {hypothesis.value} (`{hypothesis.short}`)", ""]
        for cause in (c for c in CAUSES.values() if c.hypothesis is hypothesis):
            lines += [f"### {cause.id}", "", f"{cause.about[0].upper()}{cause.about[1:]}."]
            about = OF[cause.of].capitalize() + "."
            if cause.broader:
                about += f" Less evidence: `{cause.broader}`."
            lines += [about, ""]
            body = rules(cause.id)
            if cause.id in BY_EXEC and cause.id in speaks:
                where = "Decided" if cause.of != "both" else "For an exec, decided"
                body.append(f"- **{where} by:** {BY_EXEC[cause.id]}.")
            if not body:
                body.append(
                    "- Known, but no rule says it: such a trial is `unknown`, or the nearest that is seen."
                )
            if names := there.get(cause.id):
                body.append(
                    "- **To see one:** "
                    + ", ".join(f"[{n}](../experiments/causes/{n})" for n in names)
                )
            lines += [*body, ""]
    lines += ["## Steps of a path that are no causes", ""]
    lines += [f"- `{name}`: {about}" for name, about in MECHANISMS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    head, _, _ = PAGE.read_text().partition(MARK)
    PAGE.write_text(head + MARK + "\n" + made())
