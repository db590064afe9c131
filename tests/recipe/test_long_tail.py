"""A long tail and wrong labels from the command to the report."""

import json

import pytest
import torch
from safetensors.torch import load_file

from inure import load_recipe
from inure.data.chosen_rows import FILE
from inure.reports import write_report
from inure.runs.run import Run
from inure.settings.errors import UserError
from inure.targets.evaluate import evaluate_target
from inure.targets.request import Request
from inure.targets.target import find_images
from inure.training.train import train
from processes import TINY

TAIL = ("data.long_tail.kind=exp", "data.long_tail.ratio=20", "data.label_noise.kind=symmetric", "data.contrast=0.5")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("long_tail") / "run"
    recipe = load_recipe("digits/pgd_at", [*TINY, "method.attack.steps=1", "epochs=2", *TAIL])
    return train(recipe, path, quiet=True)


def test_the_run_directory_says_which_images_and_labels(run):
    data = Run(run).info()["data"]
    tensors = load_file(run / FILE)
    assert data["rows"] == FILE
    assert len(tensors["rows"]) == data["train_examples"]
    assert len(tensors["held_out"]) == data["validation_examples"]
    assert torch.bincount(tensors["labels"]).tolist() == data["true_class_counts"]
    assert torch.bincount(tensors["given_labels"]).tolist() == data["class_counts"]
    assert int((tensors["labels"] != tensors["given_labels"]).sum()) == data["changed_labels"] > 0
    assert data["true_class_counts"] == sorted(data["true_class_counts"], reverse=True)


def test_another_run_takes_the_same_images(run, tmp_path):
    overrides = ["data.long_tail.kind=file", f"data.long_tail.rows={run}", *TAIL[2:]]
    again = train(load_recipe("digits/pgd_at", [*TINY, "epochs=1", "method.attack.steps=1", *overrides]),
                  tmp_path / "run", quiet=True)  # fmt: skip
    ours, theirs = Run(again).info()["data"], Run(run).info()["data"]
    assert ours["rows_sha256"] == theirs["rows_sha256"]


def test_the_best_epoch_is_the_best_balanced_one(run):
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {r["epoch"]: r["validation"]["balanced_robust_accuracy"] for r in epochs if r["event"] == "epoch"}
    assert Run(run).info()["best"]["balanced_robust_accuracy"] == max(found.values())


def test_the_evaluation_sees_the_contrast_and_tells_the_groups(run, tmp_path, capsys):
    for data in (None, "digits#test"):
        images = find_images(Run(run), None, data)
        assert (int(images.pixels.min()), int(images.pixels.max())) == (64, 191)
    folder, summary = evaluate_target(
        Request(str(run), suite="fgsm", examples=80, out=tmp_path / "found", device="cpu")
    )
    groups = summary["classes"]["groups"]
    assert [group["name"] for group in groups] == ["head", "body", "tail"]
    assert sum(group["training_examples"] for group in groups) == summary_counts(run)
    assert "worst class" in capsys.readouterr().err
    assert json.loads((folder / "summary.json").read_text())["classes"] == summary["classes"]
    assert write_report([run], tmp_path / "page.html").exists()


def summary_counts(run):
    return sum(Run(run).info()["data"]["true_class_counts"])


@pytest.mark.parametrize("metric", ["balanced_clean", "balanced_robust", "worst_class_robust"])
def test_every_metric_is_in_the_records_of_validation(run, metric):
    load_recipe("digits/pgd_at", [f"checkpoint.metric={metric}"])
    assert f"{metric}_accuracy" in Run(run).info()["last"]


def test_a_robust_metric_wants_a_threat():
    with pytest.raises(UserError, match=r"checkpoint\.metric: got balanced_robust"):
        load_recipe("digits/standard", ["checkpoint.metric=balanced_robust", "evaluation.threat.epsilon=0"])
