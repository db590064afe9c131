import sys

import pytest
import torch
from torch import nn

from inure.errors import UserError
from inure.models import Classifier, Model, build, load_target

NET = """
import torch
from torch import nn
import inure_test_helper as helper

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, helper.CLASSES)
    def forward(self, x):
        return self.fc(x.flatten(1))

def net():
    import inure_test_late
    return Net()

def number():
    return 3

def broken():
    raise RuntimeError("no such\\nthing")

def wrapped():
    from inure.models import Classifier
    return Classifier(Net(), num_classes=helper.CLASSES, mean=[0.1] * 3, std=[0.2] * 3)

value = 3
"""


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "first", classes=5)


def write(folder, classes: int):
    folder.mkdir()
    (folder / "mine.py").write_text(NET)
    (folder / "inure_test_helper.py").write_text(f"CLASSES = {classes}\n")
    (folder / "inure_test_late.py").write_text("")
    return folder


def make(target: str, **settings) -> Classifier:
    return build(Model(name=target, **settings), num_classes=5, shape=(3, 2, 2))


def test_a_function_becomes_a_classifier_without_normalisation(folder):
    path_before = list(sys.path)
    classifier = make(f"{folder}/mine.py:net")
    x = torch.rand(2, 3, 2, 2)
    assert torch.equal(classifier(x), classifier.net(x))
    assert classifier.num_classes == 5
    assert sys.path == path_before


def test_mean_and_std_are_used_if_given(folder):
    classifier = make(f"{folder}/mine.py:net", mean=[0.5], std=[0.25])
    x = torch.rand(2, 3, 2, 2)
    assert torch.equal(classifier(x), classifier.net((x - 0.5) / 0.25))


def test_load_target_loads_weights(folder, tmp_path):
    first = load_target(f"{folder}/mine.py:net")
    torch.save({"state_dict": first.net.state_dict()}, tmp_path / "net.pt")
    second = load_target(f"{folder}/mine.py:net", str(tmp_path / "net.pt"))
    x = torch.rand(2, 3, 2, 2)
    assert isinstance(second, Classifier)
    assert torch.equal(first(x), second(x))
    with pytest.raises(UserError, match="target: got somewhere; allowed a run directory or FILE.py:function"):
        load_target("somewhere")


def test_a_classifier_is_taken_as_it_is(folder):
    classifier = make(f"{folder}/mine.py:wrapped")
    assert isinstance(classifier, Classifier)
    assert not isinstance(classifier.net, Classifier)
    assert classifier.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    with pytest.raises(UserError, match="model.mean: .*; allowed null: the function returns a Classifier"):
        make(f"{folder}/mine.py:wrapped", mean=[0.5])
    with pytest.raises(UserError, match="model.name: got .* with 5 classes; allowed 7 classes"):
        build(Model(name=f"{folder}/mine.py:wrapped"), num_classes=7, shape=(3, 2, 2))


def test_two_folders_may_have_helpers_of_one_name(folder, tmp_path):
    other = write(tmp_path / "second", classes=7)
    sizes = [load_target(f"{place}/mine.py:net")(torch.rand(1, 3, 2, 2)).shape[1] for place in (folder, other, folder)]
    assert sizes == [5, 7, 5]


def test_relative_paths_and_a_name_of_the_standard_library(folder, monkeypatch):
    (folder / "torch.py").write_text("from torch import nn\n\ndef make():\n    return nn.Flatten()\n")
    monkeypatch.chdir(folder)
    assert isinstance(load_target("torch.py:make").net, nn.Flatten)


def test_a_class_can_be_compiled(folder):
    classifier = make(f"{folder}/mine.py:net")
    x = torch.rand(2, 3, 2, 2)
    assert torch.equal(torch.compile(classifier, backend="eager", fullgraph=True)(x), classifier(x))


def test_meta_device(folder):
    with torch.device("meta"):
        assert all(tensor.is_meta for tensor in make(f"{folder}/mine.py:net").state_dict().values())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mine.py", "model.name: got .*mine.py; allowed FILE.py:function; try .*mine.py:function"),
        ("mine.py:", "model.name: got .*mine.py:; allowed FILE.py:function; try .*mine.py:function$"),
        ("none.py:net", "model.name: got .*none.py; allowed an existing Python file"),
        ("mine.py:nett", "model.name: got .*mine.py:nett; allowed a function of mine.py: .*net.*; try net"),
        ("mine.py:value", "model.name: got .*mine.py:value; allowed a function of mine.py"),
        ("mine.py:number", "model.name: got .*mine.py:number returning int; allowed a function that returns an nn.M"),
        (
            "mine.py:broken",
            "model.name: got .*; allowed a function that runs .*; try mending RuntimeError: no such thing",
        ),
        ("mine.py:Net2", "allowed a function of mine.py: .*; try Net or"),
        ("syntax.py:net", "model.name: got .*syntax.py; allowed a file that imports.*; try mending SyntaxError"),
        ("leaves.py:net", "model.name: got .*leaves.py; allowed a file that imports.*; try mending SystemExit: 2"),
        ("lacks.py:net", "try mending ModuleNotFoundError: No module named 'inure_no_such_module'"),
    ],
)
def test_every_mistake_has_its_line(folder, target, message):
    (folder / "syntax.py").write_text("def net(:\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit(2)\n")
    (folder / "lacks.py").write_text("import inure_no_such_module\n")
    before = (list(sys.path), [name for name in sys.modules if name.startswith("_inure_file_")])
    with pytest.raises(UserError, match=message) as caught:
        make(f"{folder}/{target}")
    assert "\n" not in str(caught.value)
    assert sys.path == before[0]
    if "mending" in message and "broken" not in message and "runs" not in message:
        assert [name for name in sys.modules if name.startswith("_inure_file_")] == before[1]


@pytest.mark.parametrize(
    "settings",
    [{"pretrained": True}, {"norm": "group"}, {"activation": "relu"}, {"patch_size": 2}, {"drop_path": 0.1}],
)
def test_settings_that_the_function_cannot_see_are_refused(folder, settings):
    (name,) = settings
    with pytest.raises(UserError, match=f"model.{name}: got .*; allowed nothing here: the function builds the whole"):
        make(f"{folder}/mine.py:net", **settings)
    with pytest.raises(UserError, match="model.img_size: got 4; allowed null"):
        make(f"{folder}/mine.py:net", img_size=4)
