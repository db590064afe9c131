"""Soups (Rebuffi et al., 2022, arXiv:2210.04886, sections 1 and 4): the dial, and choosing on shifted images."""

from __future__ import annotations

from ..averaging.soup import affine_grid
from ..display.console import Bars
from ..evaluation import SUITES
from ..evaluation.examples import Examples
from ..evaluation.intervals import Z95
from ..libraries import Tensor, torch
from ..runs.load import load
from ..targets.target import device_of
from .adapters import ADVERSARIAL, VIT, kinds
from .claim import Answer, Claim, Interval, Verdict, above, every, interval_of
from .figures import curves, dots
from .lab import Lab


def front(lab: Lab) -> Verdict:
    """A monotone, concave front from clean to robust."""
    from ..evaluation.sweep import sweep

    clean_lines, robust_lines, rows = [], [], []
    rises, heights, steady = [], [], []
    for seed in lab.seeds:
        run = lab.trained("vit_token", VIT[lab.scale] + kinds("cls_token"), seed)
        recipe, net = run.recipe(), load(run.path)
        images = recipe.data.load_test(recipe.model.img_size).head(lab.examples)
        threat, mixes = recipe.evaluation.threat, affine_grid(net.domains, "0:1:0.1")[::-1]
        with Bars(quiet=lab.quiet) as bars:
            found = sweep(
                net, Examples.of(images, None), mixes, SUITES["pgd20"](threat), threat=threat,
                device=device_of("auto"), advance=bars.attack,
            )  # fmt: skip
        weights = [mix[net.domains[1]] for mix in mixes]
        robust = found.robust.double()
        rises.append(interval_of(robust[-1] - robust[0]))
        # The chord joins the ends: at weight w it is (1 - w) of one and w of the other
        chord = torch.stack([(1 - w) * robust[0] + w * robust[-1] for w in weights[1:-1]])
        heights.append(interval_of((robust[1:-1] - chord).mean(0)))
        steady.append(_steady(robust))
        clean_lines.append((weights, found.clean.double().mean(1).tolist()))
        robust_lines.append((weights, robust.mean(1).tolist()))
        ends = f"{100 * found.clean[0].double().mean():.1f} / {100 * found.clean[-1].double().mean():.1f}"
        rows.append([f"seed {seed}", ends, rises[-1].text(), heights[-1].text(), "yes" if steady[-1] else "no"])
    monotone: Answer = "reproduced" if all(steady) else "not reproduced"
    answers: list[Answer] = [above(rises), above(heights), monotone]
    return Verdict(
        every(answers),
        "in every seed, of 11 soups attacked each by itself: robust accuracy rises from the clean to the robust end; "
        "no step goes down by more than 1.96 standard errors; on average the soups between lie above the chord of the "
        "ends (95 % intervals above 0)",
        f"rises: {answers[0]}; above the chord: {answers[1]}; no step down: {answers[2]}",
        ["", "clean accuracy at the ends, %", "rise, points", "above the chord, points", "no step down"],
        rows,
        curves(
            {"clean accuracy": {"soups": clean_lines}, "robust accuracy": {"soups": robust_lines}},
            "weight of the robust domain", "accuracy, %",
        ),
        {"robust": robust_lines, "clean": clean_lines},
    )  # fmt: skip


def shift(lab: Lab) -> Verdict:
    """Few labelled images of a shifted set choose the soup."""
    from ..soups.soup_shifts import LABELS, SHOTS, adapt_to_shifts, find_shifts

    rows, values = [], {}
    gains: dict[str, list[Interval]] = {}
    for seed in lab.seeds:
        run = lab.trained("vit_token", VIT[lab.scale] + kinds("cls_token"), seed)
        baseline = lab.trained("vit_adversarial", VIT[lab.scale] + ADVERSARIAL, seed)
        recipe, net = run.recipe(), load(run.path)
        spec = recipe.data.test or f"{recipe.data.source}#test"
        sets = find_shifts([f"{spec}@*"], recipe.model.img_size, lab.examples, SHOTS)
        with Bars(quiet=lab.quiet) as bars:
            found = adapt_to_shifts(
                net, sets, affine_grid(net.domains), SHOTS, baseline=load(baseline.path), seed=seed,
                batch_size=256, device=device_of("auto"), bars=bars,
            )  # fmt: skip
        for name, gain in found["gains"].items():
            gains.setdefault(name, []).append(Interval(gain["difference"], *gain["interval95"]))
        for name, value in found["mean"].items():
            text = "adversarial training" if name == "against" else name
            values.setdefault(text, {}).setdefault("mean over corruptions", []).append(value)
        rows.append([f"seed {seed}", *(gains[name][-1].text() for name in gains)])
    answers: list[Answer] = [above(gains["single soup"]), above(gains["against"])]
    return Verdict(
        every(answers),
        f"a soup chosen for each of 75 corruptions by {SHOTS} labelled images, measured on the other images, has a "
        "higher mean accuracy than the best single soup and than adversarial training: 95 % intervals of every seed "
        "above 0",
        f"over the single soup: {answers[0]}; over adversarial training: {answers[1]}",
        ["", *(f"{LABELS} over {name}, points" for name in gains)],
        rows,
        dots(values),
        {"mean": values},
    )


def _steady(robust: Tensor) -> bool:
    """Whether no step along the (G, N) verdicts goes down beyond noise, 1.96 standard errors."""
    for before, after in zip(robust[:-1], robust[1:], strict=True):
        step = after - before
        if float(step.mean()) < -Z95 * float(step.std()) / len(step) ** 0.5:
            return False
    return True


SOUP_CLAIMS = (
    Claim("adapters/front", "Soups of the two modes trace a front from clean to robust (Fig. 1, section 1)", front),
    Claim(
        "adapters/shift",
        "The mix chosen for each shifted set beats one net for all (abstract: +4.00 over MAE on ImageNet variants)",
        shift,
    ),
)
