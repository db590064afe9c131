"""What ``inure evaluate`` says of an evaluation: its title, and on stderr its table and its flags."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from ..averaging.soup import describe_mix
from ..display.console import percent, stderr, table, with_interval
from ..evaluation import wilson
from ..evaluation.suites import is_full


def title_of(target: str, summary: dict[str, Any]) -> str:
    """``RUN, mode MIX, under THREAT``."""
    mode = summary["mode"]
    text = describe_mix(mode) if isinstance(mode, dict) else mode
    return f"{target}{f', mode {text},' if text else ''} under {summary['threat']}"


def show(summary: dict[str, Any], title: str) -> None:
    """The table of an evaluation, on stderr."""
    total = summary["examples"]
    rows = [["clean", with_interval(summary["clean_accuracy"], summary["interval95"]["clean"]), "-", "-", "-"]]
    for attack in summary["attacks"]:
        share = attack["robust_accuracy"]
        interval = wilson(round(share * total), total)
        cost = [f"{attack['forwards']:,}", f"{attack['backwards']:,}", f"{attack['seconds']:.1f}"]
        rows.append([f"after {attack['name']}", with_interval(share, interval), *cost])
    columns = ["", "accuracy [95 %]", "forwards", "backwards", "seconds"]
    console = stderr()
    console.print(table(escape(title), columns, rows))
    if "groups" in summary.get("classes", {}):
        console.print(table("by class, every class counted alike", *class_table(summary["classes"])))
    if summary["robust_accuracy"] is not None:
        console.print(
            f"robust accuracy {percent(summary['robust_accuracy'])} of {total} examples (worst case over the attacks"
            f"{'' if is_full(summary['suite']) else '; an upper bound of AutoAttack'})"
        )
    show_flags(console, summary)


def class_table(classes: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: all classes, head, body and tail by their training images, the worst class."""
    rows = []
    everything = {
        "name": "all",
        "classes": len(classes["each"]),
        "training_examples": sum(group["training_examples"] for group in classes["groups"]),
        **{f"{kind}_accuracy": classes[f"balanced_{kind}_accuracy"] for kind in ("clean", "robust")},
    }
    for group in [everything, *classes["groups"]]:
        shares = [percent(group[f"{kind}_accuracy"]) for kind in ("clean", "robust")]
        rows.append([group["name"], str(group["classes"]), f"{group['training_examples']:,}", *shares])
    worst = [percent(classes[f"worst_class_{kind}_accuracy"]) for kind in ("clean", "robust")]
    rows.append(["worst class", "1", "", *worst])
    return ["", "classes", "training images", "clean", "robust"], rows


def show_flags(console: Console, summary: dict[str, Any]) -> None:
    """What makes the numbers doubtful, a line each."""
    for raised in summary["flags"]:
        console.print(f"warning: {raised['name']} ({raised['severity']}): {raised['detail']}", markup=False)
    if not summary["verified"]:
        console.print("unverified: a severe flag was raised (docs: How to read a robustness number)", markup=False)
