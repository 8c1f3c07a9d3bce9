"""What a trial does on entering each phase, and what the end of its work means.

Rule: begins work and sets instants, nothing more; which phase comes next is `lifecycle`'s.
Whatever may block runs in a thread of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness import events as e
from harness.clock import NS
from harness.inject import Injector
from harness.lifecycle import Happened, Phase
from harness.runner import making, remounts, steps
from harness.runner.pretask import BEFORE, LABEL
from harness.runner.stage import MAIN, status

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.inject import Done
    from harness.runner.trial import Trial, Work

# A status asked of the engine takes 1-5 ms; where the delay is shorter than this there is no
# room for it inside, and the observer's own knowledge is used: it costs no time at all.
ROOM_FOR_INSPECT = 0.05
# After a death the kernel's and the daemons' last lines still come in.
AFTERMATH = 0.3
# A step's own requests have the user's deadlines; the step itself is left this much later, so
# that the engine's silence is told in the request's own words.
MARGIN = 10.0
# An image may have to be built, or fetched.
PREPARE = 3900.0
# Both halves of an overlap wait for their instant by then.
LEAD = 0.01
# A step that still makes things when the trial is over is waited for so long.
MAKERS = 5.0


def _prepare(t: Trial) -> None:
    inject = t.spec.experiment.inject

    def prepare() -> None:
        if inject:
            t.injector = Injector(
                t.stage.machine,
                inject,
                container_of=lambda name: t.stage.ids[name or MAIN],
                labels=t.stage.labels,
                tell=lambda done: t.stage.say(_injected(t, done)),
            )
        making.prepare(t.stage)

    hook = t.spec.experiment.before_trial
    t.begin(PREPARE + (hook.timeout if hook else 0), "prepare", prepare)


def _injected(t: Trial, done: Done) -> e.Note:
    return e.Note(**t.stage.at(done.began), what="injection", data=done.document())


def _create(t: Trial) -> None:
    count = 1 + len(t.spec.experiment.beside)
    seconds = t.spec.experiment.deadlines.create * count
    t.begin(seconds + MARGIN, "create", lambda: steps.create(t.stage))


def _start(t: Trial) -> None:
    t.pre_task.prepare()
    count = 1 + len(t.spec.experiment.beside)
    seconds = t.spec.experiment.deadlines.start * count
    t.begin(seconds + MARGIN, "start", lambda: steps.start(t.stage))


def _setup(t: Trial) -> None:
    script = t.spec.experiment.setup
    seconds = script.timeout if script else 0
    t.begin(seconds + 2 * MARGIN, "setup", lambda: steps.setup(t.stage))


def _remount(t: Trial) -> None:
    delay = int(t.spec.experiment.delay.seconds * NS)

    def remount() -> None:
        t.clock.first_in_line()
        # In this thread: a turn of the loop would already cost part of a short delay.
        remounts.remount(t.stage, then=lambda ended: t.pre_task.aim(ended, ended + delay))

    t.begin(t.spec.experiment.deadlines.remount + MARGIN, "remount", remount)


def _delay(t: Trial) -> None:
    """From the remount's end. The status check lies inside, where there is room for it."""
    now = t.clock.now()
    t.pre_task.aim(now, now + int(t.spec.experiment.delay.seconds * NS))
    t.due = t.pre_task.due
    room = (t.due or 0) - int(ROOM_FOR_INSPECT * NS)
    if room >= (t.pre_task.zero or 0):
        t.look = room


def look(t: Trial) -> None:
    """The status before the pre-task, asked of the engine inside the delay."""
    subject = t.stage.subject
    t.spawn("status", lambda: status(t.stage, BEFORE, subject))


def _pre_task(t: Trial) -> None:
    now = t.clock.now()
    t.pre_task.aim(now, now)
    t.begin(t.spec.experiment.pre_task.timeout + 2 * MARGIN, "exec", _ask(t))


def _ask(t: Trial) -> Callable[[], Any]:
    """Wait for the pre-task's answer, and look at the subject right after it."""

    def ask() -> Any:
        answer = t.pre_task.wait()
        if not t.stage.abandoned.is_set():
            status(t.stage, f"after {LABEL}", t.stage.subject)
        return answer

    return ask


