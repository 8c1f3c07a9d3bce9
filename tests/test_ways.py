"""The catalogue of ways: each has what causes it, or the reason why nothing does, and recorded trials."""

import pytest

from harness.model.ways import WAYS
from tests import ways

GALLERY = {p.stem for p in (ways.ROOT / "experiments" / "causes").glob("*.yaml")}


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.id)
def test_a_way_is_caused_or_says_why_not(way):
    """Its entries are there; without one it says why."""
    assert set(way.gallery) <= GALLERY
    assert bool(way.gallery) != bool(way.why_not)


@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.id)
def test_a_way_that_can_be_caused_is_recorded(way):
    """A rule without a recorded trial behind it is an opinion; where none can be had, the reason stands."""
    cases = ways.SHOWN.get(way.id, ())
    assert bool(cases) != bool(way.why_not or way.id in ways.NOT_RECORDED)
    for case in cases:
        assert ways.hierarchy(case) in {1, 2}


def test_every_entry_of_the_gallery_belongs_to_a_way():
    """No death is caused that the catalogue does not know."""
    assert {g for way in WAYS for g in way.gallery} == GALLERY


def test_ids_are_unique():
    """An id never means two things."""
    assert len({way.id for way in WAYS}) == len(WAYS)


def test_the_page_is_what_the_data_says():
    """`python tests/ways.py` writes it."""
    assert ways.PAGE.read_text() == ways.made()
