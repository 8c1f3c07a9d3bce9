"""YAML to nouns: what is taken, what is refused, and where the report points."""

import pytest

from harness import matrix, spec
from harness.errors import BadInput
from harness.model.experiment import Delay, Experiment, Script
from harness.model.sweep import Tolerated
from harness.model.verdicts import Hypothesis
from harness.spec.nodes import Unreadable, parse, plain

EXPERIMENT = """\
name: probe
container:
  image: {rootfs: busybox}
  command: [sleep, 3600]
  mounts: [{source: ./work, target: /work}]
pre_task: {run: echo ready}
"""

MATRIX = """\
name: probe
experiment: ../experiments/probe.yaml
axes:
  container.memory: [64MiB, none]
"""

FILES = {"/w/experiments/probe.yaml": EXPERIMENT, "/w/matrix/probe.yaml": MATRIX}


def experiment(text, more=None, overrides=()):
    """An experiment from text."""
    files = {**FILES, "/w/experiments/x.yaml": text, **(more or {})}
    return spec.loads_matrix(files, "/w/experiments/x.yaml", overrides, "/w").experiment


def sweep(text, more=None, overrides=()):
    """A matrix from text, beside the experiment above."""
    files = {**FILES, "/w/matrix/x.yaml": text, **(more or {})}
    return spec.loads_matrix(files, "/w/matrix/x.yaml", overrides, "/w")


def problems(load, *args, **kwargs):
    """The problems, as (line or where, what, why, fix)."""
    with pytest.raises(BadInput) as caught:
        load(*args, **kwargs)
    return caught.value.problems


def at(found, what):
    """The one problem whose `what` begins so."""
    hits = [p for p in found if p.what.startswith(what)]
    assert len(hits) == 1, [str(p) for p in found]
    return hits[0]


# What comes out


def test_quantities_become_plain_numbers():
    """Bytes, seconds and absolute paths: nothing behind spec parses text."""
    made = experiment(
        EXPERIMENT + "delay: 250ms\nlinger: 1.5s\n", overrides=["container.memory=256MiB"]
    )
    assert made.container.memory == 256 << 20
    assert (made.delay, made.linger) == (Delay(seconds=0.25), 1.5)
    assert made.container.mounts[0].source == "/w/experiments/work"
    assert made.container.command == ("sleep", "3600")


def test_a_resource_limit_may_be_gigabytes():
    """Limits of the kernel's that count bytes are as large as the kernel takes them."""
    made = experiment(
        EXPERIMENT.replace("  mounts:", "  ulimits: {memlock: 4294967296}\n  mounts:")
    )
    assert made.container.ulimits["memlock"].soft == 1 << 32


def test_none_is_a_value():
    """`none` and YAML's null both say: no limit."""
    for word in ("none", "null", "~", ""):
        text = EXPERIMENT.replace("  command", f"  memory: {word}\n  command")
        assert experiment(text).container.memory is None


@pytest.mark.parametrize(
    ("word", "value"), [("unlimited", -1), ("128MiB", 128 << 20), ("none", None)]
)
def test_swap(word, value):
    """A size of its own, as much as there is, or what docker makes of it."""
    text = EXPERIMENT.replace("  command", f"  memory: 64MiB\n  memory_swap: {word}\n  command")
    assert experiment(text).container.memory_swap == value


def test_scripts_are_read_and_keep_their_path():
    """The campaign is frozen: the text is in the experiment, the path only for messages."""
    text = EXPERIMENT.replace("{run: echo ready}", "{script: scripts/p.sh, args: [1, b]}")
    made = experiment(text, {"/w/experiments/scripts/p.sh": "echo from the file\n"})
    assert made.pre_task.text == "echo from the file\n"
    assert made.pre_task.path == "/w/experiments/scripts/p.sh"
    assert made.pre_task.args == ("1", "b")


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("0s", Delay()),
        ("0", Delay()),
        ("-5ms", Delay(seconds=-0.005)),
        ("{after: remount-start, for: 10ms}", Delay(after="remount-start", seconds=0.01)),
        ("{after: remount-start, for: -10ms}", Delay(after="remount-start", seconds=-0.01)),
    ],
)
def test_delays(text, delay):
    """After the remount's end, or overlapping with it on purpose, negative included."""
    assert experiment(EXPERIMENT + f"delay: {text}\n").delay == delay


