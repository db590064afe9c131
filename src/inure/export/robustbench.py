"""A run as a submission to RobustBench: a file that makes the net, weights, ``model_info`` and the text of the issue.

The interface is RobustBench's (Croce et al., 2021, arXiv:2010.09670): images in [0, 1] to logits, deterministic,
normalised inside. Nothing here imports its package. What a run cannot know is given, or says "(fill in)".
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..machine import files
from ..recipe.recipe import Recipe
from ..runs.checkpoints import tensor_bytes
from ..runs.load import in_mode, load, usual_mode
from ..runs.run import Run
from ..settings.errors import UserError, unknown_name
from .robustbench_evidence import DATA_SETS, LISTED, data_set_named, evaluated_images, find_evaluation, fits
from .robustbench_model import model_source, refuse_nameless

FIELDS = {
    "name": "NameYearFirstword, as Madry2018Towards",
    "title": "of the paper",
    "url": "of the paper",
    "authors": "First Last, First Last",
    "venue": "as ICML 2024, or Unpublished",
    "dataset": " | ".join(DATA_SETS),
    "architecture": "as WideResNet-34-10",
    "additional_data": "yes | no: whether more than the training images of the data set were used",
    "checkpoint": "where weights and code can be had",
    "licence": "MIT, or where the text of another is",
    "external": "a lower robust accuracy in percent that others found",
    "footnote": "below the table of the list",
    "threat": "which evaluation, as linf:8/255",
}
"""What ``--info`` takes."""
_FILL = "(fill in)"
_SUBMISSION = """# [New Model] {name}

{warnings}## Paper

- Paper title: {title}
- Paper URL: {url}
- Authors: {authors}
- Venue: {venue}

## Model 1

- Architecture: {architecture}
- Data set: {dataset}
- Threat model: {list}
- Epsilon: {epsilon}
- Clean accuracy: {clean} % ({examples:,} images)
- Robust accuracy: {robust} % ({examples:,} images)
- Additional data: {additional_data}
- Evaluation method: {method}
- Checkpoint and code: {checkpoint}. `model.py` and `model.safetensors` of this folder; {needs}

Non-zero gradients, a deterministic forward and no optimisation in it: {probes}

## Model zoo

