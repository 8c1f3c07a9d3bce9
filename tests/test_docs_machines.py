"""The pages about machines and injections name everything there is."""

from __future__ import annotations

from pathlib import Path

from harness.machine import choose, pen
from harness.matrix import plan
from harness.model.injection import ACTIONS
from harness.spec import load_experiment

DOCS = Path(__file__).parents[1] / "docs"


def test_every_action_has_its_line():
    """What can be injected is on the page, and nothing else is."""
    text = (DOCS / "injection.md").read_text()
    rows = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert rows == set(ACTIONS)


def test_the_pages_example_is_taken(tmp_path):
    """The example of the page can be written into an experiment as it stands."""
    example = (DOCS / "injection.md").read_text().split("```yaml\n")[1].split("```")[0]
    (tmp_path / "e.yaml").write_text(
        "name: e\ncontainer: {image: {rootfs: busybox}, command: [sleep, '9']}\n"
        "pre_task: {run: 'true'}\n" + example
    )
    loaded = load_experiment(tmp_path / "e.yaml")
    (trial, *_) = plan(loaded, 0)
    assert [i.what for i in trial.experiment.inject] == [
        "docker-kill",
        "dockerd-kill",
        "memory-hog",
    ]


def test_every_kind_and_package_is_named():
    """Each kind of machine and each package a pen needs stands on the page."""
    text = (DOCS / "machines.md").read_text()
    for kind in choose.KINDS:
        assert f"`{kind}`" in text
    for package in pen.PACKAGES:
        assert package in text or package == "util-linux", package
