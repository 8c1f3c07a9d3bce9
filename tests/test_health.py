"""Doctor's findings on made-up hosts."""

from __future__ import annotations

import pytest

from harness.machine import health


def host(root, **files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


GOOD = {
    "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\nSwapTotal: 0 kB\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "proc/sys/vm/panic_on_oom": "0\n",
    "proc/1/comm": "systemd\n",
    "proc/loadavg": "0.10 0.2 0.3 1/100 5\n",
    "proc/self/status": "CapEff:\t000001ffffffffff\n",
    "sys/class/power_supply/BAT0/type": "Battery\n",
    "sys/class/power_supply/BAT0/status": "Charging\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
}


def about(root):
    return [f.what for f in health.findings(root)]


def test_a_good_host_has_no_findings_of_its_own(tmp_path):
    """Nothing is wrong: nothing is said (but about the disk, which is the real one)."""
    assert [w for w in about(host(tmp_path, **GOOD)) if "free for the machines" not in w] == []


def test_an_empty_host_says_nothing(tmp_path):
    """Files that can not be read are no findings."""
    assert [w for w in about(tmp_path) if "free for the machines" not in w] == []


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        (
            "proc/meminfo",
            "MemAvailable: 9000000 kB\nSwapTotal: 2097152 kB\n",
            "swap is on (2048 MiB)",
        ),
        ("proc/meminfo", "MemAvailable: 1000000 kB\nSwapTotal: 0 kB\n", "976 MiB of memory"),
        ("proc/sys/vm/overcommit_memory", "2\n", "overcommit"),
        ("proc/sys/vm/panic_on_oom", "1\n", "panic_on_oom"),
        ("proc/77/comm", "earlyoom\n", "earlyoom runs here"),
        ("sys/class/power_supply/BAT0/status", "Discharging\n", "on battery"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n", "powersave"),
        ("proc/loadavg", "999.00 1 1 1/1 1\n", "load 999.00"),
    ],
)
def test_each_thing_that_spoils_results_is_found(tmp_path, file, text, word):
    """One bad file, one finding, with its harm and what mends it."""
    root = host(tmp_path, **{**GOOD, file: text})
    (found,) = [f for f in health.findings(root) if word in f.what]
    assert found.harm and found.mend
