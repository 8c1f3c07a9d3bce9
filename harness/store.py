"""The only writer of `results/`: events first, verdicts later, never edited.

Rules. A trial's events reach the disk as they are seen, before anybody judges them. A
line in `trials.jsonl` is written last and synced: it exists exactly when its trial is
whole. `verdicts.jsonl` may be replaced as a whole (`judge`), never changed in place.
`kill -9` at any instant loses at most the trial in flight: its directory has no line in
`trials.jsonl`, and `--resume` runs it again.

    results/<campaign>/campaign.yaml  trials.jsonl  verdicts.jsonl
    results/<campaign>/trials/<cell>/<n>/events.jsonl.zst  pre-task.log  postmortem/…
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import clock, events
from harness.errors import BadInput, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.model.verdicts import Judgement, TrialRecord

FORMAT = "deathbench.campaign/1"
TRIAL_FORMAT = "deathbench.trial/1"

# Level 1 packs a history 8:1 and keeps up with 10⁵ events a second; higher levels would
# take processor time from what is being watched.
_LEVEL = 1


class Ended(StrEnum):
    """How a campaign's run ended, as `ending` in campaign.yaml; not there yet: it has not."""

    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    BUDGET = "budget"
    ENVIRONMENT = "environment"


def results_root() -> Path:
    """Where campaigns live: below the project that called, else below the current folder."""
    return Path(os.environ.get("DEATHBENCH_ROOT", ".")) / "results"


