"""`new NAME`: a first experiment with its scripts and its matrix, commented, ready to run.

Rule: nothing that is there is ever overwritten, and either all files are written or none.
"""

from __future__ import annotations

import json as jsonlib
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from harness.errors import BadInput, EnvironmentInvalid, ExitCode, Problem
from harness.model.experiment import Experiment
from harness.spec.keys import adapter

FORMAT = "deathbench.new/1"
PLACEHOLDER = "@NAME@"

FILES = {
    "experiment.yaml": "experiments/{}.yaml",
    "setup.sh": "experiments/scripts/{}-setup.sh",
    "pre-task.sh": "experiments/scripts/{}-pre-task.sh",
    "matrix.yaml": "matrix/{}.yaml",
}
"""Template → where it goes in the current folder."""


def main(name: str = "", json: bool = False) -> int:
    """Write the files into the current folder.

    Raises:
        BadInput: the name can not be a name, or a file is there already.
        EnvironmentInvalid: the folder can not be written to.
    """
    name = name or "first"
    try:
        adapter(Experiment, ("name",)).validate_python(name)
    except ValidationError as error:
        context = error.errors()[0].get("ctx", {})
        raise BadInput(
            [Problem("command line", f'"{name}"', context["why"], context["fix"])]
        ) from None
    wanted = {where.format(name): template for template, where in FILES.items()}
    there = [path for path in wanted if Path(path).exists()]
    if there:
        raise BadInput(
            [
                Problem(path, "it is there already", "nothing is overwritten", "another name")
                for path in there
            ],
            about="the current folder",
        )
    written: list[str] = []
    try:
        for path, template in wanted.items():
            content = files("harness.verbs").joinpath("templates", template).read_text("utf-8")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # "x": somebody who writes it at this very moment is not overwritten either.
            with Path(path).open("x", encoding="utf-8") as stream:
                written.append(path)
                stream.write(content.replace(PLACEHOLDER, name))
    except OSError as error:
        for path in written:
            Path(path).unlink(missing_ok=True)
        raise EnvironmentInvalid(
            f"{error.filename or 'the current folder'} can not be written",
            why=error.strerror or str(error),
            mend="go to a folder of your own and repeat the command",
        ) from None
    if json:
        print(jsonlib.dumps({"format": FORMAT, "exit": 0, "name": name, "files": list(wanted)}))
    else:
        print("\n".join(f"wrote {path}" for path in wanted))
        print(f"\nnext: validate matrix/{name}.yaml, then sweep matrix/{name}.yaml")
    return int(ExitCode.OK)
