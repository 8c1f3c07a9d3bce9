"""One trial: feeds what happens to `lifecycle`, performs what it answers, saves.

Rule: nothing is decided here. `trial` is the loop and the only reader of its queue;
`phases` says what is begun on entering each phase; the work itself is done in one-shot
threads whose late results are dropped: `making` (what is made for a trial, and its
removal), `remounts`, `steps` (the rest). `pretask` keeps the instant of the exec, `stage`
is what all steps share, `observed` what is known of the subject by now, `record` what is
measured. `link` is the harness's end of the probe's connection, `world` where machines,
engines and probes come from. Nothing outlives the trial.
"""