def test_yaml_11_surprises_are_what_they_look_like():
    """`on:` is a key, `no` is a word, and `yes` is no truth value."""
    text = EXPERIMENT + "setup: {run: 'true', on: host}\n"
    text = text.replace("  command", "  restart: no\n  env: {A: no, B: 12}\n  command")
    made = experiment(text)
    assert made.setup == Script(run="true", on="host")
    assert (made.container.restart, made.container.env) == ("no", {"A": "no", "B": "12"})
    found = problems(experiment, EXPERIMENT.replace("  command", "  init: yes\n  command"))
    assert at(found, "container.init").fix == "write true"


def test_code_may_give_plain_numbers():
    """The nouns are values: what they dump can be validated again."""
    made = experiment(EXPERIMENT + "delay: 1s\n", overrides=["container.memory=64MiB"])
    assert Experiment.model_validate(made.model_dump(by_alias=True)) == made


def test_a_campaign_can_be_loaded_from_its_frozen_files():
    """Files, main and overrides are enough: no disk, the same trials."""
    loaded = sweep(MATRIX, overrides=["container.memory=64MiB..256MiB*2", "linger=0s"])
    again = spec.thaw(loaded.frozen())
    assert matrix.plan(again) == matrix.plan(loaded)
    assert set(loaded.files) >= {"/w/matrix/x.yaml", "/w/experiments/probe.yaml"}


# What is refused, and where


def test_all_problems_of_all_files_come_at_once():
    """One report: both files, each line, in order."""
    bad = EXPERIMENT.replace("command: [sleep, 3600]", "command: sleep\n  memroy: 1GiB")
    found = problems(
        sweep,
        MATRIX + "trials: {max: 0}\nwarm_up: maybe\n",
        {"/w/experiments/probe.yaml": bad},
    )
    assert [(p.where, p.what.partition(":")[0]) for p in found] == [
        ("matrix/x.yaml:5", "trials.max"),
        ("matrix/x.yaml:6", "warm_up"),
        ("experiments/probe.yaml:4", "container.command"),
        ("experiments/probe.yaml:5", "container.memroy"),
    ]


