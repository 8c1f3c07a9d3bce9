"""Every shipped experiment and matrix loads, says what it is for, and fits its schema."""

import re
from pathlib import Path

import pytest
import yaml

from harness import matrix, spec
from harness.spec import keys
from harness.spec.schema import SCHEMAS

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
MATRICES = sorted((ROOT / "matrix").glob("*.yaml"))


def named(paths):
    """Parameters with readable ids."""
    return [pytest.param(path, id=f"{path.parent.name}/{path.name}") for path in paths]


@pytest.mark.parametrize("path", named(EXPERIMENTS))
def test_experiments_load(path):
    """Repair with: ./inv validate experiments/NAME.yaml."""
    loaded = spec.load_experiment(path)
    assert loaded.experiment.name == path.stem
    assert loaded.experiment.about


@pytest.mark.parametrize("path", named(MATRICES))
def test_matrices_load_and_plan(path):
    """Repair with: ./inv validate matrix/NAME.yaml. A frozen copy gives the same trials."""
    loaded = spec.load_matrix(path)
    assert loaded.matrix.name == path.stem
    assert matrix.plan(spec.thaw(loaded.frozen()), 3) == matrix.plan(loaded, 3)


@pytest.mark.parametrize("path", named(EXPERIMENTS + MATRICES))
def test_a_newcomer_finds_a_comment_on_top(path):
    """What it is for, before the first key; a matrix also says how to run it."""
    top = path.read_text().partition("name:")[0]
    assert top.startswith("# ")
    if path in MATRICES:
        assert f"./inv sweep matrix/{path.name}" in top


def test_every_script_is_used():
    """A script that no experiment names is a leftover."""
    used = {name for path in EXPERIMENTS for name in spec.load_experiment(path).files}
    there = {str(path) for path in (ROOT / "experiments" / "scripts").glob("*.sh")}
    assert there <= used


# The schema, by the few rules of JSON Schema that it uses


def fits(value, schema, root):
    """Whether a document fits; covers every word the schemas use, and refuses others."""
    known = {
        "$ref", "$defs", "$schema", "title", "description", "default", "anyOf", "allOf", "type",
        "enum", "const", "properties", "required", "additionalProperties", "items", "pattern",
        "minimum", "maximum", "minLength", "minItems", "minProperties", "propertyNames",
        "patternProperties",
    }  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema and not fits(value, root["$defs"][schema["$ref"][8:]], root):
        return False
    if "anyOf" in schema and not any(fits(value, option, root) for option in schema["anyOf"]):
        return False
    if "const" in schema and not (
        value == schema["const"] and type(value) is type(schema["const"])
    ):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    types = schema.get("type", [])
    if types and not any(is_of(value, t) for t in ([types] if isinstance(types, str) else types)):
        return False
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None and len(value) >= schema.get(
            "minLength", 0
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if isinstance(value, list):
        return len(value) >= schema.get("minItems", 0) and all(
            fits(item, schema.get("items", {}), root) for item in value
        )
    return fits_object(value, schema, root) if isinstance(value, dict) else True


def fits_object(value, schema, root):
    """The rules for mappings."""
    known = schema.get("properties", {})
    if not set(schema.get("required", [])) <= set(value):
        return False
    for key, item in value.items():
        if "propertyNames" in schema and not fits(key, schema["propertyNames"], root):
            return False
        rules = [known[key]] if key in known else []
        rules += [s for p, s in schema.get("patternProperties", {}).items() if re.search(p, key)]
        if not rules:
            extra = schema.get("additionalProperties", True)
            if extra is False:
                return False
            rules = [extra] if isinstance(extra, dict) else []
        if not all(fits(item, rule, root) for rule in rules):
            return False
    return len(value) >= schema.get("minProperties", 0)


def is_of(value, name):
    """JSON's types: true is no number, 1.0 is an integer."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "integer": number and float(value).is_integer(),
        "number": number,
        "string": isinstance(value, str),
        "array": isinstance(value, list),
        "object": isinstance(value, dict),
    }[name]


SCHEMA = {noun: make() for noun, make in SCHEMAS.items()}


@pytest.mark.parametrize("path", named(EXPERIMENTS + MATRICES))
def test_shipped_files_fit_the_schema(path):
    """What the loader takes, the editor must not underline."""
    noun = "matrix" if path in MATRICES else "experiment"
    assert fits(yaml.safe_load(path.read_text()), SCHEMA[noun], SCHEMA[noun])


GOOD = """\
name: x
container: {image: {rootfs: busybox}}
pre_task: {run: echo}
"""


@pytest.mark.parametrize(
    "line",
    [
        "container: {image: {rootfs: busybox}, memory: none, cpus: null, ulimits: {nofile: 3}}",
        "container: {image: {ref: x}, tmpfs: {/run: 64MiB}, env: {A: 1}, restart: 'on-failure:3'}",
        "delay: {after: remount-start, for: -5ms}",
        "delay: 0",
        "remount: restart",
        "extends: [a.yaml, b.yaml]",
        "inject: [{at: delay, what: freeze, for: 1s}]",
        "before_trial: {run: x}",
    ],
)
def test_the_schema_takes_what_the_loader_takes(line):
    """Sugar, `none` and null included."""
    assert fits(yaml.safe_load(GOOD + line + "\n"), SCHEMA["experiment"], SCHEMA["experiment"])


@pytest.mark.parametrize(
    "line",
    [
        "contaner: {}",
        "linger: 5",
        "linger: 5 apples",
        "delay: {before: 1s}",
        "remount: rename",
        "container: {image: {rootfs: busybox}, memory: 256mb}",
        "container: {image: {rootfs: busybox}, memroy: 256MiB}",
        "container: {image: {rootfs: busybox}, ulimits: {nofiles: 3}}",
        "inject: [{at: delay, what: nothing}]",
        "pre_task: {run: ''}",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(line):
    """The editor underlines the slip before the sweep is started."""
    text = GOOD.replace("pre_task: {run: echo}\n", "") if line.startswith("pre_task") else GOOD
    document = yaml.safe_load(text + line + "\n")
    assert not fits(document, SCHEMA["experiment"], SCHEMA["experiment"])


def test_the_schema_knows_every_axis_with_its_values():
    """Every key that may be swept is offered, and its values are checked."""
    axes = SCHEMA["matrix"]["properties"]["axes"]["properties"]
    assert set(axes) == set(keys.swept())
    base = {"name": "m", "experiment": "e.yaml"}
    for axis, good in [
        ({"container.memory": ["64MiB", "none"]}, True),
        ({"container.memory": "64MiB..512MiB*2"}, True),
        ({"container.memory": ["64mb"]}, False),
        ({"container.memory": []}, False),
        ({"delay": [0, "1s", {"after": "remount-start", "for": "0s"}]}, True),
        ({"remount.how": ["recreat"]}, False),
    ]:
        assert fits({**base, "axes": axis}, SCHEMA["matrix"], SCHEMA["matrix"]) is good, axis


def test_a_file_that_extends_may_leave_keys_out():
    """And one that does not may not."""
    schema = SCHEMA["experiment"]
    assert fits({"extends": "base.yaml"}, schema, schema)
    assert not fits({"name": "x"}, schema, schema)
