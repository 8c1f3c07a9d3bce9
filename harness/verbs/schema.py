"""`schema`: the JSON Schema of experiments or matrices, for editors.

In an editor that speaks the YAML language server, the first line of a file may name it:
`# yaml-language-server: $schema=PATH`.
"""

from __future__ import annotations

import difflib
import json as jsonlib

from harness.errors import BadInput, ExitCode, Problem
from harness.spec.schema import SCHEMAS


def main(noun: str = "experiment", json: bool = True) -> int:
    """Print the schema; it is JSON with or without `json`.

    Raises:
        BadInput: there is no such noun.
    """
    if noun not in SCHEMAS:
        close = difflib.get_close_matches(noun, SCHEMAS, n=1, cutoff=0.3)
        raise BadInput(
            [
                Problem(
                    "command line",
                    f'"{noun}"',
                    "there are two kinds of files: experiment and matrix",
                    f"did you mean {close[0]}?" if close else "experiment or matrix",
                )
            ]
        )
    print(text(noun), end="")
    return int(ExitCode.OK)


def text(noun: str) -> str:
    """The schema as it is printed and kept."""
    return jsonlib.dumps(SCHEMAS[noun](), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
