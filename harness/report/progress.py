"""What a sweep says while it runs: one live line on a terminal, plain lines elsewhere.

Law: narration only, on stderr; nothing here is a result. The clock is handed in. With
`--json` nothing is said but what the caller notes as an error.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, Self

from harness.model.verdicts import Hypothesis, Outcome
from harness.report import words
from harness.stats import intervals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# With more trials than this a plain log gets a line for each trial that went wrong and
# one for each hundredth of the way, instead of one for every trial.
_EVERY_TRIAL = 500

_TOLD = frozenset({Outcome.DIED.value, Outcome.EXEC_FAILED.value, Outcome.SURVIVED.value})


class Progress:
    """Counts trials as they finish and says how far the sweep is.

    Args:
        now: Seconds on any clock that never steps.
        quiet: Say nothing but errors (`--json`).
        stream: Where to; stderr if left out.
        live: A line that is redrawn; left out: when the stream is a terminal.
        told: Each trial that says something is told by the caller (a search's steps);
            only blind and broken ones are said here.

    `trial_done` takes a record with the keys of `TrialRecord` and a line of
    verdicts.jsonl, or None while there is no verdict.
    """

    def __init__(
        self,
        now: Callable[[], float],
        *,
        quiet: bool = False,
        stream: IO[str] | None = None,
        live: bool | None = None,
        told: bool = False,
    ) -> None:
        self._now = now
        self._told = told
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._wants_live = self._stream.isatty() if live is None else live
        self._live: Any = None
        self._began = now()
        self._total = 0
        self._done = 0
        self._first = 0
        self._finished = 0.0
        self._outcomes: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
        self._running: list[str] = []

    # --- what the sweep calls ------------------------------------------------------

    def begin(self, total: int, *, done: int = 0) -> None:
        """total: trials at most; done: those a resumed sweep has already."""
        self._began = self._now()
        self._total, self._done, self._first = total, done, done
        if self._wants_live and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live(
                get_renderable=self._rendered, console=console, refresh_per_second=4, transient=True
            )
            self._live.start()

    def trial_started(self, trial: str) -> None:
        self._running.append(trial)

    def trial_done(
        self,
        record: Mapping[str, Any],
        verdict: Mapping[str, Any] | None,
        *,
        total: int | None = None,
    ) -> None:
        """total: when stopping cells early has changed how many trials there will be."""
        trial = record["trial"]
        if trial in self._running:
            self._running.remove(trial)
        self._done += 1
        self._finished = self._now() - self._began
        if total is not None:
            self._total = total
        outcome = None if verdict is None else str(verdict["outcome"])
        if outcome is not None and not record["warm_up"]:
            self._outcomes[outcome] += 1
            if verdict and verdict.get("verdict") and outcome == Outcome.DIED.value:
                self._causes[verdict["verdict"]["hypothesis"]] += 1
        self._log_trial(record, outcome, verdict)

    def note(self, text: str, *, error: bool = False) -> None:
        """One sentence beside the counting: a machine starts, a cell stops."""
        if self._quiet and not error:
            return
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._say(text)

    def end(self) -> None:
        """Take the live line away; harmless when called twice or never begun."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
        elif not self._quiet and self._done > self._first:
            self._say(self.line())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # --- what it says --------------------------------------------------------------

    def line(self) -> str:
        """Elapsed, trials, time left, deaths, rate with its interval, causes so far.

        What matters most stands first: a narrow terminal cuts the end off.
        """
        elapsed = self._now() - self._began
        deaths = self._outcomes[Outcome.DIED.value]
        failed = self._outcomes[Outcome.EXEC_FAILED.value]
        observed = deaths + failed + self._outcomes[Outcome.SURVIVED.value]
        parts = [words.duration(elapsed), f"{self._done}/{self._total} trials"]
        left = self._left(elapsed)
        if left is not None:
            parts.append(f"~{words.duration(left)} left")
        shown = words.count(deaths, "death")
        if observed:
            # Looked at after every trial: only a confidence sequence stays true.
            low, high = intervals.sequence(deaths, observed)
            shown += f" {words.percent(deaths / observed)} [{words.span(low, high)}]"
        parts.append(shown)
        if failed:
            parts.append(f"{failed} exec-failed")
        parts += [
            f"{self._outcomes[o.value]} {o.value}"
            for o in (Outcome.UNOBSERVED, Outcome.INVALID)
            if self._outcomes[o.value]
        ]
        causes = [f"{h.short} {self._causes[h.value]}" for h in Hypothesis if self._causes[h.value]]
        if causes:
            parts.append(" ".join(causes))
        return " · ".join(parts)

    def _left(self, elapsed: float) -> float | None:
        """Seconds still to go, as trials went so far; None before the first has finished."""
        ran = self._done - self._first
        if not ran or self._done >= self._total:
            return None
        each = self._finished / ran
        # Between two trials it counts down, by the one that is running at most: elapsed time
        # over trials would have it climb until the next one is done.
        return each * (self._total - self._done) - min(elapsed - self._finished, each)

    def _rendered(self) -> Any:
        from rich.text import Text

        running = f"  {self._running[-1]}" if self._running else ""
        return Text(self.line() + running, overflow="ellipsis", no_wrap=True)

    def _log_trial(
        self, record: Mapping[str, Any], outcome: str | None, verdict: Mapping[str, Any] | None
    ) -> None:
        if self._quiet or (self._told and outcome in _TOLD):
            return
        wrong = outcome not in {None, Outcome.SURVIVED.value}
        step = max(1, self._total // 100)
        many = self._total > _EVERY_TRIAL
        if self._live is not None:
            if not wrong or many:
                return
        elif many and not wrong and self._done % step:
            return
        found = (verdict or {}).get("verdict")
        said = "warm-up" if record["warm_up"] else (outcome or "run")
        if found:
            said += f": {found['cause']}"
        elif verdict is not None and verdict.get("why"):
            said += f": {verdict['why']}"
        where = words.config(dict(record["config"]))
        text = f"{self._done}/{self._total} {where}: {said}"
        if many and not wrong:
            text = self.line()
        self.note(text)

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
