"""What `bisect`, `confirm` and `nightly` share: a search made of real configurations.

Rule: a `Hunt` says what is asked, what each question means as a trial, and how the answer
reads. How trials are run is `scale`'s business, how questions are chosen is `stats`'.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from harness import clock, process, scale, store
from harness.errors import BadInput, Problem
from harness.machine import choose
from harness.matrix import derive
from harness.model.experiment import TrialSpec
from harness.report import environment, words
from harness.report.progress import Progress
from harness.schedule import Arm, Asking
from harness.store import Campaign, Ended
from harness.verbs import plan, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from harness.matrix import Cell
    from harness.scale import Ending, Options
    from harness.schedule import Asker, Schedule, Step


@dataclass(slots=True)
class Hunt:
    """A search ready to run.

    Attributes:
        kind: step, threshold, culprit, confirm.
        cell_of: Question → its cell.
        questions: How many.
        hopeless: Trials that are left → why to give up, or None.
        shown: Question → the configuration in a few words.
        say: The state of the search in a few words, after each step.
        answer: (answer as plain values, confidence 0-1, exit code, lines for people).
    """

    kind: str
    asker: Asker
    questions: int
    cell_of: Callable[[int], Cell]
    say: Callable[[], str]
    answer: Callable[[], Answer]
    hopeless: Callable[[int], str | None] = lambda _: None
    shown: Callable[[int], str] | None = None
    machine_of: Callable[[int], Any] | None = None
    old: int = 0
    names: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search came to.

    Attributes:
        found: What was looked for, surely.
        nowhere: Surely there is none to be found.
    """

    value: dict[str, Any] | None
    confidence: float
    lines: tuple[str, ...]
    found: bool
    nowhere: bool = False


def arm_of(hunt: Hunt, seed: int) -> Callable[[int], Arm]:
    """Question → what the schedule needs to make its trials."""

    def make(question: int) -> Arm:
        cell = hunt.cell_of(question)
        hunt.names[cell.name] = question

        def trial(n: int, block: int) -> TrialSpec:
            name = f"{cell.name}/{n}"
            return TrialSpec(
                trial=name, cell=cell.name, n=n, config=dict(cell.config),
                experiment=cell.experiment, machine=cell.machine,
                seed=derive(seed, "trial", name), block=block, warm_up=False,
                neighbours=cell.neighbours,
            )  # fmt: skip

        return Arm(cell.name, cell.config, cell.machine, trial)

    return make


def run(
    hunt: Hunt,
    campaign: Campaign,
    *,
    seed: int,
    most: int,
    options: Options,
    restart: float,
    quiet: bool,
) -> tuple[Asking, Ending]:
    """All trials of a hunt, those that a resumed campaign has already included."""
    progress = Progress(lambda: clock.now() / clock.NS, quiet=quiet, told=True)
    asking = Asking(
        hunt.asker, hunt.questions, arm_of(hunt, seed),
        hunt.machine_of or (lambda q: hunt.cell_of(q).machine),
        most=most, restart=restart, budget=options.budget, hopeless=hunt.hopeless,
    )  # fmt: skip
    done = list(finished(campaign))
    if done:
        # Question names are known once each question has been turned into its cell.
        wanted = {str(t["cell"]) for t in done}
        for question in range(hunt.questions):
            if not wanted - set(hunt.names):
                break
            hunt.names.setdefault(hunt.cell_of(question).name, question)
        asking.resume(done, hunt.names)
        progress.note(f"{words.count(len(done), 'trial')} from before: {hunt.say()}")

    def hear(step: Step) -> None:
        what = words.config(dict(step.config)) if hunt.shown is None else hunt.shown(step.question)
        came = "died" if step.died else "lived"
        left = words.left(step.expected_left)
        progress.note(f"{len(asking.steps)} {what}: {came}; {hunt.say()}{left}")

    asking.hear = hear
    progress.begin(asking.expected_total(), done=len(done))
    try:
        ending = scale.run(campaign, cast("Schedule", asking), progress=progress, options=options)
    finally:
        progress.end()
    campaign.update_meta(
        ended=clock.utc().isoformat(), ending=ending.how.value, why=ending.why, watched=True,
        restarts=asking.restarts,
    )  # fmt: skip
    return asking, ending


