"""evaluate_sets(): the suites ``corruptions`` and ``shifts``, one ordinary evaluation for each set of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..data import ImageSet
from ..data.named_sets import NamedSet
from ..display.console import Bars
from ..evaluation import Conditions, Evaluation, evaluate_under
from ..evaluation.flags import severe
from ..evaluation.journal import Journal
from ..evaluation.results import SUMMARY, set_aside
from ..evaluation.stored import discard
from ..evaluation.summary import SCHEMA_VERSION, standing
from ..libraries import torch
from ..models import Classifier
from ..settings.errors import UserError
from ..threat import describe_threat
from .set_means import SetOutcomes, mean_accuracies
from .set_suites import CORRUPTED, split_suite
from .shifted_output import FILES, write_sets

SETS, UNCORRUPTED = "sets", "uncorrupted"
_OF_THE_IMAGES = ("double_normalisation", "missing_normalisation")
"""Flags that a corruption may raise by itself: raised contrast undoes lowered contrast."""

_OF_A_SET = ("--data", "images", "labels", "model")
"""Mistakes that say nothing of which set they are in."""


def evaluate_sets(
    conditions: Conditions,
    classifier: Classifier,
    images: ImageSet | None,
    sets: Sequence[NamedSet],
    suite: str,
    *,
    shape: tuple[int, ...] | None = None,
    doubts: Callable[[ImageSet], Sequence[dict[str, str]]] = lambda images: (),
) -> dict[str, Any]:
    """Evaluate a net on every set, and on the images as they are.

    Every set is one ``evaluate(...)`` with a folder of its own under ``out/sets``, and is loaded when its turn comes.
    A resumed evaluation goes on in the set, and after the batch, where it was killed.

    Args:
        conditions: How each set is evaluated; ``out`` is the folder for ``summary.json``, ``table.md`` and
            ``heatmap.png``; those of a finished evaluation there move to ``previous``.
        classifier: The net.
        images: The images as they are; None if there are none, then ``clean_accuracy`` is null.
        sets: At least one.
        suite: ``corruptions``, ``shifts``, or one of them with ``+`` and a suite of attacks.
        shape: (C, H, W) that the net takes, if that is known.
        doubts: Flags that the caller knows of a set.

    Returns:
        The summary. ``mean``, ``by_corruption`` and ``by_severity`` are means over sets, every set counted once.

    Raises:
        UserError: As ``evaluate``, and for a set that cannot be read.
    """
    out = conditions.out
    assert out is not None
    attacks = split_suite(suite)[1]
    places = {named.name: out / SETS / _folder(named, suite) for named in sets}
    for named in sets:
        named.check()
    each = replace(conditions, suite=attacks, resume=True, command=None)

    def run(images: ImageSet, out: Path, flags: Sequence[dict[str, str]]) -> Evaluation:
        return evaluate_under(replace(each, out=out), classifier, images, flags=flags)

    if not conditions.resume and conditions.writes:
        _begin_anew(out, [out / SETS / UNCORRUPTED, *places.values()])
    conditions.workers.barrier()
    clean, found = None, []
    with Bars(quiet=conditions.quiet or not conditions.writes) as bars:
        if images is not None:
            bars.show(SETS, 0, len(sets), note="as they are")
            clean = run(images, out=out / SETS / UNCORRUPTED, flags=doubts(images))
        for number, named in enumerate(sets):
            bars.show(SETS, number, len(sets), note=named.name)
            found.append(_evaluate_set(run, named, places[named.name], shape, doubts))
        bars.show(SETS, len(sets), len(sets))
    fixed = {
        "suite": suite, "attack_suite": attacks, "threat": describe_threat(conditions.threat),
        "seed": conditions.seed, "mode": conditions.mode,
    }  # fmt: skip
    summary = _summarize(clean, sets, found, [str(places[named.name].relative_to(out)) for named in sets], fixed)
    if conditions.command:
        summary["command"] = conditions.command
    if conditions.writes:
        write_sets(out, summary)
    return summary


def _evaluate_set(
    run: Callable[..., Evaluation], named: NamedSet, folder: Path, shape: tuple[int, ...] | None,
    doubts: Callable[[ImageSet], Sequence[dict[str, str]]],
) -> Evaluation:  # fmt: skip
    images = named.load()
    if shape is not None and images.shape != shape:
        raise UserError("--shift", f"{named.name}, images of {images.shape}", f"{shape}, the net's input")
    try:
        return run(images, out=folder, flags=doubts(images))
    except UserError as error:
        if error.setting not in _OF_A_SET:
            raise
        given = error.given if named.name in str(error.given) else f"{named.name}, {error.setting} {error.given}"
        raise UserError("--shift", given, error.allowed, error.remedy) from None


def _folder(named: NamedSet, suite: str) -> str:
    """``fog-3``; for sets of any name its end and, since that is not all of it, a fingerprint."""
    if suite.startswith(CORRUPTED):
        return f"{named.corruption}-{named.severity}"
    slug = "".join(c if c.isalnum() else "_" for c in named.name[-40:]).strip("_")
    return f"{slug}-{sha256(named.name.encode()).hexdigest()[:8]}"


def _begin_anew(out: Path, folders: Sequence[Path]) -> None:
    """Move finished results to ``previous`` and drop unfinished ones: others may be found under other settings."""
    for folder in folders:
        if folder.is_dir():
            set_aside(folder)
            Journal(folder).clear()
            discard(folder)
    if (out / SUMMARY).exists() and (previous := set_aside(out)):
        for name in FILES:
            if (out / name).exists():
                (out / name).replace(previous / name)


def _summarize(
    clean: Evaluation | None, sets: Sequence[NamedSet], found: Sequence[Evaluation], folders: Sequence[str],
    fixed: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The dictionary of ``summary.json``; the numbers above ``mean`` are those of the images as they are."""
    every = [*([clean] if clean else []), *found]
    outcomes = [_outcomes(named, result) for named, result in zip(sets, found, strict=True)]
    flags = _union(clean, sets, found)
    head = clean.summary if clean else {}
    return {
        "schema_version": SCHEMA_VERSION,
        **{key: head.get(key) for key in ("examples", "clean_accuracy", "robust_accuracy")},
        "interval95": head.get("interval95", {"clean": None, "robust": None}),
        "attacks": [],
        "mean": {"sets": len(sets), **mean_accuracies(outcomes)},
        "by_corruption": _means_by("corruption", sets, outcomes),
        "by_severity": _means_by("severity", sets, outcomes),
        "sets": [_entry(*row) for row in zip(sets, found, folders, strict=True)],
        "flags": flags,
        "seconds": sum(result.summary["seconds"] for result in every),
        "verified": not severe(flags),
        **fixed,
        "protocol": _common_protocol(every, clean) | {"suite": fixed["suite"]},
    }


