"""`python -m harness.verbs VERB …`: what `./inv` hands over to."""

from harness.verbs import program

program()
