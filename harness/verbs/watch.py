"""`watch`: the probe on containers that somebody else manages; each death as it happens."""

from __future__ import annotations

import json as jsonlib
import platform
import signal
import sys
from typing import TYPE_CHECKING, Any

import harness
from harness import clock, engine, process, scale
from harness.attribution.sentence import plain
from harness.errors import BadInput, ExitCode, Problem
from harness.machine import choose
from harness.model.experiment import MachineSpec
from harness.model.verdicts import TrialRecord
from harness.runner.attend import Attendance
from harness.store import Campaign, verdict_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.model.verdicts import Judgement
    from harness.runner.attend import Ended


def main(
    containers: str = "",
    *,
    label: str = "",
    compose: str = "",
    all: bool = False,  # noqa: A002 - the option's own name
    context: str = "",
    monitors: str = "light",
    json: bool = False,
) -> int:
    """Watch until Ctrl-C; exit code 0 when nothing died, 4 when something did."""
    names = [n for n in containers.split(",") if n]
    if not (names or label or compose or all):
        raise BadInput(
            [
                Problem(
                    "command line",
                    "watch",
                    "it does not say whom",
                    "watch NAME,NAME, --label L, --compose PROJECT, or --all",
                )
            ],
            about="the command line",
        )
    machine = choose.make(MachineSpec(kind="host", context=context or None))
    machine.start()
    try:
        connected = engine.connect(machine.docker_host)
        wanted = _wanted(names, label, compose, everything=all)
        with Attendance(connected, machine.probe_site(), wanted, monitors=monitors) as attendance:
            found = attendance.find()
            campaign = Campaign.create("watch", _meta(machine))
            print(
                f"watching {found} containers on {machine.docker_host}; histories in"
                f" {campaign.path}; Ctrl-C ends it",
                file=sys.stderr,
                flush=True,
            )
            return _attend(attendance, campaign, json=json)
    finally:
        machine.stop()


def _attend(attendance: Attendance, campaign: Campaign, *, json: bool) -> int:
    def stop(*_: Any) -> None:
        attendance.stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    died = 0
    for ended in attendance.ended():
        judgement, history = _keep(campaign, ended)
        died += judgement.outcome.value == "died"
        _tell(ended, judgement, history, json=json)
    print(f"{died} deaths; {process.called()} table {campaign.name}", file=sys.stderr)
    return int(ExitCode.WORSE if died else ExitCode.OK)


def _wanted(
    names: list[str], label: str, compose: str, *, everything: bool
) -> Callable[[dict[str, Any]], bool]:
    """Names, ids (their beginning), a label ("key" or "key=value"), a Compose project."""
    key, equals, value = label.partition("=")

    def test(row: dict[str, Any]) -> bool:
        if everything:
            return True
        labels = row.get("Labels") or {}
        called = {str(n).lstrip("/") for n in row.get("Names") or ()}
        identity = str(row["Id"])
        if any(n in called or (len(n) >= 4 and identity.startswith(n)) for n in names):
            return True
        if label and key in labels and (not equals or labels[key] == value):
            return True
        return bool(compose) and labels.get("com.docker.compose.project") == compose

    return test


def _meta(machine: Any) -> dict[str, Any]:
    return {
        "started": clock.utc().isoformat(),
        "versions": {"deathbench": harness.__version__, "python": platform.python_version()},
        "machine": machine.facts().document(),
    }


def _keep(campaign: Campaign, ended: Ended) -> tuple[Judgement, Path]:
    """Store the history, then judge it from the disk, as `judge` will; where it is stored."""
    # A container's name is its owner's choice; as a directory name it has letters only.
    cell = (
        "".join(c if c.isalnum() or c in "._-" else "_" for c in ended.name).strip(".")
        or "container"
    )
    trial = f"{cell}/{ended.n}"
    n = ended.n
    while campaign.trial_directory(trial).exists():  # another container had the same name
        n += 1
        trial = f"{cell}/{n}"
    writer = campaign.writer(trial)
    for event in ended.history:
        writer.add(event)
    count, checksum = writer.close()
    record = TrialRecord(
        trial=trial,
        cell=cell,
        n=n,
        config={"container": ended.name},
        seed=0,
        block=0,
        warm_up=False,
        began=clock.utc().isoformat(),
        delay_asked=0.0,
        delay_happened=None,
        exec=None,
        spans={},
        aborted=None,
        events=count,
        sha256=checksum,
        extra={"containers": {"main": ended.container}, "trial": trial},
    )
    campaign.finish(record)
    judgement = scale.judge(campaign, {"trial": trial, "aborted": None})
    campaign.add_verdict(trial, judgement)
    return judgement, campaign.trial_directory(trial) / "events.jsonl.zst"


def _tell(ended: Ended, judgement: Judgement, history: Path, *, json: bool) -> None:
    line = verdict_line("", judgement)
    if json:
        body = {
            "format": "deathbench.watch/1",
            "container": {"id": ended.container, "name": ended.name},
            "at": None if judgement.death is None else judgement.death.at / clock.NS,
            "seen": clock.utc().isoformat(),
            "outcome": line["outcome"],
            "death": line["death"],
            "verdict": line["verdict"],
            "why": line["why"],
            "history": str(history),
        }
        print(jsonlib.dumps(body, ensure_ascii=False), flush=True)
        return
    stamp = clock.utc().strftime("%H:%M:%S")
    verdict = judgement.verdict
    said = verdict.sentence if verdict else (judgement.why or "")
    cause = f" {verdict.hypothesis}: {verdict.cause} ({verdict.certainty})" if verdict else ""
    # Names and last words are others' choice; a terminal obeys them.
    head = plain(f"{stamp} {ended.name} {line['outcome']}{cause}")
    print(f"{head}\n    {plain(said)}\n    {_cites(judgement)}{history}", flush=True)


def _cites(judgement: Judgement) -> str:
    """The numbers of the events that say so, as a line of its own."""
    cites = judgement.verdict.cites if judgement.verdict else ()
    return f"events {', '.join(map(str, cites))} of\n    " if cites else ""
