"""Export: others load what we write, and it computes the same bits."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file

from adapted import run_of
from inure.commands import _run
from inure.export.export import export
from inure.models import Model, build
from inure.models.adapt import fold
from inure.recipe.recipe import load_recipe
from inure.runs.load import load
from inure.settings.errors import UserError
from inure.training.train import train

MIX = {"clean": 0.3, "robust": 0.7}
TINY = ["epochs=1", "data.examples=400", "evaluation.validation_examples=16", "evaluation.validation_steps=1"]


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


# Nets of timm, from runs that nothing trained

RGB = (3, 32, 32)
SOUP = {"clean": -0.2, "robust": 1.2}
DOMAINS = [
    *[("vit_digits", (1, 8, 8), kind, SOUP) for kind in ("norm", "position", "bias", "lora", "patch_embed")],
    *[("test_resnet", RGB, kind, SOUP) for kind in ("norm", "batchnorm", "head", "bias", "all")],
    ("resnet18", RGB, "batchnorm", MIX),
    ("test_resnet", RGB, "batchnorm", "clean"),
    ("vit_digits", (1, 8, 8), "cls_token", None),
    ("vit_digits", (1, 8, 8), "head", None),
]


def loaded_by_timm(folder):
    """The exported net behind the normalisation that its configuration states; nothing of inure is used."""
    net = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    mean, std = (torch.tensor(net.pretrained_cfg[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    return lambda x: net((x - mean) / std)


@pytest.mark.parametrize(("name", "shape", "kind", "mode"), DOMAINS)
def test_what_is_exported_computes_the_bits_of_the_net_in_place(tmp_path, name, shape, kind, mode):
    path = run_of(tmp_path / "run", Model(name=name, adapters=kind, mean=[0.3], std=[0.2]), shape)
    x = torch.rand(3, *shape)
    expected = load(path)(x, mix="robust" if mode is None else mode)
    assert torch.equal(loaded_by_timm(export(path, "timm", mode=mode))(x), expected)
    state = load_file(export(path, "safetensors", mode=mode))
    again = build(Model(name=name), num_classes=10, shape=shape).eval()
    again.load_state_dict(state)
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"name": "test_vit", "patch_size": 8, "mean": [0.1, 0.2, 0.3]}, (3, 32, 64)),
        ({"name": "test_vit4", "drop_path": 0.1}, (3, 32, 32)),
        ({"name": "test_efficientnet"}, (3, 32, 64)),
        ({"name": "test_efficientnet_gn"}, RGB),
        ({"name": "test_byobnet"}, (1, 32, 32)),
        ({"name": "test_resnet", "std": [0.25]}, (2, 40, 24)),
        ({"name": "vit_digits"}, (1, 8, 16)),
        ({"name": "vit_digits", "patch_size": 4, "drop_path": 0.1}, (3, 16, 8)),
        ({"name": "vit_digits", "img_size": 16}, (1, 8, 8)),
    ],
    ids=str,
)
def test_timm_makes_the_nets_that_are_its_own(tmp_path, settings, shape):
    model = Model(**settings)
    size = (shape[0], model.img_size, model.img_size) if model.img_size else shape
    path = run_of(tmp_path / "run", model, size)
    folder, x = export(path, "timm"), torch.rand(2, *size)
    assert torch.equal(loaded_by_timm(folder)(x), load(path)(x))
    config = json.loads((folder / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [*size]
    assert len(config["pretrained_cfg"]["mean"]) == len(config["pretrained_cfg"]["std"]) == size[0]


NO_NET_OF_TIMM = r"--format: got timm; allowed safetensors: no name and settings of timm make this "


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "resnet18", "norm": "group"},
        {"name": "resnet50_gn", "norm": "layer"},  # the same parameters as the 32 groups of resnet50_gn
        {"name": "preact_resnet18"},
        {"name": "wrn10_1"},
    ],
    ids=str,
)
def test_what_timm_cannot_make_is_refused_in_one_line(tmp_path, capsys, settings):
    path = run_of(tmp_path / "run", Model(**settings), RGB)
    with pytest.raises(UserError, match=NO_NET_OF_TIMM + settings["name"]):
        export(path, "timm")
    assert not (path / "export").exists()
    if settings["name"] == "wrn10_1":
        assert _run(["export", str(path), "--format", "timm"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert load_file(export(path, "safetensors")).keys() == load(path).state_dict().keys()


@pytest.mark.parametrize("stem", ["test_resnet", "vit_digits"])
def test_a_net_from_a_file_that_is_called_like_one_of_timm_is_none_of_it(tmp_path, stem):
    source = tmp_path / f"{stem}.py"
    source.write_text("from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n")
    path = run_of(tmp_path / "run", Model(name=f"{source}:make"))
    with pytest.raises(UserError, match=NO_NET_OF_TIMM):
        export(path, "timm")
    assert export(path, "safetensors").exists()


def test_exporting_takes_nothing_from_the_global_generator(tmp_path):
    path = run_of(tmp_path / "run", Model(name="vit_digits", adapters="norm"))
    generator = torch.get_rng_state()
    export(path, "timm")
    assert torch.equal(generator, torch.get_rng_state())


def test_what_cannot_be_exported_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="--format: got onnxx; allowed timm"):
        export(run, "onnxx")
    with pytest.raises(UserError, match="--mode: got robus"):
        export(run, "timm", mode="robus")
    plain = train(load_recipe("digits/standard", [*TINY, "model.name=cnn_tiny"]), tmp_path / "cnn", quiet=True)
    with pytest.raises(UserError, match="no name and settings of timm make this cnn_tiny"):
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
