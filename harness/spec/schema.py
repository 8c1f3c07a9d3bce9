"""JSON Schema of the two kinds of files, for editors.

Rule: derived from the nouns, never written by hand, so it can not fall behind them. What
a schema can not say (two keys that must agree, files that must exist) the loader says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.model.experiment import Experiment, Matrix
from harness.spec import keys

if TYPE_CHECKING:
    from harness.model.fields import Noun

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_EXTENDS = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "Files to start from; what stands here wins. Relative to this file.",
}
_RANGE = {
    "type": "string",
    "pattern": r"^-?[0-9][^.]*(\.[0-9][^.]*)?\.\..+[*/+].+$",
    "description": "64MiB..512MiB*2 (times two), 0..1s/5 (five values), 1..4+1 (steps of one)",
}


def experiment_schema() -> dict[str, Any]:
    """The schema of a file in experiments/. Extending files may leave required keys out."""
    schema = Experiment.model_json_schema(by_alias=True)
    schema["properties"]["extends"] = _EXTENDS
    return _finish(schema, "A deathbench experiment")


def matrix_schema() -> dict[str, Any]:
    """The schema of a file in matrix/, every possible axis by name."""
    schema = Matrix.model_json_schema(by_alias=True)
    experiment = Experiment.model_json_schema(by_alias=True)
    definitions = {**experiment.pop("$defs", {}), **schema.get("$defs", {})}
    definitions["Experiment"] = experiment
    definitions["range"] = _RANGE
    axes: dict[str, Any] = {}
    for key in keys.swept():
        value, found = _schema_at(key)
        definitions.update(found)
        definitions[f"axis.{key}"] = {"anyOf": [value, {"$ref": "#/$defs/range"}]}
        one = {"$ref": f"#/$defs/axis.{key}"}
        axes[key] = {"anyOf": [{"type": "array", "minItems": 1, "items": one}, one]}
    pattern = {"type": "object", "minProperties": 1}
    schema["$defs"] = definitions
    schema["properties"].update(
        {
            "extends": _EXTENDS,
            "experiment": {
                "anyOf": [{"type": "string"}, {"$ref": "#/$defs/Experiment"}],
                "description": "The experiment to sweep; a path relative to this file.",
            },
            "axes": {
                "type": "object",
                "description": "Dotted key -> values to sweep.",
                "properties": axes,
                # Keys through lists and free names: container.mounts.0.mode, container.env.X.
                "additionalProperties": True,
            },
            "exclude": {"anyOf": [{"type": "array", "items": pattern}, pattern]},
            "include": {"anyOf": [{"type": "array", "items": pattern}, pattern]},
            "control": {"anyOf": [{"type": "object", "minProperties": 1}, {"type": "null"}]},
        }
    )
    return _finish(schema, "A deathbench matrix")


SCHEMAS = {"experiment": experiment_schema, "matrix": matrix_schema}


def _schema_at(key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    owner = keys.owner(key)
    model: type[Noun] = keys.model_of(owner or "experiment")
    adapter = keys.adapter(model, tuple(key.split(".")))
    schema = adapter.json_schema(by_alias=True)
    return schema, schema.pop("$defs", {})


def _finish(schema: dict[str, Any], title: str) -> dict[str, Any]:
    schema.pop("description", None)
    # What extends another file may name a part of a container and leave the rest to it.
    schema["$defs"]["ContainerSpec"].pop("required", None)
    schema["title"] = title
    # A file that extends another one may leave out what that one has.
    required = schema.pop("required", [])
    schema["anyOf"] = [{"required": required}, {"required": ["extends"]}]
    return {"$schema": DIALECT, **schema}
