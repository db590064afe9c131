"""Images, labels and settings that make no sense are refused in one line, before anything is written."""

import pytest
import torch
from digit_nets import ReadsPixels
from torch import Tensor

from inure.data import ImageSet
from inure.evaluation import evaluate
from inure.settings.errors import UserError
from inure.threat import Linf

X, Y = torch.rand(6, 1, 4, 4), torch.arange(6)


def with_value(value: float) -> Tensor:
    x = X.clone()
    x[3, 0, 2, 1] = value
    return x


MISTAKES = {
    "below 0": (
        {"images": with_value(-1e-6)},
        r"images: got values in \[-1e-06, .*allowed \[0, 1\]; try normalisation",
    ),
    "above 1": ({"images": with_value(1.0001)}, r"images: got values in .*1\.0001\]; allowed \[0, 1\]"),
    "0 to 255": ({"images": X * 255}, r"images: got values in"),
    "nan": ({"images": with_value(torch.nan)}, r"images: got values in \[nan, nan\]"),
    "uint8": ({"images": (X * 255).byte()}, r"images: got torch.uint8 .*try images.float\(\) / 255"),
    "no batch axis": ({"images": X[0]}, r"images: got torch.float32 \(1, 4, 4\); allowed .*\(N, C, H, W\)"),
    "no images": ({"images": X[:0], "labels": Y[:0]}, "examples: got 0; allowed at least one image"),
    "no labels": ({"labels": None}, r"labels: got None; allowed \(6,\) integer classes"),
    "float labels": ({"labels": Y.float()}, r"labels: got torch.float32 \(6,\); allowed \(6,\) integer classes"),
    "bool labels": ({"labels": Y.bool()}, "labels: got torch.bool"),
    "soft labels": ({"labels": torch.eye(6)}, r"labels: got torch.float32 \(6, 6\)"),
    "too few labels": ({"labels": Y[:5]}, r"labels: got torch.int64 \(5,\); allowed \(6,\)"),
    "column of labels": ({"labels": Y[:, None]}, r"labels: got torch.int64 \(6, 1\)"),
    "label -1": ({"labels": Y - 1}, "labels: got classes -1 to 4; allowed 0 to 9: the net has 10 outputs"),
    "label 10": ({"labels": Y + 5}, "labels: got classes 5 to 10; allowed 0 to 9"),
    "index twice": ({"index": torch.tensor([0, 1, 2, 3, 4, 4])}, "index: got the same number twice"),
    "short index": ({"index": Y[:5]}, r"index: got torch.int64 \(5,\); allowed \(6,\) integers"),
    "float index": ({"index": Y.float()}, "index: got torch.float32"),
    "suite": ({"suite": "pgd21"}, r"--suite: got pgd21; allowed clean \| .*try pgd20"),
    "threat kind": ({"threat": "foo:0.1"}, r"threat: got foo:0.1; allowed KIND:EPSILON with KIND linf \| l2 \| l1"),
    "threat radius": ({"threat": "linf:8"}, "threat: got 8; .*did you mean 8/255"),
    "negative radius": ({"threat": "l2:-1"}, "threat: got -1"),
    "number as threat": ({"threat": 8 / 255}, "threat: got 0.031.*; allowed Linf, L2, L1"),
    "batch size": ({"batch_size": 0}, "--batch-size: got 0; allowed a whole number >= 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(name, tmp_path):
    change, said = MISTAKES[name]
    options = {"suite": "pgd20", "threat": Linf(epsilon=0.1), "images": X, "labels": Y, "out": tmp_path / "o", **change}
    with pytest.raises(UserError, match=said) as caught:
        evaluate(ReadsPixels(), options.pop("images"), options.pop("labels"), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_a_data_set_whose_labels_the_net_does_not_know_is_refused():
    images = ImageSet.from_arrays((X * 255).byte(), Y + 9)
    with pytest.raises(UserError, match="labels: got classes 9 to 14; allowed 0 to 9"):
        evaluate(ReadsPixels(), images, threat=Linf())


def test_arrays_are_taken_as_tensors_are():
    options = {"suite": "pgd20", "threat": Linf(epsilon=0.1)}
    arrays = evaluate(ReadsPixels(), X.numpy(), Y.numpy(), index=Y.numpy(), **options)
    tensors = evaluate(ReadsPixels(), X, Y, index=Y, **options)
    assert torch.equal(arrays.robust, tensors.robust)
    assert arrays.outcomes.equals(tensors.outcomes)


def test_the_bounds_themselves_are_inside():
    x = X.clone()
    x[0], x[1] = 0, 1
    evaluate(ReadsPixels(), x, Y, suite="pgd20", threat="linf:8/255")


def test_out_may_be_a_text_and_is_made(tmp_path):
    evaluate(ReadsPixels(), X, Y, suite="clean", threat=Linf(), out=str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b" / "summary.json").exists()


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_file_where_the_folder_should_be_is_a_mistake(tmp_path, inside):
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(UserError, match="file.*allowed a folder"):
        evaluate(ReadsPixels(), X, Y, suite="clean", threat=Linf(), out=file / inside)
    assert file.read_text() == "precious"
