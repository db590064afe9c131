"""Names, odd settings and the metric on the page: of real recipes, as a run writes them down."""

import json

import pytest
import yaml
from synthetic_run import write_run

from inure.reports.names import deciding_metric
from inure.reports.page import write_report
from inure.reports.run_files import read_run
from inure.reports.settings_text import setting_facts, title_of
from inure.settings import config
from inure.training.epoch_end import metric_of


def run_of(tmp_path, recipe: str, *settings: str, facts=None, **options):
    """A run whose ``recipe.yaml`` is that of a real recipe."""
    from inure.recipe.recipe import load_recipe

    path = write_run(tmp_path / "run", suites=(), **{"epochs": 2, **options})
    loaded = load_recipe(recipe, settings)
    (path / "recipe.yaml").write_text(yaml.safe_dump(config.dump(loaded), sort_keys=False))
    known = json.loads((path / "run.json").read_text()) | (facts or {})
    (path / "run.json").write_text(json.dumps(known))
    return path, loaded


@pytest.mark.parametrize(
    ("recipe", "settings", "title"),
    [
        ("digits/pgd_at", [], "PGD-AT on digits"),
        ("digits/standard", [], "Standard training on digits"),
        ("digits/trades", [], "TRADES on digits"),
        ("digits/fgsm", [], "FGSM-AT on digits"),
        ("digits/rs_fgsm", [], "RS-FGSM on digits"),
        ("digits/n_fgsm", [], "N-FGSM on digits"),
        ("digits/zero_grad", [], "ZeroGrad on digits"),
        ("digits/multi_grad", [], "MultiGrad on digits"),
        ("digits/grad_align", [], "FGSM-AT with GradAlign on digits"),
        ("digits/free", [], "Free-AT on digits"),
        ("digits/fgsm_pgi", [], "FGSM-PGI on digits"),
        ("digits/mart", ["method.attack={kind: fgsm}"], "MART (FGSM) on digits"),
        ("digits/long_tail", [], "PGD-AT on long-tailed digits"),
        ("digits/noisy_labels", [], "PGD-AT on digits with noisy labels"),
        ("digits/random_labels", [], "PGD-AT on digits with random labels"),
    ],
)
def test_the_title_is_what_the_training_is_usually_called(tmp_path, monkeypatch, recipe, settings, title):
    monkeypatch.setattr("inure.reports.page.training_curves", lambda runs: [])  # the same for all
    path, _ = run_of(tmp_path, recipe, *settings)
    assert title_of([read_run(path, "run")]) == title
    assert f"<h1>{title}</h1>" in write_report([path]).read_text()


def facts_of(path) -> dict[str, str]:
    return {label: text.replace("\u00a0", " ") for label, text in setting_facts(read_run(path, "run"))}


def test_an_ordinary_recipe_has_no_rows_for_what_it_has_not(tmp_path):
    path, _ = run_of(tmp_path, "digits/pgd_at", "averaging=null", "perturbation=null", "regime.epsilon=null")
    assert [*facts_of(path)] == [
        "Method", "Training attack", "Model", "Input", "Classes", "Data", "Training images", "Validation images",
        "Data fingerprint", "Optimizer", "Learning rate", "Epochs", "Batch size", "Seed", "Training time",
        "Run directory",
    ]  # fmt: skip


