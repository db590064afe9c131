"""The page: what stands on it, what it does without, and that nobody's text can act in it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from synthetic_run import write_evaluation, write_run

from inure.evaluation.intervals import wilson
from inure.reports import write_report
from inure.settings.errors import UserError


class Page(HTMLParser):
    """Visible text, tags, ids, and everything the page points at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.ids, self.links, self.alts, self._texts = [], [], [], [], []
        self.feed(self.source)
        self.text = " ".join(" ".join(self._texts).replace("\u00a0", " ").replace("\u2009", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] for name in ("src", "href", "xlink:href", "action", "srcset") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.alts += [values["alt"]] if "alt" in values else []

    def handle_data(self, data):
        self._texts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "digits_pgd_at")


@pytest.fixture(scope="module")
def page(run):
    return Page(write_report([run]))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def test_the_headline_is_the_strongest_suite_with_its_intervals(run, page):
    summary = json.loads((run / "evaluations/quick/summary.json").read_text())
    assert "PGD-AT on digits" in page.text
    assert "Measured with suite quick (pgd20, cw20) · ℓ∞, ε = 0.1 · 360 examples" in page.text
    for kind in ("clean", "robust"):
        low, high = summary["interval95"][kind]
        assert percent(summary[f"{kind}_accuracy"]) in page.text
        assert f"95 % interval {100 * low:.1f} – {100 * high:.1f} %" in page.text


def test_every_attack_has_its_own_interval_passes_and_seconds(run, page):
    for attack in json.loads((run / "evaluations/quick/summary.json").read_text())["attacks"]:
        low, high = wilson(round(360 * attack["robust_accuracy"]), 360)
        row = f"{percent(attack['robust_accuracy'])} {100 * low:.1f} – {100 * high:.1f} %"
        assert f"{attack['name']} {row} {attack['forwards']:,} {attack['backwards']:,} 1.9" in page.text


def test_the_page_says_what_was_selected_and_on_which_split(run, page):
    best = json.loads((run / "run.json").read_text())["best"]
    assert f"best selected {best['epoch']} {percent(best['clean_accuracy'])}" in page.text
    assert "chosen on the validation split (144 images kept apart from training), never on test images" in page.text


def test_setting_environment_and_command_are_complete(run, page):
    assert " ".join((run / "recipe.yaml").read_text().split()) in page.text
    assert "inure train digits/pgd_at seed=0 --out runs/digits_pgd_at" in page.text
    for fact in (
        "torch 2.15.0",
        "numpy 2.4.6",
        "Linux-6.1-x86_64",
        "pgd, 5 steps, ℓ∞, ε = 0.2",
        '"precision": "float32"',
    ):
        assert fact in page.text


def test_examples_have_pictures_alternatives_and_the_printed_factor(page):
    assert sum(link.startswith("data:image/png") for link in page.links) >= 48
    assert "amplified 5 times" in page.text
    assert page.alts.count("Its perturbation, amplified 5 times") == 16
    assert "✗" in page.text


def test_nothing_is_fetched_and_nothing_runs(page):
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))


def test_only_the_page_is_written_and_its_default_place_is_the_run(tmp_path):
    run = write_run(tmp_path / "run", epochs=0, suites=("clean",))

    def contents():
        return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(tmp_path.rglob("*")) if p.is_file()}

    before = contents()
    assert write_report([run]) == run / "report.html"
    after = contents()
    assert after.pop(run / "report.html")
    assert after == before
    assert write_report([run], tmp_path / "elsewhere" / "page.html").exists()


