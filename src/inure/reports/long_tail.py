"""Head, body and tail on the page: where the training images were long-tailed, a table and a figure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .figures import CLEAN, EXTRA, ROBUST, draw_svg, shorten
from .run_files import dig, number, records, whole

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

_NAMED = 20
"""Classes at most that are named in the figure; of more the rank is shown."""


@dataclass(frozen=True)
class LongTailPart:
    """What one evaluation says of the classes of a long-tailed run."""

    rows: list[tuple[str, str, str, str, str]]
    """Name, classes, training images, clean and robust accuracy, all as text."""
    cut_offs: str
    """Which classes are head and tail, in words."""
    figure: "Markup"


def long_tail_part(summary: dict[str, Any], anchor: str) -> LongTailPart | None:
    """From the entry ``classes`` of ``summary.json``; None where it has no groups."""
    classes = summary.get("classes")
    groups, each = records(dig(classes, "groups")), records(dig(classes, "each"))
    if not groups or not each:
        return None
    everything = {
        "name": "all classes",
        "classes": len(each),
        "training_examples": sum(whole(group.get("training_examples")) for group in groups),
        **{f"{kind}_accuracy": dig(classes, f"balanced_{kind}_accuracy") for kind in ("clean", "robust")},
    }
    rows = [_row(group) for group in (everything, *groups)]
    clean, robust = (_percent(dig(classes, f"worst_class_{kind}_accuracy")) for kind in ("clean", "robust"))
    rows.append(("worst class", "1", "", clean, robust))
    return LongTailPart(rows, _cut_offs(dig(classes, "cut_offs")), _figure(each, groups, anchor))


def _row(group: dict[str, Any]) -> tuple[str, str, str, str, str]:
    clean, robust = (_percent(group.get(f"{kind}_accuracy")) for kind in ("clean", "robust"))
    classes, trained = (f"{whole(group.get(key)):,}" for key in ("classes", "training_examples"))
    return str(group.get("name", "?")), classes, trained, clean, robust


def _percent(share: Any) -> str:
    value = number(share)
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def _cut_offs(cut_offs: Any) -> str:
    head, tail = number(dig(cut_offs, "head")), number(dig(cut_offs, "tail"))
    if head is None or tail is None:
        return ""
    if dig(cut_offs, "kind") == "count":
        return f"head: classes with more than {head:,.0f} training images; tail: with fewer than {tail:,.0f}"
    return (
        f"head: the {100 * head:.3g} % of the classes with the most training images; "
        f"tail: the {100 * tail:.3g} % with the fewest"
    )


def _figure(each: list[dict[str, Any]], groups: list[dict[str, Any]], anchor: str) -> "Markup":
    order = sorted(each, key=lambda record: -whole(record.get("training_examples")))
    counts = [whole(record.get("training_examples")) for record in order]
    edges = [whole(groups[0].get("classes")), sum(whole(group.get("classes")) for group in groups[:2])]

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        places = [*range(1, len(order) + 1)]
        axes.bar(places, [100 * count / max(*counts, 1) for count in counts], width=1.0, color=EXTRA, alpha=0.25)
        # Side by side: at 0 % one would hide the other
        for kind, colour, mark, aside in (("clean", CLEAN, "o", -0.2), ("robust", ROBUST, "D", 0.2)):
            shares = [number(record.get(f"{kind}_accuracy")) for record in order]
            values = [float("nan") if share is None else 100 * share for share in shares]
            size = 5 if len(order) <= 30 else 2.5
            axes.plot([place + aside for place in places], values, mark, color=colour, markersize=size, linestyle="")
        for edge in edges:
            axes.axvline(edge + 0.5, color=EXTRA, linestyle="--", linewidth=0.8)
        axes.set(title="Accuracy by class, most training images first", ylim=(-3, 103))
        axes.set_xlim(0.5, len(order) + 0.5)
        axes.yaxis.set_major_formatter("{x:.0f} %")
        if len(order) > _NAMED:
            axes.set_xlabel("rank of the class")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        else:
            names = [shorten(str(record.get("name")), 12) for record in order]
            axes.set_xticks(places, names, rotation=0 if max(map(len, names)) < 4 else 45)
            axes.set_xlabel("class")

    described = f"Clean and robust accuracy of {len(order)} classes, the most frequent in training first"
    return draw_svg(draw, f"{anchor}tail", described, size=(6.4, 2.9))
