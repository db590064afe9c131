"""What ``inure soup`` leaves behind and shows: tables, figures, numbers, and the soups of shifted sets."""

from pathlib import Path
from typing import Any

from ..averaging.soup import Point, pareto_front
from ..display.console import markdown, percent, stderr, table, with_interval
from ..display.drawing import heat_map, png
from ..machine import files

_HEADER = ["soup", "clean [95 %]", "robust [95 %]", "chosen as"]
_CHOOSERS = ["chosen by", "soup", "accuracy [95 %]"]
_MOST_ROWS = 40
_FAR = 1.5
"""Norm of a mix, over the domains', from which on a chosen mix is warned of."""


def write_soup(folder: Path, result: dict[str, Any], points: list[Point], domains: tuple[str, ...]) -> None:
    """soup.json, table.md and figure.png; with shifted sets shifts.md and shifts.png."""
    files.write_text(folder / "table.md", markdown(_HEADER, _rows(result)))
    files.write_bytes(folder / "figure.png", figure(points, domains, result["protocol"]))
    if result["shifts"]:
        files.write_text(folder / "shifts.md", markdown(*_shift_table(result["shifts"])))
        files.write_bytes(folder / "shifts.png", shift_figure(result["shifts"]))
    files.write_json(folder / "soup.json", result)


def show_soup(result: dict[str, Any], run: Path, rule: str, weights_in: Path | None) -> None:
    """The same on stderr, and the command that measures the choice."""
    console, protocol = stderr(), result["protocol"]
    title = f"{protocol['examples']} images of {protocol['data']}, {protocol['suite']} under {protocol['threat']}"
    rows = _rows(result)
    console.print(table(title, _HEADER, rows if len(rows) <= _MOST_ROWS else [row for row in rows if row[3]]))
    if adapted := result["few_shot"]:
        title = f"{adapted['shots']} images choose, {adapted['examples']} others are measured"
        console.print(table(title, _CHOOSERS, _choosers(adapted)))
        console.print(_advice(adapted), markup=False, soft_wrap=True)
    if shifted := result["shifts"]:
        columns, rows = _shift_table(shifted)
        console.print(table(f"{len(shifted['sets'])} shifted sets", columns, rows[-1:] if len(rows) > 25 else rows))
        console.print(_gains(shifted), markup=False, soft_wrap=True)
    far = [e for e in result["soups"] if e["mix"] in result["chosen"].values() and e["adapter_norm"] > _FAR]
    for entry in far:
        norm = f"{entry['adapter_norm']:.1f} times as long as a domain's"
        console.print(f"warning: the adapters of {entry['mix']} are {norm}: no training was there", markup=False)
    chosen = f"--weights {weights_in / 'weights.safetensors'}" if weights_in else f"--mode {result['chosen'][rule]}"
    console.print(f"inure evaluate {run} {chosen}", markup=False, soft_wrap=True)


def _rows(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            entry["mix"],
            with_interval(entry["clean_accuracy"], entry["interval95"]["clean"]),
            with_interval(entry["robust_accuracy"], entry["interval95"]["robust"]),
            ", ".join(name for name, mix in result["chosen"].items() if mix == entry["mix"]),
        ]
        for entry in result["soups"]
    ]


def _choosers(adapted: dict[str, Any]) -> list[list[str]]:
    return [
        [name, choice["mix"], with_interval(choice["accuracy"], choice["interval95"])]
        for name, choice in adapted["choices"].items()
    ]


def _advice(adapted: dict[str, Any]) -> str:
    if not adapted["curve"]:
        return "too few images to say how many labelled ones are enough"
    sizes = ", ".join(
        f"{row['shots']}: {percent(row['mean'])} ± {100 * row['deviation']:.1f}" for row in adapted["curve"]
    )
    enough = adapted["enough"]
    said = "more labelled images may still help" if enough is None else f"{enough} labelled images are enough here"
    return f"by the number of labelled images ({sizes}): {said}"


