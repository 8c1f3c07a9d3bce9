"""The wrapper: what it does before Python takes over, with a Python that only writes down its calls."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >>"$LOG"
case "$*" in
    "-c import sys, venv"*) ;;
    -V) echo Python 3.11.9 ;;
    "-m venv "*) mkdir -p "$3/bin" "$3/lib"; cp "$FAKES/python3" "$3/bin/python" ;;
    "-m pip "*) [ -z "${PIP_FAILS:-}" ] || { echo no network >&2; exit 1; } ;;
    "-P -m harness.verbs"*) shift 3; printf '%s\\n' "$DEATHBENCH_ROOT" "$@" ;;
esac
"""
APT = """#!/bin/sh
printf 'apt-get %s\\n' "$*" >>"$LOG"
if [ -e "$FAKES/cut-short" ]; then
    echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'"
    exit 100
fi
case "$*" in *" install "*) mv "$FAKES/python3.deb" "$FAKES/python3" ;; esac
"""
DPKG = """#!/bin/sh
printf 'dpkg %s\\n' "$*" >>"$LOG"
rm -f "$FAKES/cut-short"
"""
TOOLS = [
    "sh",
    "cat",
    "cksum",
    "chmod",
    "cp",
    "dirname",
    "flock",
    "grep",
    "head",
    "ln",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "printf",
    "readlink",
    "rm",
    "sed",
    "sleep",
    "sort",
    "tail",
    "tr",
    "uname",
]


class Folder:
    """A clone with a blank in its path, and a PATH with nothing but what is put there."""

    def __init__(self, tmp):
        self.path = tmp / "some one" / "death bench"
        self.fakes = tmp / "fakes"
        self.log = tmp / "log"
        self.path.mkdir(parents=True)
        self.fakes.mkdir()
        for name in ("inv", "requirements.lock", "requirements-dev.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, self.path / name)
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.fakes / tool).symlink_to(found)
        self.program("python3", PYTHON)
        self.program("id", "#!/bin/sh\necho 1000\n")

    def program(self, name, text):
        path = self.fakes / name
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **more):
        return {"PATH": str(self.fakes), "FAKES": str(self.fakes), "LOG": str(self.log), **more}

    def call(self, *words, inv=None, cwd="/", **more):
        return subprocess.run(
            [inv or self.path / "inv", *words],
            cwd=cwd,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=20,
        )

    def calls(self, what):
        """What Python and the package tools were asked since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if what in line]

    def forget(self):
        self.log.unlink(missing_ok=True)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_the_first_call_sets_up_and_says_so_the_second_only_hands_over(folder):
    """Words reach the verb whole, from any current folder; the root is the clone's."""
    first = folder.call("validate", "a file.yaml", "--json")
    assert first.stdout.splitlines() == [str(folder.path), "validate", "a file.yaml", "--json"]
    assert "virtual environment" in first.stderr and "locked Python packages" in first.stderr
    folder.forget()
    second = folder.call("--list")
    assert (second.stderr, second.stdout.splitlines()[1]) == ("", "--list")
    assert len(folder.log.read_text().splitlines()) == 1


def test_a_link_to_it_finds_its_folder(folder, tmp_path):
    """`ln -s …/inv ~/bin/` works, also through a second link that is relative."""
    (tmp_path / "one").symlink_to(folder.path / "inv")
    (tmp_path / "two").symlink_to("one")
    assert folder.call("--list", inv=tmp_path / "two").stdout.splitlines()[0] == str(folder.path)


@pytest.mark.parametrize("left", [".installing", "no .home", "no bin", "moved"])
def test_a_set_up_that_was_cut_short_is_done_again(folder, left):
    """Whatever kill -9 left: the environment is made anew, and its stamp is the last thing written."""
    folder.call("--list")
    venv = folder.path / ".venv"
    (venv / ".ready").unlink()
    match left:
        case ".installing":
            (venv / ".installing").touch()
        case "no .home":
            (venv / ".home").unlink()
        case "no bin":
            shutil.rmtree(venv / "bin")
        case "moved":
            folder.path = folder.path.rename(folder.path.parent / "elsewhere")
            venv = folder.path / ".venv"
    (venv / "old").touch()
    folder.forget()
    again = folder.call("--list")
    assert again.returncode == 0 and "making .venv anew" in again.stderr
    assert not (venv / "old").exists() and folder.calls("-m pip")
    assert folder.call("--list").stderr == ""


