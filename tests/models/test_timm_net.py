import pytest
import torch
from torch import nn

from inure.models import Model, build
from inure.settings.errors import UserError

DEIT = "deit_tiny_patch16_224"


def on_meta(name: str, shape=(3, 32, 32), num_classes=10, **settings):
    with torch.device("meta"):
        return build(Model(name=name, **settings), num_classes=num_classes, shape=shape)


def test_image_and_patch_size_reach_the_net():
    classifier = on_meta("test_vit2", img_size=32, patch_size=4)
    assert classifier.net.patch_embed.num_patches == 64
    assert classifier.net.patch_embed.proj.kernel_size == (4, 4)
    assert classifier(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_image_size_defaults_to_the_data():
    assert on_meta("test_vit2", shape=(1, 64, 32)).net.patch_embed.img_size == (64, 32)


def test_sizes_reach_nets_that_pass_them_on_to_a_parent():
    net = on_meta("deit_tiny_distilled_patch16_224", patch_size=8).net
    assert net.patch_embed.num_patches == 16


def test_drop_path_is_what_the_recipe_says():
    swin = on_meta("swin_tiny_patch4_window7_224").net  # 0.1 by its own default
    assert isinstance(swin.layers[-1].blocks[-1].drop_path1, nn.Identity)
    vit = on_meta("test_vit2", drop_path=0.3).net
    assert vit.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)


def test_nothing_is_fetched_for_the_meta_device(monkeypatch):
    import timm.models._builder as builder

    monkeypatch.setattr(builder, "load_state_dict_from_hf", None)
    assert on_meta("test_vit2", pretrained=True).mean.is_meta


