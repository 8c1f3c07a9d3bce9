"""The self-test on fakes: what is counted, what is kept for every table, what goes on later."""

import json
from types import SimpleNamespace

import pytest

from harness import events as e
from harness import fakes, spec
from harness.errors import BadInput
from harness.report import text
from harness.report.accuracy import Accuracy, Truth
from harness.store import Campaign
from harness.verbs import known, selftest

LEAVES = """
name: leaves
container: {image: {ref: busybox}, command: [sh, -c, "sleep 0.2; exit 1"], network: none}
delay: 1s
pre_task: {run: "true"}
linger: 100ms
expect: {outcome: died, cause: [main-exit-error]}
"""
LIVES = """
name: lives
container: {image: {ref: busybox}, command: [sleep, "1000"], network: none}
pre_task: {run: "true"}
linger: 100ms
expect: {outcome: survived}
"""
ELSEWHERE = LIVES.replace("lives", "elsewhere").replace("survived}", "survived, on: {kind: vm}}")


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    """A project whose gallery has a death, an impostor and something for a VM."""
    folder = tmp_path / "experiments" / "causes"
    folder.mkdir(parents=True)
    for name, body in (("leaves", LEAVES), ("lives", LIVES), ("elsewhere", ELSEWHERE)):
        (folder / f"{name}.yaml").write_text(body)
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    return folder


def run(**options):
    with fakes.Clock() as clock:
        world = fakes.World(clock)
        code = selftest.main(json=True, world=world, **options)
    return code, world


def test_every_trial_is_counted_and_the_line_under_tables_is_kept(gallery, capsys):
    """Two of each, none wrong; the document, the stored result and the line say the same."""
    code, _ = run(n=2)
    body = json.loads(capsys.readouterr().out)
    assert (code, body["exit"], body["n"], body["wrong"]) == (0, 0, 4, 0)
    assert {c["cause"]: c["n"] for c in body["causes"]} == {"leaves": 2, "lives": 2}
    assert [one["cause"] for one in body["not_possible"]] == ["elsewhere"]
    assert body["rates"]["wrong"]["low"] == 0.0 < body["rates"]["wrong"]["high"]
    kept = json.loads((gallery.parent.parent / "results" / "selftest-light.json").read_text())
    assert kept == body
    line = text._attribution({**kept, "right": 1034, "unknown": 6, "wrong": 0, "n": 1040})
    assert line.startswith("attribution here: 1,034/1,040 right, 6 unknown, 0 wrong (version ")


def test_a_part_is_no_word_on_the_whole(gallery, capsys):
    """--cause runs what it names and leaves the stored result alone."""
    run(n=1, cause="lives")
    assert json.loads(capsys.readouterr().out)["n"] == 1
    assert not (gallery.parent.parent / "results" / "selftest-light.json").exists()


def test_what_needs_a_vm_runs_on_one(gallery, capsys):
    """--vm asks for the machine that the file names, and runs nothing else."""
    _, world = run(n=1, vm=True)
    assert [c["cause"] for c in json.loads(capsys.readouterr().out)["causes"]] == ["elsewhere"]
    assert {one.kind for one in world.wanted} == {"vm"}


def test_those_that_need_alike_vms_share_one(gallery, capsys):
    """A boot takes minutes: two entries for the same machine are one block, another machine another."""
    for name, on in (("also", "{kind: vm}"), ("old", "{kind: vm, cgroup: 1}")):
        body = ELSEWHERE.replace("elsewhere", name).replace("{kind: vm}", on)
        (gallery / f"{name}.yaml").write_text(body)
    run(n=2, vm=True)
    assert json.loads(capsys.readouterr().out)["n"] == 6
    blocks = {t["trial"].partition("/")[0]: t["block"] for t in Campaign.open(None).trials()}
    assert blocks["also"] == blocks["elsewhere"] != blocks["old"]


