"""validate, schema, new: what they print and what they leave on the disk."""

import json

import pytest

from harness.errors import BadInput, EnvironmentInvalid, ExitCode
from harness.verbs import new, schema, validate


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_new_writes_is_valid_and_says_where_it_is(folder, capsys):
    """A stranger's first two commands work in an empty folder of their own."""
    assert new.main("hello") == ExitCode.OK
    assert "wrote matrix/hello.yaml" in capsys.readouterr().out
    assert validate.main([]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "experiments/hello.yaml: fine, an experiment" in out
    assert "matrix/hello.yaml: fine, a matrix of 4 cells, at most 12 trials" in out
    assert not [p for p in folder.rglob("*") if p.is_file() and "@NAME@" in p.read_text()]


def test_new_never_overwrites(folder):
    """Not even one file of four; and nothing is written then."""
    (folder / "matrix").mkdir()
    (folder / "matrix" / "hello.yaml").write_text("mine")
    with pytest.raises(BadInput) as caught:
        new.main("hello")
    assert caught.value.problems[0].where == "matrix/hello.yaml"
    assert not (folder / "experiments").exists()
    assert (folder / "matrix" / "hello.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", ["../up", "Upper", "a b", "-x", "x" * 99])
def test_new_refuses_odd_names(folder, name):
    """A name becomes file names."""
    with pytest.raises(BadInput):
        new.main(name)
    assert list(folder.iterdir()) == []


def test_new_where_nothing_can_be_written(folder):
    """A file stands where the folder should: told, and what was written is taken back."""
    (folder / "matrix").write_text("in the way")
    with pytest.raises(EnvironmentInvalid):
        new.main("hello")
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["matrix"]


def test_validate_tells_everything_and_exits_1(folder, capsys):
    """Every file is looked at, whatever the first one is like."""
    new.main("hello")
    (folder / "bad.yaml").write_text("name: bad\ncontainer: {memory: 1mb}\nlinger: x\n")
    capsys.readouterr()
    code = validate.main(["bad.yaml", "matrix/hello.yaml", "gone.yaml"])
    out = capsys.readouterr().out
    assert code == ExitCode.USAGE
    assert "4 problems in bad.yaml" in out
    assert "bad.yaml:2 container.memory" in out
    assert "matrix/hello.yaml: fine" in out
    assert "no such file" in out


def test_validate_as_json(folder, capsys):
    """One document; the problems with where, what, why and the remedy."""
    new.main("hello")
    (folder / "bad.yaml").write_text("name: bad\n")
    capsys.readouterr()
    validate.main(["bad.yaml", "matrix"], json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "deathbench.validate/1"
    assert document["exit"] == 1
    bad, good = document["files"]
    assert set(bad) == set(good)
    assert (bad["ok"], good["ok"], good["cells"], good["trials"]) == (False, True, 4, 12)
    assert set(bad["problems"][0]) == {"where", "what", "why", "mend"}


def test_validate_finds_what_only_the_cells_show(folder, capsys):
    """Two axes that can not go together are a problem of the file, found before a sweep."""
    new.main("hello")
    path = folder / "matrix" / "hello.yaml"
    path.write_text(path.read_text().replace("delay: [0s, 250ms]", "remount.how: [propagate]"))
    assert validate.main([str(path)]) == ExitCode.USAGE
    assert "hears of changes" in capsys.readouterr().out


def test_validate_without_files():
    """Nothing to look at is said, not passed."""
    with pytest.raises(BadInput):
        validate.main([])


@pytest.mark.parametrize("noun", ["experiment", "matrix"])
def test_schema_prints_json(noun, capsys):
    """Valid JSON, whatever else."""
    assert schema.main(noun) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["title"] == f"A deathbench {noun}"


def test_schema_of_something_else():
    """The nearest is named."""
    with pytest.raises(BadInput, match="did you mean experiment"):
        schema.main("experiments")
