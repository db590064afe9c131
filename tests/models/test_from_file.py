import sys
from typing import Any

import pytest
import torch
from torch import nn

from inure.models import Classifier, Model, build, load_target
from inure.settings.errors import UserError

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

def sized(classes, name, *, scale=1.0, bias=True):
    made = nn.Sequential(nn.Flatten(), nn.Linear(12, classes, bias=bias))
    made.given = (classes, name, scale, bias)
    return made

def anything(**given):
    made = Net()
    made.given = given
    return made

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


def given_to(target: str) -> Any:
    """The arguments that the function got."""
    return load_target(target).net.given


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


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("classes=5, name=Wang2023Better_WRN-28-10", (5, "Wang2023Better_WRN-28-10", 1.0, True)),
        ("classes=5,name=,scale=8/255,bias=false", (5, "", 8 / 255, False)),
        (" name = 'true' , classes = +5 , scale=-1e-3 ", (5, "true", -1e-3, True)),
        ('name="5",classes=5,scale=.5', (5, "5", 0.5, True)),
        ("name=a/b=c:d(e),classes=5,scale=nan", (5, "a/b=c:d(e)", "nan", True)),
        ("name=__import__('os').getcwd(),classes=5", (5, "__import__('os').getcwd()", 1.0, True)),
        ("name=other.py:net,classes=5,scale=1/0", (5, "other.py:net", "1/0", True)),
    ],
)
def test_arguments_in_the_target_are_data(folder, arguments, given):
    found = given_to(f"{folder}/mine.py:sized({arguments})")
    assert found == given
    assert [type(value) for value in found] == [type(value) for value in given]
    assert make(f"{folder}/mine.py:sized({arguments})").num_classes == 5


def test_arguments_of_any_name_and_none_at_all(folder):
    assert given_to(f"{folder}/mine.py:anything(a=1,b=two)") == {"a": 1, "b": "two"}
    assert given_to(f"{folder}/mine.py:anything()") == {}


def test_a_folder_may_have_parentheses_and_colons_in_its_name(tmp_path):
    folder = write(tmp_path / "net (copy).py:1", classes=5)
    assert given_to(f"{folder}/mine.py:sized(classes=5,name=a)") == (5, "a", 1.0, True)


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
        ("mine.py", "model.name: got .*mine.py; allowed FILE.py:function or .*; try .*mine.py:function$"),
        ("mine.py:", "model.name: got .*mine.py:; allowed FILE.py:function or .*; try .*mine.py:function$"),
        ("mine.py:a-b", "allowed FILE.py:function or .*; try .*mine.py:function$"),
        (
            "mine.py:net(a=1",
            r"allowed FILE.py:function or FILE.py:function\(name=value, ...\); try .*mine.py:function$",
        ),
        ("mine.py:net(x=1)", "model.name: got x for .*mine.py:net; allowed no arguments$"),
        (
            "mine.py:sized",
            r"got .*mine.py:sized; allowed a value for classes, name; try '.*sized\(classes=VALUE, name=V",
        ),
        (
            "mine.py:sized(classes=5)",
            r"got .*mine.py:sized; allowed a value for name; try '.*mine.py:sized\(classes=5, name=VALUE\)'$",
        ),
        ("mine.py:sized(5, name=a)", r"model.name: got 5 in .*mine.py:sized\(5, name=a\); allowed name=value"),
        ("mine.py:sized(name=a,)", "model.name: got nothing in .*; allowed name=value, each name once"),
        ("mine.py:sized(name=a,name=b)", "model.name: got name=b in .*; allowed name=value, each name once"),
        ("mine.py:sized(name=a,clases=5)", "got clases for .*; allowed classes . name . scale . bias; try classes"),
        (
            "mine.py:sized(name=a,classes=no)",
            "model.name: got .*; allowed a function that runs with these arguments; try mending TypeError",
        ),
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