- [ ] The model may be added to the model zoo.
- [ ] Its architecture is not in the zoo yet.
- Licence: {licence}
"""


class Submission(NamedTuple):
    """What was written."""

    folder: Path
    warnings: list[str]
    """What a reader of the submission must know, and what is still to be filled in; also in ``submission.md``."""


def export_robustbench(
    target: str | Path, *, mode: Any = None, out: str | Path | None = None, info: Mapping[str, str] | None = None
) -> Submission:
    """Write a folder: the model as a file and its weights, ``model_info``, ``submission.md`` and ``summary.json``.

    ``model.py`` holds ``load_model``, with RobustBench's arguments or without any; it needs timm alone for nets that
    timm makes, else inure.

    Args:
        target: A run that was evaluated by ``autoattack`` or ``autoattack_plus``, on all test images for a complete
            claim; the evaluation of most examples counts.
        mode: The domain or weights of a net with domains; the robust domain by default.
        out: The folder; ``RUN/export/robustbench`` by default.
        info: What a run cannot know, by the names of ``FIELDS``.

    Raises:
        UserError: If there is no verified evaluation of exactly this net under a norm with a list, or neither timm nor
            inure makes the net by name.
    """
    run, info = Run.open(Path(target), "RUN"), dict(info or {})
    for key in info:
        if key not in FIELDS:
            raise unknown_name("--info", key, FIELDS)
    if (contrast := run.recipe().data.contrast) != 1:
        raise UserError("data.contrast", contrast, "1: RobustBench shows a net the images as they are")
    classifier = load(target)
    plain, mode = in_mode(classifier, mode), mode if mode is not None else usual_mode(classifier)
    refuse_nameless(run, plain)
    path, summary = find_evaluation(run, plain, mode, info.pop("threat", None))
    fields = _fields(run, summary, info)
    source, library = model_source(run, plain, fields["name"], fields["dataset"], fields["list"])
    fields["needs"] = "they need timm alone." if library == "timm" else "they need `pip install inure`."
    warnings = _warnings(fields, summary)
    lines = "".join(f"- WARNING: {line}\n" for line in warnings)
    folder = Path(out) if out else run.path / "export" / "robustbench"
    files.write_bytes(folder / "model.safetensors", tensor_bytes(plain.state_dict()))
    files.write_text(folder / "model.py", source)
    files.write_json(
        folder / "model_info" / fields["dataset"] / fields["list"] / f"{fields['name']}.json", _model_info(fields)
    )
    files.write_text(folder / "submission.md", _SUBMISSION.format(**fields, warnings=lines and f"{lines}\n"))
    files.write_bytes(folder / "summary.json", path.read_bytes())
    return Submission(folder, warnings)


def _fields(run: Run, summary: dict[str, Any], info: dict[str, str]) -> dict[str, Any]:
    kind, _, epsilon = summary["threat"].partition(":")
    protocol, recipe = summary["protocol"], run.recipe()
    dataset = info.get("dataset") or data_set_named(evaluated_images(run, summary), run.info()) or ""
    attacks = ", ".join(attack["name"] for attack in summary["attacks"])
    method = (
        f"{summary['suite']} of inure {protocol['versions']['inure']} ({attacks}), {protocol['precision']}, "
        f"seed {summary['seed']}; see summary.json"
    )
    notes = ", ".join(raised["name"] for raised in summary["flags"])
    found = {
        "name": re.sub(r"[^\w-]+", "_", run.path.resolve().name), "architecture": recipe.model.name,
        "additional_data": _additional_data(run, recipe, dataset), "dataset": dataset,
        "list": LISTED[kind], "kind": kind, "epsilon": epsilon, "method": method, "examples": summary["examples"],
        "clean": f"{100 * summary['clean_accuracy']:.2f}", "robust": f"{100 * summary['robust_accuracy']:.2f}",
        "probes": "no probe of the evaluation found otherwise" + (f" (flags: {notes})." if notes else "."),
        "licence": "MIT, or a licence of your own: (fill in)",
    }  # fmt: skip
    fields = {**dict.fromkeys(FIELDS, _FILL), "external": "", "footnote": "", **found, **info}
    _check(run, fields)
    return fields


def _check(run: Run, fields: dict[str, Any]) -> None:
    name, dataset = fields["name"], fields["dataset"]
    if not dataset:
        allowed = f"{FIELDS['dataset']}: the names of the evaluated files do not tell it"
        raise UserError("--info", "no dataset", allowed, "--info dataset=cifar10")
    for key, text in (("name", name), ("dataset", dataset)):
        if not re.fullmatch(r"\w[\w.-]*", text, re.ASCII):
            raise UserError(f"--info {key}", text, "letters, digits, - and _")
    if dataset in DATA_SETS and (allowed := fits(dataset, run.info())):
        facts = run.info()
        given = f"{dataset} for {facts['num_classes']} classes and images of {'x'.join(map(str, facts['input_shape']))}"
        raise UserError("--info dataset", given, allowed)
    if fields["additional_data"] not in ("yes", "no", _FILL):
        raise UserError("--info additional_data", fields["additional_data"], "yes | no")
    external = fields["external"]
    if external and not (re.fullmatch(r"\d+(\.\d+)?", external) and float(external) <= 100):
        raise UserError("--info external", external, "percent, as 53.08")


def _additional_data(run: Run, recipe: Recipe, dataset: str) -> str:
    """``no`` only where all is known: random weights at the start, and training images of the data set's name."""
    if recipe.model.pretrained:
        return "yes"
    known = recipe.model.weights is None and data_set_named(recipe.data.source, run.info()) == dataset
    return "no" if known else _FILL


def _warnings(fields: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    dataset, found = DATA_SETS.get(fields["dataset"]), []
    if dataset is None:
        found.append(f"RobustBench has no lists for {fields['dataset']}, only for {', '.join(DATA_SETS)}")
    elif summary["examples"] < dataset.examples:
        found.append(f"evaluated on {summary['examples']:,} images; RobustBench asks for {dataset.examples:,}")
    if fields["dataset"] == "imagenet":
        found.append("RobustBench evaluates 5,000 images of its own choice, after its own resizing and cropping")
    listed = dataset.epsilons.get(fields["kind"]) if dataset else None
    if listed not in (None, fields["epsilon"]):
        found.append(f"epsilon is {fields['epsilon']}; the list {fields['list']} of {fields['dataset']} is at {listed}")
    if not re.match(r"[A-Za-z-]+\d{4}[A-Z0-9]", fields["name"]):
        found.append(f"the name is {fields['name']}; RobustBench's names have the form NameYearFirstword")
    if missing := [key for key in FIELDS if _FILL in str(fields[key]) and key != "threat"]:
        found.append(f"to be filled in: {', '.join(missing)} (--info KEY=VALUE)")
    return found


def _model_info(fields: dict[str, Any]) -> dict[str, Any]:
    """The keys of RobustBench's own files, where accuracies and epsilon are texts.

    ``external`` is there only if it was given: RobustBench ranks by it wherever the key exists.
    """
    return {
        "link": fields["url"], "name": fields["title"], "authors": fields["authors"],
        "additional_data": fields["additional_data"] if fields["additional_data"] == _FILL
        else fields["additional_data"] == "yes",
        "number_forward_passes": 1, "dataset": fields["dataset"], "venue": fields["venue"],
        "architecture": fields["architecture"], "eps": fields["epsilon"], "clean_acc": fields["clean"],
        "reported": fields["robust"], "autoattack_acc": fields["robust"],
        **({"external": fields["external"]} if fields["external"] else {}),
        "footnote": fields["footnote"], "unreliable": False,
    }  # fmt: skip
