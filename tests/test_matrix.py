"""Cells and their order: what is multiplied, how it is named, when it runs."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import matrix, spec
from harness.errors import BadInput
from harness.matrix.cells import short_names
from harness.matrix.order import derive, shuffled

EXPERIMENT = """\
name: e
container: {image: {rootfs: busybox}, mounts: [{source: work, target: /work}]}
remount: {how: none, target: /work}
pre_task: {run: echo}
"""


def load(text, overrides=()):
    """A matrix over the experiment above."""
    files = {"/w/e.yaml": EXPERIMENT, "/w/m.yaml": "name: m\nexperiment: e.yaml\n" + text}
    return spec.loads_matrix(files, "/w/m.yaml", overrides, "/w")


def refused(text):
    """The problems of loading or multiplying."""
    with pytest.raises(BadInput) as caught:
        matrix.cells(load(text))
    return caught.value.problems


TWO = "axes: {machine.memory: [1GiB, 2GiB], delay: [0s, 250ms]}\ntrials: {max: 4}\n"


# What the hash gave when it was chosen.
DERIVED = 125256975015974
SHUFFLED = "adcbfe"

# Cells


def test_axes_are_multiplied_in_the_order_of_the_file():
    """The last axis changes fastest; the values are in the nouns and in the config."""
    found = matrix.cells(load(TWO))
    assert [cell.name for cell in found] == [
        "memory=1GiB_delay=0s", "memory=1GiB_delay=250ms",
        "memory=2GiB_delay=0s", "memory=2GiB_delay=250ms",
    ]  # fmt: skip
    assert found[3].config == {"machine.memory": 2 << 30, "delay": 0.25}
    assert found[3].machine.memory == 2 << 30
    assert found[3].experiment.delay.seconds == 0.25


def test_a_profile_of_the_users_has_one_disk():
    """It only grows, and blocks come in any order; the harness's own is made for each size."""
    disks = "axes: {machine.disk: [4GiB, 8GiB]}\n"
    (problem,) = refused("machine: {kind: colima, profile: mine, own: true}\n" + disks)
    assert problem.where == "m.yaml:4"
    assert "only grows" in problem.why
    assert len(matrix.cells(load("machine: {kind: colima}\n" + disks))) == 2


def test_exclude_and_include():
    """Exclude takes cells away by value, not by spelling; include adds, over the other axes."""
    loaded = load(
        TWO + "exclude: [{machine.memory: 1024MiB, delay: [250ms]}]\ninclude: [{delay: 3s}]\n"
    )
    assert [cell.name for cell in matrix.cells(loaded)] == [
        "memory=1GiB_delay=0s", "memory=2GiB_delay=0s", "memory=2GiB_delay=250ms",
        "memory=1GiB_delay=3s", "memory=2GiB_delay=3s",
    ]  # fmt: skip


@pytest.mark.parametrize(("control", "cells"), [
    pytest.param("{machine.memory: 2GiB, delay: 0s}", 4, id="a-cell-of-the-table"),
    pytest.param("{machine.memory: 2GiB, delay: 60ms}", 5, id="a-cell-of-its-own"),
])  # fmt: skip
def test_the_control_is_one_cell_and_is_there_once(control, cells):
    """Its name is told from its configuration; no other cell is one."""
    found = matrix.cells(load(f"{TWO}control: {control}\n"))
    assert len(found) == cells
    assert [cell.config["machine.memory"] for cell in found if cell.control] == [2 << 30]


def test_a_list_is_one_value_of_the_control():
    """A command is a list; the control's is written as it stands in an experiment."""
    text = "axes: {container.command: [[sleep, '1'], [sh, -c, exit 1]]}\n"
    found = matrix.cells(load(f"{text}control: {{container.command: [sh, -c, exit 1]}}\n"))
    assert [cell.control for cell in found] == [False, True]


def test_the_control_runs_in_every_round():
    """Each tenth of a block's trials has its share of the control's, wherever the shuffle put the rest."""
    text = "axes: {delay: [0s, 1s, 2s, 3s]}\ntrials: {max: 40}\ncontrol: {delay: 2s}\n"
    order = [spec_.config["delay"] for spec_ in matrix.plan(load(text), 3)]
    assert all(3 <= order[at : at + 16].count(2.0) <= 5 for at in range(0, 160, 16))
    # Random within the round: no period of the machine may fall in step with it.
    gaps = [j - i for i, j in itertools.pairwise(i for i, x in enumerate(order) if x == 2.0)]
    assert len(set(gaps)) > 3