def finished(campaign: Campaign) -> Iterable[dict[str, Any]]:
    """The stored trials with their outcomes; what was not judged yet is judged now."""
    outcomes = {v["trial"]: v["outcome"] for v in campaign.verdicts()}
    for trial in campaign.trials():
        outcome = outcomes.get(trial["trial"])
        if outcome is None:
            judgement = scale.judge(campaign, trial)
            campaign.add_verdict(str(trial["trial"]), judgement)
            outcome = judgement.outcome.value
        yield {**trial, "outcome": outcome}


def restart_cost(cells: Iterable[Cell], auto: str) -> float:
    """A machine restart in trials: a pen is up in a second, a virtual machine in a minute."""
    costs = [1.0]
    for cell in cells:
        kind = auto if cell.machine.kind == "auto" else cell.machine.kind
        trial = (
            plan.TRIAL_OVERHEAD + cell.experiment.linger + max(0.0, cell.experiment.delay.seconds)
        )
        costs.append(plan.START_SECONDS[kind] / trial)
    return max(costs)


def prepare(cells: Sequence[Cell], options: Options) -> None:
    """Machines that can not be had are said before anything is written."""
    kinds = set()
    for cell in cells:
        if cell.machine not in kinds:
            kinds.add(cell.machine)
            choose.check(cell.machine)
    automatic = next((cell.machine for cell in cells if cell.machine.kind == "auto"), None)
    if automatic is not None:
        options.auto = choose.resolve("auto", automatic.user)


def history(
    hunt: Hunt, cells: Mapping[int, Cell], meta: Mapping[str, Any], *, but: str | None = None
) -> int:
    """Tell a search what earlier campaigns found in the same cells of the same environment.

    Only cells whose whole configuration is equal, of campaigns whose experiment, host and
    version are: anything else would be knowledge about something else.

    Returns:
        How many old trials were used.
    """
    tell = getattr(hunt.asker, "history", None)
    if tell is None:
        return 0
    used = 0
    for path in sorted(store.results_root().glob("*/campaign.yaml")):
        folder = path.parent
        if folder.is_symlink() or folder.name == but:
            continue
        campaign = Campaign(folder)
        other = campaign.meta()
        if other.get("bisect") or not _same_world(meta, other):
            continue
        counted = table.counts(campaign)
        for question, cell in cells.items():
            for found in counted.cells.values():
                if found.observed and found.config == dict(cell.config):
                    tell(question, found.died, found.observed)
                    used += found.observed
    return used


def _same_world(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    for what in environment.differences(mine, other):
        name = str(what["what"])
        # The machine is not up yet; the matrix is this search's own, its axes are compared
        # cell by cell.
        if not name.startswith(("machine", "matrix", "overrides", "monitors", "images")):
            return False
    return True


def too_dear(hunt: Hunt, most: int) -> str | None:
    """Why not even to begin."""
    needed = hunt.asker.expected_left()
    if needed > 3 * most:
        return (
            f"about {needed:.0f} trials are needed and {most} are allowed: a larger --most, "
            "fewer candidates, or a wider tolerance"
        )
    return None


def conclude(campaign: Campaign, ending: Ending, verb: str, code: int) -> int:
    """The exit code, and the line that goes on where something was cut off."""
    from harness.errors import ExitCode

    again = f"{process.called()} {verb} --resume {campaign.name}"
    match ending.how:
        case Ended.INTERRUPTED:
            print(f"interrupted ({ending.why}); go on with: {again}", file=sys.stderr)
            return int(ExitCode.INTERRUPTED)
        case Ended.ENVIRONMENT:
            print(f"stopped: {ending.why}\ngo on with: {again}", file=sys.stderr)
            return int(ExitCode.ENVIRONMENT)
        case Ended.BUDGET:
            print(f"stopped: {ending.why}; go on with: {again}", file=sys.stderr)
            return code
        case Ended.COMPLETE:
            return code


def bad(what: str, why: str, fix: str) -> BadInput:
    """One thing wrong on the command line."""
    return BadInput([Problem("command line", what, why, fix)], about="the command line")
