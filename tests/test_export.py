"""Export: others load what we write, and it computes the same bits."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from inure.commands import _run
from inure.errors import UserError
from inure.export import export
from inure.load import load
from inure.models.adapt import fold
from inure.recipe import load_recipe
from inure.train import train

MIX = {"clean": 0.3, "robust": 0.7}
TINY = ["epochs=1", "batch_size=400", "evaluation.validation_examples=16", "evaluation.validation_steps=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    recipe = load_recipe("digits/soup", [*TINY, "method.attack.steps=1", "regime.epsilon=null"])
    return train(recipe, tmp_path_factory.mktemp("export") / "run", quiet=True)


def test_timm_alone_loads_a_soup_and_computes_its_bits(run, capsys):
    assert _run(["export", str(run), "--mode", "clean=0.3,robust=0.7"]) == 0
    folder = capsys.readouterr().out.strip()
    assert folder == f"{run}/export/timm"
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    mean, std = (torch.tensor(net.pretrained_cfg[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(net((x - mean) / std), load(run)(x, mix=MIX))
    assert json.loads((run / "export/timm/config.json").read_text())["num_classes"] == 10


def test_the_state_of_a_mode_is_that_of_the_folded_net(run, tmp_path):
    path = export(run, "safetensors", out=tmp_path / "net.safetensors")
    state, expected = load_file(path), fold(load(run), "robust").state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_the_parameters_per_domain_alone_restore_the_modes(run, tmp_path):
    path = export(run, "adapters", out=tmp_path / "adapters.safetensors")
    state = load_file(path)
    assert [tuple(t.shape) for t in state.values()] == [(2, 1, 1, 48)]
    net, x = load(run), torch.rand(2, 1, 8, 8)
    expected = net(x, mix="robust")
    with torch.no_grad():
        net.get_parameter(next(iter(state))).zero_()
    assert not torch.equal(net(x, mix="robust"), expected)
    net.load_state_dict(state, strict=False)
    assert torch.equal(net(x, mix="robust"), expected)


def test_what_cannot_be_exported_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="--format: got onnxx; allowed timm"):
        export(run, "onnxx")
    with pytest.raises(UserError, match="--mode: got robus"):
        export(run, "timm", mode="robus")
    plain = train(load_recipe("digits/standard", [*TINY, "model.name=cnn_tiny"]), tmp_path / "cnn", quiet=True)
    with pytest.raises(UserError, match="cnn_tiny is no net of timm"):
        export(plain, "timm")
    with pytest.raises(UserError, match="this net has no domains"):
        export(plain, "adapters")
    prompted = train(
        load_recipe("digits/soup", [*TINY, "method.attack.steps=1", "model.adapters=prompt"]),
        tmp_path / "p",
        quiet=True,
    )
    with pytest.raises(UserError, match="prompts and bottlenecks"):
        export(prompted, "timm")
    assert export(prompted, "safetensors").exists()