def test_text_of_others_is_shown_and_not_obeyed(tmp_path):
    nasty = ["<script>alert(1)</script>", "</text><img src=x onerror=a>", '"><b>$x_1$', "a & b", "$\\frac{$", "-->"]
    names = [*nasty, "--", "猫", "a\nb", "x" * 300]
    run = write_run(tmp_path / "run<i>", epochs=3, class_names=names, suites=("quick",))
    facts = json.loads((run / "run.json").read_text())
    facts |= {"command": "inure train x </pre><img src=y>", "data": {"source": "</title><script>"}}
    (run / "run.json").write_text(json.dumps(facts))
    flag = {"name": "<u>", "severity": "severe", "detail": "`<img src=z>"}
    protocol = {"x": "</details><script>"}
    write_evaluation(run / "evaluations/pgd20", "pgd20", flags=[flag], protocol=protocol, verified=False)
    page = Page(write_report([run]))
    assert not {"script"} & set(page.tags)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert page.tags.count("img") == 48
    for text in [*nasty, "猫", "</pre><img src=y>", "<img src=z>", "run<i>", "</details><script>"]:
        assert text in page.text


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        (["evaluations", "metrics.jsonl"], ["Not evaluated yet", "No epoch was recorded"]),
        (["run.json", "environment.json"], ["its end was not recorded", "The environment was not recorded"]),
        (["recipe.yaml", "evaluations/quick/outcomes.parquet"], ["digits_pgd_at", "No outcomes of single examples"]),
        (["evaluations/quick/examples.safetensors"], ["No examples were kept"]),
        (["evaluations/quick/summary.json", "metrics.jsonl"], ["The evaluation quick has no summary"]),
    ],
)
def test_a_missing_file_is_said_not_fatal(run, tmp_path, absent, said):
    copy = shutil.copytree(run, tmp_path / "digits_pgd_at")
    for name in absent:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    text = Page(write_report([copy])).text
    for words in said:
        assert words in text


@pytest.mark.parametrize("rubbish", [b"{[\xff", b"[1, 2]", b""], ids=["no text", "no mapping", "empty"])
def test_damaged_files_are_left_out_and_named(run, tmp_path, rubbish):
    copy = shutil.copytree(run, tmp_path / "copy")
    damaged = ["run.json", "environment.json", "recipe.yaml", "metrics.jsonl", "evaluations/pgd20/summary.json"]
    damaged += ["evaluations/quick/outcomes.parquet", "evaluations/quick/examples.safetensors"]
    for name in damaged:
        (copy / name).write_bytes(rubbish)
    text = Page(write_report([copy])).text
    named = damaged if rubbish == b"{[\xff" else [name for name in damaged if "quick" in name]
    for name in named:
        assert f"{Path(name).name} is" in text


def test_odd_values_do_not_break_the_page(tmp_path):
    run = write_run(tmp_path / "run", epochs=3, suites=("quick",))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"event":"epoch","epoch":4,"lr":null,"train":{"loss":NaN,"grad_norm":Infinity},"validation":null}\n'
        )
        file.write('[1]\n{"event":"epoch","epoch":4,"lr":1e-5,"train":{"loss":-0.5}}\n{"event":"epo')
    summary = {"examples": None, "attacks": None, "interval95": "x", "flags": 3, "clean_accuracy": "?"}
    (run / "evaluations/quick/summary.json").write_text(json.dumps(summary))
    (run / "run.json").write_text('{"class_names": 3, "best": [], "data": "x", "input_shape": null, "seconds": "long"}')
    (run / "environment.json").write_text('{"packages": [], "command": ["inure", "train", "a b"]}')
    text = Page(write_report([run])).text
    assert "metrics.jsonl: 1 damaged line was left out" in text
    assert "inure train 'a b'" in text


def test_an_interrupted_training_says_how_far_it_got(tmp_path):
    run = write_run(tmp_path / "run", epochs=12, planned=40, status="stopped", suites=())
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event":"warning","epoch":9,"kind":"catastrophic_overfitting","detail":"PGD fell to 2 %"}\n')
        for epoch in (7, 8):
            file.write(
                json.dumps({"event": "warning", "epoch": epoch, "kind": "collapse", "detail": f"at {epoch}"}) + "\n"
            )
        file.write('{"event":"stop","reason":"max_minutes"}\n{"event": "ep')
    text = Page(write_report([run])).text
    assert "Training was stopped after epoch 12 of 40. Reason: max minutes." in text
    assert "catastrophic overfitting Epoch 9: PGD fell to 2 %" in text
    assert "collapse 2 times, epochs 7 to 8; at last: at 8" in text
    assert "damaged" not in text