class TrialWriter:
    """One trial on its way to the disk. Numbers events as they come; not thread-safe."""

    def __init__(self, directory: Path) -> None:
        import zstandard

        # A trial that was cut short left a directory without a line: it is run again whole.
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self.directory = directory
        self.count = 0
        self._hash = hashlib.sha256()
        self._raw = open(directory / "events.jsonl.zst", "wb")
        self._zst: Any = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(self._raw)

    def add(self, event: events.Event) -> events.Event:
        """Store one event; returns it with its number."""
        self.count += 1
        event = events.numbered(event, self.count)
        line = events.encode(event).encode(errors="backslashreplace") + b"\n"
        self._hash.update(line)
        self._zst.write(line)
        return event

    def text(self, name: str, content: str) -> None:
        """A file beside the events, for people: a log, one piece of the post-mortem."""
        # Names come from paths of the machine: kept below this directory whatever they say.
        safe = "/".join(p for p in name.split("/") if p not in {"", ".", ".."})
        path = self.directory / safe
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, errors="backslashreplace")

    def close(self) -> tuple[int, str]:
        """Flush and sync; (how many events, their checksum)."""
        if not self._raw.closed:
            self._zst.close()  # closes the file below it too
        fd = os.open(self.directory / "events.jsonl.zst", os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return self.count, self._hash.hexdigest()


class Campaign:
    """One run of one matrix: a directory under `results/`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def create(cls, matrix: str, meta: Mapping[str, Any], *, root: Path | None = None) -> Campaign:
        """Make a new one and point `latest` at it. meta is frozen into campaign.yaml."""
        root = results_root() if root is None else root
        root.mkdir(parents=True, exist_ok=True)
        stamp = clock.utc().strftime("%Y-%m-%dT%H%MZ")
        while True:
            path = root / f"{stamp}-{matrix}-{secrets.token_hex(2)}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
        campaign = cls(path)
        campaign.write_meta({"format": FORMAT, "campaign": path.name, "matrix": matrix, **meta})
        for name in ("trials.jsonl", "verdicts.jsonl"):
            (path / name).touch()
        _point_latest(root, path.name)
        return campaign

    @classmethod
    def open(cls, name: str | Path | None = None) -> Campaign:
        """An existing one: a path, a name below `results/`, or None for the latest.

        Raises:
            BadInput: there is none.
        """
        root = results_root()
        asked = "latest" if name is None else str(name)
        for candidate in (Path(asked), root / asked, root / Path(asked).name):
            if (candidate / "campaign.yaml").is_file():
                return cls(candidate.resolve())
        known = sorted(
            p.parent.name for p in root.glob("*/campaign.yaml") if p.parent.name != "latest"
        )
        raise BadInput(
            [
                Problem(
                    "command line",
                    f"campaign: {asked!r}",
                    f"no campaign.yaml there, nor below {root}",
                    "run a sweep first"
                    if not known
                    else f"name one of the {len(known)} there are, e.g. {known[-1]}",
                )
            ],
            about="the command line",
        )

    def make_latest(self) -> None:
        """What follows from this campaign (a bisection) does not take its place."""
        _point_latest(self.path.parent, self.name)

    # --- campaign.yaml ------------------------------------------------------------

    def meta(self) -> dict[str, Any]:
        """What was frozen at the start, and what the machines turned out to be."""
        import yaml

        loaded = yaml.safe_load((self.path / "campaign.yaml").read_text())
        return loaded if isinstance(loaded, dict) else {}

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace campaign.yaml. meta: plain YAML values; sizes in bytes, times in seconds."""
        import yaml

        text = yaml.safe_dump(dict(meta), sort_keys=False, allow_unicode=True, width=100)
        replace_file(self.path / "campaign.yaml", text)

    def update_meta(self, **changes: Any) -> None:
        """Add what became known later (machine facts, how it ended)."""
        self.write_meta({**self.meta(), **changes})

    # --- trials --------------------------------------------------------------------

    def trial_directory(self, trial: str) -> Path:
        """Where "<cell>/<n>" keeps its history; made by `writer`."""
        cell, _, n = trial.rpartition("/")
        return self.path / "trials" / cell / n

    def writer(self, trial: str) -> TrialWriter:
        """A new history for this trial; what an unfinished try of it left is removed."""
        return TrialWriter(self.trial_directory(trial))

    def finish(self, record: TrialRecord) -> None:
        """The trial is whole: its line, synced."""
        body = dataclasses.asdict(record)
        body["delay"] = {
            "asked": body.pop("delay_asked"),
            "happened": body.pop("delay_happened"),
        }
        append_line(self.path / "trials.jsonl", {"format": TRIAL_FORMAT, **body}, sync=True)

    def trials(self) -> Iterator[dict[str, Any]]:
        """The finished trials, in the order they finished."""
        return read_lines(self.path / "trials.jsonl")

    def events(self, trial: str) -> Iterator[events.Event]:
        """A stored history. Lines that can not be read become gaps, with the same numbers.

        Raises:
            BadInput: the trial has no stored events.
        """
        import zstandard

        path = self.trial_directory(trial) / "events.jsonl.zst"
        if not path.is_file():
            raise BadInput(
                [
                    Problem(
                        "command line",
                        f"trial: {trial!r}",
                        f"no history at {path}",
                        "name a trial as the table's cell and a number, e.g. CELL/1",
                    )
                ],
                about="the command line",
            )
        last = 0
        number = 0
        with open(path, "rb") as raw:
            reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            try:
                for number, line in enumerate(_lines(reader), start=1):
                    event = events.decode(line)
                    if event is None:
                        yield _torn(number, last, "a stored line can not be read")
                        continue
                    last = max(last, event.t)
                    yield event if event.n == number else events.numbered(event, number)
            except zstandard.ZstdError as error:
                yield _torn(number + 1, last, f"the stored history is cut off: {error}")

    # --- verdicts ------------------------------------------------------------------

    def verdicts(self) -> Iterator[dict[str, Any]]:
        """The current judgements. A trial judged twice counts as it was judged last."""
        return read_lines(self.path / "verdicts.jsonl")

    def add_verdict(
        self, trial: str, judgement: Judgement, *, seconds: float | None = None
    ) -> None:
        """seconds: from the death to the verdict, where somebody measured it."""
        line = {**verdict_line(trial, judgement), "seconds": seconds}
        append_line(self.path / "verdicts.jsonl", line, sync=False)

    def replace_verdicts(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """All at once or not at all."""
        text = "".join(_json(line) + "\n" for line in lines)
        replace_file(self.path / "verdicts.jsonl", text)


def verdict_line(trial: str, judgement: Judgement) -> dict[str, Any]:
    """One line of verdicts.jsonl."""
    return {
        "trial": trial,
        "outcome": judgement.outcome.value,
        "death": None if judgement.death is None else judgement.death.document(),
        "verdict": None if judgement.verdict is None else judgement.verdict.document(),
        "why": judgement.why,
    }


def _torn(number: int, at: int, why: str) -> events.Event:
    return events.Gap(
        t=at, seen=at, source="store", n=number, name="store", begin=at, end=None, why=why
    )


def _lines(reader: Any) -> Iterator[bytes]:
    rest = b""
    while chunk := reader.read(1 << 16):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def append_line(path: Path, value: Mapping[str, Any], *, sync: bool) -> None:
    """One JSON line at the end. A torn last line of a killed writer is closed off first."""
    data = (_json(value) + "\n").encode(errors="backslashreplace")
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                data = b"\n" + data
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects, one a line. A torn line (its writer was killed) is no record: skipped."""
    try:
        file = open(path, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def replace_file(path: Path, text: str) -> None:
    """The whole new content or the whole old one, whatever happens in between."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _point_latest(root: Path, name: str) -> None:
    temporary = root / f".latest-{secrets.token_hex(4)}"
    temporary.symlink_to(name)
    os.replace(temporary, root / "latest")