def _overlap(t: Trial) -> None:
    """Remount and pre-task from one zero; a negative delay asks for the pre-task first."""
    experiment = t.spec.experiment
    delay = experiment.delay.seconds
    zero = t.clock.now() + int((LEAD + max(0.0, -delay)) * NS)
    t.pre_task.aim(zero, zero + int(delay * NS))

    def remount() -> None:
        t.clock.first_in_line()
        t.pre_task.zero = t.clock.sleep_until(zero)
        remounts.remount(t.stage)

    t.spawn("exec", _ask(t))
    seconds = max(experiment.deadlines.remount, experiment.pre_task.timeout + abs(delay))
    t.begin(seconds + 2 * MARGIN, "remount", remount)


def _linger(t: Trial) -> None:
    now = t.clock.now()
    t.due = now + int(t.spec.experiment.linger * NS)
    if t.observed.died:
        t.due = aftermath(t)
    elif t.pre_task.answer is None or t.pre_task.answer.exit_code != 0:
        # Why an exec failed in a container that lives shows in its mounts and its groups now.
        t.link.snapshot(t.stage.subject)


def aftermath(t: Trial) -> int:
    """Until when the last lines of a death are waited for."""
    return t.clock.now() + int(AFTERMATH * NS)


def _post_mortem(t: Trial) -> None:
    """When the engine has noticed the death, or at once where there was none."""
    waiting = t.observed.died and not t.observed.noticed
    seconds = t.spec.experiment.deadlines.post_mortem + steps.patience(t.stage.machine)
    seconds += steps.NOTICE + steps.FLUSH + MARGIN
    t.begin(
        seconds,
        "post-mortem",
        lambda: steps.post_mortem(t.stage, noticed=t.noticed if waiting else None, usage=t.usage),
    )


def _clean(t: Trial) -> None:
    """The history ends here: what the clean-up kills is no finding."""
    t.diary.store(e.Phase(**t.stage.now(), phase="history", edge="end"))
    t.end_history()
    keep = t.keep_dead and t.observed.died and not t.discarded
    if keep:
        t.kept = [t.stage.title(MAIN)]
    wait = t.clock.now() + int(MAKERS * NS) if t.making else None

    def clean() -> None:
        if wait is not None:
            t.idle.get(wait)
        if t.injector is not None:
            # First: what was frozen or stopped would not let itself be removed.
            t.spoiled = t.injector.finish()
        if not keep:
            making.clean(t.stage)

    t.begin(t.spec.experiment.deadlines.clean + MAKERS + MARGIN, "clean", clean)


ENTER: dict[Phase, Callable[[Trial], None]] = {
    Phase.PREPARE: _prepare,
    Phase.CREATE: _create,
    Phase.START: _start,
    Phase.SETUP: _setup,
    Phase.REMOUNT: _remount,
    Phase.DELAY: _delay,
    Phase.PRE_TASK: _pre_task,
    Phase.OVERLAP: _overlap,
    Phase.LINGER: _linger,
    Phase.POST_MORTEM: _post_mortem,
    Phase.CLEAN: _clean,
}


def ended(t: Trial, work: Work) -> None:
    """The work of the current phase has ended, well or not."""
    if work.phase is Phase.OVERLAP:
        half = {"exec": Happened.EXEC_ENDED, "remount": Happened.REMOUNT_ENDED}
        t.happened(half[work.name])
    elif work.error is not None:
        if work.phase in {Phase.POST_MORTEM, Phase.CLEAN}:
            t.measured.trouble.append(str(work.error))
        engine = work.error.engine
        t.happened(Happened.ENGINE_FAILED if engine else Happened.FAILED, work.error)
    else:
        if work.phase is Phase.POST_MORTEM and not work.value:
            _not_handed_over(t)
        t.happened(Happened.DONE)


def _not_handed_over(t: Trial) -> None:
    """The probe did not answer the flush: what it saw last is missing, and nobody knows how much."""
    common = t.stage.now()
    begin = common["t"] - int(steps.FLUSH * NS)
    why = "it did not hand over what it saw last"
    t.diary.store(
        e.Gap(**{**common, "source": "link"}, name="probe", begin=begin, end=None, why=why)
    )
