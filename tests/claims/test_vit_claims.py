"""The claims of the ViT recipe: their cells exist at every scale, their differences have the right sign and pairs."""

import json

import pytest

from inure.claims.claim import Interval, below
from inure.claims.lab import SCALES, Lab
from inure.claims.question import Condition, pairs_of, part_of
from inure.claims.vit import VIT_CLAIMS
from inure.commands import _run
from inure.settings.errors import UserError
from inure.study import load_study
from inure.targets.comparison import compare_outcomes

claims = pytest.mark.parametrize("claim", VIT_CLAIMS, ids=lambda claim: claim.name)


@claims
@pytest.mark.parametrize("scale", SCALES)
def test_every_condition_compares_cells_of_the_study(claim, scale):
    question = claim.run
    study = part_of(load_study(question.study).at(scale), question.only)
    assert question.conditions
    for condition in question.conditions:
        pairs = list(pairs_of(study, condition))
        assert pairs
        assert all(mine != other for _, mine, other in pairs)
        assert condition.of != condition.than
    names = [cell.name for cell in study.cells()]
    assert len(names) <= 8
    assert not any("Swin" in name or "WRN" in name for name in names if claim.name == "vit/clipping")


def test_below_is_the_mirror_of_above():
    def span(low, high):
        return Interval((low + high) / 2, low, high)

    assert below([span(-0.3, -0.1), span(-0.2, 0.009)], 0.01) == "reproduced"
    assert below([span(0.02, 0.1)], 0.01) == "not reproduced"
    assert below([span(-0.1, 0.1)], 0.01) == "not decidable at this scale"
    assert Condition({"a": "x"}, {"a": "y"}, "stay below", 0.01).answer([span(-0.3, 0.0)]) == "reproduced"
    assert Condition({"a": "x"}, {"a": "y"}, margin=0.05).answer([span(0.06, 0.1)]) == "reproduced"


def test_examples_are_refused():
    with pytest.raises(UserError, match="--examples: got 5; allowed nothing"):
        VIT_CLAIMS[0].run(Lab(None, "smoke", examples=5))  # type: ignore[arg-type]


def test_a_claim_runs_from_training_to_verdict(tmp_path):
    tiny = ["epochs=1", "data.examples=100", "data.validation=20", "evaluation.validation_examples=20"]
    command = ["reproduce", "vit/clipping", *tiny, "--seeds", "1", "--out", str(tmp_path), "--quiet"]
    assert _run(command) == 0
    folder = tmp_path / "smoke"
    verdict = json.loads((folder / "vit/clipping/verdict.json").read_text())
    # One step of training: nothing was learned, and nothing is decided
    assert verdict["answer"] == "not decidable at this scale"
    assert "is at chance" in verdict["reason"]
    assert "scale smoke" in verdict["criterion"]
    assert (folder / "vit/clipping/figure.png").stat().st_size > 1000
    study = folder / "studies/vit_clipping"
    assert json.loads((study / "study.json").read_text())["cells"]
    (row,) = verdict["rows"]
    clipped, free = sorted(
        path for path in study.glob("*/seed0/evaluations/pgd20") if "ViT" in str(path)
    )  # "ViT__clip_1", "ViT__no_clip"
    found = next(r for r in compare_outcomes(free, clipped) if r.quantity == "robust")
    assert row[1].startswith(f"{100 * found.difference:+.1f} [")
    assert set(verdict["numbers"]["accuracies"]) == {"ViT, clip 1", "ViT, no clip"}