def test_it_goes_on_where_it_stopped(gallery, capsys):
    """A resumed self-test runs what is left, with the settings it began with."""
    run(n=2)
    capsys.readouterr()
    campaign = Campaign.open(None)
    path = campaign.path / "trials.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    _, world = run(n=7, resume="latest")
    assert json.loads(capsys.readouterr().out)["n"] == 4
    assert world.machines


def test_two_galleries_are_not_mixed(gallery, capsys):
    """Files that changed in between: refused, with the way out."""
    run(n=1)
    (gallery / "lives.yaml").write_text(LIVES.replace("1000", "2000"))
    with pytest.raises(BadInput, match="is not what it was"):
        run(resume="latest")


def test_another_campaign_is_no_selftest(gallery):
    Campaign.create("sweep", {})
    with pytest.raises(BadInput, match="no self-test"):
        run(resume="latest")


def test_load_is_asked_for_with_every_trial(gallery):
    """Bystanders that die, for each trial alike."""
    loaded = {"lives": spec.load_experiment(gallery / "lives.yaml")}
    _, specs = selftest._trials(loaded, 2, 1, load=True)
    assert [(s.neighbours.count, s.neighbours.dying) for s in specs] == [(20, True)] * 2


def test_other_rules_have_no_result_yet(gallery, capsys, monkeypatch):
    """What was measured with other rules or on another kernel says nothing here."""
    monkeypatch.setattr("platform.release", lambda: "6.0")
    path = known.result("light")
    said = {"right": 3, "unknown": 1, "wrong": 0, "n": 4, "monitors": "light"}
    path.parent.mkdir(exist_ok=True)
    for version, kernel, there in (
        (known.version(), "6.0", True), ("0+other", "6.0", False), (known.version(), "5.0", False),
    ):  # fmt: skip
        path.write_text(json.dumps({**said, "version": version, "machine": {"kernel": kernel}}))
        assert (known.known("light") is not None) == there
    assert known.known("off") is None


def test_a_cause_that_is_never_told_says_why():
    """All unknown: not seen here, with what was blind."""
    accuracy = Accuracy()
    blind = {"source": "kernel", "why": "no /dev/kmsg"}
    verdict = {"cause": "unknown", "hypothesis": "unknown", "grade": {"blind": [blind]}}
    accuracy.add(Truth("oom", "died", ("vm-oom",)), {"outcome": "died", "verdict": verdict})
    assert accuracy.document()["not_seen"] == [
        {"cause": "oom", "why": "kernel saw nothing: no /dev/kmsg"}
    ]


KILLED = LIVES.replace("pre_task:", "inject: [{at: delay, what: docker-kill}]\npre_task:")


@pytest.mark.parametrize(("ended", "why", "outcome", "counts"), [
    pytest.param(0.9, None, "survived", True, id="in-time"),
    pytest.param(1.5, None, "survived", False, id="after-the-pre-task-began"),
    pytest.param(0.9, "refused", "survived", False, id="could-not-be"),
    pytest.param(None, None, "survived", False, id="never-came"),
    pytest.param(1.5, None, "died", True, id="whatever-else-is-said-is-held-to-the-truth"),
])  # fmt: skip
def test_a_survivor_of_what_was_not_caused_is_counted_apart(gallery, ended, why, outcome, counts):
    """The injection's own note says when it was done; only survivors are asked."""
    (gallery / "lives.yaml").write_text(KILLED)
    common = {"seen": 0, "source": "runner", "clock": "harness"}
    told = [e.Phase(t=10**9, phase="pre-task", edge="begin", **common)]
    if ended is not None:
        data = {"index": 0, "what": "docker-kill", "seconds": ended - 0.5, "why": why}
        told.append(e.Note(t=5 * 10**8, what="injection", data=data, **common))
    campaign = SimpleNamespace(events=lambda trial: told)
    loaded = spec.load_experiment(gallery / "lives.yaml")
    late = selftest._not_caused(campaign, "lives/1", loaded, {"outcome": outcome})
    assert (late == {}) == counts
