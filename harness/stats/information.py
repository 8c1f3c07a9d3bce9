"""Bits: entropy of a coin, capacity of two coins, what a search costs at least.

Law: numbers and numpy arrays in and out. Rates are 0-1, information is in bits.
"""

from __future__ import annotations

import math
from typing import Any


def entropy(p: Any) -> Any:
    """The entropy of coins with rates p, elementwise; p is a numpy array or a number."""
    import numpy as np

    p = np.clip(np.asarray(p, dtype=float), 0.0, 1.0)
    q = 1.0 - p
    # log2(1) in the place of log2(0): the term is 0 there.
    return -(p * np.log2(np.where(p > 0, p, 1.0)) + q * np.log2(np.where(q > 0, q, 1.0)))


def divergence(p: float, q: float) -> float:
    """KL(p || q) of two coins, in nats.

    >>> round(divergence(0.3, 0.05), 3)
    0.324
    """
    total = 0.0
    if p > 0:
        if q == 0:
            return math.inf
        total += p * math.log(p / q)
    if p < 1:
        if q == 1:
            return math.inf
        total += (1 - p) * math.log((1 - p) / (1 - q))
    return total


def capacity(low: float, high: float) -> float:
    """Bits per trial when each trial is at will a coin of rate low or of rate high.

    >>> round(capacity(0.02, 0.6), 3), round(capacity(0.05, 0.3), 3), capacity(0.0, 1.0)
    (0.342, 0.086, 1.0)
    """
    h_low, h_high = float(entropy(low)), float(entropy(high))

    def bits(share: float) -> float:
        mixed = share * high + (1 - share) * low
        return float(entropy(mixed)) - share * h_high - (1 - share) * h_low

    # Concave in the share: halve the interval by thirds.
    left, right = 0.0, 1.0
    for _ in range(80):
        third = (right - left) / 3
        if bits(left + third) < bits(right - third):
            left += third
        else:
            right -= third
    return round(bits((left + right) / 2), 12)


def least_trials(
    prior_bits: float, hypotheses: int, low: float, high: float, wrong: float
) -> float:
    """Fano's bound: trials that any search needs on average, its rates known to it.

    Args:
        prior_bits: Entropy of the prior.
        wrong: Chance of a wrong answer that is allowed.
    """
    if hypotheses < 2:
        return 0.0
    needed = prior_bits - float(entropy(wrong)) - wrong * math.log2(hypotheses - 1)
    bits = capacity(low, high)
    return max(0.0, needed / bits) if bits > 0 else math.inf
