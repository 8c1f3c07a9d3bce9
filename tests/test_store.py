"""The store loses nothing that was finished and never half-writes."""

import json

import pytest

from harness import events as e
from harness import store
from harness.errors import BadInput
from harness.model.verdicts import Judgement, Outcome, TrialRecord


@pytest.fixture
def campaign(tmp_path):
    return store.Campaign.create("memory", {"seed": 7}, root=tmp_path)


def note(what="x"):
    return e.Note(t=5, seen=6, source="runner", what=what)


def record(trial="a/1", **changes):
    cell, _, n = trial.rpartition("/")
    values = dict(
        trial=trial, cell=cell, n=int(n), config={}, seed=1, block=0, warm_up=False, began="",
        delay_asked=0.0, delay_happened=0.0, exec=None, spans={}, aborted=None, events=1, sha256="",
    )  # fmt: skip
    return TrialRecord(**{**values, **changes})


def test_a_history_comes_back_as_it_went_in_with_numbers_from_one(campaign):
    """Line n of the stored history is event n, whatever the text in it."""
    writer = campaign.writer("a/1")
    for what in ("one", "tw\u2028o", "\ud800 lone"):
        writer.add(note(what))
    assert 3 == writer.close()[0]
    found = list(campaign.events("a/1"))
    assert [1, 2, 3] == [event.n for event in found]
    assert "tw\u2028o" == found[1].what


def test_the_checksum_is_of_the_stored_lines(campaign):
    """Anybody can recompute it with zstd and sha256sum."""
    import hashlib

    import zstandard

    writer = campaign.writer("a/1")
    writer.add(note())
    _, checksum = writer.close()
    raw = (campaign.trial_directory("a/1") / "events.jsonl.zst").read_bytes()
    text = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    assert checksum == hashlib.sha256(text).hexdigest()


def test_a_history_that_was_cut_off_ends_in_a_gap(campaign):
    """A killed writer's file is read as far as it goes, and says that it ends early."""
    writer = campaign.writer("a/1")
    for n in range(5000):
        writer.add(note(str(n * 7919)))
    writer.close()
    path = campaign.trial_directory("a/1") / "events.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-40])
    found = list(campaign.events("a/1"))
    assert 0 < len(found) < 5002
    assert not [g for g in found[:-1] if isinstance(g, e.Gap)]


def test_a_torn_last_line_is_no_record_and_the_next_one_is_whole(campaign):
    """kill -9 in the middle of a line loses that line alone."""
    campaign.finish(record("a/1"))
    with open(campaign.path / "trials.jsonl", "a") as file:
        file.write('{"trial":"a/2","conf')
    campaign.finish(record("a/3"))
    assert ["a/1", "a/3"] == [t["trial"] for t in campaign.trials()]


def test_verdicts_are_replaced_whole(campaign):
    """`judge` leaves the old verdicts or the new ones, and no temporary file."""
    campaign.add_verdict("a/1", Judgement(Outcome.SURVIVED))
    line = store.verdict_line("a/1", Judgement(Outcome.DIED))
    campaign.replace_verdicts([line])
    assert ["died"] == [v["outcome"] for v in campaign.verdicts()]
    assert not [p for p in campaign.path.iterdir() if p.name.startswith(".")]


def test_a_replacement_that_fails_keeps_the_old_verdicts(campaign):
    """A judge that crashes half way has changed nothing."""
    campaign.add_verdict("a/1", Judgement(Outcome.SURVIVED))

    def broken():
        yield store.verdict_line("a/1", Judgement(Outcome.DIED))
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        campaign.replace_verdicts(broken())
    assert ["survived"] == [v["outcome"] for v in campaign.verdicts()]


def test_latest_points_at_the_newest(tmp_path):
    """`results/latest` is always a whole campaign."""
    store.Campaign.create("a", {}, root=tmp_path)
    second = store.Campaign.create("b", {}, root=tmp_path)
    assert second.path == (tmp_path / "latest").resolve()


def test_a_campaign_that_is_not_there_is_named_with_what_is(tmp_path, monkeypatch):
    """The message names one that could have been meant."""
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    store.Campaign.create("memory", {}, root=tmp_path / "results")
    with pytest.raises(BadInput, match="name one of the 1 there are"):
        store.Campaign.open("nope")


def test_a_file_name_from_a_machine_stays_below_the_trial(campaign):
    """Paths of a post-mortem are hostile text."""
    writer = campaign.writer("a/1")
    writer.text("../../../../etc/passwd", "x")
    writer.close()
    assert (campaign.trial_directory("a/1") / "etc" / "passwd").read_text() == "x"


def test_a_trial_that_was_cut_short_starts_anew(campaign):
    """What an earlier attempt left in the directory is not mixed with the next one."""
    first = campaign.writer("a/1")
    first.text("pre-task.log", "old")
    first.close()
    campaign.writer("a/1").close()
    assert not (campaign.trial_directory("a/1") / "pre-task.log").exists()


def test_one_line_per_trial_follows_the_documented_shape(campaign):
    """Readers of trials.jsonl find delay: {asked, happened}."""
    campaign.finish(record(delay_asked=0.25, delay_happened=0.2501))
    (line,) = (campaign.path / "trials.jsonl").read_text().splitlines()
    assert {"asked": 0.25, "happened": 0.2501} == json.loads(line)["delay"]
