"""The whole program on fakes, from two YAML files to the table and its exit code."""

import json

import pytest

from harness import fakes, spec
from harness.errors import EnvironmentInvalid
from harness.scale import Options
from harness.store import Campaign
from harness.verbs import judge, sweep

EXPERIMENT = """
name: hog
container:
  image: {ref: busybox}
  command: [sh, -c, "sleep 0.5; tail /dev/zero"]
  memory: 64MiB
  network: none
remount: {how: restart}
delay: 250ms
pre_task: {run: "sleep 1"}
linger: 500ms
"""

MATRIX = """
name: hog
experiment: hog.yaml
machine: {kind: auto, memory: 256MiB}
axes:
  container.memory: [64MiB, none]
  container.command:
    - [sh, -c, "sleep 0.5; tail /dev/zero"]
    - [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
trials: {max: 1}
warm_up: 1
order: {by: blocks, seed: 7}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with both files, results below it."""
    (tmp_path / "hog.yaml").write_text(EXPERIMENT)
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    monkeypatch.setenv("DEATHBENCH_ROOT", str(tmp_path))
    return tmp_path


def run(project, clock, *overrides, world=None, **more):
    loaded = spec.load_matrix(project / "matrix.yaml", overrides)
    world = world or fakes.World(clock)
    return sweep.execute(loaded, 7, Options(), world=world, json=True, **more)


def test_a_matrix_becomes_a_table(project, capsys):
    """Hogs die of their own limit or of the machine's memory, the others live; judged again the same."""
    with fakes.Clock() as clock:
        code = run(project, clock)
    table = json.loads(capsys.readouterr().out)
    assert table["format"].startswith("deathbench.table/")
    assert code == table["exit"] == 0
    assert len(table["cells"]) == 4
    causes = {}
    for cell in table["cells"]:
        assert cell["trials"] == 1
        hog = "zero" in json.dumps(cell["config"])
        limited = cell["config"]["container.memory"] is not None
        found = {k: n for k, n in cell["hypotheses"].items() if n}
        causes[hog, limited] = found
        assert (cell["died"], cell["survived"]) == ((1, 0) if hog else (0, 1))
    assert causes[True, True] == {"container-resources": 1}
    assert causes[True, False] == {"vm-pressure": 1}
    assert judge.main("latest", json=True) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == table["cells"]


def test_the_same_seed_gives_the_same_order(project, capsys):
    """Trial by trial, on any day."""
    orders = []
    for _ in range(2):
        with fakes.Clock() as clock:
            run(project, clock)
        orders.append([t["trial"] for t in Campaign.open().trials()])
    assert orders[0] == orders[1]
    assert len(orders[0]) == 4 + 1  # and one trial to warm up the one machine


def test_a_machine_that_can_not_be_had_is_said_before_anything_is_written(project):
    """No campaign for a sweep that could not begin."""
    with fakes.Clock() as clock:
        world = fakes.World(clock, refuse=EnvironmentInvalid("not here"))
        with pytest.raises(EnvironmentInvalid, match="not here"):
            run(project, clock, world=world)
    assert list((project / "results").glob("*")) == []


def test_an_engine_that_dies_is_exit_code_3_with_a_table(project, capsys):
    """What was finished is kept and shown."""
    with fakes.Clock() as clock:
        world = fakes.World(clock)
        world.met = lambda engine: clock.after(4, engine.machine.kill_engine)
        code = run(project, clock, world=world)
    out = capsys.readouterr()
    assert code == 3
    assert "died during trial" in out.err
    assert json.loads(out.out)["cells"]
