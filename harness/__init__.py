"""deathbench: in which configurations do containers die, how often, and what killed each one."""

__version__ = "0.1.0"

LABEL = "deathbench"
"""Prefix of every cgroup, loop file, network namespace, tracefs instance and container we make."""
