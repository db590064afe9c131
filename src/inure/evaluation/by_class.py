"""Accuracies by class: balanced, worst, and of the head, the body and the tail of a long-tailed training set.

Balanced accuracy is the mean over classes of the share of each that is right, so that every class counts alike; on a
test set with as many images of each class it is the accuracy. (TAET, CVPR 2025, calls the robust one balanced
robustness.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..libraries import np, pa
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError

_LONG_TAILED = 2
"""The largest class has at least so many times the training images of the smallest: else there are no groups."""
GROUPS = ("head", "body", "tail")
_Share = Annotated[Real, Field(ge=0, le=1)]


class ShareGroups(Settings):
    """Groups by rank: classes sorted by their number of training images, the most first; ties by number.

    The default is thirds, rounded. REAT's code takes the classes after index 2 floor(C / 3) as the tail, by label: of
    10 or 100 sorted classes those are the same 3 or 33, of 9 or 12 it has one class less. RobustLT's tail is the
    least frequent 80 %: ``head=0.2``, ``tail=0.8``.
    """

    kind: Literal["share"] = "share"
    head: _Share = 1 / 3
    """Share of the classes with the most training images."""
    tail: _Share = 1 / 3
    """Share of those with the fewest; the body is what is left."""

    @model_validator(mode="after")
    def _fit(self) -> ShareGroups:
        if self.head + self.tail > 1 + 1e-9:
            raise UserError(
                "tail", self.tail, "at most 1 - head", "evaluation.groups.head=0.2 evaluation.groups.tail=0.8"
            )
        return self

    def split(self, counts: Sequence[int]) -> dict[str, list[int]]:
        """The classes of each group, from the training images of every class."""
        order = _most_first(counts)
        head = round(len(order) * self.head)
        tail = max(head, len(order) - round(len(order) * self.tail))
        return dict(zip(GROUPS, (order[:head], order[head:tail], order[tail:]), strict=True))


class CountGroups(Settings):
    """Groups by number: many, medium and few training images (Liu et al., 2019, arXiv:1904.05160: 100 and 20)."""

    kind: Literal["count"] = "count"
    head: Annotated[Whole, Field(ge=0)] = 100
    """Classes with more training images than this."""
    tail: Annotated[Whole, Field(ge=0)] = 20
    """Classes with fewer."""

    @model_validator(mode="after")
    def _fit(self) -> CountGroups:
        if self.tail > self.head + 1:
            raise UserError(
                "tail", self.tail, f"at most {self.head + 1}, so that no class is in both", "evaluation.groups.tail=20"
            )
        return self

    def split(self, counts: Sequence[int]) -> dict[str, list[int]]:
        """The classes of each group, from the training images of every class."""
        order = _most_first(counts)
        named = ["head" if counts[k] > self.head else "tail" if counts[k] < self.tail else "body" for k in order]
        return {group: [k for k, name in zip(order, named, strict=True) if name == group] for group in GROUPS}


def _most_first(counts: Sequence[int]) -> list[int]:
    """Classes by their training images; ties by number."""
    return sorted(range(len(counts)), key=lambda k: (-counts[k], k))


Groups = Annotated[ShareGroups | CountGroups, Field(discriminator="kind")]


def by_class(
    table: pa.Table,
    names: Sequence[str] | None,
    *,
    attacked: bool,
    counts: Sequence[int] | None = None,
    groups: ShareGroups | CountGroups | None = None,
) -> dict[str, Any]:
    """The entry ``classes`` of ``summary.json``.

    Args:
        table: The outcomes.
        names: Of the classes; numbers if None.
        attacked: Whether the suite has attacks; without, robust accuracies are null.
        counts: Training images of every class, where they are known.
        groups: Which classes are head, body and tail; thirds if None.

    Returns:
        ``each``: a record per class that has an example; ``balanced_{clean,robust}_accuracy``,
        ``worst_class_{clean,robust}_accuracy`` over these; ``groups``, only where ``counts`` are of as many classes
        and long-tailed (the most at least twice the fewest). A group's accuracy is the mean over its classes.
    """
    labels, clean, robust = _verdicts(table)
    each: dict[int, dict[str, Any]] = {}
    known = counts if counts is not None and (names is None or len(counts) == len(names)) else None
    for k in np.unique(labels).tolist():
        members = labels == k
        record = {"name": names[k] if names is not None and k < len(names) else str(k), "examples": int(members.sum())}
        if known is not None and k < len(known):
            record["training_examples"] = int(known[k])
        record["clean_accuracy"] = float(clean[members].mean())
        record["robust_accuracy"] = float(robust[members].mean()) if attacked else None
        each[k] = record
    found: dict[str, Any] = {"each": [*each.values()]}
    for kind in ("clean", "robust"):
        shares = [record[f"{kind}_accuracy"] for record in each.values()]
        measured = bool(shares) and shares[0] is not None
        found[f"balanced_{kind}_accuracy"] = float(np.mean(shares)) if measured else None
        found[f"worst_class_{kind}_accuracy"] = min(shares) if measured else None
    if known is not None and is_long_tailed(known):
        groups = groups or ShareGroups()
        found["groups"] = [_group(name, members, each, known) for name, members in groups.split(known).items()]
        found["cut_offs"] = groups.model_dump(mode="json")
    return found


def is_long_tailed(counts: Sequence[int]) -> bool:
    """Whether classes differ enough for groups to mean something."""
    return len(counts) > 1 and max(counts) >= _LONG_TAILED * max(min(counts), 1)


def _group(name: str, members: Sequence[int], each: dict[int, dict[str, Any]], counts: Sequence[int]) -> dict[str, Any]:
    there = [each[k] for k in members if k in each]
    found: dict[str, Any] = {
        "name": name,
        "classes": len(members),
        "training_examples": sum(int(counts[k]) for k in members),
        "examples": sum(record["examples"] for record in there),
    }
    for kind in ("clean", "robust"):
        shares = [record[f"{kind}_accuracy"] for record in there]
        measured = bool(shares) and shares[0] is not None
        found[f"{kind}_accuracy"] = float(np.mean(shares)) if measured else None
    return found


def _verdicts(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, right on the clean image, and standing to the end, of every example."""
    index, label, right = (table[name].to_numpy() for name in ("index", "label", "robust"))
    first = table["attack"].to_numpy() == "clean"
    fallen = np.unique(index[~right])
    return label[first], right[first], ~np.isin(index[first], fallen)