def _shift_table(shifted: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """One row a set, and the means."""
    names = [*shifted["mean"]]
    rows = [
        [
            part["name"],
            *(percent(part["choices"][name]["accuracy"]) for name in names),
            part["choices"]["few labels"]["mix"],
        ]
        for part in shifted["sets"]
    ]
    means = ["mean", *(percent(shifted["mean"][name]) for name in names), ""]
    return ["set", *names, f"soup of {shifted['shots']} labels"], [*rows, means]


def _gains(shifted: dict[str, Any]) -> str:
    parts = []
    for name, gain in shifted["gains"].items():
        low, high = gain["interval95"]
        parts.append(f"{name} {100 * gain['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]")
    return f"a soup chosen for each set by {shifted['shots']} labels, in points of mean accuracy over: " + "; ".join(
        parts
    )


def figure(points: list[Point], domains: tuple[str, ...], protocol: dict[str, Any]) -> bytes:
    """Two domains: both accuracies along the dial. More: one against the other, with the front."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    clean, robust = ([100 * getattr(p, name) for p in points] for name in ("clean", "robust"))
    if len(domains) == 2:
        weights = [p.mix[domains[1]] for p in points]
        axes.axvspan(0, 1, color="0.94", zorder=0)
        axes.plot(weights, clean, "o-", color="#4477aa", label="clean accuracy", markersize=4)
        axes.plot(weights, robust, "o-", color="#cc6677", label="robust accuracy", markersize=4)
        axes.set_xlabel(f"weight of {domains[1]} (grey: between {domains[0]} and {domains[1]}; beyond: extrapolated)")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 102)
        axes.legend(frameon=False, loc="best")
    else:
        front = pareto_front(points)
        axes.plot(clean, robust, "o", color="0.7", markersize=3, label="soups")
        axes.plot([clean[i] for i in front], [robust[i] for i in front], "o-", color="#cc6677", label="Pareto front")
        axes.set_xlabel("clean accuracy, %")
        axes.set_ylabel("robust accuracy, %")
        axes.legend(frameon=False)
    axes.set_title(f"{protocol['suite']} under {protocol['threat']}, {protocol['examples']} images", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return png(drawing)


def shift_figure(shifted: dict[str, Any]) -> bytes:
    """Corruptions by severity as two heat maps, the last domain's weight and the gain; else a row for each set.

    A corruption is drawn if all of its severities are there.
    """
    from matplotlib.figure import Figure

    cells = {part["name"].rpartition("@")[2]: part["choices"] for part in shifted["sets"]}
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in cells))
    kinds = [kind for kind in kinds if all(f"{kind}:{severity}" in cells for severity in range(1, 6))]
    if not kinds:
        return _bars(shifted)
    rows = [[cells[f"{kind}:{severity}"] for severity in range(1, 6)] for kind in kinds]
    last = shifted["domains"][-1]
    weight = [[cell["few labels"]["weights"][last] for cell in row] for row in rows]
    gain = [[100 * (cell["few labels"]["accuracy"] - cell["single soup"]["accuracy"]) for cell in row] for row in rows]
    drawing = Figure(figsize=(8, 0.9 + 0.3 * len(kinds)), layout="constrained")
    panels = drawing.subplots(1, 2, sharey=True)
    span = max(1.0, max(abs(v) for row in gain for v in row))
    labels = [kind.replace("_", " ") for kind in kinds]
    titles = (f"weight of {last} in the chosen soup", "gain over the best single soup, points")
    for axes, values, title, limits in zip(panels, (weight, gain), titles, ((-0.4, 1.4), (-span, span)), strict=True):
        picture = heat_map(axes, values, rows=labels, columns=["1", "2", "3", "4", "5"], limits=limits)
        axes.set_xlabel("severity")
        axes.set_title(title, fontsize=10)
        drawing.colorbar(picture, ax=axes, shrink=0.8)
    return png(drawing)


def _bars(shifted: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    parts, names = shifted["sets"], [*shifted["mean"]]
    drawing = Figure(figsize=(7.5, 1.2 + 0.5 * len(parts)), layout="constrained")
    axes = drawing.subplots()
    for place, name in enumerate(names):
        values = [100 * part["choices"][name]["accuracy"] for part in parts]
        heights = [row + 0.1 * (place - len(names) / 2) for row in range(len(parts))]
        axes.plot(values, heights, "o", markersize=4, label=name)
    axes.set_yticks(range(len(parts)), [part["name"][-40:] for part in parts])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return png(drawing)
