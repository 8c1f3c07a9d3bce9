"""What the runner knows by now: an end counts where it happened, not where it arrived."""

import itertools

import pytest

from harness import events as e
from harness.runner.observed import Observed

A, B = "a" * 64, "b" * 64
MS = 1_000_000


def ref(container):
    return e.ContainerRef(
        t=0, seen=0, source="runner", clock="harness", role="subject", container=container,
        name="main", image="x",
    )  # fmt: skip


def main(ms, pid, container=A):
    t = ms * MS
    return e.MainProcess(
        t=t, seen=t, source="main", container=container, pid=pid, start=0, nspids=[pid, 1],
        cgroup="/x",
    )  # fmt: skip


def end(ms, pid, container=A):
    t = ms * MS
    return e.DeathSeen(t=t, seen=t, source="death", container=container, pid=pid, by="trace")


def docker(ms, action, container=A):
    t = ms * MS
    return e.DockerEvent(
        t=t, seen=t, source="docker", type="container", action=action, id=container, wall=t
    )


def api(ms, call, edge, container=A, planned=True, **more):
    t = ms * MS
    return e.ApiCall(
        t=t, seen=t, source="runner", clock="harness", call=call, container=container, edge=edge,
        planned=planned, **more,
    )  # fmt: skip


def seen(*events):
    observed = Observed()
    for event in (ref(A), *events):
        observed.see(event)
    return observed


RESTART = (
    main(10, 1), docker(60, "start"),
    api(1000, "restart", "request"), end(1010, 1), docker(1050, "die"),
    main(1080, 2), docker(1130, "start"), api(1140, "restart", "answer"),
)  # fmt: skip


def test_a_planned_restart_is_no_death_and_ends_running():
    """One end inside our own stop, one new main process."""
    observed = seen(*RESTART)
    assert (observed.died, observed.status()) == (False, "running")


@pytest.mark.parametrize("late", [4, 3])
def test_a_late_die_of_the_earlier_main_process_is_no_death_of_the_next(late):
    """Docker's word arrives when the new one runs already: its own time says which it meant."""
    events = list(RESTART)
    events.append(events.pop(late))
    observed = seen(*events)
    assert (observed.died, observed.status()) == (False, "running")


def test_a_main_process_that_dies_inside_the_restart_that_began_it_is_a_death():
    """The restart's own stop has ended one; the second end is nobody's plan."""
    observed = seen(*RESTART[:-1], end(1135, 2), RESTART[-1], docker(1170, "die"))
    assert (observed.died, observed.status()) == (True, "exited")
    assert observed.noticed


def test_an_end_just_before_our_stop_is_a_death_even_if_it_is_told_after_the_request():
    """The kernel's time is before the request's, whatever arrived first."""
    observed = seen(main(10, 1), api(1000, "stop", "request"), end(999, 1))
    assert observed.died
    assert not observed.noticed


def test_a_recreate_whose_old_die_comes_last_leaves_the_new_one_running():
    """The old container's end belongs to the old container."""
    observed = seen(
        main(10, 1),
        api(1000, "stop", "request"), end(1010, 1), api(1060, "stop", "answer"),
        api(1061, "remove", "request"), api(1070, "remove", "answer"),
        ref(B), api(1080, "start", "request", B, planned=False),
        main(1100, 2, B), api(1120, "start", "answer", B, planned=False),
        docker(1050, "die"), docker(1069, "destroy"),
    )  # fmt: skip
    assert (observed.died, observed.status()) == (False, "running")
    assert observed.status(container=A) == "exited"


def test_the_status_is_known_from_our_own_start_until_somebody_tells_more():
    """The engine answered that it runs; a main process that ended before that answer did end."""
    begun = (
        api(100, "start", "request", planned=False),
        api(150, "start", "answer", planned=False),
    )
    assert seen(*begun).status() == "running"
    assert seen(*begun, main(140, 1), end(143, 1)).status() == "exited"
    refused = api(150, "start", "answer", planned=False, error="no")
    assert seen(begun[0], refused).status() == "unknown"


def test_a_main_process_found_after_its_end_has_ended():
    """Three milliseconds are a life: finding it takes longer."""
    assert seen(end(13, 1), main(15, 1)).status() == "exited"
    assert seen(main(15, 1), end(13, 1)).status() == "exited"


def test_the_status_at_an_instant_is_what_was_true_then():
    """What happened after the exec was asked for does not change what was before it."""
    observed = seen(main(10, 1), end(500, 1))
    assert observed.status(499 * MS) == "running"
    assert observed.status(501 * MS) == "exited"
    assert observed.status(5 * MS) == "unknown"


def test_a_container_without_a_kernel_witness_is_known_by_the_engine():
    """start, die and planned stops from its stream alone."""
    assert seen(docker(60, "start")).status() == "running"
    observed = seen(docker(60, "start"), docker(500, "die"))
    assert (observed.status(), observed.died, observed.noticed) == ("exited", True, True)
    planned = seen(
        docker(60, "start"), api(400, "stop", "request"), api(450, "stop", "answer"),
        docker(452, "die"),
    )  # fmt: skip
    assert not planned.died


def test_a_clock_offset_is_taken_into_account():
    """Our request is stamped by the harness, the end by the machine."""
    observed = Observed(lambda: 1_000_000 * MS)
    for event in (
        ref(A), main(1_000_010, 1), api(1000, "stop", "request"), end(1_001_010, 1),
        api(1050, "stop", "answer"),
    ):  # fmt: skip
        observed.see(event)
    assert not observed.died
    assert observed.status(1005 * MS) == "running"
    assert observed.status(1011 * MS) == "exited"


def test_in_any_order_of_arrival_the_same_is_known():
    """Kernel, engine and harness speak over different ways."""
    told = (main(10, 1), docker(60, "start"), end(500, 1), docker(540, "die"))
    for order in itertools.permutations(told):
        observed = seen(*order)
        assert (observed.died, observed.status()) == (True, "exited"), order