@pytest.mark.parametrize(("control", "what"), [
    pytest.param("[{delay: 0s, machine.memory: 1GiB}]", "control", id="a-list"),
    pytest.param("{delay: 0s}", "control.machine.memory: missing", id="an-axis-missing"),
    pytest.param("{delay: [0s, 1s], machine.memory: 1GiB}", "delay", id="two"),
    pytest.param("{delay: soon, machine.memory: 1GiB}", "delay", id="no-value"),
    pytest.param("{delay: 0s, machine.memory: 1GiB, linger: 1s}", "linger", id="no-axis"),
])  # fmt: skip
def test_a_control_that_is_not_one_cell_is_refused(control, what):
    """One problem, at its line, that shows how to write it."""
    (problem,) = refused(f"{TWO}control: {control}\n")
    assert what in problem.what
    assert problem.where == "m.yaml:5"


def test_a_matrix_without_axes_is_one_cell():
    """And has a name all the same."""
    (cell,) = matrix.cells(load(""))
    assert (cell.name, cell.config) == ("base", {})


def test_nested_axes_are_dotted_ones():
    """Both spellings of a key name the same axis."""
    loaded = load("axes: {container: {memory: [64MiB, none]}}\n")
    assert [axis.key for axis in loaded.axes] == ["container.memory"]


def test_config_values_are_plain():
    """Bytes, seconds, words; a delay that overlaps says from where it counts."""
    loaded = load(
        "axes:\n  delay: [0s, {after: remount-start, for: -5ms}]\n"
        "  neighbours: [0, {count: 3, busy: true}]\n  remount: [none, recreate]\n"
        "  container.init: [true, false]\n"
    )
    seen = [{v.plain for v in axis.values} for axis in loaded.axes]
    assert seen == [
        {0.0, "remount-start-5ms"}, {0, "3 busy"}, {"none", "recreate"}, {True, False},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        pytest.param("axes: {delay: []}", 3, "axes.delay: []", id="empty-axis"),
        pytest.param("axes: {delay: [1s, 1000ms]}", 3, 'axes.delay: "1000ms"', id="twice"),
        pytest.param("axes:\n  delay:\n    - 0s\n    - 5\n", 6, "axes.delay: 5", id="bad-value"),
        pytest.param("axes: {dealy: [0s]}", 3, "axes.dealy: no such key", id="no-key"),
        pytest.param("axes: {trials.max: [1]}", 3, "axes.trials.max: no such", id="not-swept"),
        pytest.param("axes: [delay]", 3, "axes: ", id="list"),
        pytest.param("axes: {delay: [0s]}\nexclude: [{delay: 3s}]", 4, "exclude: ", id="no-match"),
        pytest.param("axes: {delay: [0s]}\nexclude: [{linger: 3s}]", 4, "exclude.0.linger", id="axis?"),
        pytest.param("axes: {delay: [0s]}\nexclude: [3]", 4, "exclude.0: 3", id="no-mapping"),
        pytest.param("axes: {delay: [0s]}\ninclude: [{delay: 0s}]", 4, "include: ", id="there-already"),
        pytest.param(
            "axes: {machine.memory: [1GiB], machine: [pen]}", 3, "axes.machine.memory", id="inside"
        ),
        pytest.param("axes: {remount.how: [in-place]}", 3, "remount", id="refused-together"),
        pytest.param(
            "machine: host\naxes: {machine.memory: [1GiB]}", 4, "machine.memory", id="host-axis"
        ),
    ],
)  # fmt: skip
def test_a_bad_axis(text, line, what):
    """Reported at the value's own line."""
    problem = refused(text + "\n")[0]
    assert problem.where == f"m.yaml:{line}"
    assert problem.what.startswith(what)


def test_no_cells_and_too_many_cells_are_problems():
    """Zero runs nothing; thousands were not meant. Neither takes long to tell."""
    assert refused("axes: {delay: [0s]}\nexclude: [{delay: 0s}]\n")[0].what == "no cells"
    big = "axes: {delay: 0..1s/100, linger: 0..1s/100, container.cpus: 1..100+1}\n"
    assert refused(big)[0].what.startswith("1000000 cells (100 delay x 100 linger")
    assert len(matrix.cells(load("axes: {delay: 0..1s/11}\nmax_cells: 11\n"))) == 11
    assert refused("axes: {delay: 0..1s/11}\nmax_cells: 10\n")


# Names


def test_names_tell_keys_apart():
    """The shortest tail that is one key's alone."""
    short = short_names(("machine.memory", "container.memory", "delay", "remount.how"))
    assert list(short.values()) == ["machine.memory", "container.memory", "delay", "how"]


def test_a_name_depends_on_its_own_configuration_alone():
    """Another value on an axis renames nobody: results of two campaigns can be joined."""
    few = {c.name: c.config for c in matrix.cells(load("axes: {delay: [0s, 1s]}\n"))}
    many = {c.name: c.config for c in matrix.cells(load("axes: {delay: [5s, 1s, 0s]}\n"))}
    assert few.items() <= many.items()


