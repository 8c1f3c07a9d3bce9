"""`judge`: attribute again from the stored events. Nothing is run, no engine is asked."""

from __future__ import annotations

import sys

from harness import scale
from harness.store import Campaign, verdict_line
from harness.verbs import table


def main(campaign: str = "", *, json: bool = False) -> int:
    """Judge every stored trial anew, replace the verdicts at once, print the table."""
    opened = Campaign.open(campaign or None)
    before = {str(v.get("trial")): v for v in opened.verdicts()}
    lines = []
    changed = 0
    for record in opened.trials():
        line = verdict_line(str(record["trial"]), scale.judge(opened, record))
        lines.append(line)
        old = before.get(str(record["trial"]))
        line["seconds"] = None if old is None else old.get("seconds")
        changed += old is not None and _essence(old) != _essence(line)
    opened.replace_verdicts(lines)
    said = "no verdict changed" if not changed else f"{changed} verdicts changed"
    print(f"judged {len(lines)} trials of {opened.name} again: {said}", file=sys.stderr)
    return table.show(table.of(opened), json=json)


def _essence(line: dict[str, object]) -> tuple[object, object]:
    """What a reader would call the judgement: outcome and cause."""
    verdict = line.get("verdict")
    return line.get("outcome"), verdict.get("cause") if isinstance(verdict, dict) else None
