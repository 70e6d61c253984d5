"""How examples are laid into packs, and sorted within a step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.batches import longest_first, packs

LIMIT = 64
LENGTHS = st.lists(st.integers(1, LIMIT), max_size=40)


@given(LENGTHS)
def test_every_example_lies_in_one_pack_whole_and_no_pack_is_too_long(lengths: list[int]) -> None:
    found = packs(lengths, LIMIT)
    assert sorted(place for pack in found for place in pack) == list(range(len(lengths)))
    assert all(0 < sum(lengths[place] for place in pack) <= LIMIT for pack in found)


@given(LENGTHS)
def test_no_two_packs_would_fit_into_one(lengths: list[int]) -> None:
    full = sorted(sum(lengths[place] for place in pack) for pack in packs(lengths, LIMIT))
    assert len(full) < 2 or full[0] + full[1] > LIMIT


def test_each_example_goes_where_it_leaves_least_room() -> None:
    assert packs([3, 10, 7, 6, 4], 10) == [[1], [2, 0], [3, 4]]


def test_an_example_longer_than_a_pack_is_a_bug() -> None:
    with pytest.raises(ValueError, match="11 tokens does not fit into a pack of 10"):
        packs([2, 11], 10)


def test_within_a_step_the_longest_comes_first_and_equals_keep_their_order() -> None:
    assert longest_first([4, 0, 2, 3, 1], [5, 9, 5, 7, 5]) == [1, 3, 4, 0, 2]
