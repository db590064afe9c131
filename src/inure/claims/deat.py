"""Enhance diffusion to improve robust generalization (Sun et al., 2023, arXiv:2306.02618): one grid, four claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..display.drawing import png
from .claim import UNDECIDED, Answer, Claim, Verdict, every
from .figures import COLOURS
from .lab import Lab
from .question import Condition, Jobs, Question, accuracies_of, run_part

_GRID = "deat_grid"
_PART = {"optimizer": ("SGD", "SGD-m", "EMA", "DEAT")}
"""As their authors run them, not with coupled decay: the cells that the card's results are of."""
_LEVEL = 0.05
"""Of significance, for each correlation by itself, as in the paper's Table 3."""


class Correlations(NamedTuple):
    """Of robust accuracy with a ratio, over cells of one seed."""

    pearson: float
    spearman: float
    kendall: float
    p_value: float
    """Of Spearman's, two-sided."""

    @classmethod
    def of(cls, ratios: Sequence[float], accuracies: Sequence[float]) -> "Correlations":
        """Pearson's as in the paper, with the ratio itself. All are 0 where the accuracies are all equal."""
        from scipy import stats

        if len({*accuracies}) < 2:
            return cls(0.0, 0.0, 0.0, 1.0)
        # Any: scipy's own stubs do not know the fields of its results
        found: list[Any] = [rule(ratios, accuracies) for rule in (stats.pearsonr, stats.spearmanr, stats.kendalltau)]
        return cls(*(float(one.statistic) for one in found), p_value=float(found[1].pvalue))


class Point(NamedTuple):
    """A cell of the grid in one seed."""

    optimizer: str
    batch: int
    nominal: float
    """lr / batch, 1 over images."""
    effective: float
    """What lr is worth in the long run (``Optimizer.long_run_step``) / batch."""
    robust: float


@dataclass(frozen=True)
class Ratio:
    """Whether robust accuracy rises with lr / batch: SGD's cells by lr, all cells by the effective lr."""

    only: dict[str, tuple[str, ...]]
    """Axis: the levels, or what they begin with; others are left out."""

    def __call__(self, lab: Lab) -> Verdict:
        """Run the grid at the lab's scale with its seeds, then correlate seed by seed."""
        _, jobs = run_part(lab, _GRID, self.only)
        by_seed = {seed: points_of(jobs, seed) for seed in lab.seeds}
        found = {seed: correlations_of(points) for seed, points in by_seed.items()}
        deciding = ("SGD: lr / batch", "all: effective lr / batch")
        answers: dict[str, Answer] = {name: rises([found[seed][name] for seed in lab.seeds]) for name in deciding}
        rows = [
            [name, *(_text([of[name][i] for of in found.values()]) for i in range(4)), answers.get(name, "")]
            for name in next(iter(found.values()))
        ]
        return Verdict(
            every([*answers.values()]),
            f"study {_GRID} at scale {lab.scale}; in every seed Spearman's correlation of robust accuracy with "
            f"lr / batch over the cells of SGD, and with effective lr / batch over all cells, is above 0 with p < "
            f"{_LEVEL}; not reproduced where it is at most 0 in every seed. All cells see as many epochs, so lr / "
            "batch also measures how far they have been trained",
            "; ".join(f"{name}: {answer}" for name, answer in answers.items()),
            ["cells: ratio", "Pearson by seed", "Spearman", "Kendall", "p of Spearman", "answer"],
            rows,
            _figure(by_seed),
            {
                "correlations": {seed: {n: c._asdict() for n, c in of.items()} for seed, of in found.items()},
                "points": {seed: [point._asdict() for point in points] for seed, points in by_seed.items()},
            },
        )


