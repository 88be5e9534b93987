"""Moves against brute force: of all sets with as many parameters, those that a move leads to."""

import itertools

import pytest
import torch

from unicuco_plugin.spaces.removal import moves_of
from unicuco_plugin.spaces.sublayer_moves import SublayerMoves

# Attention and MLP of four blocks; the last two blocks weigh something else, in the second model.
EVEN = SublayerMoves((10, 30) * 4, (0, 0, 1, 1, 2, 2, 3, 3))
MIXED = SublayerMoves((10, 30, 10, 30, 30, 30, 30, 30), (0, 0, 1, 1, 2, 2, 3, 3))
# Three units of one block together, as a plugin's decoder might have them, and units that are blocks of their own.
LARGE = SublayerMoves((10, 10, 20, 10, 10, 20, 10, 10), (0, 0, 0, 1, 1, 1, 2, 3))
SETS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8))[1:-1], dtype=torch.float64)


def removed(x):
    return frozenset(x.nonzero()[:, 0].tolist())


def units_of(moves, block):
    return frozenset(index for index, b in enumerate(moves.blocks) if b == block)


def is_move(moves, before, after):
    """Whether one swap or trade of the docstring leads from one set to the other; written from what it says."""
    comes, goes = before - after, after - before
    sizes = moves.sizes
    if len(comes) == len(goes) == 1:
        return sizes[min(comes)] == sizes[min(goes)]
    blocks = [units_of(moves, block) for block in set(moves.blocks)]
    if comes in blocks and goes in blocks:
        return sorted(sizes[i] for i in comes) == sorted(sizes[i] for i in goes)
    for one, several, state in ((comes, goes, False), (goes, comes, True)):
        if len(one) != 1 or not 2 <= len(several) <= 4:
            continue
        [large] = one
        small = {sizes[i] for i in several}
        if len(small) == 1 and sum(sizes[i] for i in several) == sizes[large]:
            free = [i for i, n in enumerate(sizes) if n in small and (i in before) is state]
            nearest = sorted(free, key=lambda i: (abs(i - large), i))[: len(several)]
            if several == frozenset(nearest):
                return True
    return False


@pytest.mark.parametrize("moves", [EVEN, MIXED, LARGE], ids=["even", "mixed", "large"])
def test_moves_are_those_that_brute_force_finds(moves):
    for x in [*SETS[::5], SETS[94], SETS[159]]:  # the last two have no move in the mixed model
        before = removed(x)
        expected = {removed(y) for y in SETS if is_move(moves, before, removed(y))}
        assert {removed(y) for y in moves_of(x[None], *moves(x[None]))[0]} == expected


def test_two_whole_blocks_are_exchanged_in_one_move():
    x = torch.tensor([[1.0, 1, 0, 0, 0, 0, 1, 0]], dtype=torch.float64)
    found = {removed(y) for y in moves_of(x, *EVEN(x))[0]}
    assert {frozenset({2, 3, 6}), frozenset({4, 5, 6})} <= found
    # Of the last block a half is gone already: it is no whole block to come or go.
    assert frozenset({6, 7}) not in found


def test_a_set_without_moves_among_others_repeats_itself():
    x = torch.stack([torch.ones(8, dtype=torch.float64), SETS[10]])
    moves = moves_of(x, *EVEN(x))
    assert torch.equal(moves[0], x[:1].expand(moves.shape[1], -1))
