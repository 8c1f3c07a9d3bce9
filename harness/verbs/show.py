"""`show`: one trial in words, with the events that say so."""

from __future__ import annotations

import json as jsonlib
import re
from typing import TYPE_CHECKING, Any

from harness import events as e
from harness import units
from harness.errors import BadInput, Problem
from harness.model.verdicts import IN_PART
from harness.report import words as written
from harness.store import Campaign

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def main(trial: str = "", *, json: bool = False) -> int:
    """Print the trial's outcome, verdict and cited events."""
    campaign, name = _find(trial)
    record = next((r for r in campaign.trials() if r.get("trial") == name), None)
    judged: dict[str, Any] = {}
    for line in campaign.verdicts():
        if line.get("trial") == name:
            judged = line
    if record is None:
        raise _unknown(campaign, name)
    if json:
        keys = ("trial", "config", "delay", "exec")
        body = {"format": "deathbench.trial/1", **{k: record.get(k) for k in keys}}
        body |= {k: judged.get(k) for k in ("outcome", "death", "verdict", "why")}
        body |= {"exit": 0, "error": None}
        print(jsonlib.dumps(body, ensure_ascii=False))
        return 0
    print("\n".join(words(record, judged, campaign.events(name))))
    print(f"\nhistory: {campaign.trial_directory(name) / 'events.jsonl.zst'}")
    return 0


def words(
    record: Mapping[str, Any], judged: Mapping[str, Any], history: Iterable[e.Event]
) -> list[str]:
    """The lines to print."""
    lines = [
        f"{record['trial']}: {judged.get('outcome', 'not judged')}",
        f"  config   {written.config(dict(record.get('config') or {}))}",
    ]
    delay = record.get("delay") or {}
    lines.append(
        f"  delay    asked {_time(delay.get('asked'))}, happened {_time(delay.get('happened'))}"
    )
    ran = record.get("exec")
    if ran:
        lines.append(f"  exec     {_exec(ran)}")
    if judged.get("why"):
        lines.append(f"  why      {judged['why']}")
    verdict = judged.get("verdict")
    if not verdict:
        return lines
    lines += [
        "",
        f"  {verdict['sentence']}",
        "",
        f"  verdict  {verdict['hypothesis']}: {verdict['cause']} ({verdict['certainty']})",
        f"  path     {' → '.join(verdict['path'])}",
    ]
    if verdict.get("sender"):
        sender = verdict["sender"]
        who = "" if sender["pid"] is None else f", pid {sender['pid']} ({sender['name']})"
        lines.append(f"  sender   {sender['kind']}{who}")
    lines.extend(f"  not      {r['cause']}: {r['why']}" for r in verdict["rejected"])
    if verdict.get("runner_up"):
        lines.append(f"  next     {verdict['runner_up']}")
    lines.append(f"  saw      {', '.join(verdict['grade']['saw'])}")
    lines.extend(map(_blind, verdict["grade"]["blind"]))
    return lines + _cited(set(verdict["cites"]), (judged.get("death") or {}).get("at"), history)


def _blind(span: Mapping[str, Any]) -> str:
    """A source that did not see, or saw in part, and when."""
    why = str(span["why"])
    what = "in part" if why.startswith(IN_PART) else "blind"
    until = "the end" if span["to"] is None else span["to"]
    return (
        f"  {what:8} {span['source']} from {span['from']} to {until}: {why.removeprefix(IN_PART)}"
    )


def _time(seconds: float | None) -> str:
    """As a person reads it: three digits are more than enough."""
    return "?" if seconds is None else units.show_seconds(float(f"{seconds:.3g}"))


def _exec(ran: Mapping[str, Any]) -> str:
    """What was asked of the container and what it answered, with its state around that."""
    around = f"the container was {ran.get('before')} before and {ran.get('after')} after"
    if ran.get("error"):
        return f"refused after {_time(ran.get('seconds'))}: {_short(str(ran['error']))}; {around}"
    last = (ran.get("output") or "").strip().splitlines()[-1:]
    said = f", its last line: {_short(last[0])}" if last else ""
    code = ran.get("exit_code")
    ended = "did not end" if code is None else f"exit code {code}"
    return f"{ended} after {_time(ran.get('seconds'))}{said}; {around}"


def _short(text: str) -> str:
    """One printable line, its container ids cut as docker cuts them."""
    clean = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    clean = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", clean)
    return clean if len(clean) <= 160 else clean[:157] + "…"


def _cited(cites: set[int], death: float | None, history: Iterable[e.Event]) -> list[str]:
    """The events by number, each with its time from the death."""
    found = [event for event in history if event.n in cites]
    lines = ["", "  events"]
    for event in found:
        since = "" if death is None else f"{(event.t / 1e9 - death) * 1000:+9.2f} ms"
        lines.append(f"  {event.n:6}  {since}  {event.source:10} {brief(event)}")
    return lines


def brief(event: e.Event) -> str:
    """One event on one line."""
    match event:
        case e.TraceLine() | e.KernelLine() | e.DaemonLog() | e.HostLine() | e.Syscall():
            text = event.text
        case e.DockerEvent():
            text = f"{event.type} {event.action} {event.id[:12]} " + " ".join(
                f"{k}={v}"
                for k, v in event.attributes.items()
                if k in {"exitCode", "signal", "name"}
            )
        case e.ProcEvent():
            raw = "" if event.status is None else f" status={event.status:#x}"
            text = f"{event.what} pid={event.pid}{raw}"
        case e.Status():
            state = event.state or {}
            text = f"{event.label}: " + (
                event.error
                or " ".join(
                    f"{k}={state[k]}"
                    for k in ("Status", "ExitCode", "OOMKilled", "Error", "FinishedAt")
                    if k in state
                )
            )
        case e.CgroupSample():
            text = f"{event.scope} {event.path} " + " ".join(
                f"{k}={v!r}" for k, v in sorted(event.files.items())
            )
        case e.Exec():
            text = f"exec {event.label} {event.edge} {event.error or event.output.strip()[-120:]}"
        case e.ApiCall():
            text = f"our {event.call} {event.edge} {event.error or ''}"
        case e.PostMortem():
            text = "read at the death: " + ", ".join(sorted(event.files))
        case _:
            text = e.encode(event)
    return _short(text)


def _find(asked: str) -> tuple[Campaign, str]:
    """ "CELL/N" of the latest campaign, or "CAMPAIGN:CELL/N"."""
    name, _, rest = asked.rpartition(":")
    campaign = Campaign.open(name or None)
    if not rest:
        raise _unknown(campaign, asked)
    return campaign, rest


def _unknown(campaign: Campaign, asked: str) -> BadInput:
    verdicts = list(campaign.verdicts())
    dead = [v["trial"] for v in verdicts if v.get("outcome") == "died"]
    example = (dead or [v["trial"] for v in verdicts] or ["CELL/1"])[0]
    return BadInput(
        [
            Problem(
                "command line",
                f"trial: {asked!r}" if asked else "no trial",
                f"{campaign.name} has no such trial" if asked else "nothing says which to show",
                f"one of its {len(verdicts)}, e.g. {example}",
            )
        ],
        about="the command line",
    )
