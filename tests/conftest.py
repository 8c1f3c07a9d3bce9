"""What every test shares: real ones last, and only where they can run."""

import os
import sys

import pytest
from hypothesis import settings

# No deadlines: on a busy machine they fail tests at random. `check` asks for fewer examples.
settings.register_profile("test", deadline=None)
settings.register_profile("check", deadline=None, max_examples=20)
settings.load_profile(os.environ.get("DEATHBENCH_EXAMPLES", "test"))


def pytest_collection_modifyitems(config, items):
    """Fast tests first; a slip is known before the first engine starts."""
    items.sort(key=lambda item: ("vm" in item.keywords) * 2 + ("real" in item.keywords))
    if sys.platform != "linux" or os.geteuid() != 0:
        skip = pytest.mark.skip(reason="needs Linux and root for an engine of its own")
        for item in items:
            if "real" in item.keywords or "vm" in item.keywords:
                item.add_marker(skip)


def pytest_addoption(parser):
    parser.addoption(
        "--update",
        action="store_true",
        help="rewrite the expectations of tests/verdicts/*.case: a rule's change becomes a diff",
    )
