"""`validate`: read experiments and matrices, report every problem, run nothing."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

from harness import matrix, spec
from harness.errors import BadInput, ExitCode, Problem

FOLDERS = ("experiments", "matrix")
FORMAT = "deathbench.validate/1"


def main(files: list[str], json: bool = False) -> int:
    """Check files, or everything below experiments/ and matrix/ when none is named.

    A folder stands for the YAML files in it.

    Returns:
        OK, or USAGE when any file has a problem.

    Raises:
        BadInput: there is nothing to check.
    """
    paths = [path for name in files or FOLDERS for path in _paths(name, named=bool(files))]
    if not paths:
        raise BadInput(
            [
                Problem(
                    "command line",
                    "no files",
                    "neither experiments/ nor matrix/ has a YAML file here",
                    "name the files, with commas between them",
                )
            ]
        )
    results = [check(path) for path in paths]
    code = ExitCode.OK if all(result["ok"] for result in results) else ExitCode.USAGE
    if json:
        told = [{k: v for k, v in result.items() if k != "text"} for result in results]
        print(jsonlib.dumps({"format": FORMAT, "exit": int(code), "files": told}))
    else:
        print("\n".join(_line(result) for result in results))
    return int(code)


def _paths(name: str, *, named: bool) -> list[str]:
    if Path(name).is_dir():
        return sorted(
            str(path) for path in Path(name).iterdir() if path.suffix in {".yaml", ".yml"}
        )
    return [name] if named else []


def check(path: str) -> dict[str, Any]:
    """One file: what it is and comes to, or its problems."""
    result: dict[str, Any] = {
        "file": path, "ok": False, "kind": None, "name": None, "cells": None, "trials": None,
        "machines": None, "axes": None, "problems": [], "text": None,
    }  # fmt: skip
    try:
        loaded = spec.load(path)
        cells = matrix.cells(loaded)
    except BadInput as error:
        result["problems"] = error.document()["problems"]
        result["text"] = str(error)
        return result
    is_matrix = bool(loaded.trees.matrix.entries.get("experiment"))
    result.update(
        ok=True,
        kind="matrix" if is_matrix else "experiment",
        name=loaded.matrix.name if is_matrix else loaded.experiment.name,
        cells=len(cells),
        trials=len(cells) * loaded.matrix.trials.max,
        machines=len({cell.machine for cell in cells}),
        axes={axis.key: [value.plain for value in axis.values] for axis in loaded.axes},
    )
    return result


def _line(result: dict[str, Any]) -> str:
    if not result["ok"]:
        return f"{result['text']}\n"
    if result["kind"] == "experiment":
        return f"{result['file']}: fine, an experiment"
    return (
        f"{result['file']}: fine, a matrix of {_many(result['cells'], 'cell')}, at most "
        f"{_many(result['trials'], 'trial')}, {_many(result['machines'], 'machine configuration')}"
    )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
