"""A payload is told by its name and by its content, however it came to be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from unicuco_plugin.errors import StrategyError
from unicuco_plugin.payload import Payload
from unicuco_plugin.traits import SPACES

DTYPES = [torch.float32, torch.bfloat16, torch.int32, torch.bool, torch.float64]
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def tensors(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=4), min_size=1, max_size=4, unique=True))
    return {
        name: torch.randint(0, 9, draw(SHAPES), generator=generator).to(draw(st.sampled_from(DTYPES))) for name in names
    }


@given(tensors(), st.randoms())
def test_a_digest_survives_a_file_and_does_not_depend_on_order_or_layout(found, chance):
    order = list(found)
    chance.shuffle(order)
    turned = {name: found[name].T.contiguous().T if found[name].dim() == 2 else found[name] for name in order}
    digest = Payload("parts", found).digest
    assert digest == Payload("parts", turned).digest == Payload("parts", load(save(found))).digest
    assert len(digest) == 16
    Payload("parts", found, tokens=7).check("parts", digest)


@given(tensors(), st.data())
def test_any_change_of_content_is_another_digest(found, data):
    name = data.draw(st.sampled_from(sorted(found)))
    old = found[name]
    changes = [{**found, "more": torch.zeros(1)}, {**{n: t for n, t in found.items() if n != name}, f"{name}x": old}]
    changes.append(found | {name: old[None]})
    changes.append(found | {name: old.to(torch.int64)})
    if old.numel():
        changes.append(found | {name: (old == 0).to(old.dtype) + (old == 0).to(old.dtype)})
    digest = Payload("parts", found).digest
    for changed in changes:
        same = changed.keys() == found.keys() and torch.equal(changed[name], old) and changed[name].dtype == old.dtype
        if not same:
            assert Payload("parts", changed).digest != digest


def test_another_payload_than_the_one_needed_is_refused_by_name_and_by_digest():
    payload = Payload("parts", {"a": torch.ones(2)})
    with pytest.raises(StrategyError, match=r"^payload must be 'scales', got 'parts'$"):
        payload.check("scales")
    message = rf"^payload 'parts' must have the digest '0{{16}}', got {payload.digest}: it was edited, or is another"
    with pytest.raises(StrategyError, match=message):
        payload.check("parts", "0" * 16)


def test_only_spaces_whose_strategies_need_more_than_shares_name_a_payload():
    assert {name: traits.payload for name, traits in SPACES.items() if traits.payload} == {"structured": "parts"}
