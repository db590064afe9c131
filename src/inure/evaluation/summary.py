"""From a journal to the two files of an evaluation: one row per example and attack, and the numbers above them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..libraries import pa
from .flags import beaten_white_box, flag, severe
from .intervals import wilson

SCHEMA_VERSION = 1
_BINS = 15
COLUMNS = ("index", "label", "clean_prediction", "attack", "adversarial_prediction", "robust", "distance")


def outcomes(records: list[dict[str, Any]], order: list[str]) -> pa.Table:
    """One row per example with ``attack="clean"``, plus one per example and attack that was really run on it."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    clean: dict[int, int] = {}
    for record in records:
        position = order.index(record["attack"])
        for index, label, prediction, distance in zip(
            record["index"], record["label"], record["prediction"], record["distance"], strict=True
        ):
            if position == 0:
                clean[index] = prediction
            rows[position, index] = {
                "index": index,
                "label": label,
                "attack": record["attack"],
                "adversarial_prediction": prediction,
                "robust": prediction == label,
                "distance": distance,
            }
    ordered = [{**row, "clean_prediction": clean[row["index"]]} for _, row in sorted(rows.items())]
    types = [pa.int64(), pa.int64(), pa.int64(), pa.string(), pa.int64(), pa.bool_(), pa.float64()]
    return pa.Table.from_pylist(ordered, schema=pa.schema(list(zip(COLUMNS, types, strict=True))))


def standing(table: pa.Table, index: Tensor) -> Tensor:
    """(N,) bool in the order of ``index``: right on the clean image and after every attack run on it."""
    fallen = {
        row for row, robust in zip(table["index"].to_pylist(), table["robust"].to_pylist(), strict=True) if not robust
    }
    return torch.tensor([i not in fallen for i in index.tolist()], dtype=torch.bool)


def summarize(
    records: list[dict[str, Any]],
    table: pa.Table,
    order: list[str],
    fixed: dict[str, Any],
    flags: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """The dictionary of ``summary.json``: ``fixed`` (threat, suite, protocol, ...), the counts, the flags.

    ``verified``: every perturbation was checked in float64 when it was judged, and no severe flag was raised.
    """
    total = sum(attack == "clean" for attack in table["attack"].to_pylist())
    left = {row["index"] for row in table.to_pylist() if row["attack"] == "clean" and row["robust"]}
    clean_right = len(left)
    attacks = []
    for name in order[1:]:
        own = [r for r in records if r["attack"] == name]
        left -= {row["index"] for row in table.to_pylist() if row["attack"] == name and not row["robust"]}
        attacks.append({"name": name, "robust_accuracy": _share(len(left), total), **_costs(own)})
    standing_after = [("clean", clean_right), *((a["name"], round(a["robust_accuracy"] * total)) for a in attacks)]
    found = [*flags, *_flags(records, table), *beaten_white_box(standing_after, total)]
    robust = len(left) if attacks else None
    return {
        "schema_version": SCHEMA_VERSION,
        "examples": total,
        "clean_accuracy": _share(clean_right, total),
        "robust_accuracy": None if robust is None else _share(robust, total),
        "interval95": {
            "clean": list(wilson(clean_right, total)),
            "robust": None if robust is None else list(wilson(robust, total)),
        },
        "attacks": attacks,
        "flags": found,
        "seconds": math.fsum(r["seconds"] for r in records),
        "verified": not severe(found),
        "calibration": _calibration(records),
        **fixed,
    }


def _costs(records: list[dict[str, Any]]) -> dict[str, float]:
    passes = {key: sum(r[key] for r in records) for key in ("forwards", "backwards")}
    return {"seconds": math.fsum(r["seconds"] for r in records), **passes}


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0


def _flags(records: list[dict[str, Any]], table: pa.Table) -> list[dict[str, str]]:
    """Logits and gradients that were not finite."""
    flags = []
    if bad := sum(prediction == -1 for prediction in table["adversarial_prediction"].to_pylist()):
        detail = f"{bad} of {table.num_rows} predictions had logits that are not finite; they count as wrong"
        flags.append(flag("non_finite_logits", detail))
    if stuck := sum(r["bad_gradients"] > 0 for r in records):
        detail = f"in {stuck} batches a gradient was not finite and was taken as zero; the attack may be too weak there"
        flags.append(flag("non_finite_gradients", detail))
    return flags


def _calibration(records: list[dict[str, Any]]) -> dict[str, float]:
    """Expected calibration error on clean images, 15 equal bins (Guo et al., 2017, arXiv:1706.04599)."""
    clean = [r for r in records if r["attack"] == "clean"]
    confidence = torch.tensor([c for r in clean for c in r["confidence"]], dtype=torch.float64)
    right = torch.tensor(
        [p == y for r in clean for p, y in zip(r["prediction"], r["label"], strict=True)], dtype=torch.float64
    )
    bins = (confidence * _BINS).long().clamp(0, _BINS - 1)
    gaps = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, bins, right - confidence)
    return {"clean_ece": float(gaps.abs().sum() / max(len(right), 1)), "bins": _BINS}