def test_what_is_out_of_the_ordinary_has_its_row(tmp_path):
    data = {"class_counts": [90, 8], "true_class_counts": [95, 3], "changed_labels": 7, "train_examples": 98}
    path, _ = run_of(
        tmp_path, "digits/long_tail", "data.label_noise={kind: symmetric, rate: 0.1}",
        "balance.train={kind: balanced_softmax}", "balance.attack={kind: rebalanced}",
        "balance.epsilon={share: 0.25, warmup: 0.5}", "penalties=[{kind: tail, weight: 0.05}]",
        "regime.phases=[{until: 0.4}, {until: 0.6, attack: {kind: fgsm}, below: {}}]", "measures=[{kind: kernel}]",
        "guards.catastrophic=stop", "optimizer={kind: deat, k1: 2, lr: 0.2}", "averaging={kind: ema, decay: 0.99}",
        facts={"data": data, "phases": {"pairs": 30, "without": 100, "saved": 0.7}},
    )  # fmt: skip
    facts = facts_of(path)
    assert facts["Long tail"] == "exp, ratio 50: 95 to 3 images of a class"
    assert facts["Label noise"] == "symmetric, rate 0.1: 7.1 % of the labels wrong"
    assert facts["Criterion of the update"].startswith("balanced softmax")
    assert facts["Criterion of the attack"].startswith("rebalanced")
    assert facts["Radii by class"].startswith("share 0.25, warmup 0.5")
    assert facts["Penalties"].startswith("tail, weight 0.05")
    assert facts["Phases"] == (
        "clean images until 40 %, then fgsm until 60 % at the latest, then the method: 70 % of the passes saved"
    )
    assert facts["At catastrophic overfitting"] == "stop"
    assert facts["Optimizer"].startswith("deat, ")
    assert "k1 2" in facts["Optimizer"]
    assert facts["Averaging of the weights"].startswith("ema, decay 0.99")


@pytest.mark.parametrize("odd", [3, "x", [1], {"kind": 3}, {"kind": None}])
def test_odd_values_do_not_break_the_settings(tmp_path, odd):
    path = write_run(tmp_path / "run", epochs=1, suites=())
    trees = ("balance", "crafting", "regime", "perturbation", "averaging", "guards", "optimizer", "penalties", "method")
    recipe = dict.fromkeys(trees, odd) | {"data": {"source": "digits", "long_tail": odd, "label_noise": odd}}
    for changed in (recipe, {**recipe, "balance": {"train": odd, "epsilon": odd}, "regime": {"phases": [odd, {}]}}):
        (path / "recipe.yaml").write_text(yaml.safe_dump(changed))
        (path / "run.json").write_text(json.dumps({"phases": odd, "data": {"class_counts": [None, 1]}}))
        assert "digits" in write_report([path]).read_text()


@pytest.mark.parametrize("metric", ["auto", "clean", "robust", "balanced_robust", "worst_class_robust"])
@pytest.mark.parametrize("recipe", ["digits/pgd_at", "digits/standard", "digits/long_tail", "digits/free"])
def test_the_metric_is_the_one_that_training_chose_by(tmp_path, recipe, metric):
    path, loaded = run_of(tmp_path, recipe, f"checkpoint.metric={metric}")
    assert deciding_metric(read_run(path, "run").recipe) == metric_of(loaded)


def test_the_accuracy_that_chose_the_best_stands_beside_the_plain_ones(tmp_path):
    best = {"epoch": 4, "clean_accuracy": 0.5, "robust_accuracy": 0.25, "balanced_robust_accuracy": 0.375}
    last = {"epoch": 6, "clean_accuracy": 0.5, "robust_accuracy": 0.5, "balanced_robust_accuracy": 0.125}
    path, _ = run_of(tmp_path, "digits/long_tail", facts={"best": best, "last": last})
    page = write_report([path]).read_text().replace("\u00a0", " ")
    assert "Balanced robust, validation" in page
    assert "<td>25.0 %</td><td>37.5 %</td></tr>" in page
    assert "<td>50.0 %</td><td>12.5 %</td></tr>" in page
    assert "never on test images, by the balanced robust accuracy." in page


def test_a_plain_metric_needs_no_column_of_its_own(tmp_path):
    path, _ = run_of(tmp_path, "digits/pgd_at")
    page = write_report([path]).read_text()
    assert page.count(", validation</th>") == 2
    assert "by the robust accuracy." in page


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_a_run_that_a_guard_ended_says_so_and_is_not_unfinished(tmp_path, status):
    path = write_run(tmp_path / "run", epochs=10, planned=20, status=status, suites=())
    facts = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(facts | {"collapsed": True}))
    page = write_report([path]).read_text()
    assert "Trained for 10 of 20 epochs: stopped at catastrophic overfitting." in page
    assert "unfinished" not in page
    (path / "run.json").write_text(json.dumps(facts | {"collapsed": False}))
    assert "catastrophic overfitting." not in write_report([path]).read_text()
