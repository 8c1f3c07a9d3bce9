"""Every entry of the gallery once, on a pen of its own: no verdict is wrong.

One self-test for the whole file, two pens at a time; each entry is a test of its own, so
that a wrong verdict has a name.
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEATHBENCH_ROOT", str(folder))
        patch.setenv("DEATHBENCH_STATE", state)
        out = folder / "out.json"
        with open(out, "w") as f, pytest.MonkeyPatch.context() as inner:
            inner.setattr("sys.stdout", f)
            selftest.main(n=1, jobs=2, cause=",".join(asked), json=True)
    shutil.rmtree(state, ignore_errors=True)
    document = json.loads(out.read_text())
    return {one["cause"]: one for one in document["causes"]} | {
        one["cause"]: one["why"] for one in document["not_possible"]
    }


@pytest.mark.parametrize("path", GALLERY, ids=lambda p: p.stem)
def test_it_is_told(found, path):
    """Right, or unknown where this machine's noise hid it, or not caused in time; never wrong."""
    one = found[path.stem]
    if isinstance(one, str):
        pytest.skip(one)
    assert one["wrong"] == 0, one


def test_nearly_all_are_named(found):
    """Unknown is an answer, and not one to hide behind."""
    counted = [one for one in found.values() if not isinstance(one, str)]
    assert sum(one["right"] for one in counted) >= 0.9 * len(counted)


@pytest.mark.parametrize("path", GALLERY, ids=lambda p: p.stem)
def test_it_says_what_it_is(path):
    """Named like its file, with a sentence for people and with what to expect."""
    one = spec.load_experiment(path).experiment
    assert one.name == path.stem
    assert one.about
    assert one.expect is not None
