"""A run as RobustBench takes models: a file that builds the net, weights, model_info json, and the submission's text.

The interface is that of RobustBench at commit 78fcc9e: images in [0, 1], logits out, deterministic, normalised inside.
Nothing here imports RobustBench. What a run cannot know (title, authors, venue) is given or marked "fill in".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files
from .checkpoints import tensor_bytes
from .errors import UserError, unknown_name
from .load import in_mode, load, usual_mode
from .run import Run
from .threat import Geometry, parse_threat

FIELDS = ("name", "title", "url", "authors", "venue", "dataset", "architecture", "additional_data", "licence")
_SUITES = ("autoattack", "autoattack_plus")
_THREATS = {"linf": "Linf", "l2": "L2"}
_FILL = "(fill in)"
_MODEL = '''"""{name}: images (B, {channels}, {height}, {width}) in [0, 1] to {classes} logits; normalises inside."""

from pathlib import Path

import inure
from inure.models import Classifier, Model, build
from inure.models.weights import load_weights, read_weights

FOLDER = Path(__file__).parent


def {function}() -> Classifier:
    """The net in eval mode, with its weights."""
    settings = Model(**{settings})
    net = build(settings, num_classes={classes}, shape=({channels}, {height}, {width}), with_weights=False)
    load_weights(net, read_weights(FOLDER / "model.safetensors"), "model.safetensors")
    return net.eval()
'''
_SUBMISSION = """# New model: {name}

- Paper title: {title}
- Paper url: {url}
- Authors: {authors}
- Architecture: {architecture}
- Dataset and threat model: {dataset}, {threat}
- Epsilon: {epsilon}
- Clean accuracy: {clean} % of {examples} test images
- Robust accuracy: {robust} % of {examples} test images
- Additional data: {additional_data}
- Evaluation method: {method}
- Checkpoint and code: model.safetensors and model.py of this folder, with pip install inure=={version}
- Licence: {licence}

The forward is deterministic, has gradients, and holds no optimisation loop{probes}.
"""


def export_robustbench(
    target: str | Path, *, mode: Any = None, out: str | Path | None = None, info: Mapping[str, str] | None = None
) -> Path:
    """Write a run as a submission to RobustBench.

    Args:
        target: A run that was evaluated with the suite ``autoattack`` on all test images.
        mode: The domain or weights of a net with domains; the robust domain by default.
        out: The folder; ``RUN/export/robustbench`` by default.
        info: What a run cannot know, by name: one of ``FIELDS``.

    Returns:
        The folder: ``model.py``, ``model.safetensors``, ``model_info/DATASET/THREAT/NAME.json``, ``submission.md``.

    Raises:
        UserError: If there is no such evaluation, it is not verified, or the norm has no list.
    """
    run, info = Run.open(Path(target), "RUN"), dict(info or {})
    for key in info:
        if key not in FIELDS:
            raise unknown_name("--info", key, FIELDS)
    classifier = load(target)
    mode = mode if mode is not None else usual_mode(classifier)
    summary = _summary(run, mode)
    threat = parse_threat(summary["threat"])
    if threat.kind not in _THREATS:
        raise UserError(
            "RUN", f"an evaluation under {summary['threat']}", "linf or l2: RobustBench lists no other norm"
        )
    folder = Path(out) if out else run.path / "export" / "robustbench"
    recipe, facts = run.recipe(), run.info()
    name = info.get("name") or "".join(part.capitalize() for part in run.path.name.split("_"))
    channels, height, width = facts["input_shape"]
    settings = recipe.model.model_copy(update={"pretrained": False, "weights": None, "adapters": None})
    function = "".join(c if c.isalnum() else "_" for c in name).lower()
    files.write_text(
        folder / "model.py",
        _MODEL.format(
            name=name, channels=channels, height=height, width=width, classes=facts["num_classes"],
            settings=repr(settings.model_dump(exclude_defaults=True)), function=function,
        ),
    )  # fmt: skip
    files.write_bytes(folder / "model.safetensors", tensor_bytes(in_mode(classifier, mode).state_dict()))
    fields = _fields(name, info, recipe.model.name, summary, threat)
    files.write_json(
        folder / "model_info" / fields["dataset"].replace(_FILL, "dataset") / _THREATS[threat.kind] / f"{name}.json",
        _model_info(fields),
    )
    files.write_text(folder / "submission.md", _SUBMISSION.format(**fields))
    return folder


def _summary(run: Run, mode: Any) -> dict[str, Any]:
    """The newest full evaluation of that mode."""
    for path in sorted((run.path / "evaluations").glob("*/summary.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["suite"] in _SUITES and summary["mode"] == mode:
            break
    else:
        allowed = f"a run evaluated with {' | '.join(_SUITES)}" + (f" in mode {mode}" if mode else "")
        raise UserError("RUN", str(run.path), allowed, f"inure evaluate {run.path} --suite autoattack")
    if not summary["verified"]:
        raised = ", ".join(flag["name"] for flag in summary["flags"])
        raise UserError("RUN", f"an unverified evaluation ({raised})", "one without severe flags")
    return summary


def _fields(name: str, info: dict[str, str], net: str, summary: dict[str, Any], threat: Geometry) -> dict[str, str]:
    protocol = summary["protocol"]
    method = f"{summary['suite']} of inure {protocol['versions']['inure']}, float32, seed {summary['seed']}"
    found = {
        "architecture": net, "additional_data": "no", "licence": "MIT or custom", "name": name,
        "threat": f"{_THREATS[threat.kind]} {summary['threat']}", "epsilon": summary["threat"].partition(":")[2],
        "clean": f"{100 * summary['clean_accuracy']:.2f}", "robust": f"{100 * summary['robust_accuracy']:.2f}",
        "examples": str(summary["examples"]), "method": method, "version": protocol["versions"]["inure"],
        "probes": "" if not summary["flags"] else f" (notes: {', '.join(f['name'] for f in summary['flags'])})",
    }  # fmt: skip
    return {**dict.fromkeys(FIELDS, _FILL), **found, **info}


def _model_info(fields: dict[str, str]) -> dict[str, Any]:
    """The keys that RobustBench's own files have; accuracies and epsilon are texts there."""
    return {
        "link": fields["url"], "name": fields["title"], "authors": fields["authors"],
        "additional_data": fields["additional_data"] not in ("no", "false"), "number_forward_passes": 1,
        "dataset": fields["dataset"], "venue": fields["venue"], "architecture": fields["architecture"],
        "eps": fields["epsilon"], "clean_acc": fields["clean"], "reported": fields["robust"],
        "autoattack_acc": fields["robust"], "external": "", "unreliable": False, "footnote": "",
    }  # fmt: skip
