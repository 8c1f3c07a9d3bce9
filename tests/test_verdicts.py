"""Recorded trials and what the judge says of them, one file each in tests/verdicts/.

A case is a header (`# comment`, `KEY: value`), a blank line, and the trial's events as
JSON lines. A twin has no events of its own: `OF: case` names whose they are and `BLIND:
source source` which of its sources could not see from the container's start on.
`pytest tests/test_verdicts.py --update` rewrites the expectations.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import events as e
from harness.attribution import judge
from harness.history import build
from harness.model.causes import CAUSES
from harness.model.verdicts import Certainty, Outcome

FOLDER = Path(__file__).parent / "verdicts"
CASES = sorted(FOLDER.glob("*.case"))
EXPECTED = ("OUTCOME", "CAUSE", "HYPOTHESIS", "CERTAINTY", "PATH", "SENDER", "REJECTS")
SPEAKS = {
    "trace": ("trace", "sender", "death"),
    "main": ("main",),
}
RANK = {None: -1, "unknown": 0, "likely": 1, "certain": 2}


def read(path):
    """(comments, header, events) of a case; a twin's events are its original's, blinded."""
    head, _, body = path.read_text().partition("\n\n")
    comments = [line for line in head.splitlines() if line.startswith("#")]
    header = dict(line.split(": ", 1) for line in head.splitlines() if not line.startswith("#"))
    if "OF" in header:
        _, _, events = read(path.with_name(header["OF"] + ".case"))
        return comments, header, blinded(events, header["BLIND"].split())
    events = [e.decode(line) for line in body.splitlines() if line]
    assert all(event is not None for event in events), f"{path.name} holds a line that is no event"
    return comments, header, events


def blinded(events, sources):
    """The same trial, in which these sources say that they could not see."""
    start = min((x.t for x in events if isinstance(x, e.MainProcess)), default=0) - 1
    kept = []
    for event in events:
        for source in sources:
            names = SPEAKS.get(source, (source,))
            if event.source in names and event.t >= start and not isinstance(event, e.SourceState):
                break
        else:
            kept.append(event)
    common = {"t": start, "seen": start, "begin": start, "end": None, "why": "overrun"}
    gaps = [e.Gap(n=10**6 + i, source=s, name=s, **common) for i, s in enumerate(sources)]
    return [*kept, *gaps]


def said(judgement):
    """What the header says of a judgement."""
    verdict = judgement.verdict
    found = {"OUTCOME": judgement.outcome.value}
    if verdict is not None:
        found |= {
            "CAUSE": verdict.cause,
            "HYPOTHESIS": verdict.hypothesis.value,
            "CERTAINTY": verdict.certainty.value,
            "PATH": " ".join(verdict.path),
        }
        if verdict.sender is not None:
            found["SENDER"] = verdict.sender.kind.value
    return found


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_case(path, request):
    """The judge says of a recorded trial what its file says."""
    comments, header, events = read(path)
    judgement = judge(build(events))
    got = said(judgement)
    rejected = {r.cause for r in judgement.verdict.rejected} if judgement.verdict else set()
    if request.config.getoption("--update"):
        kept = {k: v for k, v in header.items() if k not in EXPECTED or k == "REJECTS"}
        lines = [*comments, *(f"{k}: {v}" for k, v in {**kept, **got}.items())]
        _, _, body = path.read_text().partition("\n\n")
        path.write_text("\n".join(lines) + "\n\n" + body)
        return
    wanted = {k: v for k, v in header.items() if k in EXPECTED and k != "REJECTS"}
    assert wanted == got
    assert set(header.get("REJECTS", "").split()) <= rejected
    if judgement.verdict is not None:
        assert set(judgement.verdict.cites) <= {event.n for event in events}


@pytest.mark.parametrize("path", [p for p in CASES if ".blind-" in p.name], ids=lambda p: p.stem)
def test_a_twin_says_less(path):
    """With a source blind a verdict is the same, weaker, or unknown: never another hypothesis."""
    _, header, _ = read(path)
    _, original, _ = read(path.with_name(header["OF"] + ".case"))
    if header["OUTCOME"] == Outcome.DIED.value and original["OUTCOME"] == Outcome.DIED.value:
        assert header["HYPOTHESIS"] in (original["HYPOTHESIS"], "unknown")
        assert RANK[header["CERTAINTY"]] <= RANK[original["CERTAINTY"]]


def test_what_stands_in_the_headers_is_of_the_closed_lists():
    """Causes, certainties and outcomes in the files are words the program knows."""
    for path in CASES:
        _, header, _ = read(path)
        assert header["OUTCOME"] in set(Outcome), path.name
        assert header.get("CAUSE", "unknown") in CAUSES, path.name
        assert header.get("CERTAINTY", "unknown") in set(Certainty), path.name
