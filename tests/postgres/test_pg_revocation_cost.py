"""A revocation's cost does not depend on how many are revoked already; `bench/revocation_cost.py` shows more."""

from __future__ import annotations

from costkit import Town


def test_a_revocation_touches_as_much_with_many_revoked_as_with_few(database):
    town = Town(database)
    town.fill(500, revoked=True)
    few = town.cost(40)
    town.fill(20000, revoked=True)
    many = town.cost(40)
    assert few.rows + 1 >= many.rows
    # One more level of a tree for each of its indexes, not forty times as many pages.
    assert few.pages * 1.5 >= many.pages
