"""A model put back as it was."""

import torch
from tiny import tiny_model

from unicuco_plugin.models.parts.modeling_compact import RemovedMLP, compact_class
from unicuco_plugin.models.tensors.snapshot import Snapshot

IDS = torch.arange(3, 43)[None]


@torch.no_grad()
def test_modules_parameters_attributes_class_and_configuration_come_back():
    model = tiny_model("llama")
    logits, config, kind = model(IDS).logits, model.config.to_dict(), type(model)
    snapshot = Snapshot(model)
    for _ in range(2):
        model.model.layers[0].mlp = RemovedMLP(32, bias=True)
        model.model.layers[1].self_attn.q_proj = torch.nn.Linear(32, 8)
        model.model.layers[2].mlp.up_proj.bias = torch.nn.Parameter(torch.ones(48))
        model.model.layers[3].self_attn.head_dim = 4
        model.model.layers._modules = {"0": model.model.layers[0]}
        model.config.num_hidden_layers, model.config.per_layer_config = 1, {0: {"intermediate_size": 7}}
        model.__class__ = compact_class(kind)
        snapshot.restore()
        assert type(model) is kind
        assert model.config.to_dict() == config
        assert torch.equal(model(IDS).logits, logits)
        assert model.model.layers[2].mlp.up_proj.bias is None
