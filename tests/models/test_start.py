"""``model.transfer``: weights of one task as the start of another."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapted import run_of
from inure.models import Classifier, Model, build
from inure.models.adapt import adapt, fold
from inure.models.conv_stem import ConvStem
from inure.runs.load import load
from inure.settings.errors import UserError


def make(shape=(1, 8, 8), classes=10, name="vit_digits", **settings) -> Classifier:
    torch.manual_seed(1)
    return build(Model(name=name, **settings), num_classes=classes, shape=shape)


def body(net: nn.Module, head: str = "head.") -> dict[str, Tensor]:
    return {name: value for name, value in net.state_dict().items() if not name.startswith(head)}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def saved(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("classes", [10, 7])
def test_the_head_is_new_and_the_rest_is_loaded(tmp_path, classes):
    run = run_of(tmp_path / "run", Model(name="vit_digits", mean=[0.3], std=[0.2]))
    net = make(classes=classes, weights=str(run), transfer=True)
    assert equal(body(net.net), body(load(run).net))
    fresh = make(classes=classes)
    assert torch.equal(net.net.head.weight, fresh.net.head.weight)
    if classes == 10:
        assert not torch.equal(net.net.head.weight, load(run).net.head.weight)
    assert (net.mean.item(), net.std.item()) == (0.5, 0.5)


def test_the_normalisation_is_that_of_the_recipe(tmp_path):
    run = run_of(tmp_path / "run", Model(name="vit_digits", mean=[0.3], std=[0.2]))
    net = make(weights=str(run), transfer=True, mean=[0.4])
    assert net.mean.item() == pytest.approx(0.4)


def test_sizes_are_those_of_the_new_net(tmp_path):
    """Enlarged images in the old net are small ones in the new one."""
    run = run_of(tmp_path / "run", Model(name="vit_digits", patch_size=4), shape=(1, 16, 16))
    net = make(weights=str(run), transfer=True, patch_size=2).eval()
    old = load(run)
    net.net.head.load_state_dict(old.net.head.state_dict())
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(net(x), old(x.repeat_interleave(2, 2).repeat_interleave(2, 3)), rtol=0, atol=1e-5)


def test_from_imagenette_at_64_pixels_to_cifar_at_32(tmp_path):
    settings = {"name": "deit_tiny_patch16_224", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    run = run_of(tmp_path / "run", Model(patch_size=8, **settings), shape=(3, 64, 64))
    net = make(
        shape=(3, 32, 32), name="deit_tiny_patch16_224", patch_size=4, weights=str(run), transfer=True,
        mean=[0.4914, 0.4822, 0.4465], std=[0.2471, 0.2435, 0.2616],
    )  # fmt: skip
    old = load(run)
    kernel = old.net.patch_embed.proj.weight
    torch.testing.assert_close(net.net.patch_embed.proj.weight, 4 * F.avg_pool2d(kernel, 2))
    assert torch.equal(net.net.pos_embed, old.net.pos_embed)
    assert net.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    F.cross_entropy(net(torch.rand(2, 3, 32, 32)), torch.tensor([1, 2])).backward()


def test_a_resnet_takes_over_all_but_its_last_layer(tmp_path):
    run = run_of(tmp_path / "run", Model(name="wrn10_1"), shape=(3, 8, 8))
    net = make(shape=(3, 16, 16), classes=3, name="wrn10_1", weights=str(run), transfer=True)
    assert equal(body(net.net, "fc."), body(load(run).net, "fc."))
    assert net.net.fc.out_features == 3


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "convit_tiny"])
@pytest.mark.parametrize("container", [None, "model", "state_dict"])
def test_raw_checkpoints_of_published_nets(tmp_path, name, container):
    arguments = {"img_size": 32}
    published = timm.create_model(name, **arguments)  # 1000 classes
    state = published.state_dict()
    file = saved(tmp_path / "published.pth", state if container is None else {container: state, "epoch": 300})
    net = make(shape=(3, 16, 16), name=name, patch_size=8, weights=file, transfer=True).net
    head = ("head.", "head_dist.")
    assert body(net, head).keys() == body(published, head).keys()
    assert torch.equal(net.blocks[3].mlp.fc1.weight, published.blocks[3].mlp.fc1.weight)
    assert net.head.out_features == 10


def test_files_of_older_names_are_read_as_timm_does(tmp_path):
    """Swin's first files halve the images at the end of a stage, and hold what is computed today."""
    name = "swin_tiny_patch4_window7_224"
    published = timm.create_model(name)
    old = {}
    for key, value in published.state_dict().items():
        for stage in (1, 2, 3):
            if key.startswith(f"layers.{stage}.downsample"):
                key = key.replace(f"layers.{stage}", f"layers.{stage - 1}")
        old[key.replace("head.fc.", "head.")] = value
    old["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    file = saved(tmp_path / "swin.pth", {"model": old})
    settings = {"shape": (3, 32, 32), "name": name, "patch_size": 2, "window_size": 4, "weights": file}
    net = make(**settings, transfer=True).net
    for stage in (1, 2, 3):
        key = f"layers.{stage}.downsample.reduction.weight"
        assert torch.equal(net.state_dict()[key], published.state_dict()[key])
    assert torch.equal(net.norm.weight, published.norm.weight)
    assert net.head.fc.out_features == 10


def test_a_stem_is_new_unless_the_weights_have_the_same(tmp_path):
    plain = run_of(tmp_path / "plain", Model(name="vit_digits"))
    stemmed = run_of(tmp_path / "stemmed", Model(name="vit_digits", stem="conv"))
    net = make(weights=str(plain), transfer=True, stem="conv").net
    assert isinstance(net.patch_embed.proj, ConvStem)
    assert equal(net.patch_embed.state_dict(), make(stem="conv").net.patch_embed.state_dict())
    assert torch.equal(net.blocks[0].attn.qkv.weight, load(plain).net.blocks[0].attn.qkv.weight)
    same = make(weights=str(stemmed), transfer=True, stem="conv").net
    assert equal(body(same), body(load(stemmed).net))
    other = make(shape=(1, 16, 16), weights=str(stemmed), transfer=True, stem="conv", patch_size=4).net
    assert torch.equal(other.pos_embed, load(stemmed).net.pos_embed)
    with pytest.raises(UserError, match=r"model.weights: .*\(2 missing: patch_embed.proj.weight"):
        make(weights=saved(tmp_path / "w.pt", body(load(stemmed).net, "x")), transfer=True)


def test_domains_start_equal_to_the_weights(tmp_path):
    run = run_of(tmp_path / "run", Model(name="vit_digits"))
    net = make(weights=str(run), transfer=True, adapters={"kinds": ["cls_token"]}).eval()
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(net(x, mix="clean"), net(x, mix="robust"))
    assert torch.equal(net.net.blocks[0].attn.qkv.weight, load(run).net.blocks[0].attn.qkv.weight)


def test_weights_with_domains_are_folded_first(tmp_path):
    adapted = adapt(make(), "cls_token")
    file = saved(tmp_path / "w.pt", adapted.state_dict())
    for adapters in (None, {"kinds": ["cls_token"]}):
        with pytest.raises(UserError, match="got .*w.pt with parameters per domain; .*inure export RUN --format"):
            make(weights=file, transfer=True, adapters=adapters)
    net = make(weights=saved(tmp_path / "folded.pt", fold(adapted, "robust").state_dict()), transfer=True)
    assert equal(body(net.net), body(fold(adapted, "robust").net))


def test_on_the_meta_device_the_fit_is_checked_and_nothing_copied(tmp_path):
    run = run_of(tmp_path / "run", Model(name="vit_digits", patch_size=4), shape=(1, 16, 16))
    with torch.device("meta"):
        net = make(weights=str(run), transfer=True)
        assert all(tensor.is_meta for tensor in net.state_dict().values())
        with pytest.raises(UserError, match="model.weights: got .*, with model.transfer; allowed"):
            make(name="vit_tiny", weights=str(run), transfer=True)


NET_WITHOUT_A_HEAD = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def test_a_net_that_does_not_name_its_head_is_refused(tmp_path):
    (tmp_path / "net.py").write_text(NET_WITHOUT_A_HEAD)
    name = f"{tmp_path}/net.py:net"
    file = saved(tmp_path / "w.pt", make(name=name).state_dict())
    with pytest.raises(UserError, match="model.transfer: got True; allowed false: .*net does not say which layer"):
        make(name=name, weights=file, transfer=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (3, 8, 8)}, r"model.weights: got .*run/weights.safetensors, with model.transfer; .* wrong shape"),
        ({"patch_size": 3, "shape": (1, 9, 9)}, r"model.patch_size: got 3; allowed 1 \| 2, or a multiple of 2"),
        ({"name": "vit_tiny"}, r"model.weights: got .*; allowed weights of this architecture \(.* missing"),
        ({"name": "cnn_tiny"}, r"model.weights: got .*; allowed weights of this architecture \(4 missing: conv1"),
        ({"name": "test_vit2", "shape": (1, 16, 16)}, r"model.weights: got .*; allowed weights of this architecture"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, settings, message):
    run = run_of(tmp_path / "run", Model(name="vit_digits"))
    with pytest.raises(UserError, match=message) as caught:
        make(weights=str(run), transfer=True, **settings)
    assert "\n" not in str(caught.value)


