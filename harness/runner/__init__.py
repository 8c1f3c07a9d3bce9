"""One trial: feeds what happens to `lifecycle`, performs what it answers, saves.

Rule: nothing is decided here. `trial` is the loop and the only reader of its queue;
`steps` is the work of each phase, done in one-shot threads whose late results are
dropped; `observed` is what is known of the subject by now; `link` is the harness's end
of the probe's connection. Nothing outlives the trial.
"""
