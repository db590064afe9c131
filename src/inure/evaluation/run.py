"""evaluate(): model x data x suite -> Evaluation.

Robust accuracy is only ever the pointwise worst case, over all examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attacks import Transferred
from ..data import ImageSet
from ..display.console import Bars
from ..libraries import pa
from ..losses import cross_entropy
from ..settings.errors import UserError
from ..threat import Geometry, describe_threat, parse_threat
from .by_class import CountGroups, ShareGroups, by_class
from .cascade import Cascade, repeatable, rows_of
from .conditions import Conditions, Workers
from .examples import Examples
from .flags import flag
from .journal import Journal
from .nets import count_classes, device_of, prepared
from .pictures import Pictures
from .probes import PROBED, probe
from .protocol import protocol_of, weights_hash
from .results import read_results, set_aside, write_results
from .stored import StoredImages, about, discard, refuse_unless_stored, was_storing
from .suites import SUITES, Member, is_full, votes_of, with_float32_search
from .summary import outcomes, standing, summarize
from .transfer import transfer_members

_PICTURES = 16


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    robust: Tensor
    """(N,) bool: right, and standing to the end."""
    summary: dict[str, Any]
    outcomes: pa.Table
    pictures: dict[str, Tensor]


def evaluate(
    model: nn.Module,
    images: Tensor | np.ndarray | ImageSet,
    labels: Tensor | np.ndarray | None = None,
    *,
    suite: str = "quick",
    threat: Geometry | str,
    seed: int = 0,
    batch_size: int = 128,
    mode: Any = None,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    index: Tensor | np.ndarray | None = None,
    workers: Workers | None = None,
    sources: Mapping[str, nn.Module] | None = None,
    search_precision: str = "float32",
    channels_last: bool = False,
    store_adversarial: bool = False,
    source_hash: str | None = None,
    flags: Sequence[dict[str, str]] = (),
    class_counts: Sequence[int] | None = None,
    groups: ShareGroups | CountGroups | None = None,
    command: str | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Measure clean and robust accuracy.

    For each attack only the examples still standing are attacked, from their original images; a fresh float32
    forward on the returned images decides; the perturbation is checked in float64 against the threat model and
    against [0, 1]. Verdicts do not depend on ``batch_size``, the order of the examples, a resume or the number of
    processes (on one kind of device).

    Args:
        model: Images (B, C, H, W) in [0, 1] to logits (B, K), normalisation inside. Evaluated in eval mode and
            float32; left as it was found.
        images: (N, C, H, W) float in [0, 1], a tensor or array, or an ``ImageSet``, whose readout the model is
            asked through.
        labels: (N,) classes, beside a tensor of images.
        suite: A name of ``inure list suites``.
        threat: What the adversary may do: ``Linf(epsilon=8 / 255)`` or ``"linf:8/255"``.
        seed: Of the random starts.
        batch_size: Examples attacked at once; halved by itself when memory runs out.
        mode: A mix for nets with domains: a name or weights by name; None is the first domain.
        device: Where to compute; None: where the model is.
        out: Folder for ``summary.json``, ``outcomes.parquet`` and ``examples.safetensors``; those of an earlier
            evaluation there move to ``previous``.
        resume: Continue what a killed evaluation left in ``out``.
        index: (N,) names of the examples; positions by default.
        workers: Which of several processes this is.
        sources: Nets by name whose adversarial images are tried last, on who still stands (``attacks.Transferred``).
        search_precision: ``bfloat16`` lets attacks search in it: faster on hardware that has it, and weaker where
            rounding hides a way. A search ends at a point that bfloat16 calls misclassified and float32 may not;
            APGD towards 3 classes in float32 on the survivors is added, and Square decides in float32. Verdicts are
            in float32 always.
        channels_last: Run convolutions in that memory format: as a rule faster, with other last bits.
        store_adversarial: Write the worst image of every example to ``adversarial.safetensors`` in ``out``.
        source_hash: Of the code that makes the net, where its weights do not tell all; part of the protocol.
        flags: What the caller knows to be wrong, {name, severity, detail}; joins those found here.
        class_counts: Training images of every class: with a long tail the summary has head, body and tail.
        groups: Which classes these are; thirds if None.
        command: Kept in the summary: what to type to repeat this.
        quiet: No progress bars.

    Raises:
        UserError: For images outside [0, 1], labels or a net that do not fit, an unknown suite, or another
            protocol in ``out`` when resuming.
    """
    conditions = Conditions(
        suite=suite, threat=_geometry(threat), seed=seed, batch_size=batch_size, mode=mode,
        device=torch.device(device) if device is not None else None, out=Path(out) if out is not None else None,
        resume=resume, workers=workers or Workers(), sources=sources or {}, search_precision=search_precision,
        channels_last=channels_last, store_adversarial=store_adversarial, source_hash=source_hash,
        class_counts=class_counts, groups=groups, command=command, quiet=quiet,
    )  # fmt: skip
    return evaluate_under(conditions, model, images, labels, index=index, flags=flags)


