"""Counts in, decisions out: intervals, stopping, comparisons, bisection.

Law of the room: pure and seeded. No clock, no file, no engine; randomness only from a
generator built on a seed that the caller names. scipy and statsmodels are imported
inside functions, and nothing on a sweep's own path needs them.
"""