def test_without_weights_only_the_normalisation_is_taken(monkeypatch):
    import timm.models._builder as builder

    monkeypatch.setattr(builder, "load_state_dict_from_hf", None)
    settings = Model(name="deit_tiny_patch16_224", pretrained=True, weights="gone.pt")
    classifier = build(settings, num_classes=10, shape=(3, 32, 32), with_weights=False)
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize(("norm", "groups"), [("layer", {1}), ("group", {32})])
def test_norm_of_timms_resnet(norm, groups):
    net = on_meta("resnet50", norm=norm).net
    norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 53
    assert {module.num_groups for module in norms} == groups
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_norm_of_timms_resnet_really_builds():
    classifier = build(Model(name="resnet10t", norm="group"), num_classes=4, shape=(1, 32, 32)).eval()
    assert classifier(torch.rand(1, 1, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "deit_tinny_patch16_224"}, "model.name: got deit_tinny_patch16_224; .* try deit_tiny_patch16_224"),
        ({"name": "resnet18.a9_in1k"}, r"model.name: got resnet18.a9_in1k; .* try .*resnet18.a1_in1k"),
        ({"name": "resnet18", "img_size": 64}, "model.img_size: got 64; allowed null: resnet18 has no img_size"),
        ({"name": "resnet18", "patch_size": 4}, "model.patch_size: got 4; allowed null: resnet18 has no patch_size"),
        ({"name": "vgg11", "drop_path": 0.1}, "model.drop_path: got 0.1; allowed 0: vgg11 has no drop_path"),
        ({"name": DEIT, "norm": "batch"}, f"model.norm: got batch; allowed null: {DEIT} has a norm of its own"),
        ({"name": DEIT, "activation": "silu"}, "model.activation: got silu; allowed null"),
        ({"name": DEIT, "patch_size": 5}, "model.patch_size: got 5 .*; allowed patches that tile 32x32 images"),
        ({"name": "test_vit2", "patch_size": 64}, "model.patch_size: got"),
        ({"name": "inception_v4"}, "model.name: got inception_v4 for 3x32x32 images; allowed a net that takes such"),
        ({"name": "resnet18", "pretrained": True, "norm": "group"}, "model.norm: got group; .* with model.pretrained"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        on_meta(**settings)
    assert "\n" not in str(caught.value)


def test_pretrained_without_published_weights():
    import timm

    name = next(n for n in timm.list_models() if not timm.models.is_model_pretrained(n))
    with pytest.raises(UserError, match=f"model.pretrained: got True; allowed false: timm has no weights for {name}"):
        on_meta(name, pretrained=True)


def test_pretrained_without_a_network(monkeypatch, tmp_path, recwarn):
    import huggingface_hub.constants
    import timm.models._builder as builder

    from inure.models import hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_resolves", lambda address: False)
    offline = []

    def refuse(*args, **kwargs):
        offline.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", refuse)
    message = r"^model.pretrained: got true for resnet10t; allowed false, or weights within reach: .*ConnectionError"
    with pytest.raises(UserError, match=message) as caught:
        build(Model(name="resnet10t", pretrained=True), num_classes=10, shape=(3, 32, 32))
    assert "\n" not in str(caught.value)
    assert offline == [True]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def published(monkeypatch, name: str, **arguments) -> dict[str, torch.Tensor]:
    """What the hub would give: the state of a fresh net of timm."""
    import timm
    import timm.models._builder as builder

    net = timm.create_model(name, **arguments)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    monkeypatch.setattr(builder, "load_state_dict_from_hf", lambda *args, **kwargs: dict(state))
    return state


def test_pretrained_weights_are_fitted_to_small_images(monkeypatch):
    import timm

    state = published(monkeypatch, "test_vit2")
    settings = Model(name="test_vit2", pretrained=True, img_size=32, patch_size=4)
    classifier = build(settings, num_classes=10, shape=(3, 32, 32))
    for key, value in classifier.net.blocks.state_dict().items():
        assert torch.equal(value, state[f"blocks.{key}"]), key
    sums = state["patch_embed.proj.weight"].unflatten(3, (4, 4)).unflatten(2, (4, 4)).sum((3, 5))
    torch.testing.assert_close(classifier.net.patch_embed.proj.weight, sums)
    before = state["pos_embed"].shape[1] - 100
    grid = state["pos_embed"][:, before:].view(1, 10, 10, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(8, 8), mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(classifier.net.pos_embed, torch.cat([state["pos_embed"][:, :before], grid], 1))
    assert classifier.net.head.out_features == 10
    config = timm.get_pretrained_cfg("test_vit2")
    assert classifier.mean.flatten().tolist() == pytest.approx(config.mean)
    gray = build(Model(name="test_vit2", pretrained=True, std=[0.3]), num_classes=10, shape=(1, 160, 160))
    assert gray.mean.item() == pytest.approx(sum(config.mean) / 3)
    assert gray.std.item() == pytest.approx(0.3)
    kernel = gray.net.patch_embed.proj.weight
    torch.testing.assert_close(kernel, state["patch_embed.proj.weight"].sum(1, keepdim=True))


def test_pretrained_weights_of_the_nets_own_size_are_taken_as_they_are(monkeypatch):
    state = published(monkeypatch, "test_vit2")
    net = build(Model(name="test_vit2", pretrained=True), num_classes=1000, shape=(3, 160, 160)).net
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_net_whose_sizes_only_timm_knows_gets_timms_resampling(monkeypatch):
    state = published(monkeypatch, "tiny_vit_5m_224")
    net = build(Model(name="tiny_vit_5m_224", pretrained=True), num_classes=10, shape=(3, 64, 64)).net
    resized = [key for key, value in net.state_dict().items() if value.shape != state[key].shape]
    assert resized
    assert all(key.startswith("head.") or "attention_biases" in key for key in resized)
    key = "stages.1.blocks.0.mlp.fc1.weight"
    assert torch.equal(net.state_dict()[key], state[key])


def test_a_stem_is_new_and_the_rest_is_pretrained(monkeypatch):
    state = published(monkeypatch, "test_vit2")
    settings = Model(name="test_vit2", pretrained=True, patch_size=4, stem="conv")
    net = build(settings, num_classes=10, shape=(3, 32, 32)).net
    assert torch.equal(net.blocks[0].attn.qkv.weight, state["blocks.0.attn.qkv.weight"])
    assert not any(name.startswith("patch_embed.proj.weight") for name in net.state_dict())


@pytest.mark.parametrize("fetch", [True, False])
def test_patches_that_do_not_fit_the_weights_are_refused_before_they_are_fetched(monkeypatch, fetch):
    import timm.models._builder as builder

    monkeypatch.setattr(builder, "load_state_dict_from_hf", None)
    settings = Model(name="test_vit2", pretrained=True, patch_size=5)
    with pytest.raises(UserError, match=r"model.patch_size: got 5; allowed 1 \| 2 \| 4 \| 8 \| 16, or a multiple"):
        build(settings, num_classes=10, shape=(3, 30, 30), with_weights=fetch)
