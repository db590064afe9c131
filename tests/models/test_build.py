import pytest
import torch

from adapted import run_of
from inure.models import Classifier, Model, build
from inure.models.weights import read_weights
from inure.runs.load import load
from inure.settings import config
from inure.settings.errors import UserError


def make(shape=(3, 8, 8), classes=10, **settings) -> Classifier:
    return build(Model(**{"name": "cnn_tiny", **settings}), num_classes=classes, shape=shape)


def test_defaults_build_the_digits_net():
    classifier = build(Model(), num_classes=10, shape=(1, 8, 8))
    assert classifier(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert (classifier.num_classes, classifier.img_size, classifier.in_channels) == (10, (8, 8), 1)
    assert classifier.mean.item() == classifier.std.item() == 0.5


def test_settings_round_trip():
    model = Model(name="wrn28_10", norm="group", activation="silu", drop_path="1/10", mean=["127.5/255"], std=[0.25])
    assert config.build(Model, config.dump(model)) == model
    assert (model.drop_path, model.mean) == (0.1, [0.5])


def test_vits_of_ours_take_another_image_size():
    classifier = make(name="vit_digits", img_size=16)
    assert classifier.img_size == (16, 16)
    assert classifier(torch.rand(1, 3, 16, 16)).shape == (1, 10)


def test_one_mean_serves_all_channels():
    classifier = make(mean=[0.1], std=[0.2, 0.3, 0.4])
    assert classifier.mean.flatten().tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert classifier.std.flatten().tolist() == pytest.approx([0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 3}, "model.num_classes: got 3; allowed 10, the classes of the data"),
        ({"name": "vit_tinny"}, "model.name: got vit_tinny; .* try vit_tiny or"),
        ({"name": "preact_resnet81"}, "model.name: got preact_resnet81; .* try preact_resnet18"),
        ({"name": "vit_digits", "patch_size": 3}, "model.patch_size: got 3; allowed a divisor of the image size 8x8"),
        ({"name": "vit_digits", "norm": "batch"}, "model.norm: got batch; allowed nothing here: vit_digits has no"),
        ({"name": "vit_digits", "activation": "silu"}, "model.activation: got silu; allowed nothing here"),
        ({"name": "preact_resnet18", "activation": "silu"}, "model.activation: got silu; allowed nothing here"),
        (
            {"norm": "group"},
            "model.norm: got group; allowed nothing here: cnn_tiny has no norm .*; try model.norm=null",
        ),
        ({"drop_path": 0.1}, "model.drop_path: got 0.1; allowed nothing here"),
        ({"patch_size": 2}, "model.patch_size: got 2; allowed nothing here"),
        ({"img_size": 16}, "model.img_size: got 16; allowed null: cnn_tiny has no img_size and sees the data's 8x8"),
        ({"pretrained": True}, "model.pretrained: got True; allowed false: cnn_tiny has no published weights"),
        ({"mean": [0.1, 0.2]}, r"model.mean: got \[0.1, 0.2\]; allowed 3 numbers, one per channel, or a single one"),
        ({"std": []}, r"model.std: got \[\]; allowed 3 numbers"),
        ({"weights": "no/such.pt"}, "model.weights: got no/such.pt; allowed a run directory or a file of weights that"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"img_size": 0}, "img_size: got 0; allowed a number >= 1"),
        ({"patch_size": 2.5}, "patch_size: got 2.5; allowed a whole number"),
        ({"drop_path": 1}, "drop_path: got 1; allowed a number < 1"),
        ({"std": [0]}, r"std\[0\]: got 0; allowed a number > 0"),
        ({"norm": "instance"}, "norm: got instance; allowed"),
        ({"adapters": {"kind": "cls_token"}}, "adapters.kind: got an unknown field; allowed kinds"),
        ({"adapters": "token"}, "adapters.*: got token"),
        ({"depth": 3}, "depth: got an unknown field"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Model(**settings)


def test_img_size_of_the_data_may_be_repeated():
    assert make(img_size=8).img_size == (8, 8)


def test_starting_from_a_file_and_from_a_run_directory(tmp_path):
    from safetensors.torch import save_file

    first = make(mean=[0.3], std=[0.2])
    save_file(first.state_dict(), tmp_path / "weights.safetensors")
    x = torch.rand(2, 3, 8, 8)
    for source in (tmp_path, tmp_path / "weights.safetensors"):
        again = make(weights=str(source))
        assert torch.equal(again(x), first(x))
        assert make(weights=str(source), mean=[0.3]).mean.flatten().tolist() == pytest.approx([0.3] * 3)
    with pytest.raises(UserError, match=r"model.mean: got .*; allowed null, or the \[0.3.* was trained with"):
        make(weights=str(tmp_path), mean=[0.4])
    with pytest.raises(UserError, match="model.weights: got .*allowed weights of this architecture"):
        make(weights=str(tmp_path), classes=7)


def test_weights_are_checked_but_not_copied_on_meta(tmp_path):
    torch.save(make().state_dict(), tmp_path / "weights.pt")
    with torch.device("meta"):
        classifier = make(weights=str(tmp_path / "weights.pt"), mean=[0.4])
        assert all(tensor.is_meta for tensor in classifier.state_dict().values())
        with pytest.raises(UserError, match="model.weights"):
            make(name="vit_digits", weights=str(tmp_path / "weights.pt"))
    assert not any(tensor.is_meta for tensor in read_weights(tmp_path / "weights.pt").values())


KINDS = [["cls_token"], ["norm", "head"], ["lora"], ["lora", "bias"], ["prompt"], ["bottleneck"], ["position"], ["all"]]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [*[("vit_digits", kinds) for kinds in KINDS], *[("wrn10_1", [kind]) for kind in ("norm", "batchnorm", "all")]],
    ids=str,
)
@pytest.mark.parametrize("source", ["run", "file"])
def test_a_run_with_domains_starts_from_another(tmp_path, name, kinds, source):
    adapters = {"kinds": kinds}
    run = run_of(tmp_path / "run", Model(name=name, adapters=adapters, mean=[0.3], std=[0.2]))
    weights = str(run if source == "run" else run / "weights.safetensors")
    again = make(shape=(1, 8, 8), name=name, adapters=adapters, weights=weights).eval()
    first, x = load(run), torch.rand(4, 1, 8, 8)
    assert again.state_dict().keys() == first.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    for mix in ("clean", "robust", {"clean": 0.3, "robust": 0.7}):
        assert torch.equal(again(x, mix=mix), first(x, mix=mix))
    assert not torch.equal(again(x, mix="clean"), again(x, mix="robust"))


@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_domains_start_equal_to_the_weights_of_a_plain_run(tmp_path, kinds):
    run = run_of(tmp_path / "run", Model(name="vit_digits"))
    adapted = make(shape=(1, 8, 8), name="vit_digits", adapters={"kinds": kinds}, weights=str(run)).eval()
    x = torch.rand(4, 1, 8, 8)
    for mode in ("clean", "robust"):
        assert torch.equal(adapted(x, mix=mode), load(run)(x))


@pytest.mark.parametrize(
    "adapters",
    [
        None,
        {"kinds": ["norm"]},
        {"kinds": ["cls_token", "norm"]},
        {"kinds": ["all"]},
        {"kinds": ["cls_token"], "domains": ["clean", "robust", "l2"]},
    ],
    ids=str,
)
def test_weights_of_other_domains_are_refused_in_one_line(tmp_path, adapters):
    run = run_of(tmp_path / "run", Model(name="vit_digits", adapters={"kinds": ["cls_token"]}))
    message = "model.weights: got .*run/weights.safetensors; allowed weights of this architecture"
    with pytest.raises(UserError, match=message) as caught:
        make(shape=(1, 8, 8), name="vit_digits", adapters=adapters, weights=str(run))
    assert "\n" not in str(caught.value)