@pytest.mark.parametrize(
    ("line", "key", "why", "fix"),
    [
        pytest.param("memory: 256mb", "memory", "docker reads mb", "256MiB", id="mb"),
        pytest.param("memory: 256", "memory", "without a unit", "256MiB", id="no-unit"),
        pytest.param("memory: 1MiB", "memory", "below 6MiB", "6MiB or more", id="too-small"),
        pytest.param("memory: .inf", ".inf", "not a finite", "", id="infinite"),
        pytest.param("memory: [1]", "memory", "this is a list", "256MiB", id="list"),
        pytest.param("memory: yes", "memory", "not a size", "256MiB", id="yes"),
        pytest.param("cpus: 0", "cpus", "0.01 CPUs or more", "", id="no-cpu"),
        pytest.param("cpus: .nan", ".nan", "not a finite", "", id="nan"),
        pytest.param("pids: 0", "pids", "nothing would be left", "1 or more", id="no-pids"),
        pytest.param("pids: 1.5", "pids", "whole number", "", id="half-a-process"),
        pytest.param("pids: 012", "012", "base 8", "quotes", id="octal"),
        pytest.param("stop_timeout: 1:30", "1:30", "base 60", "quotes", id="sexagesimal"),
        pytest.param("cpu_sharse: 5", "cpu_sharse", "no such key", "cpu_shares", id="typo"),
        pytest.param("memory_swap: 64MiB", "memory_swap", "together with memory", "", id="swap"),
        pytest.param(
            "restart: allways", "restart", "no such restart policy", "always", id="policy"
        ),
        pytest.param("user: true", "user", "a truth value", "quotes", id="bool-for-text"),
        pytest.param("workdir: work", "workdir", "absolute", "/", id="relative-inside"),
        pytest.param("ulimits: {nofiles: 3}", "ulimits.nofiles", "", "nofile", id="ulimit-name"),
        pytest.param(
            "tmpfs: {/work: 1MiB}", "mounts.0.target", "hide each other", "", id="overlap"
        ),
        pytest.param("network: container:other", "network", "no other container", "", id="nobody"),
        pytest.param("build: x", "build", "no such key", "", id="misplaced"),
    ],
)
def test_a_bad_container_key(line, key, why, fix):
    """The line of the value, the reason, and the remedy."""
    text = EXPERIMENT.replace("  command", f"  {line}\n  command")
    found = problems(experiment, text)
    problem = next(p for p in found if key in p.what)
    # The overlap is told at the second of the two places.
    assert problem.where in {"experiments/x.yaml:4", "experiments/x.yaml:6"}
    assert why in problem.why
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        pytest.param("name: a\nname: b\n", "name: twice", "line 1", id="twice"),
        pytest.param("- a\n", '["a"]', "mapping", id="list"),
        pytest.param("just words\n", '"just words"', "mapping", id="scalar"),
        pytest.param("", "an empty file", "nothing", id="empty"),
        pytest.param("a: [\n", "not YAML", "expected", id="unclosed"),
        pytest.param("a:\n\t- b\n", "not YAML", "cannot start any token", id="tab"),
        pytest.param("a: !!python/name:os.system x\n", "tag", "code", id="tag"),
        pytest.param("a: *b\n", "*b", "no anchor", id="no-anchor"),
        pytest.param("a: &a [*a]\n", "*a", "itself", id="cycle"),
        pytest.param("a: 1\n---\nb: 2\n", "---", "one document", id="two-documents"),
        pytest.param("? [a]\n: b\n", "a key", "can not be a key", id="list-as-key"),
        pytest.param("[" * 5000, "nesting", "deeper than", id="deep"),
        pytest.param('a: "\\ud800"\n', "an odd escape", "half a character", id="surrogate"),
        pytest.param('a: "\\UFFFFFFFF"\n', "not YAML", "", id="no-such-character"),
        pytest.param("a: " + "9" * 9000, "999", "digits", id="huge-number"),
        pytest.param("%YAML " + "9" * 5000 + ".1\n---\na: 1\n", "not YAML", "", id="version"),
        pytest.param("x" * 200_000, "200000 characters", "at most", id="long"),
    ],
)
def test_text_that_is_no_document(text, what, why):
    """A problem with a line, at once; no traceback, no hang."""
    found = problems(experiment, text)
    assert any(p.what.startswith(what) and why in p.why for p in found), list(map(str, found))


def test_an_alias_bomb_is_defused():
    """A billion laughs stop at the limit, having cost no more than the limit."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert at(problems(experiment, "\n".join(lines)), "too many values")


def test_aliases_do_not_hide_depth():
    """Nesting through aliases counts like nesting."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [[[[[[*a{i - 1}]]]]]]" for i in range(1, 200)]
    assert at(problems(experiment, "\n".join(lines)), "nesting")


def test_anchors_and_merges_are_taken():
    """Plain aliases and << work, with the nearer value winning."""
    tree = parse("base: &b {x: 1, y: 2}\nmine: {<<: *b, y: 3}\nsame: *b\n", "f")
    assert plain(tree)["mine"] == {"x": 1, "y": 3}
    assert plain(tree)["same"] == {"x": 1, "y": 2}
    with pytest.raises(Unreadable):
        parse("a: {<<: 3}", "f")


def test_a_missing_script_is_reported_where_it_is_named(tmp_path):
    """With the folder that was searched; a folder in its place is another problem."""
    path = tmp_path / "x.yaml"
    path.write_text(EXPERIMENT.replace("{run: echo ready}", "{script: gone.sh}"))
    problem = at(problems(spec.load_experiment, path), "pre_task.script")
    assert problem.where.endswith("x.yaml:6")
    assert "no such file" in problem.why
    (tmp_path / "gone.sh").mkdir()
    assert "directory" in at(problems(spec.load_experiment, path), "pre_task.script").why


def test_a_missing_main_file_and_odd_files_are_problems(tmp_path):
    """Not there, a folder, not UTF-8: each says so."""
    assert "no such file" in problems(spec.load_matrix, tmp_path / "no.yaml")[0].why
    assert "directory" in problems(spec.load_matrix, tmp_path)[0].why
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in problems(spec.load_matrix, tmp_path / "b.yaml")[0].why
    assert problems(spec.load_matrix, "a\0b")


