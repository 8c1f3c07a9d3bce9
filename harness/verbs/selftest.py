"""`selftest`: cause every death on purpose and hold the verdicts to it."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness import clock, matrix, scale, spec, store
from harness.errors import BadInput, EnvironmentInvalid, ExitCode, Problem
from harness.machine import choose
from harness.model.experiment import MachineSpec
from harness.report.accuracy import Accuracy, Truth
from harness.report.progress import Progress
from harness.scale import Ended, Options
from harness.schedule import Schedule
from harness.store import Campaign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.model.experiment import TrialSpec
    from harness.spec import Loaded

# Large enough for an engine and what the gallery runs, small enough to be filled in a second.
PEN = MachineSpec(kind="pen", memory=512 << 20, disk=1 << 30)
RESULT = "selftest.json"


def main(
    *,
    n: int = 3,
    cause: str = "",
    monitors: str = "light",
    seed: int = 1,
    json: bool = False,
) -> int:
    """Exit code 0 when nothing was wrong, 4 when something was, 3 when it could not be run."""
    gallery, impossible = _gallery([c for c in cause.split(",") if c])
    choose.check(PEN)
    truths, specs = _trials(gallery, n, seed)
    campaign = Campaign.create("selftest", _meta(monitors, seed, n))
    progress = Progress(lambda: clock.now() / clock.NS, quiet=json)
    print(f"campaign {campaign.name}: {campaign.path}", file=sys.stderr)
    progress.begin(len(specs))
    try:
        ending = scale.run(
            campaign, Schedule(specs), progress=progress, options=Options(monitors=monitors)
        )
    finally:
        progress.end()
    accuracy = Accuracy()
    for line in campaign.verdicts():
        accuracy.add(truths[str(line["trial"]).rpartition("/")[0]], line)
    document = {
        "format": "deathbench.selftest/1",
        "version": harness.__version__,
        "machine": {**(campaign.meta().get("machine") or {}), "monitors": monitors},
        **accuracy.document(),
        "not_possible": [{"cause": name, "why": why} for name, why in impossible.items()],
        "exit": int(_code(accuracy, ending.how)),
    }
    if not cause and ending.how is Ended.COMPLETE:
        store.replace_file(store.results_root() / RESULT, jsonlib.dumps(document))
    if json:
        print(jsonlib.dumps(document, ensure_ascii=False))
    else:
        print(accuracy.text())
        for name, why in impossible.items():
            print(f"not here: {name}: {why}")
    if ending.how is not Ended.COMPLETE:
        print(f"stopped: {ending.why}", file=sys.stderr)
    return int(document["exit"])


def known() -> dict[str, Any] | None:
    """What the last whole self-test of this version found on this machine; for every table."""
    try:
        said = jsonlib.loads((store.results_root() / RESULT).read_text())
    except (OSError, ValueError):
        return None
    if said.get("version") != harness.__version__ or said["machine"].get("kernel") != platform.release():
        return None
    return {key: said[key] for key in ("right", "unknown", "wrong", "version")}


def _code(accuracy: Accuracy, how: Ended) -> ExitCode:
    if how is Ended.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if how is not Ended.COMPLETE:
        return ExitCode.ENVIRONMENT
    return ExitCode.WORSE if accuracy.total("wrong") else ExitCode.OK


def _gallery(asked: list[str]) -> tuple[dict[str, Loaded], dict[str, str]]:
    """The experiments to run by name, and those that this machine can not run, with the reason.

    Raises:
        BadInput: no gallery, or a name that is not in it.
    """
    folder = Path(os.environ.get("DEATHBENCH_ROOT", ".")) / "experiments" / "causes"
    files = {p.stem: p for p in sorted(folder.glob("*.yaml"))}
    if not files:
        raise EnvironmentInvalid(
            "no gallery of causes here", where=str(folder), mend="run it from the project's folder"
        )
    if unknown := [a for a in asked if a not in files]:
        raise BadInput(
            [
                Problem("command line", f"--cause {u}", "not in the gallery", f"one of {', '.join(files)}")
                for u in unknown
            ],
            about="the command line",
        )
    loaded: dict[str, Loaded] = {}
    impossible: dict[str, str] = {}
    for name, path in files.items():
        if asked and name not in asked:
            continue
        one = spec.load_experiment(path)
        why = _not_here(one)
        if why:
            impossible[name] = why
        else:
            loaded[name] = one
    for path in sorted((folder / "vm").glob("*.yaml")):
        if not asked:
            impossible[path.stem] = "needs a virtual machine of its own"
    return loaded, impossible


def _not_here(loaded: Loaded) -> str:
    if loaded.experiment.expect is None:
        return "its file does not say what to expect"
    if loaded.experiment.container.privileged and not _may_be_privileged():
        return "needs a privileged container, which this host does not allow"
    return ""


def _may_be_privileged() -> bool:
    """CAP_SYS_RESOURCE (bit 24) in the bounding set: without it runc can not raise limits."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    found = next((s for s in status.splitlines() if s.startswith("CapBnd:")), "CapBnd: 0")
    return bool(int(found.split()[1], 16) >> 24 & 1)


def _trials(
    gallery: dict[str, Loaded], n: int, seed: int
) -> tuple[dict[str, Truth], Sequence[TrialSpec]]:
    """n trials of each, every experiment on a pen of its own: what it breaks stays with it."""
    truths: dict[str, Truth] = {}
    specs: list[TrialSpec] = []
    for block, (name, loaded) in enumerate(gallery.items()):
        expect = loaded.experiment.expect
        assert expect is not None
        truths[name] = Truth(name, expect.outcome, expect.cause)
        one = matrix.plan(loaded, seed)[0]
        specs.extend(
            dataclasses.replace(
                one,
                trial=f"{name}/{i}",
                cell=name,
                config={"cause": name},
                n=i,
                block=block,
                machine=PEN,
            )
            for i in range(1, n + 1)
        )
    return truths, specs


def _meta(monitors: str, seed: int, n: int) -> dict[str, Any]:
    return {
        "started": clock.utc().isoformat(),
        "monitors": monitors,
        "seed": seed,
        "n": n,
        "versions": {"deathbench": harness.__version__, "python": platform.python_version()},
    }
