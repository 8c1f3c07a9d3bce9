"""The observer that runs inside the machine.

Rule: standard library only (Python >= 3.8, Linux >= 5.4), imports nothing of ours
but its own modules, relative; `harness.runner.link` bundles this folder into one zip
and sends it over one connection. It says what it saw, raw, in the shapes of
`harness.events`; what that means is decided where no machine is needed.

Watching must not change what is watched: one loop, wake-ups only for what is rare
(a signal, a death), batches for what is frequent, a bounded place for everything, and
whatever is dropped is counted.
"""