def evaluate_under(
    conditions: Conditions,
    model: nn.Module,
    images: Tensor | np.ndarray | ImageSet,
    labels: Tensor | np.ndarray | None = None,
    *,
    index: Tensor | np.ndarray | None = None,
    flags: Sequence[dict[str, str]] = (),
) -> Evaluation:
    """``evaluate`` with the conditions in one record."""
    examples = Examples.of(images, labels, index)
    place = conditions.device or device_of(model)
    conditions, out, resume = replace(conditions, device=place), conditions.out, conditions.resume
    metered, model = prepared(model, images, conditions.mode, place, channels_last=conditions.channels_last)
    classes = count_classes(metered, examples, place)
    members, doubts = _fitting(SUITES[conditions.suite](conditions.threat), classes, conditions.suite)
    search_dtype, searched = conditions.search_dtype, conditions.search_precision
    if search_dtype is not None and members:
        members = with_float32_search(members, conditions.threat, classes)
        doubts.append(flag("low_precision_search", f"attacks searched in {searched}: they may be weaker"))
    weights, votes = weights_hash(model), votes_of(members)
    if conditions.sources:
        members += transfer_members(
            conditions.sources, conditions.threat, examples, classes=classes, attacked=weights, device=place
        )
    protocol = protocol_of(conditions, model, weights, examples, members)
    if resume and out is not None and (finished := read_results(out, protocol)):
        if conditions.store_adversarial:
            refuse_unless_stored(out)
        table, summary = finished
        pictures = Pictures(out, examples.index, resume=True)
        return Evaluation(standing(table, examples.index), summary, table, pictures.columns())
    bars = Bars(quiet=conditions.quiet or not conditions.writes)
    if out is not None and not resume and conditions.writes and (previous := set_aside(out)):
        bars.say(f"the results that were in {out} are now in {previous}")
    if members:
        with repeatable(place):
            doubts += probe(metered, examples, place, averages=votes > 1, cross_entropy_only=_all_ce(members))
            if search_dtype is not None:
                metered.calibrate(examples.images(examples.sample(PROBED), place), search_dtype)
    journal, pictures, stored = _keepers(conditions, examples, protocol)
    with bars:
        Cascade(
            metered, examples, conditions, journal=journal, pictures=pictures, stored=stored, votes=votes,
            advance=bars.attack,
        ).run(members)  # fmt: skip
    conditions.workers.barrier()
    records = journal.gather()
    order = ["clean", *(m.name for m in members)]
    table = outcomes(records, order)
    counts, groups = conditions.class_counts, conditions.groups
    fixed = {
        "threat": describe_threat(conditions.threat),
        "suite": conditions.suite,
        "mode": conditions.mode,
        "seed": conditions.seed,
        "protocol": protocol,
        "classes": by_class(table, _class_names(images), attacked=bool(members), counts=counts, groups=groups),
        **({"command": conditions.command} if conditions.command else {}),
    }
    summary = summarize(records, table, order, fixed, [*flags, *doubts])
    result = Evaluation(standing(table, examples.index), summary, table, pictures.columns())
    if out is not None and conditions.writes:
        if stored is not None:
            stored.finish()
        write_results(out, table, result.summary)
    conditions.workers.barrier()  # the others may be reading the journals until here
    if conditions.writes:
        journal.clear()
    return result


def _keepers(
    conditions: Conditions, examples: Examples, protocol: dict[str, Any]
) -> tuple[Journal, Pictures, StoredImages | None]:
    """What keeps verdicts and images while the cascade runs, begun anew or where a killed evaluation left off."""
    out, resume, workers = conditions.out, conditions.resume, conditions.workers
    # A resume stores where the evaluation was begun so: what is in the file already would be lost
    stores = conditions.store_adversarial or (resume and out is not None and was_storing(out))
    journal = Journal(out, workers.rank, workers.world_size)
    journal.begin(protocol, resume=resume)
    if out is not None and not resume and conditions.writes and not stores:
        discard(out)
    shown = examples.index[rows_of(examples, workers)[:_PICTURES]]
    pictures = Pictures(out if conditions.writes else None, shown, resume=resume)
    stored = None
    if out is not None and stores:
        header = about(conditions.threat, protocol)
        stored = StoredImages(out, examples, header, rank=workers.rank, begun=bool(journal.records))
    return journal, pictures, stored


def _class_names(images: Tensor | np.ndarray | ImageSet) -> tuple[str, ...] | None:
    return images.class_names if isinstance(images, ImageSet) else None


def _geometry(threat: Geometry | str) -> Geometry:
    if isinstance(threat, str):
        return parse_threat(threat, "threat")
    if not isinstance(threat, Geometry):
        raise UserError("threat", threat, "Linf, L2, L1, or a text KIND:EPSILON", "linf:8/255")
    return threat


def _fitting(members: list[Member], classes: int, suite: str) -> tuple[list[Member], list[dict[str, str]]]:
    """The attacks that make sense for so many classes, and flags for the others.

    Raises:
        UserError: If none of them does.
    """
    few = [f"{m.name} (needs {m.classes})" for m in members if classes < m.classes]
    many = [f"{m.name} (up to {m.most_classes})" for m in members if m.most_classes and classes > m.most_classes]
    fitting = [m for m in members if m.classes <= classes <= (m.most_classes or classes)]
    if members and not fitting:
        given, allowed = f"{suite} on a net of {classes} classes", f"a suite with an attack for {classes} classes"
        raise UserError("--suite", given, allowed, "--suite quick")
    severity = "warning" if is_full(suite) else None
    left_out = {"few_classes": few, "many_classes": many}
    return fitting, [
        flag(name, f"{classes} classes: left out {', '.join(names)}", severity)
        for name, names in left_out.items()
        if names
    ]


def _all_ce(members: list[Member]) -> bool:
    return all(member.loss is cross_entropy and not isinstance(member.attack, Transferred) for member in members)
