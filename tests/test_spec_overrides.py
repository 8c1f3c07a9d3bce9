"""`-o`: the same checks as the files, shown as changes, and nothing that matches nothing."""

import pytest

from harness import matrix, spec
from harness.errors import BadInput

FILES = {
    "/w/e.yaml": """\
name: e
container: {image: {rootfs: busybox}, mounts: [{source: work, target: /work}]}
delay: 10ms
pre_task: {script: p.sh}
""",
    "/w/m.yaml": """\
name: m
experiment: e.yaml
axes: {container.memory: [64MiB, none], delay: [0s, 1s]}
exclude: [{container.memory: none, delay: 1s}]
trials: {max: 2}
""",
    "/w/p.sh": "echo p",
    "/w/q.sh": "echo q",
}


def load(*overrides):
    """The matrix above with overrides."""
    return spec.loads_matrix(FILES, "/w/m.yaml", overrides, "/w")


def values(loaded, key):
    """What a key is swept over."""
    return next(list(a.values) for a in loaded.axes if a.key == key)


def plain(loaded, key):
    """The plain values of an axis."""
    return [value.plain for value in values(loaded, key)]


def refused(*overrides):
    """The problems."""
    with pytest.raises(BadInput) as caught:
        matrix.cells(load(*overrides))
    return caught.value.problems


def test_several_values_replace_an_axis():
    """And the change is shown, old and new."""
    loaded = load("container.memory=32MiB,64MiB,none")
    assert plain(loaded, "container.memory") == [32 << 20, 64 << 20, None]
    assert (
        str(loaded.changes[0])
        == 'axes.container.memory: ["64MiB", "none"] → ["32MiB", "64MiB", "none"]'
    )


def test_one_value_narrows_an_axis_and_excludes_stay_quiet():
    """An exclude of the file that has nothing left to do is no mistake of the command line."""
    loaded = load("container.memory=64MiB")
    assert len(matrix.cells(loaded)) == 2


def test_a_range_makes_an_axis():
    """Also of a key that was none."""
    assert plain(load("linger=0..1s/3"), "linger") == [0.0, 0.5, 1.0]
    assert plain(load("container.cpus=1..4*2"), "container.cpus") == [1.0, 2.0, 4.0]


def test_keys_of_either_file():
    """One value sets the key; the machine's and the matrix's own too."""
    loaded = load("linger=3s", "trials.max=50", "machine.memory=1GiB", "tolerance.any=5%")
    assert loaded.experiment.linger == 3.0
    assert loaded.matrix.trials.max == 50
    assert loaded.matrix.machine.memory == 1 << 30
    assert loaded.matrix.tolerance == {"any": 0.05}
    assert [str(c) for c in loaded.changes][:2] == [
        'linger: not set → "3s"',
        "trials.max: 2 → 50",
    ]


def test_sugar_is_kept_when_a_part_is_set():
    """`delay.after` on `delay: 10ms` keeps the 10 ms."""
    single = spec.loads_matrix(FILES, "/w/e.yaml", ["delay.after=remount-start"], "/w")
    assert single.experiment.delay.seconds == 0.01
    assert single.experiment.delay.after == "remount-start"


def test_setting_one_of_several_alternatives_takes_the_others_away():
    """An image by ref is no longer one by rootfs; a script replaces inline text."""
    made = load("container.image.ref=debian", "pre_task.run=echo hello").experiment
    assert (made.container.image.ref, made.container.image.rootfs) == ("debian", None)
    assert (made.pre_task.text, made.pre_task.path) == ("echo hello", None)
    swept = load("pre_task.script=p.sh,q.sh")
    texts = {cell.experiment.pre_task.text for cell in matrix.cells(swept)}
    assert texts == {"echo p", "echo q"}


def test_lists_and_items():
    """A list in brackets is one value; an item is reached by its number."""
    made = load("container.command=[sleep, 9]", "container.mounts.0.mode=ro").experiment
    assert made.container.command == ("sleep", "9")
    assert made.container.mounts[0].mode == "ro"
    assert len(matrix.cells(load("exclude=[]"))) == 4


def test_paths_on_the_command_line_are_relative_to_where_it_was_given():
    """As every shell user expects."""
    loaded = spec.loads_matrix(FILES, "/w/m.yaml", ["container.mounts.0.source=x"], "/elsewhere")
    assert loaded.experiment.container.mounts[0].source == "/elsewhere/x"


@pytest.mark.parametrize(
    ("override", "where", "fix"),
    [
        ("memory=64MiB", "-o memory", "container.memory"),
        ("contianer.memory=64MiB", "-o contianer.memory", "container.memory"),
        ("container.memory=256mb", "-o container.memory", "256MiB"),
        ("trials.max=1,2", "-o trials.max", "one value"),
        ("trials.max=0", "-o trials.max", "1 or more"),
        ("linger", "-o linger", "key=value"),
        ("=3", "-o =3", "key=value"),
        ("linger=", "-o linger", "none"),
        ("linger=1s,,2s", "-o linger", "none"),
        ("linger=[", "-o linger", "brackets"),
        ("experiment=x.yaml", "-o experiment", ""),
        ("container.mounts.7.mode=ro", "-o container.mounts.7.mode", "a number that is there"),
        ("beside.0.memory=1GiB", "-o beside.0.memory", "a number that is there"),
        ("axes.name=a,b", "-o axes.name", "did you mean"),
    ],
)
def test_what_matches_nothing_or_is_refused(override, where, fix):
    """The option is the place; the nearest key is the remedy."""
    problem = refused(override)[0]
    assert problem.where == where
    assert fix in problem.fix
