"""The cosine head: its formula, on nets of ours and of timm, with adapters, files of weights and export."""

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from inure.export.export import export
from inure.models import Model, build
from inure.models.adapt import fold
from inure.models.heads import CosineHead, CosineLinear, put_head
from inure.models.weights import load_weights, read_weights
from inure.recipe.recipe import load_recipe
from inure.runs.load import load
from inure.settings import config
from inure.settings.errors import UserError
from inure.training.train import train

COSINE = {"kind": "cosine"}
TINY = ("epochs=1", "batch_size=400", "evaluation.validation_examples=16", "evaluation.validation_steps=1")


def make(name="cnn_tiny", shape=(3, 8, 8), **settings):
    return build(Model(**{"name": name, "head": COSINE, **settings}), num_classes=7, shape=shape).eval()


def test_the_logits_are_scaled_cosines_of_shrunk_weights():
    layer = CosineLinear(5, 3, CosineHead(gamma=0.2, scale=4)).double()
    z = torch.randn(6, 5, dtype=torch.float64)
    for i in range(6):
        for k in range(3):
            w = layer.weight[k]
            expected = 4 * (z[i] @ w) / (z[i].norm() * (w.norm() + 0.2))
            assert layer(z)[i, k].item() == pytest.approx(expected.item(), rel=1e-12)
    plain = CosineLinear(5, 3, CosineHead(gamma=0)).double()
    assert torch.allclose(plain(z), cosine_similarity(z[:, None], plain.weight[None], dim=2))


def test_the_length_of_features_does_not_count_and_zero_features_do_no_harm():
    layer = CosineLinear(5, 3, CosineHead())
    z = torch.randn(4, 5)
    assert torch.allclose(layer(z), layer(100 * z), atol=1e-6)
    dead = torch.zeros(2, 5, requires_grad=True)
    logits = layer(dead)
    assert logits.abs().max() == 0
    (gradient,) = torch.autograd.grad(logits.sum(), dead)
    assert gradient.isfinite().all()
    assert logits.abs().max() <= 1


@pytest.mark.parametrize(
    "name", ["cnn_tiny", "cnn_digits", "wrn10_1", "cifar_resnet18", "preact_resnet18", "vit_digits"]
)
def test_nets_of_ours_take_it(name):
    net = make(name)
    x = torch.rand(2, 3, 8, 8)
    logits, features = net(x, features=True)
    head = net.net.get_classifier()
    assert isinstance(head, CosineLinear)
    assert torch.allclose(head(features), logits, atol=1e-6)
    assert torch.equal(net(x), logits)
    assert logits.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_nets_of_timm_take_it(name):
    size = 32
    settings = {"patch_size": 4} if "vit" in name else {}
    net = make(name, (3, size, size), **settings)
    assert isinstance(net.net.get_classifier(), CosineLinear)
    assert net(torch.rand(2, 3, size, size)).abs().max() <= 1 + 1e-6


def test_it_is_built_on_the_meta_device_with_the_same_state():
    with torch.device("meta"):
        meta = make()
    assert {n: t.shape for n, t in meta.state_dict().items()} == {n: t.shape for n, t in make().state_dict().items()}


def test_the_linear_head_leaves_the_net_as_it_was():
    torch.manual_seed(0)
    plain = build(Model(name="cnn_tiny"), num_classes=7, shape=(3, 8, 8))
    torch.manual_seed(0)
    asked = build(Model(name="cnn_tiny", head={"kind": "linear"}), num_classes=7, shape=(3, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), asked.state_dict().values(), strict=True))


def test_settings_round_trip_and_override():
    model = Model(name="cnn_tiny", head={"kind": "cosine", "gamma": "1/16", "scale": 10})
    assert config.build(Model, config.dump(model)) == model
    assert load_recipe("digits/pgd_at", ["model.head.kind=cosine", "model.head.scale=30"]).model.head.scale == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapters": "head"}, "model.head.kind: got cosine; allowed linear with adapter head"),
        ({"adapters": "all"}, "model.head.kind: got cosine; allowed linear with adapter all"),
    ],
)
def test_adapters_that_mix_the_head_are_refused(settings, message):
    overrides = [f"model.{name}={value}" for name, value in settings.items()]
    with pytest.raises(UserError, match=message):
        load_recipe("digits/soup", [*overrides, "model.head.kind=cosine"])


def test_nets_without_one_linear_layer_and_nets_from_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="head.kind: got cosine; allowed linear: mine does not end in one"):
        put_head(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), CosineHead(), "mine")
    distilled = timm.create_model("deit_tiny_distilled_patch16_224")
    with pytest.raises(UserError, match="does not end in one linear layer"):
        put_head(distilled, CosineHead(), "deit_tiny_distilled_patch16_224")
    (tmp_path / "mine.py").write_text("from torch import nn\ndef net(): return nn.Flatten()\n")
    with pytest.raises(UserError, match=r"model.head.kind: got cosine; allowed nothing here: the function builds"):
        make(f"{tmp_path}/mine.py:net")


@pytest.mark.parametrize(("name", "kind"), [("wrn10_1", "norm"), ("vit_digits", "bias")])
def test_other_adapters_and_folding_work_with_it(name, kind):
    net = make(name, adapters=kind)
    x = torch.rand(3, 3, 8, 8)
    mix = {"clean": 0.25, "robust": 0.75}
    assert torch.equal(fold(net, mix)(x), net(x, mix=mix))


def test_weights_of_another_head_are_refused_and_a_transfer_starts_a_new_one(tmp_path):
    cosine, linear = make(), build(Model(name="cnn_tiny"), num_classes=7, shape=(3, 8, 8))
    with pytest.raises(UserError, match=r"1 unexpected: (net\.)?fc.bias"):
        load_weights(cosine, linear.state_dict(), "there")
    with pytest.raises(UserError, match=r"1 missing: (net\.)?fc.bias"):
        load_weights(linear, cosine.state_dict(), "there")
    torch.save(linear.state_dict(), tmp_path / "linear.pt")
    moved = make(weights=str(tmp_path / "linear.pt"), transfer=True)
    assert torch.equal(moved.net.conv1.weight, linear.net.conv1.weight)
    assert isinstance(moved.net.fc, CosineLinear)


def test_a_run_with_it_loads_again_and_is_exported_where_a_name_can_make_it(tmp_path):
    settings = ("model.name=cnn_tiny", "model.head.kind=cosine", "method.attack.steps=1", "regime.epsilon=null")
    recipe = load_recipe("digits/pgd_at", [*TINY, *settings, "balance.train.kind=robal"])
    run = train(recipe, tmp_path / "run", quiet=True)
    net, x = load(run), torch.rand(3, 1, 8, 8)
    assert isinstance(net.net.get_classifier(), CosineLinear)
    path = export(run, "safetensors", out=tmp_path / "net.safetensors")
    again = build(recipe.model, num_classes=10, shape=(1, 8, 8)).eval()
    load_weights(again, read_weights(path), str(path))
    assert torch.equal(again(x), net(x))
    with pytest.raises(UserError, match="--format: got timm; allowed safetensors"):
        export(run, "timm")
    vit = load_recipe("digits/pgd_at", [*TINY, "model.head.kind=cosine", *settings[2:]])
    with pytest.raises(UserError, match="--format: got timm; allowed safetensors"):
        export(train(vit, tmp_path / "vit", quiet=True), "timm")