def test_an_unverified_accuracy_is_marked_where_it_stands(tmp_path):
    run = write_run(tmp_path / "run", epochs=0, suites=())
    flag = {"name": "zero_gradient", "severity": "severe", "detail": "31 gradients are zero"}
    write_evaluation(run / "evaluations/quick", "quick", verified=False, flags=[flag])
    text = Page(write_report([run])).text
    assert "Robust accuracy not verified" in text
    assert text.index("severe zero_gradient (suite quick): 31 gradients are zero") < text.index("Each attack tries")


def test_clean_accuracy_alone_is_not_called_robust(tmp_path):
    text = Page(write_report([write_run(tmp_path / "run", epochs=0, suites=("clean",))])).text
    assert "Robust accuracy – not measured" in text
    assert "Only clean accuracy was measured" in text


def test_an_evaluation_without_a_run_has_a_page(tmp_path):
    text = Page(write_report([write_evaluation(tmp_path / "mine", "quick")])).text
    assert "Measured with suite quick" in text
    assert "unfinished" not in text


def test_several_runs_stand_side_by_side(run, tmp_path):
    other = write_run(tmp_path / "digits_standard", method="standard", seed=1, epochs=20)
    page = Page(write_report([run, other], tmp_path / "both.html"))
    assert "PGD-AT and standard training on digits" in page.text
    assert "unequal" not in page.text
    for path in (run, other):
        summary = json.loads((path / "evaluations/quick/summary.json").read_text())
        assert f"{path.name} " in page.text
        assert percent(summary["robust_accuracy"]) in page.text
    assert "method.kind pgd_at standard" in page.text
    assert "method.attack.steps 5 –" in page.text
    assert len(page.ids) == len(set(page.ids))
    assert page.source.count("<svg") == 6 + 2 * 2


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / parent / "run", epochs=0, suites=()) for parent in "ab"]
    text = Page(write_report(runs, tmp_path / "c.html")).text
    assert "a/run" in text
    assert "b/run" in text
    assert "run #2" in Page(write_report([runs[0], runs[0]], tmp_path / "d.html")).text


def test_an_unfair_comparison_is_called_so(tmp_path):
    runs = [write_run(tmp_path / f"{n}", epochs=0, suites=("quick",), examples=n) for n in (100, 200)]
    for run in runs:
        (run / "evaluations/quick/outcomes.parquet").unlink()
    assert "different numbers of examples (100, 200)" in Page(write_report(runs)).text
    path = runs[1] / "evaluations/quick/summary.json"
    changed = json.loads(path.read_text()) | {"examples": 100}
    path.write_text(json.dumps(changed))
    assert "different test examples" in Page(write_report(runs)).text


def test_a_run_without_the_compared_suite_is_named(tmp_path):
    runs = [write_run(tmp_path / suite, epochs=0, suites=(suite,)) for suite in ("quick", "clean")]
    text = Page(write_report(runs)).text
    assert "not measured" in text
    assert "Only clean accuracy was measured" in text


def test_what_is_no_run_is_a_mistake_of_the_user(run, tmp_path):
    for paths in ([], [tmp_path / "absent"], [tmp_path], [run / "recipe.yaml"]):
        with pytest.raises(UserError, match="run director"):
            write_report(paths)
    with pytest.raises(UserError, match="--out"):
        write_report([run], tmp_path)


def test_a_recipe_that_is_no_mapping_is_shown_as_text(tmp_path):
    run = write_run(tmp_path / "run", epochs=1, suites=())
    (run / "recipe.yaml").write_text(yaml.safe_dump(["not", "a", "mapping"]))
    assert "- mapping" in Page(write_report([run])).text


def test_matplotlib_is_imported_only_when_a_page_is_written():
    check = "import sys, inure.reports; sys.exit(bool({'matplotlib', 'jinja2', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], env=os.environ).returncode == 0
