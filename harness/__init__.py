"""deathbench: in which configurations do containers die, how often, and what killed each one."""

__version__ = "0.1.0"
