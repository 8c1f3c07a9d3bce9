"""`selftest`: cause every death on purpose and hold the verdicts to it."""

from __future__ import annotations

import dataclasses
import hashlib
import json as jsonlib
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import clock, events, matrix, process, scale, spec, store
from harness.errors import BadInput, EnvironmentInvalid, ExitCode, Problem
from harness.model.experiment import MachineSpec, Neighbours
from harness.model.ways import WAYS
from harness.report.accuracy import Accuracy, Truth
from harness.report.progress import Progress
from harness.runner.world import RealWorld
from harness.schedule import replay
from harness.store import Campaign, Ended
from harness.verbs import known
from harness.verbs.sweep import options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.model.experiment import TrialSpec
    from harness.runner.world import World
    from harness.scale import Ending, Options
    from harness.spec import Loaded

# Large enough for an engine and what the gallery runs, small enough to be filled in a second.
PEN = MachineSpec(kind="pen", memory=512 << 20, disk=1 << 30)
# Every processor busy, and a stranger's death twice a second: what verdicts must not be taken in by.
LOAD = Neighbours(count=20, dying=True)


def main(
    *,
    n: int = 3,
    cause: str = "",
    monitors: str = "light",
    jobs: int = 1,
    load: bool = False,
    vm: bool = False,
    resume: str = "",
    json: bool = False,
    world: World | None = None,
) -> int:
    """Exit code 0 when nothing was wrong, 4 when something was, 3 when it could not be run.

    Args:
        load: Between bystanders that keep both processors busy, start and die.
        vm: The entries that need a virtual machine, and only these.
        resume: An unfinished self-test, with the settings it began with.
        world: Where machines come from; None: this host's.
    """
    world = world or RealWorld()
    if resume:
        campaign = Campaign.open(None if resume == "latest" else resume)
        asked = _asked(campaign)
    else:
        campaign = None
        asked = {"n": n, "cause": cause, "monitors": monitors, "load": load, "vm": vm, "seed": 1}
    chosen = options(monitors=str(asked["monitors"]), jobs=jobs)
    gallery, impossible = _gallery([c for c in str(asked["cause"]).split(",") if c], vm=asked["vm"])
    truths, specs = _trials(gallery, int(asked["n"]), int(asked["seed"]), load=bool(asked["load"]))
    for machine in dict.fromkeys(one.machine for one in specs):
        world.check(machine)
    print_of = _print(gallery)
    if campaign is None:
        campaign = Campaign.create("selftest", {**_meta(asked), "gallery": print_of})
    elif campaign.meta().get("gallery") != print_of:
        raise _another_gallery(campaign)
    ending = _run(campaign, specs, chosen, world, quiet=json)
    accuracy = Accuracy()
    # A trial that was run again counts as it was judged last.
    for trial, line in {str(v["trial"]): v for v in campaign.verdicts()}.items():
        name = trial.rpartition("/")[0]
        late = _not_caused(campaign, trial, gallery[name], line)
        accuracy.add(truths[name], {**line, **late})
    document = _document(campaign, accuracy, ending, asked, impossible)
    whole = not asked["cause"] and not asked["vm"] and not asked["load"]
    if whole and ending.how is Ended.COMPLETE:
        store.replace_file(known.result(str(asked["monitors"])), jsonlib.dumps(document))
    _show(document, accuracy, json=json)
    if ending.how is not Ended.COMPLETE:
        print(
            f"stopped: {ending.why}; go on with: {process.called()} selftest --resume {campaign.name}",
            file=sys.stderr,
        )
    return int(document["exit"])


def _run(
    campaign: Campaign, specs: Sequence[TrialSpec], chosen: Options, world: World, *, quiet: bool
) -> Ending:
    outcomes = {v["trial"]: v["outcome"] for v in campaign.verdicts()}
    # A trial whose writer was killed before it was judged is judged now.
    done = [
        {**t, "outcome": outcomes.get(t["trial"]) or scale.judge_late(campaign, t)}
        for t in campaign.trials()
    ]
    progress = Progress(lambda: world.clock.now() / clock.NS, quiet=quiet)
    print(f"campaign {campaign.name}: {campaign.path}", file=sys.stderr)
    progress.begin(len(specs), done=len(done))
    try:
        return scale.run(
            campaign, replay(specs, done), progress=progress, options=chosen, world=world
        )
    finally:
        progress.end()


def _not_caused(
    campaign: Campaign, trial: str, loaded: Loaded, line: Mapping[str, Any]
) -> dict[str, str]:
    """A survivor whose injection was not done when its pre-task began was right to survive.

    Asked of survivors alone: whatever is said of a death or of a failed exec is held to the truth.
    """
    if line.get("outcome") != "survived":
        return {}
    began, done = None, set[int]()
    for event in campaign.events(trial):
        if isinstance(event, events.Phase) and (event.phase, event.edge) == ("pre-task", "begin"):
            began = event.t
        elif isinstance(event, events.Note) and event.what == "injection":
            end = event.t + int(float(event.data["seconds"]) * clock.NS)
            if event.data["why"] is None and (began is None or end <= began):
                done.add(int(event.data["index"]))
    missing = [
        one.what
        for index, one in enumerate(loaded.experiment.inject)
        if one.at not in {"pre-task", "linger"} and index not in done
    ]
    if not missing:
        return {}
    return {"outcome": "invalid", "why": f"not caused in time: {', '.join(missing)}"}


