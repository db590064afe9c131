"""A stored set is believed only after every image of it was checked and judged anew."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stored_sets import COUNT, THREAT, about, change, examples, expected, finished, net
from torch import nn

from inure.display.console import Bars
from inure.evaluation.examples import Examples
from inure.evaluation.intervals import wilson
from inure.evaluation.metered import Metered
from inure.evaluation.stored_check import verify_stored
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf
from tiny import assert_same_state, state_of, tiny_net

CPU = torch.device("cpu")


def verified(path, model=None, data=None, **options):
    found = verify_stored(
        Metered(model or net()), data or examples(), path, **{"threat": THREAT, "device": CPU, **options}
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "\n" not in found["said"]
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("original"))


@pytest.fixture
def stored(tmp_path, original):
    """The file, in a folder that may be changed."""
    return shutil.copytree(original.parent, tmp_path / "results") / original.name


@pytest.fixture
def standing():
    return expected()[1]


def test_what_an_evaluation_stored_is_verified(stored, standing):
    found, right = verified(stored), int(standing.sum())
    x = examples().images(torch.arange(COUNT), CPU).double()
    farthest = float((load_file(stored)["x_adv"].double() - x).abs().max())
    assert found == {
        "examples": COUNT,
        "robust_accuracy": right / COUNT,
        "interval95": list(wilson(right, COUNT)),
        "largest_distance": farthest,
        "threat": "linf:0.03",
        "same_weights": True,
        "violations": {"count": 0, "first": []},
        "unstable": {"count": 0, "first": []},
        "differences": {"count": 0, "first": []},
        "mismatches": [],
        "passed": True,
        "said": found["said"],
    }
    assert found["said"].startswith("verified: 60 images under linf:0.03, largest distance 0.03, accuracy on these ")
    assert found["said"].endswith("as in outcomes.parquet")
    assert found["robust_accuracy"] == json.loads((stored.parent / "summary.json").read_text())["robust_accuracy"]


@pytest.mark.parametrize("batch_size", [1, 7, 60, 500])
def test_the_finding_does_not_depend_on_the_batch_size(stored, batch_size):
    change(stored, x_adv=load_file(stored)["x_adv"].index_fill(0, torch.tensor([4, 30]), 0.5))
    assert verified(stored, batch_size=batch_size, bars=Bars(quiet=True)) == verified(stored)


def one_too_far(file):
    x_adv = file["x_adv"].clone()
    x_adv[5, 1, 2, 3] += -0.2 if x_adv[5, 1, 2, 3] > 0.5 else 0.2
    return {"x_adv": x_adv}


def with_value(value):
    def changed(file):
        x_adv = file["x_adv"].clone()
        x_adv[5, 0, 0, 0] = value
        return {"x_adv": x_adv}

    return changed


def other(name):
    return lambda file: {name: file[name].index_add(0, torch.tensor([5]), torch.tensor([1]))}


TAMPERED = {
    "distance 0.": one_too_far,
    "values that are not finite": with_value(torch.nan),
    "values that are not finite ": with_value(torch.inf),
    "values outside [0, 1]": with_value(1.00001),
    "values outside [0, 1] ": with_value(-1e-6),
    "index ": other("index"),
    "label ": other("label"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_one_image_that_is_not_allowed_is_found_and_named(stored, what):
    change(stored, **TAMPERED[what](load_file(stored)))
    found, index = verified(stored), int(examples().index[5])
    assert found["violations"]["count"] == 1
    assert found["violations"]["first"][0]["index"] == index
    assert found["violations"]["first"][0]["what"].startswith(what.rstrip() if "values" in what else what)
    assert not found["passed"]
    assert found["said"].startswith(f"not verified: 1 of 60 images are not allowed (index {index}: ")


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L2(epsilon=0.1), L1(epsilon=0.1)], ids=lambda t: t.kind)
@pytest.mark.parametrize(("beyond", "allowed"), [(0.0, True), (7e-7, True), (1.3e-6, False)])
def test_a_hair_beyond_epsilon_is_rounding_and_more_is_not(tmp_path, threat, beyond, allowed):
    clean = torch.full((8, 1, 2, 2), 0.25)
    data, x_adv = Examples.of(clean, torch.zeros(8, dtype=torch.long)), clean.clone()
    x_adv[3, 0, 0, 0] += 0.1 + beyond
    save_file({"x_adv": x_adv}, tmp_path / "x.safetensors")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    found = verified(tmp_path / "x.safetensors", flat, data, threat=threat)
    assert found["passed"] == allowed
    assert found["violations"]["count"] == 1 - allowed
    assert found["largest_distance"] == pytest.approx(0.1 + beyond, abs=2e-8)


def test_a_verdict_that_is_not_the_recorded_one_is_found(stored, standing):
    images, _ = expected()
    clean = examples().images(torch.arange(COUNT), CPU)
    broken = ~standing & (images != clean).flatten(1).any(1)
    row = int(broken.nonzero()[-1])
    change(stored, x_adv=load_file(stored)["x_adv"].index_copy(0, torch.tensor([row]), clean[row : row + 1]))
    found = verified(stored)
    assert found["violations"]["count"] == 0
    assert found["differences"] == {"count": 1, "first": [int(examples().index[row])]}
    assert found["robust_accuracy"] == (int(standing.sum()) + 1) / COUNT
    assert not found["passed"]
    assert "1 verdicts are not those of outcomes.parquet" in found["said"]
    assert "summary.json says robust accuracy" in found["said"]


def test_another_net_makes_it_a_transfer_result(stored, standing):
    found = verified(stored, tiny_net(seed=5))
    with torch.no_grad():
        right = tiny_net(seed=5).eval()(load_file(stored)["x_adv"]).argmax(1) == examples().labels
    assert found["robust_accuracy"] == float(right.double().mean())
    assert found["differences"]["count"] == int((right != standing).sum()) > 0
    assert (found["same_weights"], found["passed"], found["mismatches"]) == (False, True, [])
    assert found["said"].endswith("of another net than the one attacked: a transfer result")


def test_the_hash_of_the_net_may_be_given(stored):
    half = net().half().float()
    assert verified(stored, half)["same_weights"] is False
    assert verified(stored, half, weights=about()["weights_hash"])["same_weights"] is True


def test_a_net_that_draws_at_random_is_unstable(stored):
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.net(x) + torch.randn(len(x), 1) * torch.eye(4)[0]

    found = verified(stored, Random())
    assert found["unstable"]["count"] > COUNT // 2
    assert not found["passed"]
    assert "not deterministic" in found["said"]


def test_another_threat_is_named(stored):
    for epsilon, violations in ((0.04, False), (0.02, True)):
        found = verified(stored, threat=Linf(epsilon=epsilon))
        assert found["mismatches"] == [f"the file was made under linf:0.03, not linf:{epsilon}"]
        assert (found["violations"]["count"] > 0) == violations
        assert not found["passed"]


def test_results_of_something_else_beside_the_file_are_named(stored, tmp_path):
    summary = json.loads((stored.parent / "summary.json").read_text())
    (stored.parent / "summary.json").write_text(json.dumps({**summary, "protocol": {"weights_hash": "f00"}}))
    assert verified(stored)["mismatches"] == ["summary.json beside it is of another net"]
    finished(tmp_path / "fewer", examples(40))
    (tmp_path / "fewer" / "outcomes.parquet").replace(stored.parent / "outcomes.parquet")
    found = verified(stored)
    assert "outcomes.parquet beside it is of other examples" in found["mismatches"]
    assert found["differences"] is None


def test_the_net_is_left_as_it_was_and_judged_in_eval_mode(stored):
    model = net().train()
    model.net[0].weight.grad = torch.randn_like(model.net[0].weight)
    before = state_of(model)
    assert verified(stored, model)["passed"]
    assert_same_state(before, state_of(model))


FORMATS = {
    "x.pt": lambda x, path: torch.save(x, path),
    "old.pt": lambda x, path: torch.save(x, path, _use_new_zipfile_serialization=False),
    "x.npy": lambda x, path: np.save(path, x.numpy()),
    "double.npy": lambda x, path: np.save(path, x.double().numpy()),
    "big_endian.npy": lambda x, path: np.save(path, x.numpy().astype(">f4")),
    "x.safetensors": lambda x, path: save_file({"x_adv": x}, path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_images_of_others_are_judged_by_their_positions(stored, standing, name):
    FORMATS[name](load_file(stored)["x_adv"], stored.parent / name)
    found = verified(stored.parent / name, batch_size=16)
    assert found["robust_accuracy"] == float(standing.double().mean())
    assert (found["passed"], found["same_weights"], found["differences"]) == (True, None, None)
    assert found["said"].startswith("verified: 60 images under linf:0.03")


IMAGES = torch.rand(COUNT, 3, 6, 6)
BAD = {
    "missing.pt": (None, "no such file"),
    "x.txt": (lambda path: path.write_text("x"), r"\.safetensors \| \.pt"),
    "dict.pt": (lambda path: torch.save({"adv": IMAGES}, path), "got a dict of adv; allowed one tensor"),
    "list.pt": (lambda path: torch.save([1], path), "got a list; allowed one tensor"),
    "net.pt": (lambda path: torch.save(nn.Linear(2, 2), path), "pickles are not executed"),
    "flat.pt": (lambda path: torch.save(IMAGES.flatten(1), path), r"shape \(60, 108\); allowed \(N, C, H, W\)"),
    "none.pt": (lambda path: torch.save(IMAGES[:0], path), r"shape \(0, 3, 6, 6\)"),
    "whole.pt": (lambda path: torch.save((255 * IMAGES).byte(), path), r"uint8; .*try x.float\(\) / 255"),
    "whole.npy": (lambda path: np.save(path, (255 * IMAGES).byte().numpy()), r"uint8; .*try x.float\(\) / 255"),
    "few.pt": (lambda path: torch.save(IMAGES[:50], path), "50 images; allowed 60.*try --examples 50"),
    "many.npy": (lambda path: np.save(path, torch.cat([IMAGES, IMAGES]).numpy()), "120 images; allowed 60"),
    "small.npy": (lambda path: np.save(path, IMAGES[..., :5].numpy()), r"\(3, 6, 5\); allowed \(3, 6, 6\)"),
    "object.npy": (lambda path: np.save(path, np.array([None]), allow_pickle=True), "a damaged file"),
    "names.npy": (lambda path: np.save(path, np.array([["a"]])), "got a tensor of shape"),
    "nothing.pt": (lambda path: path.touch(), "a damaged file"),
    "nothing.safetensors": (lambda path: path.touch(), "a damaged file"),
    "nothing.npy": (lambda path: path.touch(), "a damaged file"),
    "y.safetensors": (lambda path: save_file({"y": IMAGES}, path), "tensors y; allowed a tensor x_adv"),
    "index.safetensors": (
        lambda path: save_file({"x_adv": IMAGES, "index": torch.arange(5)}, path),
        r"index: int64 \(5,\) of 60 images",
    ),
    "scalar.safetensors": (lambda path: save_file({"x_adv": torch.tensor(1.0)}, path), r"shape \(\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(tmp_path, name):
    write, message = BAD[name]
    if write is not None:
        write(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        verified(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.6, 0.999])
def test_a_file_that_was_cut_off_is_one_line(tmp_path, name, share):
    path = tmp_path / name
    FORMATS[name](IMAGES, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError) as caught:
        verified(path)
    assert "\n" not in str(caught.value)
