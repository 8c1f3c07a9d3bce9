"""The loader is a front door: any text gives nouns or the complete list of problems."""

import copy

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import matrix, spec
from harness.errors import BadInput

# Few examples: every run of the suite sees other ones. No deadline: the machine is shared.
FRONT_DOOR = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))

FULL = """\
name: full
about: every kind of key
extends: base.yaml
container:
  image: {rootfs: busybox}
  command: [sh]
  memory: 64MiB
  memory_swap: 64MiB
  oom_score_adj: 3
  ulimits: {nofile: 1024, nproc: {soft: 1, hard: 2}}
  tmpfs: {/run: 64MiB}
  env: {A: b}
  mounts: [{source: ./work, target: /work}, {volume: v, target: /v}]
beside: [{name: side, image: {ref: x}, network: "container:main"}]
setup: {run: x}
remount: {how: in-place, target: /work, mode: ro}
delay: {after: remount-start, for: -5ms}
pre_task: {script: s.sh, args: [1], env: {B: c}, timeout: 3s}
inject: [{at: setup, what: signal, signal: KILL}, {at: delay, after: 1s, what: fill-disk, free: 1MiB}]
deadlines: {create: 3s}
"""

SWEEP = """\
name: m
experiment: e.yaml
machine: {kind: pen, memory: 1GiB, cpus: 2}
axes: {machine.memory: [1GiB, 2GiB], delay: 0..1s/5, container.env.A: [x, y], remount.mode: [ro]}
exclude: [{delay: 0s, remount.mode: [ro]}]
include: [{delay: 3s}]
trials: {max: 3, stop: {alpha: 0.05, below: 1%, above: 10%}}
neighbours: {count: 1, busy: true}
order: {by: blocks, seed: 3}
tolerance: {any: 5%, race: 1%}
budget: 1h
"""

FILES = {
    "/w/e.yaml": FULL,
    "/w/base.yaml": "name: base\nlinger: 1s\npre_task: {run: x}\n",
    "/w/s.sh": "echo",
    "/w/m.yaml": SWEEP,
}
BOTH = ("/w/e.yaml", "/w/m.yaml")


def enter(files, overrides=()):
    """Nouns or problems; each problem whole and printable."""
    try:
        loaded = spec.loads_matrix(files, "/w/m.yaml", overrides, "/w")
        matrix.cells(loaded)
    except BadInput as error:
        assert error.problems
        str(error).encode("utf-8")
        for problem in error.problems:
            assert all((problem.where, problem.what, problem.why, problem.fix))


def test_the_fuzzed_files_are_good_ones():
    """Otherwise every mutation would find the same fault."""
    loaded = spec.loads_matrix(FILES, "/w/m.yaml", (), "/w")
    assert len(matrix.cells(loaded)) == 20


pieces = st.lists(
    st.sampled_from(
        [*"abx: \n-[]{},&*!|>'\"%@`#?\t0123.~\\", "name", "axes", "container", "<<: *a", "&a ",
         "*a", "\n  ", "\r", "\x85", "\u2028", "\ufeff", "🎉", "\ud800", "\x00", "!!str ", "---",
         "...", "? "]
    ),
    max_size=40,
).map("".join)  # fmt: skip

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["64MiB", "none", "0s", "..", "0..1s/5", "1..2*1", "5%", "-1", "recreate", "~/x", "/",
         "container:main", "main", "container:x", "x" * 300, "é"]
    ),
)  # fmt: skip
names = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["run", "script", "for", "how", "kind", "image", "ref", "soft", "0"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


class Dumper(yaml.SafeDumper):
    """Without anchors: the mutations are what is tested."""

    def ignore_aliases(self, data):
        return True


def paths(node, path=()):
    """Every place in a document."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node)
    if isinstance(node, (dict, list)):
        for key, child in children:
            yield from paths(child, (*path, key))


TREES = {name: yaml.load(FILES[name], Loader=yaml.BaseLoader) for name in BOTH}
PLACES = {name: list(paths(tree)) for name, tree in TREES.items() if tree}


@FRONT_DOOR
@given(st.one_of(st.text(), pieces))
def test_any_text(text):
    """Whatever is in the file."""
    enter({"/w/m.yaml": text})


@FRONT_DOOR
@given(st.sampled_from(BOTH), st.integers(0, 1500), st.integers(0, 30), pieces)
def test_a_slip_of_the_editor(name, begin, length, text):
    """A good file with a piece cut out and another put in."""
    good = FILES[name]
    begin %= len(good)
    enter({**FILES, name: good[:begin] + text + good[begin + length :]})


@FRONT_DOOR
@given(st.sampled_from(BOTH), st.data(), values)
def test_a_wrong_value_at_any_key(name, data, value):
    """Wrong types everywhere: null, lists for mappings, text for numbers."""
    tree = copy.deepcopy(TREES[name])
    path = data.draw(st.sampled_from(PLACES[name]))
    node = tree
    for step in path[:-1]:
        node = node[step]
    if path:
        node[path[-1]] = value
    else:
        tree = value
    text = yaml.dump(tree, Dumper=Dumper, allow_unicode=True)
    enter({**FILES, name: text})


@FRONT_DOOR
@given(
    st.sampled_from(
        ["container.memory", "delay", "delay.for", "remount", "remount.how", "trials.max", "axes",
         "container.mounts.0.mode", "container.mounts.5.mode", "machine", "exclude", "include",
         "beside.0.memory", "inject.0.at", "container.env.Z", "container.ulimits.foo",
         "pre_task.script", "setup", "tolerance.any", "name", "experiment", "", "container"]
    ),
    st.one_of(pieces, st.sampled_from(["64MiB,128MiB", "none", "0..1s/5", "in-place,none"])),
)  # fmt: skip
def test_any_override(key, text):
    """What the shell may hand over, bytes that are no text included."""
    enter(FILES, (f"{key}={text}",))
