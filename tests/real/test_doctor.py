"""`doctor` says what is really so here."""

from __future__ import annotations

import json
import os

import pytest

from harness.verbs import doctor

pytestmark = pytest.mark.real


def test_doctor_says_what_is_here(capsys):
    """One JSON document: a pen is to be had, a real probe saw deaths and the kernel's log."""
    assert doctor.main(json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["format"] == "deathbench.doctor/1"
    machines = {m["kind"]: m for m in said["machines"]}
    assert machines["pen"]["available"] and machines["pen"]["why"] is None
    assert said["auto"] in ("pen", "colima")
    sources = {s["name"]: s["state"] for s in said["sources"]}
    assert sources["trace"] == sources["kernel"] == sources["cgroup"] == "active"
    for finding in said["findings"]:
        assert finding["what"] and finding["harm"] and finding["mend"]


def test_doctor_names_a_matrix_that_can_not_run_here(capsys, tmp_path, monkeypatch):
    """A matrix of the current folder that asks for more memory than there is, with both numbers."""
    (tmp_path / "matrix").mkdir()
    (tmp_path / "e.yaml").write_text(
        "name: e\ncontainer: {image: {rootfs: busybox}, command: [sleep, '1']}\npre_task: {run: 'true'}\n"
    )
    (tmp_path / "matrix/m.yaml").write_text(
        "name: m\nexperiment: ../e.yaml\nmachine: {kind: pen}\naxes: {machine.memory: [8TiB]}\n"
    )
    monkeypatch.chdir(tmp_path)
    doctor.main(json=True)
    found = [f for f in json.loads(capsys.readouterr().out)["findings"] if "m.yaml" in f["what"]]
    assert len(found) == 1
    assert "8TiB" in found[0]["harm"]
    assert os.getcwd() == str(tmp_path)


def test_doctor_in_words(capsys):
    """The same for people: machines, sources, versions, findings."""
    doctor.main()
    text = capsys.readouterr().out
    for word in ("machines", "what the probe sees here", "versions", "pen      yes"):
        assert word in text
