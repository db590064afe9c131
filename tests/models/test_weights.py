import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inure.models import Classifier, load_weights, read_weights
from inure.models.cnn_tiny import CNNTiny
from inure.settings.errors import UserError


def classifier(num_classes: int = 5, **settings) -> Classifier:
    settings = {"mean": [0.1] * 3, "std": [0.2] * 3, **settings}
    return Classifier(CNNTiny(num_classes=num_classes), num_classes=num_classes, in_channels=3, **settings)


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".pth.tar"])
def test_round_trip(tmp_path, ending):
    first, second = classifier(), classifier(mean=[0.5] * 3, std=[0.5] * 3)
    path = tmp_path / f"weights{ending}"
    (save_file if ending == ".safetensors" else torch.save)(first.state_dict(), path)
    state = read_weights(path)
    assert equal(state, first.state_dict())
    load_weights(second, state, str(path))
    assert equal(second.state_dict(), first.state_dict())


@pytest.mark.parametrize("container", ["state_dict", "model", "ema"])
def test_containers(tmp_path, container):
    state = classifier().state_dict()
    torch.save({"epoch": 3, container: state, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert equal(read_weights(tmp_path / "w.pt"), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, prefix):
    state = classifier().state_dict()
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "w.pt")
    assert equal(read_weights(tmp_path / "w.pt"), state)


def test_a_compiled_part_inside_is_recognised(tmp_path):
    state = classifier().state_dict()
    inside = {key.replace("net.", "net._orig_mod."): value for key, value in state.items()}
    torch.save(inside, tmp_path / "w.pt")
    assert equal(read_weights(tmp_path / "w.pt"), state)


def test_prefixes_stay_where_stripping_would_merge_two_keys(tmp_path):
    state = {"weight": torch.zeros(1), "module.weight": torch.ones(1)}
    torch.save(state, tmp_path / "w.pt")
    assert equal(read_weights(tmp_path / "w.pt"), state)


def test_a_true_submodule_called_module_is_found_again(tmp_path):
    first, second = nn.Module(), nn.Module()
    first.module, second.module = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save(first.state_dict(), tmp_path / "w.pt")
    load_weights(second, read_weights(tmp_path / "w.pt"), "w.pt")
    assert equal(first.state_dict(), second.state_dict())


def test_a_compiled_model_takes_and_gives_weights():
    first, second = classifier(), classifier()
    load_weights(torch.compile(second, backend="eager"), torch.compile(first, backend="eager").state_dict(), "memory")
    assert equal(first.state_dict(), second.state_dict())


@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_bare_net_keeps_the_normalisation_of_the_classifier(prefix):
    net, target = CNNTiny(num_classes=5), classifier(mean=[0.3] * 3)
    load_weights(target, {prefix + key: value for key, value in net.state_dict().items()}, "memory")
    assert equal(target.net.state_dict(), net.state_dict())
    assert target.mean.flatten().tolist() == pytest.approx([0.3] * 3)


def test_a_net_with_its_own_normalisation_gets_its_own():
    net = CNNTiny(num_classes=5)
    net.register_buffer("mean", torch.full((3,), 0.7))
    target = Classifier(CNNTiny(num_classes=5))
    target.net.register_buffer("mean", torch.zeros(3))
    load_weights(target, net.state_dict(), "memory")
    assert target.net.mean.tolist() == pytest.approx([0.7] * 3)
    assert target.mean.item() == 0


def test_a_classifier_without_normalisation_takes_over_that_of_the_weights():
    first, second = classifier(), Classifier(CNNTiny(num_classes=5))
    load_weights(second, first.state_dict(), "memory")
    assert equal(first.state_dict(), second.state_dict())
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(first(x), second(x))


def test_another_architecture_is_refused_with_its_keys_and_nothing_changes():
    target = classifier()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {key: value for key, value in classifier(7).state_dict().items() if "conv" not in key}
    state |= {"net.extra": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        load_weights(target, state, "there.pt")
    line = str(caught.value)
    assert "\n" not in line
    assert "weights: got there.pt" in line
    assert "4 missing: net.conv1.weight, net.conv1.bias, net.conv2.weight, ..." in line
    assert "1 unexpected: net.extra" in line
    assert "2 wrong shape: net.fc.weight (7, 32) for (5, 32), net.fc.bias (7,) for (5,)" in line
    assert equal(target.state_dict(), before)


def test_the_message_is_about_the_nearest_fit():
    state = CNNTiny(num_classes=5).state_dict()
    del state["fc.bias"]
    with pytest.raises(UserError, match=r"\(1 missing: fc.bias\)"):
        load_weights(classifier(), state, "there.pt")


class Foreign:
    """Something that only a pickle can hold."""


def test_pickles_are_not_executed(tmp_path):
    torch.save({"model": Foreign()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Foreign()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(UserError, match="allowed .*pickles are not executed"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_files(tmp_path, ending, damage):
    path = tmp_path / f"w{ending}"
    (save_file if ending == ".safetensors" else torch.save)(classifier().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"\x07garbage" * 99, "empty": b""}[damage])
    with pytest.raises(UserError, match="^weights: got .*allowed a whole") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_missing_files_directories_and_other_kinds(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    for name in ("none.pt", "folder.pt"):
        with pytest.raises(UserError, match="allowed an existing file"):
            read_weights(tmp_path / name)
    with pytest.raises(UserError, match=r"allowed a file that ends in .safetensors \| .pt \| .pth"):
        read_weights(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"net": {"w": torch.zeros(1)}, "acc": torch.zeros(1)}, "keys net, acc"),
        ({"epoch": 3, "lr": 0.1, "seed": 0, "loss": 1.0}, "keys epoch, lr, seed, ..."),
        ([torch.zeros(1)], "list"),
        (torch.zeros(1), "Tensor"),
    ],
)
def test_files_without_a_state_dict(tmp_path, content, found):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / "w.pt")
    assert f"with {found}; allowed a state dict, plain or under state_dict | model | ema" in str(caught.value)


def test_other_precisions_are_converted():
    first, second = classifier().bfloat16(), classifier()
    load_weights(second, first.state_dict(), "memory")
    assert second.net.fc.weight.dtype == torch.float32
    assert torch.equal(second.net.fc.weight, first.net.fc.weight.float())
