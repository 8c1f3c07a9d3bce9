"""`bisect --run COMMAND`: a step among candidates that only a command can try.

Rule: the command is the user's; here it is run, its exit code is read as git reads it
(0 lived, 125 can not be told, 126 and above a mistake, everything else died), and every
run is a line on the disk before the next one starts.
"""

from __future__ import annotations

import json as jsonlib
import os
import sys
from typing import TYPE_CHECKING, Any

from harness import clock, process, store
from harness.errors import ExitCode
from harness.report import words
from harness.store import Campaign
from harness.verbs import hunts
from harness.verbs.hunting import bad

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = "deathbench.bisect/1"
LONGEST = 24 * 3600.0
_SKIP, _BROKEN = 125, 126
_MOST_SKIPS = 10


def main(
    candidates: str,
    command: str,
    *,
    most: int,
    budget: float | None,
    resume: str | bool,
    json: bool,
) -> int:
    """Search among candidates; the first is known good, the last known bad."""
    if resume:
        campaign = Campaign.open(None if resume is True or resume == "latest" else str(resume))
        frozen = campaign.meta()["bisect"]
        listed, command = frozen["candidates"], frozen["command"]
    else:
        listed = _candidates(candidates)
        if not command:
            raise bad("--candidates", "nothing tries a candidate", "--run 'COMMAND {}'")
        meta = {"bisect": {"kind": "command", "candidates": listed, "command": command}}
        campaign = Campaign.create("bisect-command", meta)
    search, steps = hunts.certified_step(len(listed)), []
    for line in store.read_lines(campaign.path / "steps.jsonl"):
        steps.append(line)
        if line["died"] is not None:
            search.tell(line["question"], line["died"])
    say, answer, hopeless = hunts.step_words(
        search,
        lambda i: listed[i],
        lambda bad, good: {"first_bad": listed[bad], "last_good": listed[good]},
    )
    print(f"campaign {campaign.name}: {campaign.path}", file=sys.stderr)
    if steps:
        print(f"{words.count(len(steps), 'trial')} from before: {say()}", file=sys.stderr)
    began = clock.now()
    why, skips = None, 0
    code = int(ExitCode.INCONCLUSIVE)
    try:
        while not search.done and len(steps) < most and why is None:
            if budget is not None and clock.seconds_since(began) >= budget:
                why = f"the budget of {budget:g} s is used up"
                break
            question = search.ask()
            died = _try(command, listed[question])
            skips = skips + 1 if died is None else 0
            line = {"question": question, "candidate": listed[question], "died": died}
            store.append_line(campaign.path / "steps.jsonl", line, sync=True)
            steps.append(line)
            if died is not None:
                search.tell(question, died)
                why = None if search.done else hopeless(most - len(steps))
            elif skips >= _MOST_SKIPS:
                why = f"{skips} runs in a row could not be told (exit 125)"
            came = {True: "died", False: "lived", None: "can not be told"}[died]
            left = "" if search.done else words.left(search.expected_left())
            print(f"{len(steps)} {listed[question]}: {came}; {say()}{left}", file=sys.stderr)
    except KeyboardInterrupt:
        why, code = (
            f"interrupted; go on with: {process.called()} bisect --resume {campaign.name}",
            130,
        )
    found = answer()
    if found.found:
        code = int(ExitCode.OK)
    elif why is None:
        why = f"not certain after {words.count(len(steps), 'trial')}"
    campaign.update_meta(answer={"value": found.value, "confidence": found.confidence}, why=why)
    if json:
        document: dict[str, Any] = {
            "format": FORMAT, "exit": code, "kind": "step", "campaign": campaign.name,
            "answer": found.value if found.found else None, "best": found.value,
            "confidence": found.confidence, "trials": len(steps), "restarts": 0, "steps": steps,
            "why": why,
        }  # fmt: skip
        print(jsonlib.dumps(document, ensure_ascii=False))
    else:
        print(("" if found.found else "not certain: ") + "\n".join(found.lines))
        print(f"confidence {words.percent(found.confidence)}, {words.count(len(steps), 'trial')}")
        if why:
            print(why)
    return code


def _candidates(text: str) -> Sequence[str]:
    if text.startswith("git:"):
        first, dots, last = text[4:].partition("..")
        log = process.run(("git", "rev-list", "--reverse", "--first-parent", text[4:]), deadline=60)
        if not dots or not log.ok or not first or not last:
            raise bad(f"--candidates {text}", log.why() if dots else "no range", "git:GOOD..BAD")
        # A range leaves its first commit out: that is the known good one.
        return [first, *log.text.split()]
    listed = [c.strip() for c in text.split(",") if c.strip()]
    if len(listed) < 2:
        raise bad(f"--candidates {text}", "a good and a bad one are needed", "OLD,…,NEW in order")
    return listed


def _try(command: str, candidate: str) -> bool | None:
    """Run the user's own line in the user's own shell: that is what it was written for."""
    line = command.replace("{}", candidate) if "{}" in command else command
    env = {**os.environ, "CANDIDATE": candidate}
    result = process.run(("/bin/sh", "-c", line), deadline=LONGEST, env=env)
    if result.code == _SKIP:
        return None
    if result.code >= _BROKEN or result.code < 0:
        tail = (result.err or result.out).decode(errors="replace").strip()[-300:]
        raise bad(
            f"--run {command}", f"exit code {result.code} for {candidate}: {tail}",
            "0: lived, 1 to 124: died, 125: can not be told",
        )  # fmt: skip
    return result.code != 0
