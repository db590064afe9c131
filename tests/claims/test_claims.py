"""Claims: the rules of their verdicts, the counts, and one experiment from training to figure."""

import json

import pytest
import torch

from inure.claims import CLAIMS, adapter_counts
from inure.claims.adapter_counts import EXPECTED, count
from inure.claims.adapters import RESNET, VIT, kinds
from inure.claims.claim import Interval, above, every, interval_of, within
from inure.commands import _run
from inure.recipe.recipe import load_recipe
from inure.soups import soup_shifts

YES, NO, OPEN = "reproduced", "not reproduced", "not decidable at this scale"


def span(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("intervals", "answer"),
    [
        ([span(0.06, 0.2), span(0.051, 0.1)], YES),
        ([span(0.06, 0.2), span(0.04, 0.1)], OPEN),
        ([span(-0.1, 0.04), span(0.0, 0.049)], NO),
        ([span(-0.1, 0.04), span(0.06, 0.07)], OPEN),
        ([], OPEN),
    ],
)
def test_a_difference_is_decided_by_the_intervals_of_every_seed(intervals, answer):
    assert above(intervals, 0.05) == answer


@pytest.mark.parametrize(
    ("intervals", "answer"),
    [
        ([span(-0.02, 0.02)], YES),
        ([span(-0.02, 0.04)], OPEN),
        ([span(0.04, 0.1), span(-0.1, -0.05)], NO),
        ([span(0.04, 0.1), span(-0.01, 0.01)], OPEN),
    ],
)
def test_a_match_must_lie_within_the_margin(intervals, answer):
    assert within(intervals, 0.03) == answer


def test_of_several_conditions_one_failure_decides():
    assert every([YES, YES]) == YES
    assert every([YES, OPEN]) == OPEN
    assert every([OPEN, NO, YES]) == NO


def test_the_interval_of_paired_differences_is_that_of_a_mean():
    values = torch.tensor([1.0, 0, 0, -1, 1, 1, 0, 0]).double()
    found = interval_of(values)
    half = 1.959964 * values.std().item() / 8**0.5
    assert (found.difference, found.low, found.high) == pytest.approx((0.25, 0.25 - half, 0.25 + half))


@pytest.mark.parametrize(("net", "kind", "expected"), [row for row in EXPECTED if row[1] in ("cls_token", "norm")])
def test_parameters_are_counted_on_the_nets(net, kind, expected):
    assert count(net, kind) == expected


@pytest.mark.parametrize("scale", ["smoke", "gpu", "paper"])
def test_every_net_of_a_claim_is_a_recipe(scale):
    for net in (VIT[scale], RESNET[scale]):
        recipe = load_recipe(net.recipe, [*net.overrides, *kinds("norm")])
        assert recipe.method.kind == "co_training"
        assert recipe.model.adapters is not None


def test_claims_are_listed_with_what_they_say(capsys):
    assert _run(["reproduce", "--list"]) == 0
    assert dict(line.split("\t") for line in capsys.readouterr().out.splitlines()) == {
        name: claim.statement for name, claim in CLAIMS.items()
    }


SHORT = ["epochs=1", "checkpoint.every=1", "method.attack.steps=1", "evaluation.validation_steps=1"]
SHORT += ["data.examples=256", "data.validation=32", "evaluation.validation_examples=32"]


@pytest.mark.parametrize("claim", ["token", "front", "shift"])
def test_a_claim_runs_from_training_to_verdict(tmp_path_factory, monkeypatch, capsys, claim):
    monkeypatch.setattr(soup_shifts, "SHOTS", 16)  # labelled images of each of 75 sets
    out = tmp_path_factory.getbasetemp() / "claims"  # shared: what one claim trained the next one finds
    line = ["reproduce", f"adapters/{claim}", *SHORT, "--seeds", "1", "--examples", "32", "--out", str(out)]
    assert _run(line) == 0
    printed, err = capsys.readouterr()
    folder = out / "smoke" / "adapters" / claim
    assert printed == f"{folder}\n"
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["answer"] in (YES, NO, OPEN)
    assert f"verdict: {verdict['answer']}" in err
    assert f"criterion: {verdict['criterion']}" in err
    assert verdict["settings"] == SHORT
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "table.md").read_text().splitlines()) == 3
    assert sorted(p.name for p in (out / "smoke" / "nets").iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["adapters/tokn"], "CLAIM: got adapters/tokn; allowed one of"),
        (["adapters/token", "--scale", "large"], "--scale: got large; allowed smoke | gpu | paper"),
        (["adapters/token", "--seeds", "0"], "--seeds: got 0"),
        (["adapters/token", "epohcs=3", "--seeds", "1"], "epohcs: got an unknown field"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, line):
    assert _run(["reproduce", *arguments, "--out", str(tmp_path / "claims"), "-q"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"inure: {line}"), err
    assert err.count("\n") == 1


def test_nets_of_other_settings_are_not_taken_for_these(tmp_path, monkeypatch, capsys):
    expected = {(net, kind): number for net, kind, number in EXPECTED}
    monkeypatch.setattr(adapter_counts, "count", lambda net, kind: expected[net, kind])  # counted above
    out = str(tmp_path / "claims")
    assert _run(["reproduce", "adapters/parameters", "--out", out, "-q"]) == 0
    assert _run(["reproduce", "adapters/parameters", "epochs=3", "--out", out, "-q"]) == 2
    assert "--out: got" in capsys.readouterr().err
