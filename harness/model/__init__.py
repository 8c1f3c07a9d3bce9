"""The nouns. Frozen values, closed lists, no behaviour beyond their own shape.

`verdicts` holds what a trial comes to, `causes` the closed list of ways to die,
`experiment` what the user may write. Everything else in the house speaks in
these words and invents no others.
"""
