"""Rankings by what the model loses, against models that have really lost their blocks."""

import pytest
import torch

from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.blocks.surgery import dropped
from unicuco_plugin.peers import ranked_drops
from unicuco_plugin.peers.ranked_drops import Greedy, ShortenedLlama


def test_shortened_llama_drops_the_blocks_without_which_perplexity_is_lowest(ask, decoder, windows):
    result = ShortenedLlama()(ask(0.5))
    nll = []
    for index in range(4):
        with dropped(decoder.model, [index]), torch.no_grad():
            logits = decoder.model(input_ids=windows, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
        nll.append(loss.item())
    assert result.details["nll"] == pytest.approx(nll, rel=1e-5)
    best = sorted(range(4), key=lambda index: nll[index])[:2]
    assert set(result.units) == {decoder.block_names[index] for index in best}
    assert result.tokens == 4 * 96


def test_greedy_drops_one_after_another(ask, decoder, windows):
    result = Greedy()(ask(0.75))
    model, gone, spent = decoder.model, [], 0

    def logs(drop):
        with dropped(model, drop), torch.no_grad():
            return model(input_ids=windows, use_cache=False).logits[:, :-1].log_softmax(-1)

    dense = logs([])
    for _ in range(3):
        tries = [index for index in range(4) if index not in gone]
        pruned = [logs([*gone, index]) for index in tries]
        values = [(dense.exp() * (dense - other)).sum(-1).mean().item() for other in pruned]
        spent += 96 * len(tries)
        gone.append(tries[values.index(min(values))])
    assert result.details["order"] == gone
    assert result.tokens == spent == 96 * (4 + 3 + 2)
    assert set(result.units) == {decoder.block_names[index] for index in gone}


def test_greedy_goes_on_from_a_smaller_budget_in_its_journal(ask, tmp_path):
    journal = tmp_path / "j"
    small = Greedy()(ask(0.25, journal=journal))
    large = Greedy()(ask(0.75, journal=journal))
    alone = Greedy()(ask(0.75))
    assert large.details == alone.details
    assert large.tokens == alone.tokens
    again = Greedy()(ask(0.25, journal=journal))
    assert (again.units, again.tokens) == (small.units, small.tokens)


@pytest.mark.parametrize("peer", [Greedy(), ShortenedLlama()])
def test_a_budget_that_takes_all_blocks_is_refused_before_anything_is_measured(ask, tmp_path, peer):
    with pytest.raises(RequestError, match=r"one of 4 blocks has to stay"):
        peer(ask(0.8, journal=tmp_path / "j"))
    assert not (tmp_path / "j").exists()


def test_shortened_llama_goes_on_from_its_journal_and_one_serves_every_budget(ask, tmp_path, monkeypatch):
    expected = ShortenedLlama()(ask(0.5))
    real, measured = ranked_drops.compare_models, []

    def dying(*arguments):
        measured.append(1)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(ranked_drops, "compare_models", dying)
    with pytest.raises(KeyboardInterrupt):
        ShortenedLlama()(ask(0.5, journal=tmp_path / "j.sqlite"))
    found = ShortenedLlama()(ask(0.5, journal=tmp_path / "j.sqlite"))
    assert (found.units, found.tokens, found.details) == (expected.units, expected.tokens, expected.details)
    assert len(measured) == 4 + 1  # every block once, and the one that was broken off
    ShortenedLlama()(ask(0.25, journal=tmp_path / "j.sqlite"))
    assert len(measured) == 5
