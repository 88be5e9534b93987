"""Memory under a load, added up from tables, against caches that were really filled."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import VOCABULARY, tiny_model

from unicuco_plugin.costs.measure import block_costs, half_costs, linear_costs, part_costs, with_serving
from unicuco_plugin.costs.memory import ServedCosts
from unicuco_plugin.costs.model import TableCosts
from unicuco_plugin.costs.table import CostTable, KeptState, ServingTable
from unicuco_plugin.errors import RequestError
from unicuco_plugin.models.blocks.decoder import find_decoder
from unicuco_plugin.models.blocks.surgery import drop_blocks
from unicuco_plugin.models.parts.formats import apply_parts
from unicuco_plugin.quantities import Load
from unicuco_plugin.scores.ranked_parts import rank_parts
from unicuco_plugin.scores.ranking import RANKINGS

TOKENS = torch.randint(3, VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(0))
LOAD = Load(32, 2)
PARTS = {"model.layers.0.self_attn": 0.5, "model.layers.1.self_attn": 1.0, "model.layers.1.mlp": 1.0}
SERVING = {"kept": (KeptState(holder="a.0.attn", numbers=8),), "widest": 100, "logits": 50}


def served(make, model, load=LOAD, **options):
    decoder = find_decoder(model)
    return ServedCosts.under(with_serving(make(decoder, **options), decoder), load)


def held(model):
    """Bytes of the cache that a model fills."""
    with torch.no_grad():
        layers = model(TOKENS, use_cache=True).past_key_values.layers
    tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_dropped_blocks_keep_nothing():
    model = tiny_model("llama").to(torch.bfloat16)
    costs = served(block_costs, model)
    drop_blocks(model, [1, 4])
    row = costs.row({"model.layers.1": 1.0, "model.layers.4": 1.0})
    assert int(costs.cache(row)) == held(model)
    assert int(costs.of("memory", row)) == int(costs.of("bytes", row)) + held(model) + costs.buffers


def test_head_groups_that_are_cut_keep_nothing():
    model = tiny_model("llama").to(torch.bfloat16)
    costs = served(part_costs, model, round_to=8)
    decoder = find_decoder(model)
    apply_parts(model, rank_parts(decoder, TOKENS, RANKINGS["magnitude"], compensate=True).keep(decoder, PARTS))
    assert int(costs.cache(costs.row(PARTS))) == held(model)


def test_what_is_silenced_or_zeroed_keeps_as_much_as_before():
    model = tiny_model("llama").to(torch.bfloat16)
    halves, linears = served(half_costs, model), served(linear_costs, model)
    attention, mlp = "model.layers.2.self_attn", "model.layers.2.mlp"
    dense = held(model)
    assert int(halves.cache(halves.row({attention: 1.0}))) == dense
    assert int(halves.cache(halves.row({attention: 1.0, mlp: 1.0}))) == dense * 5 // 6
    assert int(linears.cache(linears.row({f"{attention}.k_proj": 0.9}))) == dense


@pytest.mark.parametrize(
    ("context", "window", "pages"), [(1, 0, 1), (16, 0, 1), (17, 0, 2), (8192, 512, 161), (600, 512, 39)]
)
def test_tokens_are_kept_in_pages_and_a_window_slides_on_through_a_step(context, window, pages):
    table = ServingTable(**SERVING | {"kept": (KeptState(holder="a.0", numbers=3, window=window, state=5),)})
    sizes = {"unit_params": (4, 4), "unit_bytes": (8, 8), "total_params": 9, "total_bytes": 18, "dtype": "bfloat16"}
    costs = ServedCosts.under(
        TableCosts(("a.0", "a.1"), CostTable(**sizes, serving=table), physical=True), Load(context, 2)
    )
    # vLLM 0.32: a window of 512 in steps of 2048 keeps 512 - 1 + 2048 tokens of a long sequence, and a page more.
    assert int(costs.cache(torch.zeros(1, 2))) == 2 * (3 * 16 * pages * 2 + 5 * 2)


def test_eight_bits_halve_keys_and_values():
    model = tiny_model("llama").to(torch.bfloat16)
    full, half = (served(block_costs, model, Load(64, 4, dtype)) for dtype in (None, "fp8"))
    assert int(full.cache(full.row({}))) == 2 * int(half.cache(half.row({})))
    assert full.buffers == half.buffers


def test_buffers_hold_a_step_of_at_most_2048_tokens_and_the_samplers_numbers():
    model = tiny_model("llama").to(torch.bfloat16)
    config = model.config
    wide = 2 * config.hidden_size + 3 * config.intermediate_size
    assert served(block_costs, model, Load(100, 2)).buffers == 200 * wide * 2 + 2 * VOCABULARY * 14
    assert served(block_costs, model, Load(10_000, 3)).buffers == 2048 * wide * 2 + 3 * VOCABULARY * 14


def test_a_load_alone_changes_nothing_of_what_other_limits_come_down_to():
    costs = served(part_costs, tiny_model("llama"), round_to=8)
    plain = TableCosts(costs.units, costs.table, costs.physical)
    assert costs.share("kept", 0.75) == plain.share("kept", 0.75) == 0.25
    assert [costs.falls(name) for name in plain.names] == [plain.falls(name) for name in plain.names]
    assert ServedCosts.under(plain, LOAD, priced=True).share("kept", 0.75) is None


@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.integers(1, 5000), st.integers(1, 9))
def test_prices_are_what_parts_free(taken, context, batch):
    table = CostTable(
        unit_params=(60,) * 6, unit_bytes=(120,) * 6, parts=((3, 1),) * 6, rests=((0, 0),) * 6, biases=((0, 0),) * 6,
        total_params=400, total_bytes=800, dtype="bfloat16",
        serving=ServingTable(**SERVING | {"kept": [KeptState(holder=f"a.{i}.attn", numbers=6 * i) for i in range(3)]}),
    )  # fmt: skip
    units = tuple(f"a.{i // 2}.{('attn', 'mlp')[i % 2]}" for i in range(6))
    costs = ServedCosts.under(TableCosts(units, table, physical=True), Load(context, batch))
    x = torch.tensor([taken], dtype=torch.float64) / 3
    freed = sum(price // 3 * count for price, count in zip(costs.prices, taken, strict=True))
    assert int(costs.of("memory", torch.zeros_like(x))) - int(costs.of("memory", x)) == freed


@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.integers(1, 5000))
def test_no_cost_falls_faster_than_with_the_unit_that_has_most_of_it_for_its_price(taken, context):
    sizes = (30, 60, 90, 0, 30, 60)
    table = CostTable(
        unit_params=sizes, unit_bytes=tuple(2 * n + 3 for n in sizes), parts=((3, 1),) * 6, rests=((0, 0),) * 6,
        biases=((0, 0),) * 6, total_params=400, total_bytes=900, dtype="bfloat16",
        serving=ServingTable(**SERVING | {"kept": [KeptState(holder=f"a.{i}.attn", numbers=6 * i) for i in range(3)]}),
    )  # fmt: skip
    units = tuple(f"a.{i // 2}.{('attn', 'mlp')[i % 2]}" for i in range(6))
    costs = ServedCosts.under(TableCosts(units, table, physical=True), Load(context), priced=True)
    x = torch.cat([torch.tensor([taken], dtype=torch.float64) / 3, torch.eye(6, dtype=torch.float64)])
    shares = x @ torch.tensor(costs.prices, dtype=torch.float64) / sum(costs.prices)
    for name in costs.names:
        fallen = costs.of(name, torch.zeros(1, 6)) - costs.of(name, x)
        _, most = costs.falls(name)
        assert (fallen <= most * shares + 1e-9).all()
        assert (fallen[1:] / shares[1:]).max().item() == pytest.approx(most)


def test_a_table_without_caches_says_what_to_do():
    plain = TableCosts(
        ("a",), CostTable(unit_params=(4,), unit_bytes=(8,), total_params=9, total_bytes=18, dtype="bfloat16"), True
    )
    with pytest.raises(RequestError, match=r"has no table of caches: .* train it again with --resume"):
        ServedCosts.under(plain, LOAD)
    assert "serving" not in plain.table.model_dump()


@pytest.mark.parametrize("entry", [{"numbers": 6 * 10**6}, {"numbers": 1, "state": 6 * 10**9}])
def test_what_no_model_keeps_is_refused(entry):
    with pytest.raises(ValidationError, match="kept must be what one model keeps"):
        ServingTable(**SERVING | {"kept": [{"holder": "a", **entry}, {"holder": "b", **entry}]})


def test_the_largest_load_of_the_largest_table_fits_into_64_bits():
    kept = (KeptState(holder="a.0", numbers=10**7, state=10**10),)
    sizes = {"unit_params": (4, 4), "unit_bytes": (8, 8), "total_params": 9, "total_bytes": 18, "dtype": "float32"}
    table = CostTable(**sizes, serving=ServingTable(**SERVING | {"kept": kept}))
    costs = ServedCosts.under(TableCosts(("a.0", "a.1"), table, physical=True), Load(10**7, 10**4))
    assert int(costs.cache(torch.zeros(1, 2))) == 10**4 * (10**7 * 10**7 + 10**10) * 4
