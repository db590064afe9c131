"""The model file of a submission: Python that makes the net and loads its weights, with timm alone where that works."""

import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..models import Classifier, Model, load_weights
from ..models.adapters.stacks import Stacks
from ..models.from_file import is_file_function, net_from_file
from ..runs.run import Run
from ..settings.errors import UserError
from .timm_config import timm_config

_WITH_TIMM = '''"""{name}: images (B, {channels}, {height}, {width}) in [0, 1] to {classes} logits, normalised inside.

Needs torch, timm and safetensors; written with {versions}.
"""

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn

NAME, DATASET, THREAT_MODEL = "{name}", "{dataset}", "{threat}"
ARCHITECTURE = "{architecture}"
ARGUMENTS = {arguments}


class Normalised(nn.Module):
    """A net of timm behind its normalisation, whose numbers come with the weights."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.zeros{mean_shape})
        self.register_buffer("std", torch.ones{mean_shape})

    def forward(self, x):
        return self.net((x - self.mean) / self.std)


def make_net():
    """The net with random weights."""
    return Normalised(timm.create_model(ARCHITECTURE, **ARGUMENTS))


def load_state(net, path):
    """Weights from a .safetensors file, or from what torch.save made of a state dict."""
    state = load_file(path) if Path(path).suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    net.load_state_dict(state)
'''
_WITH_INURE = '''"""{name}: images (B, {channels}, {height}, {width}) in [0, 1] to {classes} logits, normalised inside.

Needs inure (pip install inure); written with {versions}.
"""

from pathlib import Path

from inure.models import Model, build, load_weights, read_weights

NAME, DATASET, THREAT_MODEL = "{name}", "{dataset}", "{threat}"
SETTINGS = {settings}


def make_net():
    """The net with random weights."""
    shape = ({channels}, {height}, {width})
    return build(Model(**SETTINGS), num_classes={classes}, shape=shape, with_weights=False)


def load_state(net, path):
    """Weights from a .safetensors file, or from what torch.save made of a state dict."""
    load_weights(net, read_weights(path), str(path))
'''
_LOADER = '''

def load_model(
    model_name=NAME, model_dir="./models", dataset=DATASET, threat_model=THREAT_MODEL, custom_checkpoint=""
):
    """The net in eval mode, with its weights: custom_checkpoint, or the file beside this one.

    The signature is RobustBench's. There is one net here, so model_dir is not looked at, and other names are errors.
    """
    asked = tuple(getattr(value, "value", value) for value in (model_name, dataset, threat_model))
    if asked != (NAME, DATASET, THREAT_MODEL):
        raise ValueError(f"this file holds {(NAME, DATASET, THREAT_MODEL)}, not {asked}")
    net = make_net()
    load_state(net, custom_checkpoint or Path(__file__).with_name("model.safetensors"))
    return net.eval()
'''


def refuse_nameless(run: Run, plain: Classifier) -> None:
    """Say before anything else that a net cannot be made again by name.

    Raises:
        UserError: For nets of a user's file, and those with layers that adapters added.
    """
    name = run.recipe().model.name
    if is_file_function(name):
        raise UserError("--format", "robustbench", f"safetensors: {name} is a file of yours, not a net by name")
    if any(isinstance(module, Stacks) for module in plain.modules()):
        raise UserError("--format", "robustbench", "safetensors: prompts and bottlenecks are part of no net by name")


def model_source(run: Run, plain: Classifier, name: str, dataset: str, threat: str) -> tuple[str, str]:
    """The text of ``model.py`` and what it needs to run: ``timm`` or ``inure``.

    Tried here before it is handed out: the net that it makes computes the same bits as ``plain``.

    Raises:
        UserError: If no name and settings make this net.
    """
    refuse_nameless(run, plain)
    model = run.recipe().model
    shape = tuple(run.info()["input_shape"])
    places = {
        "name": name, "dataset": dataset, "threat": threat, "classes": run.info()["num_classes"],
        **dict(zip(("channels", "height", "width"), shape, strict=True)),
    }  # fmt: skip
    for library, head in (("timm", _with_timm(run, plain, places)), ("inure", _with_inure(model, places))):
        if head and _makes(head + _LOADER, plain, shape):
            return head + _LOADER, library
    raise UserError("--format", "robustbench", f"safetensors: no name and settings make this {model.name} again")


def _with_timm(run: Run, plain: Classifier, places: dict[str, Any]) -> str | None:
    try:
        config = timm_config(run, plain.net, plain.mean.flatten().tolist(), plain.std.flatten().tolist())
    except UserError:
        return None
    arguments = {**config["model_args"], "num_classes": config["num_classes"]}
    return _WITH_TIMM.format(
        **places, versions=_versions("timm", "torch"), mean_shape=tuple(plain.mean.shape),
        architecture=config["architecture"], arguments=_written(arguments),
    )  # fmt: skip


def _with_inure(model: Model, places: dict[str, Any]) -> str:
    start = {"pretrained": False, "weights": None, "transfer": False}
    plain = model.model_copy(update={**start, "adapters": None, "num_classes": None})
    settings = {"name": model.name, **plain.model_dump(exclude_defaults=True)}
    return _WITH_INURE.format(
        **places, versions=_versions("inure", "timm", "torch"),
        settings=_written(settings),
    )  # fmt: skip


def _written(tree: dict[str, Any]) -> str:
    """As Python, one setting a line; texts as JSON writes them, whose escapes Python reads alike."""
    texts = {key: json.dumps(v, ensure_ascii=False) if isinstance(v, str) else repr(v) for key, v in tree.items()}
    lines = "".join(f'    "{key}": {text},\n' for key, text in texts.items())
    return f"{{\n{lines}}}"


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {metadata.version(package)}" for package in packages)


def _makes(source: str, plain: Classifier, shape: tuple[int, ...]) -> bool:
    """Whether the net of this file, with the weights of ``plain``, gives its logits bit for bit."""
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), torch.no_grad():
        path = Path(folder) / "model.py"
        path.write_text(source, encoding="utf-8")
        try:
            net = net_from_file(f"{path}:make_net", setting="model.py").eval()
            load_weights(net, plain.state_dict(), "the net of the run")
            return torch.equal(net(x), plain(x))
        except (UserError, RuntimeError):
            return False