def _document(
    campaign: Campaign,
    accuracy: Accuracy,
    ending: Ending,
    asked: Mapping[str, Any],
    impossible: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "format": "deathbench.selftest/1",
        "version": known.version(),
        "campaign": campaign.name,
        "machine": campaign.meta().get("machine") or {},
        "monitors": asked["monitors"],
        "load": asked["load"],
        **accuracy.document(),
        "not_possible": [{"cause": name, "why": why} for name, why in impossible.items()],
        "not_causable": [
            {"way": way.id, "about": way.about, "why": way.why_not} for way in WAYS if way.why_not
        ],
        "exit": int(_code(accuracy, ending.how)),
    }


def _show(document: Mapping[str, Any], accuracy: Accuracy, *, json: bool) -> None:
    if json:
        print(jsonlib.dumps(document, ensure_ascii=False))
        return
    print(accuracy.text())
    for one in document["not_seen"]:
        print(f"not seen here: {one['cause']}: {one['why']}")
    for one in document["not_possible"]:
        print(f"not caused here: {one['cause']}: {one['why']}")
    for one in document["not_causable"]:
        print(f"caused nowhere: {one['about']} ({one['way']}): {one['why']}")


def _asked(campaign: Campaign) -> dict[str, Any]:
    """What an unfinished self-test was asked for.

    Raises:
        BadInput: the campaign is none.
    """
    asked: dict[str, Any] | None = campaign.meta().get("selftest")
    if asked is None:
        why = f"{campaign.name} is no self-test"
        fix = "the name that the self-test printed when it began"
        raise BadInput([Problem("command line", "--resume", why, fix)], about="the command line")
    return asked


def _print(gallery: Mapping[str, Loaded]) -> str:
    """One word for the content of all files that are run."""
    frozen = {name: loaded.frozen() for name, loaded in gallery.items()}
    return hashlib.sha256(repr(frozen).encode()).hexdigest()[:12]


def _another_gallery(campaign: Campaign) -> BadInput:
    why = f"experiments/causes is not what it was when {campaign.name} began"
    fix = "leave --resume out: a self-test of two galleries says nothing about either"
    return BadInput([Problem("command line", "--resume", why, fix)], about="the command line")


def _code(accuracy: Accuracy, how: Ended) -> ExitCode:
    if how is Ended.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if how is not Ended.COMPLETE:
        return ExitCode.ENVIRONMENT
    return ExitCode.WORSE if accuracy.total("wrong") else ExitCode.OK


def _gallery(asked: list[str], *, vm: bool) -> tuple[dict[str, Loaded], dict[str, str]]:
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
                Problem(
                    "command line",
                    f"--cause {u}",
                    "not in the gallery",
                    f"one of {', '.join(files)}",
                )
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
        if vm and not asked and _machine(one).kind != "vm":
            continue
        why = _not_here(one, vm=vm)
        if why:
            impossible[name] = why
        else:
            loaded[name] = one
    return loaded, impossible


def _machine(loaded: Loaded) -> MachineSpec:
    """What it needs, with the self-test's own sizes where it does not care."""
    expect = loaded.experiment.expect
    if expect is None or expect.on is None:
        return PEN
    if expect.on.kind != "pen":
        return expect.on
    return expect.on.model_copy(
        update={
            k: v
            for k, v in (("memory", PEN.memory), ("disk", PEN.disk))
            if getattr(expect.on, k) is None
        }
    )


def _not_here(loaded: Loaded, *, vm: bool) -> str:
    if loaded.experiment.expect is None:
        return "its file does not say what to expect"
    if _machine(loaded).kind == "vm" and not vm:
        return "needs a virtual machine (--vm)"
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
    gallery: dict[str, Loaded], n: int, seed: int, *, load: bool
) -> tuple[dict[str, Truth], Sequence[TrialSpec]]:
    """n trials of each, every experiment on a pen of its own: what it breaks stays with it.

    A virtual machine takes minutes to boot: those that need alike ones share one.
    """
    truths: dict[str, Truth] = {}
    specs: list[TrialSpec] = []
    blocks: dict[object, int] = {}
    for name, loaded in gallery.items():
        machine = _machine(loaded)
        block = blocks.setdefault(machine if machine.kind == "vm" else name, len(blocks))
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
                machine=machine,
                neighbours=LOAD if load else one.neighbours,
            )
            for i in range(1, n + 1)
        )
    return truths, sorted(specs, key=lambda one: one.block)


def _meta(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "started": clock.utc().isoformat(),
        "selftest": asked,
        "monitors": asked["monitors"],
        "versions": {"deathbench": known.version(), "python": platform.python_version()},
    }