def test_without_transfer_nothing_is_resized(tmp_path):
    run = run_of(tmp_path / "run", Model(name="vit_digits", patch_size=4), shape=(1, 16, 16))
    with pytest.raises(UserError, match="model.weights: .* wrong shape: net.patch_embed.proj.weight"):
        make(weights=str(run))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "transfer: got True; allowed false without model.weights"),
        ({"weights": "w.pt", "pretrained": True}, "transfer: got True; allowed false with model.pretrained"),
    ],
)
def test_transfer_of_nothing_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Model(name="deit_tiny_patch16_224", transfer=True, **settings)


def test_a_run_with_transfer_is_loaded_without_its_start(tmp_path):
    start = run_of(tmp_path / "start", Model(name="vit_digits", patch_size=4), shape=(1, 16, 16))
    run = run_of(tmp_path / "run", Model(name="vit_digits", weights=str(start), transfer=True))
    (start / "weights.safetensors").unlink()
    assert load(run)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_a_submission_is_made_without_the_start(tmp_path):
    from inure.export.robustbench_model import model_source
    from inure.runs.run import Run

    start = run_of(tmp_path / "start", Model(name="vit_digits"))
    run = run_of(tmp_path / "run", Model(name="vit_digits", stem="conv", weights=str(start), transfer=True))
    source, library = model_source(Run.open(run, "RUN"), load(run), "mine", "digits", "Linf")
    assert library == "inure"
    assert "transfer" not in source
