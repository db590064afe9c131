"""An audit on the page: its checks, open where one failed, and both curves."""

import json

import pytest
from synthetic_run import write_run
from test_report_page import Page

from inure.reports import write_report


def audit(failed: bool, curves: bool = True) -> dict:
    """As ``audit.json`` holds it."""
    checks = [
        {"letter": "a", "question": "Is a weaker attack no stronger?", "passed": True, "detail": "FGSM breaks 5 more"},
        {"letter": "b", "question": "Does success grow?", "passed": not failed, "detail": "12 <break> fewer"},
        {"letter": "h", "question": "Is a transfer weaker?", "passed": None, "detail": "no other net was given"},
    ]
    points = [{"radius": 0.1 * k, "misclassified": k / 4} for k in range(5)]
    loss = {"steps": 2, "mean": [0.1, 0.5, None, 0.6], "best": [0.1, 0.5, 0.5, 0.6]}
    success = {"threat": "linf", "epsilon": 0.1, "chance": 0.9, "points": points}
    return {
        "checks": checks, "flags": [], "subset": {"size": 64},
        "curves": {"success": success, "loss": loss} if curves else {"success": {"points": []}, "loss": {}},
    }  # fmt: skip


def page_with(tmp_path, found) -> Page:
    run = write_run(tmp_path / "digits_pgd_at")
    (run / "evaluations/quick/audit.json").write_text(found if isinstance(found, str) else json.dumps(found))
    return Page(write_report([run]))


@pytest.mark.parametrize("failed", [False, True])
def test_the_checks_are_listed_and_open_where_one_failed(tmp_path, failed):
    page = page_with(tmp_path, audit(failed))
    assert (
        "On 64 images: " + ("1 passed, 1 failed, 1 not decidable." if failed else "2 passed, 1 not decidable.")
        in page.text
    )
    assert "12 &lt;break&gt; fewer" in page.source
    assert ("<details open><summary>Every check" in page.source) == failed
    assert "Misclassified images against the radius of the attack" in page.source
    assert "Loss of the attack against its step" in page.source


def test_an_audit_without_attacked_images_has_no_curves(tmp_path):
    page = page_with(tmp_path, audit(False, curves=False))
    assert "Does success grow?" in page.text
    assert "Loss of the attack against its step" not in page.source


@pytest.mark.parametrize("found", ["{", "[]", '{"checks": 3}'])
def test_a_damaged_audit_is_left_out(tmp_path, found):
    assert 'id="audits"' not in page_with(tmp_path, found).source
