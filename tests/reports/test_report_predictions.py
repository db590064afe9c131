"""The histogram of predictions in the report: there where it was counted, and safe with records that do not fit."""

import json
import re

from synthetic_run import write_run

from inure.reports.page import write_report
from inure.reports.predictions import prediction_figures
from inure.reports.run_files import read_run


def add_counts(run, counts_of):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        if record.get("event") == "epoch":
            record["adversarial_predictions"] = counts_of(record["epoch"])
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))


def test_a_run_that_counted_has_a_heat_map_with_its_last_numbers(tmp_path):
    run = write_run(tmp_path / "run", epochs=12, suites=())
    facts = json.loads((run / "run.json").read_text())
    facts["data"]["class_counts"] = [130 + k for k in range(10)]
    (run / "run.json").write_text(json.dumps(facts))
    add_counts(run, lambda epoch: [1293 - 9 * epoch, *[epoch] * 8, epoch if epoch < 12 else 0])
    page = write_report([run]).read_text()
    assert "What the net took adversarial training images for" in page
    (figure,) = re.findall(r'<svg role="img" aria-label="What adversarial training.*?</svg>', page, re.DOTALL)
    assert "in epoch 12 none as 1 of 10 classes" in figure
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figure)
    assert {"labels", "139", "1185", "0", "epoch", "class"} <= {*texts}


def test_epochs_without_validation_count_too_and_an_epoch_that_was_repeated_counts_once(tmp_path):
    run = write_run(tmp_path / "run", epochs=2, suites=())
    add_counts(run, lambda epoch: [epoch, 5])
    with (run / "metrics.jsonl").open("a") as file:
        for found in (7, 8):
            file.write(json.dumps({"event": "noted", "epoch": 3, "adversarial_predictions": [found, 5]}) + "\n")
    (figure,) = (figure for _, figure in prediction_figures([read_run(run, "run")]))
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figure)
    assert [text for text in texts if text.isdigit()][:3] == ["1", "2", "3"]
    assert "8" in texts
    assert "7" not in texts


def test_runs_that_did_not_count_have_none_and_odd_records_are_left_out(tmp_path):
    plain, odd, many = (write_run(tmp_path / name, epochs=5, suites=()) for name in ("plain", "odd", "many"))
    add_counts(odd, lambda epoch: [[5, 5], "x", [1, 2, 3], [4, None], [3, 7]][epoch - 1])
    add_counts(many, lambda epoch: [epoch] * 100)
    names = [name for name, _ in prediction_figures([read_run(path, path.name) for path in (plain, odd, many)])]
    assert names == ["odd", "many"]
    assert "none as 0 of 2 classes" in write_report([odd]).read_text()
    assert "What the net took" not in write_report([plain]).read_text()
    assert write_report([plain, odd, many]).read_text().count("What adversarial training images were") >= 2