def _entry(named: NamedSet, result: Evaluation, folder: str) -> dict[str, Any]:
    """One set."""
    keys = ("examples", "clean_accuracy", "robust_accuracy", "interval95")
    numbers = {key: result.summary[key] for key in keys}
    place = {key: getattr(named, key) for key in ("name", "base", "corruption", "severity")}
    return {**place, "folder": folder, **numbers, "data_hash": result.summary["protocol"]["data_hash"]}


def _outcomes(named: NamedSet, result: Evaluation) -> SetOutcomes:
    rows = [row for row in result.outcomes.to_pylist() if row["attack"] == "clean"]
    index, clean = (torch.tensor([row[key] for row in rows]) for key in ("index", "robust"))
    attacked = result.summary["robust_accuracy"] is not None
    return SetOutcomes(named.base, index, clean, standing(result.outcomes, index) if attacked else None)


def _means_by(key: str, sets: Sequence[NamedSet], outcomes: Sequence[SetOutcomes]) -> dict[str, Any]:
    values = list(dict.fromkeys(getattr(named, key) for named in sets if getattr(named, key) is not None))
    return {
        str(value): mean_accuracies(
            [o for named, o in zip(sets, outcomes, strict=True) if getattr(named, key) == value]
        )
        for value in values
    }


def _union(
    clean: Evaluation | None, sets: Sequence[NamedSet], found: Sequence[Evaluation]
) -> list[dict[str, str]]:  # fmt: skip
    """Every flag once, with the number of sets that raised it."""
    named = [*([(UNCORRUPTED, False, clean)] if clean else [])]
    named += [(s.name, s.corruption is not None, result) for s, result in zip(sets, found, strict=True)]
    raised: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, corrupted, result in named:
        for flag in result.summary["flags"]:
            if not (corrupted and flag["name"] in _OF_THE_IMAGES):
                raised.setdefault((flag["name"], flag["severity"]), []).append((name, flag["detail"]))
    return [
        {
            "name": name,
            "severity": severity,
            "detail": f"{where[0][1]} ({where[0][0]}; raised in {len(where)} of {len(named)} sets)",
        }
        for (name, severity), where in raised.items()
    ]


def _common_protocol(every: Sequence[Evaluation], clean: Evaluation | None) -> dict[str, Any]:
    """What all protocols share, and which images they began with."""
    first, *others = [result.summary["protocol"] for result in every]
    common = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    images = clean.summary["protocol"] if clean else {}
    return common | {key: images.get(key) for key in ("data_hash", "index_hash")}
