"""History → Judgement: what became of one trial, and why.

Rule: the verdict is right or says unknown; a wrong one is worse than none. Judging is
pure: the same events give the same judgement for ever, in whatever order they arrived.
A rule that cites what does not exist fails by name.
"""

from __future__ import annotations

from harness.attribution.judge import attribute, judge

__all__ = ["attribute", "judge"]
