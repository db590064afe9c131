"""verify_stored(): are the adversarial images of a file what they are said to be, and what does a net make of them?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..display.console import Bars, with_interval
from ..libraries import Tensor, torch
from ..models.modes import attack_mode, frozen
from ..settings.errors import UserError
from ..threat import Geometry, describe_threat
from ..types import Images
from .cascade import repeatable
from .examples import Examples
from .intervals import wilson
from .metered import Metered
from .probes import APART, apart
from .protocol import weights_hash
from .results import OUTCOMES, SUMMARY, read_files
from .stored_reader import StoredSet, open_stored
from .summary import standing
from .verdicts import TOLERANCE, predictions

_FIRST = 5
"""How many of the examples at fault are named."""


def verify_stored(
    model: Metered,
    examples: Examples,
    path: Path | str,
    *,
    threat: Geometry,
    device: torch.device,
    batch_size: int = 128,
    bars: Bars | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """Check a stored set of adversarial images, and judge it by fresh forwards in float32 and eval mode.

    Of every image: it belongs to the example of its row (index and label, where the file has them), it is finite, in
    [0, 1], and in float64 at most epsilon + 1e-6 away; the net says the same of it twice. Verdicts are compared with
    those of ``outcomes.parquet`` and ``summary.json`` beside a file that an evaluation wrote. With another net than
    the one that was attacked they may differ: then it is a transfer result.

    Args:
        model: Any net that takes images in [0, 1]; left as it was found.
        examples: What was attacked, all of it, in the same order.
        path: See ``open_stored``.
        threat: What the adversary was allowed.
        device: Where the net is.
        batch_size: Images at once.
        bars: Where to show progress.
        weights: The ``weights_hash`` of the net as an evaluation records it; None: that of ``model.net``.

    Returns:
        Data fit for JSON: ``passed``, ``said`` (one line), ``examples``, ``robust_accuracy``, ``interval95``,
        ``largest_distance``, ``threat``, ``same_weights`` (None where the file does not say), ``mismatches`` (texts),
        and {count, first} of ``violations`` ({index, what}), ``unstable`` and ``differences`` (indices; None where
        there is nothing to compare with).

    Raises:
        UserError: If the file cannot be read, or holds images of another number or shape.
    """
    path = Path(path)
    stored = open_stored(path)
    _refuse_other_shape(stored, examples, path)
    seen = _Seen(examples)
    _compare_names(stored, examples, seen)
    with attack_mode(model, "eval"), frozen(model), repeatable(device), torch.no_grad():
        for start in range(0, len(examples), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(examples)))
            x_adv = stored.images(start, start + len(rows))
            _check_images(x_adv, rows, threat, seen)
            _judge(model, x_adv.to(device), rows, seen)
            if bars is not None:
                bars.show("verify", start + len(rows), len(examples), unit="images")
    beside = _Beside(*(read_files(path.parent) or ())) if stored.about else _Beside()
    return _finding(seen, stored, beside, threat, weights or weights_hash(model.net))


@dataclass
class _Seen:
    """What has come to light so far."""

    examples: Examples
    right: list[Tensor] = field(default_factory=list)
    wrong: dict[int, str] = field(default_factory=dict)
    """Row to what is wrong with its image, the first thing only."""
    unstable: list[int] = field(default_factory=list)
    farthest: float = 0.0

    def blame(self, rows: Tensor, what: Iterable[str]) -> None:
        for row, words in zip(rows.tolist(), what, strict=True):
            self.wrong.setdefault(row, words)


@dataclass(frozen=True)
class _Beside:
    """What lies beside the file."""

    table: Any = None
    summary: dict[str, Any] | None = None


def _refuse_other_shape(stored: StoredSet, examples: Examples, path: Path) -> None:
    if stored.shape[1:] != examples.shape:
        raise UserError(str(path), f"images of {stored.shape[1:]}", f"{examples.shape}, as those of the data")
    if stored.shape[0] != len(examples):
        given, allowed = f"{stored.shape[0]} images", f"{len(examples)}, an image for each example of the data"
        fewer = stored.shape[0] < len(examples)
        raise UserError(str(path), given, allowed, f"--examples {stored.shape[0]}" if fewer else None)


def _compare_names(stored: StoredSet, examples: Examples, seen: _Seen) -> None:
    """Index and label, where the file has them."""
    for name, theirs, ours in (("index", stored.index, examples.index), ("label", stored.label, examples.labels)):
        if theirs is not None:
            rows = (theirs != ours).nonzero().flatten()
            seen.blame(rows, (f"{name} {theirs[row]}, {ours[row]} in the data" for row in rows))


def _check_images(x_adv: Images, rows: Tensor, threat: Geometry, seen: _Seen) -> None:
    """Numbers, box and ball, on the CPU: some devices have no float64."""
    clean = seen.examples.images(rows, torch.device("cpu"))
    finite = x_adv.isfinite().flatten(1).all(1)
    outside = finite & ((x_adv < 0) | (x_adv > 1)).flatten(1).any(1)
    distance = threat.distance(x_adv.double(), clean.double())
    far = finite & (distance > float(threat.epsilon) + TOLERANCE)
    seen.blame(rows[~finite], ("values that are not finite" for _ in rows[~finite]))
    seen.blame(rows[outside], ("values outside [0, 1]" for _ in rows[outside]))
    seen.blame(rows[far], (f"distance {d:.8g} over {float(threat.epsilon):.8g}" for d in distance[far].tolist()))
    seen.farthest = max(seen.farthest, *distance[finite].tolist(), 0.0)


def _judge(model: Metered, x_adv: Images, rows: Tensor, seen: _Seen) -> None:
    """Two forwards; the first one counts."""
    logits, again = model(x_adv), model(x_adv)
    prediction, second = predictions(logits), predictions(again)
    moved = (prediction != second) | (apart(logits, again) > APART)
    seen.right.append(seen.examples.right(rows, prediction.cpu()))
    seen.unstable += seen.examples.index[rows[moved.cpu()]].tolist()


def _finding(seen: _Seen, stored: StoredSet, beside: _Beside, threat: Geometry, weights: str) -> dict[str, Any]:
    right, index, about = torch.cat(seen.right), seen.examples.index, stored.about
    total = len(index)
    share = int(right.sum()) / total
    same_weights = about["weights_hash"] == weights if "weights_hash" in about else None
    recorded = standing(beside.table, index) if _same_examples(beside, index) else None
    different = None if recorded is None else index[right != recorded].tolist()
    wrong = [{"index": int(index[row]), "what": what} for row, what in sorted(seen.wrong.items())]
    found: dict[str, Any] = {
        "examples": total,
        "robust_accuracy": share,
        "interval95": list(wilson(int(right.sum()), total)),
        "largest_distance": seen.farthest,
        "threat": describe_threat(threat),
        "same_weights": same_weights,
        "violations": _counted(wrong),
        "unstable": _counted(seen.unstable),
        "differences": None if different is None else _counted(different),
        "mismatches": list(_mismatches(beside, about, index, threat, share, same_weights)),
    }
    faults = list(_faults(found))
    return {**found, "passed": not faults, "said": _said(found, faults)}


def _same_examples(beside: _Beside, index: Tensor) -> bool:
    return beside.table is not None and {*beside.table["index"].to_pylist()} == {*index.tolist()}


def _counted(items: list[Any]) -> dict[str, Any]:
    return {"count": len(items), "first": items[:_FIRST]}


def _mismatches(
    beside: _Beside, about: dict[str, str], index: Tensor, threat: Geometry, share: float, same_weights: bool | None
) -> Iterable[str]:
    """What the file and its neighbours say of the evaluation that does not hold here."""
    asked = describe_threat(threat)
    if about.get("threat", asked) != asked:
        yield f"the file was made under {about['threat']}, not {asked}"
    if beside.summary is None:
        return
    if beside.summary.get("protocol", {}).get("weights_hash") != about.get("weights_hash"):
        yield f"{SUMMARY} beside it is of another net"
    if not _same_examples(beside, index):
        yield f"{OUTCOMES} beside it is of other examples"
    recorded = beside.summary.get("robust_accuracy")
    recorded = beside.summary.get("clean_accuracy") if recorded is None else recorded  # suite clean
    if same_weights is not False and recorded != share:
        yield f"{SUMMARY} says robust accuracy {recorded}, not {share}"


def _faults(found: dict[str, Any]) -> Iterable[str]:
    """Why the set is not verified."""
    bad, unstable, different = found["violations"], found["unstable"], found["differences"]
    if bad["count"]:
        first = bad["first"][0]
        yield f"{bad['count']} of {found['examples']} images are not allowed (index {first['index']}: {first['what']})"
    if unstable["count"]:
        yield f"the net is not deterministic on {unstable['count']} images (index {unstable['first'][0]})"
    if different is not None and different["count"] and found["same_weights"] is not False:
        yield f"{different['count']} verdicts are not those of {OUTCOMES} (index {different['first'][0]})"
    yield from found["mismatches"]


def _said(found: dict[str, Any], faults: list[str]) -> str:
    accuracy = with_interval(found["robust_accuracy"], found["interval95"])
    words = (
        f"{found['examples']} images under {found['threat']}, largest distance {found['largest_distance']:.6g}, "
        f"accuracy on these images {accuracy}"
    )
    if found["same_weights"] is False:
        words += ", of another net than the one attacked: a transfer result"
    elif found["differences"] is not None and not found["differences"]["count"]:
        words += f", as in {OUTCOMES}"
    elif found["differences"] is None:
        words += "; who chose them is not known: an upper bound of what an attack would leave"
    return f"not verified: {'; '.join(faults)}; {words}" if faults else f"verified: {words}"
