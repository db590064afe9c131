"""The claims of single-step training: what a run is, what the detector missed, what fell first."""

import json

import pytest

from inure.claims import CLAIMS
from inure.claims.claim import of_seeds
from inure.claims.single_step import End, _collapse, _detector, _order, fallen
from inure.commands import _run

YES, NO, OPEN = "reproduced", "not reproduced", "not decidable at this scale"


def end(cell="FGSM, 0.10", seed=0, *, pgd=0.0, alignment=0.2, alarm=10, before=((0.1, 0.9), (0.2, 0.9), (0.0, 0.2))):
    pgds, cosines = ([pair[i] for pair in before] for i in (0, 1))
    return End(cell, seed, 0.9, 0.8, pgd, alignment, pgds, cosines, alarm)


def test_a_run_is_collapsed_by_both_signs_and_sound_by_neither():
    assert end().truth == "collapsed"
    assert end(pgd=0.05, alignment=0.49).truth == "collapsed"
    assert end(pgd=0.051).truth == "neither"
    assert end(alignment=0.5).truth == "neither"
    assert end(pgd=0.06, alignment=0.5).truth == "sound"


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        ([end(), end(pgd=0.3, alignment=0.9, alarm=None)], YES),
        ([end(), end(pgd=0.3, alignment=0.9, alarm=3)], NO),
        ([end(alarm=None), end(pgd=0.3, alignment=0.9, alarm=None)], NO),
        ([end(), end(alignment=0.6, alarm=4), end(pgd=0.2, alarm=None)], YES),
    ],
)
def test_the_detector_is_judged_on_what_became_of_the_runs(ends, answer):
    answers, reason = _detector(ends, "smoke")
    assert (YES if all(a == YES for a in answers) else NO) == answer
    assert f"in {len(ends)} runs" in reason


def test_without_a_collapse_nothing_is_known_of_the_detector():
    assert _detector([end(pgd=0.3, alignment=0.9, alarm=None)], "smoke")[0] == []


def test_what_falls_is_told_from_the_last_time_it_was_near_its_best():
    assert fallen([0.1, 0.5, 1.0, 0.95, 0.4, 0.91, 0.2]) == 6
    assert fallen([0.0, 0.0]) == 2
    together = end()
    late = end(before=((0.1, 0.9), (0.2, 0.9), (0.0, 0.9), (0.0, 0.2)))
    assert _order([together], "smoke")[0] == [YES]
    assert _order([together, late], "smoke")[0] == [OPEN]
    assert _order([late], "smoke")[0] == [NO]
    assert _order([end(pgd=0.3, alignment=0.9)], "smoke")[0] == []


def test_the_cures_are_looked_at_by_name():
    names = ("RS-FGSM", "N-FGSM k=1", "N-FGSM k=2", "GradAlign 1")
    cures = [end(f"{name}, 0.10", pgd=0.2, alignment=0.8) for name in names]
    assert _collapse([end(), *cures], "smoke")[0] == [YES] * 5
    assert _collapse([end(alignment=0.4), *cures], "smoke")[0] == [NO] + [YES] * 4
    assert _collapse([end(), end(seed=1, pgd=0.02), *cures], "smoke")[0][0] == OPEN


def test_of_seeds_wants_all_or_none():
    assert [of_seeds(seeds) for seeds in ([True, True], [True, False], [False], [])] == [YES, OPEN, NO, OPEN]


def test_a_claim_runs_from_training_to_verdict(tmp_path):
    assert {"single_step/collapse", "single_step/detector", "single_step/alignment_first"} <= {*CLAIMS}
    tiny = ["epochs=1", "data.examples=100", "data.validation=20", "evaluation.validation_examples=20"]
    tiny += ["evaluation.validation_steps=1", "data.test=digits#train", "model.name=cnn_tiny", "model.img_size=8"]
    command = ["reproduce", "single_step/detector", *tiny, "--seeds", "1", "--out", str(tmp_path), "--quiet"]
    assert _run(command) == 0
    verdict = json.loads((tmp_path / "smoke/single_step/detector/verdict.json").read_text())
    assert len(verdict["rows"]) == 16
    assert "0 false alarms in 16 runs" in verdict["reason"]
    assert (tmp_path / "smoke/single_step/detector/figure.png").stat().st_size > 1000