def test_names_are_directory_names_and_unlike():
    """Long, odd or similar values still give one directory each."""
    odd = "axes: {container.env.X: ['a/b', 'a:b', 'A', 'a', '../..', '', ' ', '%s']}\n" % (
        "x" * 300
    )
    names = [cell.name for cell in matrix.cells(load(odd))]
    assert len({name.lower() for name in names}) == len(names) == 8
    assert all("/" not in n and not n.startswith(".") and 0 < len(n) <= 100 for n in names)


# Order


def test_the_same_seed_gives_the_same_plan_and_another_another():
    """Ids and seeds included."""
    loaded = load(TWO)
    assert matrix.plan(loaded, 7) == matrix.plan(loaded, 7)
    one, two = matrix.plan(loaded, 7), matrix.plan(loaded, 8)
    assert [s.trial for s in one] != [s.trial for s in two]
    assert {s.trial for s in one} == {s.trial for s in two}


def test_the_seed_is_the_commands_then_the_files_then_zero():
    """So that a printed seed repeats a sweep."""
    loaded = load(TWO + "order: {seed: 5}\n")
    assert matrix.plan(loaded) == matrix.plan(loaded, 5) != matrix.plan(loaded, 0)
    assert matrix.plan(load(TWO)) == matrix.plan(load(TWO), 0)


def test_the_order_is_fixed_for_ever():
    """A plan is a promise: a stored seed means the same order in every later version."""
    assert derive(7, "trial", "x/1") == DERIVED
    assert "".join(shuffled("abcdef", 1, "k")) == SHUFFLED


def test_each_machine_gets_two_blocks_when_there_are_trials_enough():
    """Drift of the host can not pass for an effect of the machine's size."""
    plan = matrix.plan(load(TWO), 3)
    blocks = {}
    for spec_ in plan:
        blocks.setdefault(spec_.block, set()).add(spec_.machine.memory)
    assert all(len(machines) == 1 for machines in blocks.values())
    assert (
        sorted(m for machines in blocks.values() for m in machines) == [1 << 30] * 2 + [2 << 30] * 2
    )
    once = matrix.plan(load(TWO, ["trials.max=1"]), 3)
    assert {s.block for s in once} == {0, 1}


@pytest.mark.parametrize("by", ["blocks", "shuffled", "listed"])
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1 << 40), most=st.integers(1, 5), warm=st.integers(0, 3))
def test_every_cell_gets_all_its_trials_in_order(by, seed, most, warm):
    """Whatever the order: n runs 1..max in each cell, ids are unique, blocks only grow."""
    base = _BASE[by]
    loaded = _with(base, most, warm)
    plan = matrix.plan(loaded, seed)
    counted = [s for s in plan if not s.warm_up]
    for cell in {s.cell for s in plan}:
        assert [s.n for s in counted if s.cell == cell] == list(range(1, most + 1))
    assert len(counted) == 4 * most
    assert len({s.trial for s in plan}) == len(plan)
    assert len({s.seed for s in plan}) == len(plan)
    assert [s.block for s in plan] == sorted(s.block for s in plan)
    starts = [i for i, s in enumerate(plan) if i == 0 or plan[i - 1].block != s.block]
    for begin in starts:
        assert [s.warm_up for s in plan[begin : begin + warm]] == [True] * warm
    assert sum(s.warm_up for s in plan) == warm * len(starts)


_BASE = {by: load(TWO + f"order: {{by: {by}}}\n") for by in ("blocks", "shuffled", "listed")}


def _with(loaded, most, warm):
    """The same matrix with other numbers, without loading it again."""
    from dataclasses import replace

    from harness.model.experiment import Trials

    return replace(
        loaded,
        matrix=loaded.matrix.model_copy(update={"trials": Trials(max=most), "warm_up": warm}),
    )


def test_listed_keeps_the_order_of_the_file():
    """Cell after cell, trial after trial."""
    plan = matrix.plan(load(TWO + "order: {by: listed}\n"), 9)
    assert [s.trial for s in plan][:5] == [
        "memory=1GiB_delay=0s/1", "memory=1GiB_delay=0s/2", "memory=1GiB_delay=0s/3",
        "memory=1GiB_delay=0s/4", "memory=1GiB_delay=250ms/1",
    ]  # fmt: skip


def test_shuffling_is_fair():
    """Each of six orders of three about as often: bounds are five standard deviations."""
    counts = {}
    for seed in range(1200):
        key = tuple(shuffled((0, 1, 2), seed, "x"))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert all(abs(n - 200) < 5 * (1200 * 1 / 6 * 5 / 6) ** 0.5 for n in counts.values())


def test_more_trials_than_any_campaign_has():
    """A slip of the finger does not fill the memory."""
    with pytest.raises(BadInput):
        matrix.plan(load("trials: {max: 100000000}\n"))
