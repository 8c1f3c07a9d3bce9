"""The pages can not fall behind the code: what there is, is named; what is named, is there."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from harness.errors import ExitCode
from harness.model.causes import CAUSES
from harness.model.verdicts import Certainty, Hypothesis, Outcome
from harness.verbs import catalogue

sys.path.insert(0, str(Path(__file__).parent))
import pages

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = {path.name: path.read_text() for path in PAGES}
README, MAP = ALL["README.md"], ALL["whats-here.md"]
TASKS = catalogue.collection().tasks
SHIPPED = [
    *sorted((ROOT / "experiments").glob("*.yaml")),
    *sorted((ROOT / "matrix").glob("*.yaml")),
]


def rows(text, header):
    """The first cells of the table that begins with this header."""
    body = text.split(header)[1].splitlines()[2:]
    cells = []
    for line in body:
        if not line.startswith("|"):
            break
        cells.append(line.split("|")[1])
    return cells


def test_every_verb_is_in_the_readme_and_no_other():
    """A verb that nobody can find is not there; a verb of the page that is not there is worse."""
    named = {
        word.split()[0]
        for cell in rows(README, "| verb | does |")
        for word in re.findall(r"`([^`]+)`", cell)
    }
    assert named == set(TASKS)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_verb_has_help(name):
    """One line for the verb, and one for each of its arguments."""
    assert TASKS[name].__doc__
    for _ in range(2):
        for argument in TASKS[name].get_arguments():
            assert argument.help, f"{name} --{argument.name}"


def test_every_exit_code_is_told():
    """A script must not meet a number that the page does not know."""
    told = README.split("Exit codes: ")[1].split("With\n`--json`")[0]
    numbers = {int(part.split()[0]) for part in told.replace("\n", " ").split("·")}
    assert numbers == {int(code) for code in ExitCode}


def test_the_readme_begins_with_what_it_is_and_how_to_run_it():
    """The claim, then two commands, before anything else."""
    top = README.splitlines()
    assert top[2].startswith("**")
    assert README.index("./inv sweep") < README.index("./inv test") < README.index("## ") + 900
    assert "@@" not in README


@pytest.mark.parametrize("name", sorted(ALL))
def test_links_lead_somewhere(name):
    """Relative links and their anchors resolve."""
    folder = next(path.parent for path in PAGES if path.name == name)
    for target in re.findall(r"\]\(([^)]+)\)", ALL[name]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (folder / path) if path else folder / name
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


def anchors(text):
    """Headings as links name them."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


PLACES = ("harness", "tests", "docs", "experiments", "matrix")


@pytest.mark.parametrize("name", sorted(ALL))
def test_files_that_are_named_exist(name):
    """`folder/file` of this repository, in backticks or in commands."""
    words = re.findall(rf"(?<![\w/.-])((?:{'|'.join(PLACES)})/[\w./*-]+)", ALL[name])
    for word in words:
        # What a reader makes himself; the room `matrix` has the folder's name.
        if "my-experiment" in word or re.fullmatch(r"matrix/\w+\.py", word):
            continue
        assert list(ROOT.glob(word.rstrip("."))), word


def modules():
    """Every module as the map names it: relative to harness/."""
    return {str(path.relative_to(ROOT / "harness")) for path in (ROOT / "harness").rglob("*.py")}


def test_every_module_is_on_the_map_and_nothing_else():
    """One sentence per module in docs/whats-here.md; a module without one has no reason yet."""
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", MAP))
    named -= {"tasks.py", *(word for word in named if word.startswith(("tests/", "harness/")))}
    assert modules() - named == set(), "no sentence in docs/whats-here.md"
    assert named - modules() == set(), "on the map, but not on the disk"


def test_every_shipped_experiment_and_matrix_is_named():
    """A file that no page names is found by nobody."""
    text = "".join(ALL.values())
    for path in SHIPPED:
        assert str(path.relative_to(ROOT)) in text, path.name


def test_the_page_of_causes_is_what_the_lists_say():
    """Repair with: python tests/pages.py."""
    _, mark, rest = ALL["causes.md"].partition(pages.MARK)
    assert mark
    assert rest == "\n" + pages.made()


def test_every_cause_and_hypothesis_has_its_place():
    """The closed lists, whole."""
    heads = set(re.findall(r"^### ([\w-]+)$", ALL["causes.md"], re.MULTILINE))
    assert heads == set(CAUSES)
    assert [cell.strip() for cell in rows(README, "| column | what killed it |")] == [
        hypothesis.short for hypothesis in Hypothesis
    ]


def test_what_decides_an_exec_is_written_for_causes_that_are_said():
    """No line about a cause that no code says; a cause without a rule has its line."""
    told, said = set(pages.BY_EXEC), pages.said()
    assert told <= said
    ruled = {name for name in CAUSES if pages.rules(name)}
    assert said - ruled <= told


def test_words_of_the_evidence():
    """Outcomes and certainties as the code spells them."""
    text = ALL["evidence.md"]
    assert [c.strip().strip("`") for c in rows(text, "| outcome | when | in the rate |")] != []
    told = {c.strip().strip("`") for c in rows(text, "| outcome | when | in the rate |")}
    assert told == {outcome.value for outcome in Outcome}
    sure = {c.strip().strip("`") for c in rows(text, "| word | means |")}
    assert sure == {certainty.value for certainty in Certainty}


def test_every_document_is_listed():
    """Each `format` that the code writes stands in docs/results.md, and no other."""
    written = {
        found
        for path in (ROOT / "harness").rglob("*.py")
        for found in re.findall(r'"(deathbench\.[a-z-]+/\d+)"', path.read_text())
    }
    cells = rows(ALL["results.md"], "| `format` | verb | holds |")
    assert {cell.strip().strip("`") for cell in cells} == written


def test_the_map_knows_the_documented_words():
    """Each word of the list stands once."""
    words = [
        word.strip() for cell in rows(MAP, "| word | meaning |") for word in cell.strip().split(",")
    ]
    assert len(words) == len(set(words))
    assert {"trial", "cell", "campaign", "death", "verdict", "cause", "probe", "gap"} <= set(words)


def test_examples_of_the_pages_are_yaml_or_json():
    """What is shown can be read by the program it is shown for."""
    for name, text in ALL.items():
        for block in re.findall(r"```(?:yaml|json)\n(.*?)```", text, re.DOTALL):
            assert yaml.safe_load(block.replace("\t", " ")) is not None, name


def test_the_version_python_needs():
    """README and package say the same."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"Python {wanted.removeprefix('>=')} or newer" in README
