"""The verbs, offered to invoke: `invoke sweep matrix/memory.yaml` in an activated environment."""

import os
from pathlib import Path

os.environ.setdefault("DEATHBENCH_ROOT", str(Path(__file__).resolve().parent))

from harness.verbs import namespace

ns = namespace()