def test_a_new_lock_is_installed_into_the_environment_there_is(folder):
    """A pull that changes the locks costs one pip run, not a new environment."""
    folder.call("--list")
    folder.forget()
    with (folder.path / "requirements.lock").open("a") as lock:
        lock.write("# newer\n")
    assert "installing" in folder.call("--list").stderr
    assert folder.calls("-m pip") and not folder.calls("-m venv")


def test_tests_need_more_and_get_it_once(folder):
    """The packages for checks are installed when a check is first asked for."""
    folder.call("--list")
    folder.forget()
    assert "tests and checks" in folder.call("check").stderr
    assert [c for c in folder.calls("-m pip") if "requirements-dev.lock" in c]
    assert folder.call("check").stderr == ""


def test_a_failing_pip_is_one_error_and_one_document(folder):
    """With --json stdout has the verb's own shape; nothing looks finished afterwards."""
    failed = folder.call("table", "--json", PIP_FAILS="1")
    assert failed.returncode == 3
    document = json.loads(failed.stdout)
    assert (document["format"], document["exit"]) == ("deathbench.table/1", 3)
    assert document["cells"] == [] and "requirements.lock" in document["error"]["what"]
    assert "no network" in failed.stderr
    assert folder.call("table").returncode == 0


def test_without_python_and_root_the_packages_are_named(folder):
    """Nobody's machine is changed behind their back: what is missing is said, exit 3."""
    (folder.fakes / "python3").unlink()
    told = folder.call("sweep", "x.yaml", "--plan")
    assert told.returncode == 3 and "python3" in told.stderr and "root" in told.stderr


def test_an_apt_that_was_cut_short_is_finished_first(folder):
    """kill -9 in the middle of dpkg: the next call mends that and goes on by itself."""
    folder.program("id", "#!/bin/sh\necho 0\n")
    folder.program("apt-get", APT)
    folder.program("dpkg", DPKG)
    (folder.fakes / "python3").rename(folder.fakes / "python3.deb")
    (folder.fakes / "cut-short").touch()
    done = folder.call("validate")
    assert done.returncode == 0, done.stderr
    assert "installing Debian packages: python3" in done.stderr
    assert folder.calls("dpkg --configure -a")
    assert not (folder.path / ".deathbench/installing").exists()
    assert [p.name for p in (folder.path / ".deathbench").iterdir()] == ["setup.lock"]


@pytest.mark.skipif(shutil.which("flock") is None, reason="util-linux is not everywhere")
def test_a_second_call_waits_for_the_first_to_set_up(folder):
    """Two calls in a fresh clone do not write into one environment at the same time."""
    (folder.path / ".deathbench").mkdir()
    with open(folder.path / ".deathbench/setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [folder.path / "inv", "--list"],
            env=folder.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "waiting" in waiting.stderr.readline()
        assert not (folder.path / ".venv").exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        out, _ = waiting.communicate(timeout=20)
    assert out.splitlines()[0] == str(folder.path)


WITHOUT_QEMU = """#!/bin/sh
printf 'apt-get %s\\n' "$*" >>"$LOG"
case "$*" in *qemu*) echo "E: Unable to locate package qemu-system-x86"; exit 100 ;; esac
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="no QEMU is asked for elsewhere")
def test_tests_go_on_without_a_virtual_machine(folder):
    """What can not be had for it is said, and skips its tests; the engine's packages are a must."""
    folder.program("id", "#!/bin/sh\necho 0\n")
    folder.program("apt-get", WITHOUT_QEMU)
    done = folder.call("test")
    assert done.returncode == 0 and done.stdout.splitlines()[1] == "test", done.stderr
    assert "Unable to locate package qemu-system-x86" in done.stderr
    assert "its tests are skipped" in done.stderr
    engine, vm = (c for c in folder.calls("apt-get") if " install " in c)
    assert "docker.io" in engine and "qemu" not in engine
    assert "qemu-system-x86" in vm
    folder.program("apt-get", WITHOUT_QEMU.replace("*qemu*", "*docker*"))
    assert folder.call("test").returncode == 3


def test_a_plan_and_a_look_install_no_engine(folder):
    """Only verbs that run containers ask for Docker's packages, and only of root."""
    folder.program("id", "#!/bin/sh\necho 0\n")
    folder.program("apt-get", '#!/bin/sh\nprintf \'apt-get %s\\n\' "$*" >>"$LOG"\nexit 1\n')
    for words in (["sweep", "x", "--plan"], ["doctor"], ["judge"], ["sweep", "--help"]):
        assert folder.call(*words).returncode == 0
    assert not folder.calls("apt-get")
    assert os.access(folder.path / "inv", os.X_OK)
