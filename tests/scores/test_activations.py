"""Scores of weights, against a plain forward of the whole model."""

import torch

from unicuco_plugin.scores.activations import block_scores


def test_every_weight_is_scored_by_the_norm_of_what_enters_it(decoder, windows, inputs):
    found = list(block_scores(decoder, windows, batch_windows=4))
    assert len(found) == 4
    for index, scores in enumerate(found):
        by_hand = [
            (linear.weight.abs() * inputs[name].pow(2).sum(0).sqrt()).flatten()
            for name, linear in decoder.linears(index).items()
        ]
        torch.testing.assert_close(scores, torch.cat(by_hand).detach(), rtol=1e-4, atol=1e-5)


def test_progress_is_told_block_by_block_and_nothing_is_left_on_the_model(decoder, windows):
    told = []
    list(block_scores(decoder, windows, progress=told.append))
    assert [(step.done, step.total) for step in told] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[-1].tokens == 96
    assert not any(module._forward_pre_hooks for module in decoder.model.modules())
