"""Every entry of the gallery once, on a pen of its own: each verdict is right.

One self-test for the whole file, two pens at a time; each entry is a test of its own, so
that a verdict that is not right has a name. An entry is run again only where its cause is
known not to have been caused: an injection that came too late says so by itself.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness import spec
from harness.verbs import selftest

ROOT = Path(__file__).parent.parent.parent
GALLERY = sorted((ROOT / "experiments" / "causes").glob("*.yaml"))

ATTEMPTS = 3
NOT_CAUSED = "not caused in time"

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def found(request, tmp_path_factory):
    """What the self-test counted, by entry; only of those that this run asks for."""
    asked = [
        i.callspec.params["path"].stem
        for i in request.session.items
        if hasattr(i, "callspec") and "path" in i.callspec.params and i.fspath == request.fspath
    ]
    folder = tmp_path_factory.mktemp("gallery")
    os.symlink(ROOT / "experiments", folder / "experiments")
    # Short: a socket's path has 108 bytes.
    state = tempfile.mkdtemp(prefix="db-")
    counted: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEATHBENCH_ROOT", str(folder))
        patch.setenv("DEATHBENCH_STATE", state)
        for attempt in range(ATTEMPTS):
            left = [name for name in asked if not attempt or counted[name] == NOT_CAUSED]
            if left:
                counted |= self_test(folder / f"{attempt}.json", left)
    shutil.rmtree(state, ignore_errors=True)
    return counted


def self_test(out, names):
    """Each of them once: what was counted, NOT_CAUSED, or why this machine can not cause it."""
    with open(out, "w") as f, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", f)
        selftest.main(n=1, jobs=2, cause=",".join(names), json=True)
    document = json.loads(out.read_text())
    return {one["cause"]: one if one["n"] else NOT_CAUSED for one in document["causes"]} | {
        one["cause"]: one["why"] for one in document["not_possible"]
    }


@pytest.mark.parametrize("path", GALLERY, ids=lambda p: p.stem)
def test_it_is_told(found, path):
    """Right: neither wrong nor unknown."""
    one = found[path.stem]
    assert one != NOT_CAUSED, f"not caused in time in {ATTEMPTS} attempts"
    if isinstance(one, str):
        pytest.skip(one)
    assert (one["right"], one["unknown"], one["wrong"]) == (1, 0, 0), one


@pytest.mark.parametrize("path", GALLERY, ids=lambda p: p.stem)
def test_it_says_what_it_is(path):
    """Named like its file, with a sentence for people and with what to expect."""
    one = spec.load_experiment(path).experiment
    assert one.name == path.stem
    assert one.about
    assert one.expect is not None