def points_of(jobs: Jobs, seed: int) -> list[Point]:
    """The cells of one seed; a net whose loss was not finite is wrong everywhere."""
    accuracies = accuracies_of({key: job for key, job in jobs.items() if key[1] == seed})
    points = []
    for (name, of), job in jobs.items():
        if of == seed:
            settings, batch = job.recipe.optimizer, job.recipe.batch_size
            nominal = settings.lr / batch
            gain = settings.long_run_step
            assert gain is not None, "the grid has no optimizer whose lr says nothing"
            points.append(Point(name.split(",")[0], batch, nominal, gain * nominal, accuracies[name]["robust"][0]))
    return points


def correlations_of(points: Sequence[Point]) -> dict[str, Correlations]:
    """Over all cells, by both ratios, and over the cells of each optimizer, where the two ratios are proportional."""
    robust = [point.robust for point in points]
    found = {
        "all: lr / batch": Correlations.of([point.nominal for point in points], robust),
        "all: effective lr / batch": Correlations.of([point.effective for point in points], robust),
    }
    for optimizer in dict.fromkeys(point.optimizer for point in points):
        own = [point for point in points if point.optimizer == optimizer]
        ratios = [point.nominal for point in own]
        found[f"{optimizer}: lr / batch"] = Correlations.of(ratios, [point.robust for point in own])
    return found


def rises(found: Sequence[Correlations]) -> Answer:
    """By Spearman's correlation in every seed."""
    if found and all(one.spearman > 0 and one.p_value < _LEVEL for one in found):
        return "reproduced"
    return "not reproduced" if found and all(one.spearman <= 0 for one in found) else UNDECIDED


def _text(values: Sequence[float]) -> str:
    return "; ".join(f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.2f}" for value in values)


def _figure(by_seed: Mapping[int, Sequence[Point]]) -> bytes:
    """Robust accuracy over both ratios: a colour for each optimizer, a mark for each batch, every seed."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    points = [point for own in by_seed.values() for point in own]
    colours = dict(zip(dict.fromkeys(p.optimizer for p in points), COLOURS, strict=False))
    marks = dict(zip(sorted({p.batch for p in points}), "osD^v", strict=False))
    drawing = Figure(figsize=(9.5, 3.8), layout="constrained")
    panels = drawing.subplots(1, 2, sharey=True)
    for axes, ratio, label in zip(
        panels, ("nominal", "effective"), ("lr / batch", "effective lr / batch"), strict=True
    ):
        for point in points:
            x, colour = getattr(point, ratio), colours[point.optimizer]
            axes.plot(x, 100 * point.robust, marks[point.batch], color=colour, markersize=6, alpha=0.7)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("robust accuracy, %")
    handles: list[Any] = [Line2D([], [], color=c, lw=4, label=name) for name, c in colours.items()]
    handles += [Line2D([], [], color="0.3", ls="", marker=m, label=f"batch {batch}") for batch, m in marks.items()]
    drawing.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return png(drawing)


_SGD, _FASTER = {"optimizer": "SGD", "rate": "lr"}, {"optimizer": "SGD", "rate": "lr sqrt 5"}

DEAT_CLAIMS = (
    Claim(
        "deat/rate",
        "DEAT with lr is SGD with lr / sqrt(5) (ours, from its linear analysis; the paper has no such claim)",
        Question(
            _GRID,
            (Condition({"optimizer": "DEAT", "rate": "lr sqrt 5"}, _SGD, "match within", margin=0.05),),
            _PART,
        ),
    ),
    Claim(
        "deat/rises",
        "Robust accuracy of PGD-AT, by SGD without momentum, rises with lr (Tables 2 and 3)",
        Question(_GRID, (Condition(_FASTER, _SGD),), _PART),
    ),
    Claim(
        "deat/equal_rate",
        "DEAT is more robust than PGD-AT at the same lr (Table 2: by 1.2 points on average, 110 epochs)",
        Question(_GRID, (Condition({"optimizer": "DEAT"}, {"optimizer": "SGD"}),), _PART),
    ),
    Claim(
        "deat/ratio",
        "Robust accuracy is positively correlated with lr / batch (abstract; Table 3 for lr)",
        Ratio(_PART),
    ),
)