def test_the_other_kind_of_file_is_named():
    """`run` on a matrix and `sweep` on an experiment say which verb is meant."""
    (first,) = problems(spec.load_matrix, "experiments/memory-hog.yaml")
    assert "run" in first.fix
    (second,) = problems(spec.load_experiment, "matrix/memory.yaml")
    assert "sweep" in second.fix


# Containers together


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("beside: [{image: {rootfs: busybox}}]", "beside.0"),
        ("beside: [{name: main, image: {rootfs: busybox}}]", "beside.0.name"),
        (
            "beside: [{name: a, image: {rootfs: busybox}, pid: 'container:b'}]",
            "beside.0.pid",
        ),
        ("inject: [{at: setup, what: signal, container: b}]", "inject.0.container"),
        ("inject: [{at: setup, what: signal, size: 1MiB}]", "inject.0.size"),
        ("inject: [{at: setup, what: docker-update}]", "inject.0"),
        ("inject: [{at: never, what: signal}]", "inject.0.at"),
        ("remount: {how: in-place, mode: ro}", "remount"),
        ("remount: {how: in-place, target: /work}", "remount"),
        ("remount: {how: recreate, target: /elsewhere, mode: ro}", "remount.target"),
        ("remount: {how: propagate, target: /run, mode: ro}", "remount.target"),
        ("before_trial: {run: x, on: container}", "before_trial.on"),
        ("setup: {run: x, script: y}", "setup.run"),
        ("setup: {timeout: 3s}", "setup"),
        ("setup: {text: x}", "setup.text"),
        ("delay: -100s", "delay"),
        ("linger: -1s", "linger"),
    ],
)
def test_what_must_agree(more, what):
    """A problem that lies between two keys points at one of them."""
    found = problems(experiment, EXPERIMENT + more + "\n", {"/w/experiments/y": "x"})
    assert at(found, what).where == "experiments/x.yaml:7"


@pytest.mark.parametrize("kind", ["volume: v", "source: ./v, propagation: private"])
def test_propagate_needs_a_mount_that_hears_of_it(kind):
    """A volume, or a mount that is private on purpose, never would."""
    text = EXPERIMENT.replace("source: ./work", kind)
    found = problems(experiment, text + "remount: {how: propagate, target: /work, mode: ro}\n")
    assert at(found, "remount.how").where == "experiments/x.yaml:7"


def test_propagate_implies_the_propagation_it_needs():
    """Nobody should have to know; and no other remount changes docker's default."""
    for how, propagation in (("propagate", "rslave"), ("in-place", None)):
        made = experiment(EXPERIMENT + f"remount: {{how: {how}, target: /work, mode: ro}}\n")
        assert made.container.mounts[0].propagation == propagation


def test_the_subject_is_called_main():
    """What shares its namespaces finds it by that name."""
    found = problems(experiment, EXPERIMENT.replace("  command", "  name: x\n  command"))
    assert at(found, "container.name").where == "experiments/x.yaml:4"


def test_tolerances_know_every_hypothesis():
    """The closed list stands in two rooms and is one list."""
    assert set(Tolerated.__args__) == {"any", *Hypothesis}


# extends


def test_extends_merges_and_replaces():
    """Mappings merge key by key, one-of-three keys and lists replace, paths stay with their file."""
    base = EXPERIMENT.replace("name: probe", "linger: 5s\nname: base")
    made = experiment(
        "extends: lower/base.yaml\nname: x\ncontainer: {image: {ref: debian}, memory: 64MiB}\n",
        {"/w/experiments/lower/base.yaml": base},
    )
    assert (made.name, made.linger) == ("x", 5.0)
    assert (made.container.image.ref, made.container.image.rootfs) == ("debian", None)
    assert made.container.memory == 64 << 20
    assert made.container.mounts[0].source == "/w/experiments/lower/work"


def test_extends_in_a_circle_is_a_problem():
    """Told at the line that closes it."""
    found = problems(
        experiment, "extends: y.yaml\nname: x\n", {"/w/experiments/y.yaml": "extends: x.yaml\n"}
    )
    assert any("extends itself" in p.why for p in found)
    assert any("not a path" in p.why for p in problems(experiment, "extends: {a: 1}\nname: x\n"))
