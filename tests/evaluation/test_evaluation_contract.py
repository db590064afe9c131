"""summary.json and outcomes.parquet, key by key, against counts made anew from the rows."""

import hashlib
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from digit_nets import COLUMNS, by_example, tensors
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.optimize import brentq
from scipy.stats import norm

from inure.evaluation import SUITES, evaluate, wilson
from inure.threat import L1, L2, Linf, parse_threat

KEYS = {
    "schema_version", "examples", "clean_accuracy", "robust_accuracy", "interval95", "attacks", "flags", "seconds",
    "verified", "calibration", "threat", "suite", "mode", "seed", "protocol", "classes",
}  # fmt: skip
TYPES = [pa.int64(), pa.int64(), pa.int64(), pa.string(), pa.int64(), pa.bool_(), pa.float64()]
THREATS = [Linf(epsilon=0.06), L2(epsilon=0.5), L1(epsilon=2.0)]


def strict_json(path):
    """As other languages read it: no NaN, no Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def is_share(value) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


@pytest.fixture(params=["quick", "pgd20", "cw20", "fgsm", "clean"])
def suite(request) -> str:
    return request.param


@pytest.fixture
def result(cnn, digits, suite, tmp_path):
    return evaluate(cnn, digits.head(120), suite=suite, threat=Linf(epsilon=0.06), seed=3, out=tmp_path / "out")


def test_the_files_hold_what_is_returned(result, tmp_path):
    assert strict_json(tmp_path / "out" / "summary.json") == result.summary
    table = pq.read_table(tmp_path / "out" / "outcomes.parquet")
    assert table.equals(result.outcomes)
    assert table.schema.names == COLUMNS
    assert table.schema.types == TYPES
    assert not any(column.null_count for column in table.columns)


def test_summary_keys_and_types(result, suite):
    summary = result.summary
    assert set(summary) == KEYS
    assert summary["schema_version"] == 1
    assert (summary["examples"], summary["suite"], summary["seed"], summary["mode"]) == (120, suite, 3, None)
    assert parse_threat(summary["threat"]) == Linf(epsilon=0.06)
    assert is_share(summary["clean_accuracy"])
    assert isinstance(summary["seconds"], float)
    assert summary["seconds"] > 0
    assert summary["flags"] == []
    assert summary["verified"] is True
    assert summary["calibration"]["bins"] == 15
    assert is_share(summary["calibration"]["clean_ece"])
    assert set(summary["interval95"]) == {"clean", "robust"}
    for attack in summary["attacks"]:
        assert set(attack) == {"name", "robust_accuracy", "seconds", "forwards", "backwards"}
        assert is_share(attack["robust_accuracy"])
        assert isinstance(attack["seconds"], float)
        assert type(attack["forwards"]) is type(attack["backwards"]) is int
    assert [a["name"] for a in summary["attacks"]] == [m.name for m in SUITES[suite](Linf(epsilon=0.06))]


def test_rows_and_accuracies(result, digits, suite):
    rows, summary, n = result.outcomes.to_pylist(), result.summary, 120
    labels = dict(zip(digits.index[:n].tolist(), digits.labels[:n].tolist(), strict=True))
    clean = {r["index"]: r for r in rows if r["attack"] == "clean"}
    assert clean.keys() == labels.keys()
    assert all(r["label"] == labels[r["index"]] for r in rows)
    assert all(r["robust"] == (r["adversarial_prediction"] == r["label"]) for r in rows)
    assert all(r["clean_prediction"] == clean[r["index"]]["adversarial_prediction"] for r in rows)
    assert all(r["distance"] == 0 for r in clean.values())
    assert all(0 < r["distance"] <= 0.06 + 1e-6 for r in rows if r["attack"] != "clean")
    standing = {i for i, r in clean.items() if r["robust"]}
    assert summary["clean_accuracy"] == len(standing) / n
    # Each attack has one row for each example that stood before it, and no others
    for attack in summary["attacks"]:
        tried = [r for r in rows if r["attack"] == attack["name"]]
        assert {r["index"] for r in tried} == standing
        assert len(tried) == len(standing)
        standing = {r["index"] for r in tried if r["robust"]}
        assert attack["robust_accuracy"] == len(standing) / n
    assert len(by_example(result.outcomes)) == len(rows)
    assert {r["attack"] for r in rows} <= {"clean", *(a["name"] for a in summary["attacks"])}
    assert result.robust.dtype == torch.bool
    assert result.robust.tolist() == [i in standing for i in labels]
    expected = [len(standing) / n, list(wilson(len(standing), n))] if suite != "clean" else [None, None]
    assert [summary["robust_accuracy"], summary["interval95"]["robust"]] == expected
    assert summary["interval95"]["clean"] == list(wilson(round(summary["clean_accuracy"] * n), n))


def test_suite_clean_attacks_nothing_and_claims_no_robustness(cnn, digits, tmp_path):
    found = evaluate(cnn, digits, suite="clean", threat=Linf(epsilon=0.06), out=tmp_path)
    summary = strict_json(tmp_path / "summary.json")
    assert summary["attacks"] == []
    assert summary["robust_accuracy"] is None
    assert summary["interval95"]["robust"] is None
    assert found.outcomes.num_rows == 360
    x, y = tensors(digits)
    with torch.no_grad():
        assert torch.equal(found.robust, cnn(x).argmax(1) == y)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_distances_are_in_the_norm_of_the_threat(cnn, digits, threat):
    found = evaluate(cnn, digits.head(40), suite="pgd20", threat=threat)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[threat.kind]
    rows, pictures = by_example(found.outcomes), found.pictures
    difference = (pictures["x_adv"].double() - pictures["x"].double()).flatten(1).numpy()
    for i, delta in zip(pictures["index"].tolist(), difference, strict=True):
        last = rows.get(("pgd20", i), rows["clean", i])
        assert last["distance"] == pytest.approx(np.linalg.norm(delta, ord=order), rel=1e-12)
    distances = [row["distance"] for row in found.outcomes.to_pylist() if row["attack"] == "pgd20"]
    assert max(distances) <= threat.epsilon + 1e-6
    assert np.median(distances) > 0.9 * threat.epsilon


def test_the_protocol_is_a_full_fingerprint(cnn, digits):
    found = evaluate(cnn, digits.head(10), suite="quick", threat=Linf(epsilon=0.06), seed=5)
    protocol = found.summary["protocol"]
    pgd = {
        "kind": "pgd", "threat": {"kind": "linf", "epsilon": 0.06}, "steps": 20, "step_size": 0.015,
        "start": "uniform", "start_std": 0.001, "restarts": 1, "eot_samples": 1, "keep": "worst",
    }  # fmt: skip
    losses = [{"name": "cross_entropy", "label_smoothing": 0.0}, {"name": "margin", "kappa": 50.0}]
    expected = [{"name": n, "loss": loss, **pgd} for n, loss in zip(["pgd20", "cw20"], losses, strict=True)]
    assert protocol["attacks"] == expected
    assert protocol["precision"] == "float32"
    assert protocol["net_mode"] == "eval"
    assert (protocol["seed"], protocol["mode"], protocol["device"]) == (5, None, "cpu")
    assert protocol["data_hash"] == digits.hash
    assert protocol["versions"]["torch"] == torch.__version__
    digest = hashlib.sha256()
    for name, tensor in sorted(cnn.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    assert protocol["weights_hash"] == digest.hexdigest()


def test_the_pictures_are_the_first_examples_and_the_images_that_broke_them(cnn, digits, tmp_path):
    found = evaluate(cnn, digits.head(50), suite="quick", threat=Linf(epsilon=0.06), out=tmp_path)
    kept, rows = load_file(tmp_path / "examples.safetensors"), by_example(found.outcomes)
    x, y = tensors(digits.head(50))
    assert torch.equal(kept["x"], x[:16])
    assert torch.equal(kept["label"], y[:16])
    assert torch.equal(kept["index"], digits.index[:16])
    with torch.no_grad():
        assert torch.equal(cnn(kept["x"]).argmax(1), kept["clean_prediction"])
        assert torch.equal(cnn(kept["x_adv"]).argmax(1), kept["adversarial_prediction"])
    for i, prediction in zip(kept["index"].tolist(), kept["adversarial_prediction"].tolist(), strict=True):
        last = next(rows[name, i] for name in ("cw20", "pgd20", "clean") if (name, i) in rows)
        assert prediction == last["adversarial_prediction"]


def test_calibration_is_the_expected_error_over_fifteen_bins(cnn, digits):
    x, y = tensors(digits)
    with torch.no_grad():
        confidence, prediction = cnn(x).double().softmax(1).max(1)
    right, total = (prediction == y).double(), 0.0
    for low in range(15):
        inside = (confidence * 15 >= low) & (confidence * 15 < low + 1 + (low == 14))
        if inside.any():
            total += float(inside.double().mean() * (right[inside].mean() - confidence[inside].mean()).abs())
    found = evaluate(cnn, digits, suite="clean", threat=Linf())
    assert found.summary["calibration"]["clean_ece"] == pytest.approx(total, abs=1e-6)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_inverts_the_score_test(counts):
    # The bounds are the two shares p that a two-sided 5 % score test just does not reject
    k, n = counts
    low, high = wilson(k, n)

    def score(p):
        return (k / n - p) ** 2 * n - norm.ppf(0.975) ** 2 * p * (1 - p)

    assert 0 <= low <= k / n <= high <= 1
    # 0 and 1 solve the equation too, where the variance is nothing
    if k > 0:
        assert low == pytest.approx(brentq(score, 1e-15, k / n - 1e-9, xtol=1e-15), abs=1e-9)
    if k < n:
        assert high == pytest.approx(brentq(score, k / n + 1e-9, 1 - 1e-15, xtol=1e-15), abs=1e-9)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


def test_wilson_at_its_ends():
    z = norm.ppf(0.975)
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 50)[1] == pytest.approx(z**2 / (50 + z**2))
    assert wilson(50, 50)[0] == pytest.approx(50 / (50 + z**2))
    low, high = wilson(5000, 10000)
    assert high - low == pytest.approx(2 * z * math.sqrt(0.25 / (10000 + z**2)))
