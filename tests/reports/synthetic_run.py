"""Run directories written by hand: what training and evaluation leave behind, without either."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.numpy
import yaml
from sklearn.datasets import load_digits

from inure.evaluation.intervals import wilson

DIGITS = [str(i) for i in range(10)]
TAKEN_FOR = np.array([6, 7, 3, 8, 9, 9, 5, 1, 1, 4])


def write_run(
    path: Path,
    *,
    method: str = "pgd_at",
    seed: int = 0,
    epochs: int = 40,
    planned: int | None = None,
    status: str = "finished",
    suites: tuple[str, ...] = ("clean", "pgd20", "quick"),
    class_names: list[str] | None = None,
    examples: int = 360,
) -> Path:
    """A run on digits whose numbers are invented but hang together."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    robust = method != "standard"
    _write_settings(path, method, seed, planned or epochs, class_names or DIGITS)
    best = _write_metrics(path, rng, epochs, robust)
    facts = {
        "status": status,
        "command": f"inure train digits/{method} seed={seed} --out runs/{path.name}",
        "class_names": class_names or DIGITS,
        "num_classes": 10,
        "input_shape": [1, 8, 8],
        "data": {
            "source": "digits",
            "train_examples": 1293,
            "validation_examples": 144,
            "hash": "6f1c02d9",
            "skipped": 0,
        },
        "epochs_done": epochs,
        "step": 21 * epochs,
        "seconds": 61.4 if robust else 14.2,
        "selected": "best",
        **best,
    }
    (path / "run.json").write_text(json.dumps(facts))
    for suite in suites:
        write_evaluation(path / "evaluations" / suite, suite, seed=seed, robust=robust, examples=examples)
    return path


def write_evaluation(
    folder: Path, suite: str, *, seed: int = 0, robust: bool = True, examples: int = 360, **changes
) -> Path:
    """One finished evaluation, with outcomes and pictures."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    digits = load_digits()
    x = (digits.images[-examples:, None] / 16).astype(np.float32)
    label = digits.target[-examples:].astype(np.int64)
    clean = np.where(rng.random(examples) < (0.97 if robust else 0.95), label, TAKEN_FOR[label])
    attacks = {"clean": [], "pgd20": ["pgd20"], "quick": ["pgd20", "cw20"]}.get(suite, [suite])
    columns = {
        "index": [],
        "label": [],
        "clean_prediction": [],
        "attack": [],
        "adversarial_prediction": [],
        "robust": [],
    }

    def record(rows, attack, prediction):
        columns["index"] += rows.tolist()
        columns["label"] += label[rows].tolist()
        columns["clean_prediction"] += clean[rows].tolist()
        columns["attack"] += [attack] * len(rows)
        columns["adversarial_prediction"] += prediction[rows].tolist()
        columns["robust"] += (prediction[rows] == label[rows]).tolist()

    record(np.arange(examples), "clean", clean)
    standing, adversarial, results = clean == label, clean.copy(), []
    for position, attack in enumerate(attacks):
        rows = np.flatnonzero(standing)
        strength = (0.1 if robust else 0.88) if position == 0 else (0.02 if robust else 0.2)
        adversarial[rows] = np.where(rng.random(len(rows)) < strength, TAKEN_FOR[label[rows]], label[rows])
        record(rows, attack, adversarial)
        standing &= adversarial == label
        passes = 20 * len(rows)
        share = float(standing.mean())
        results.append(
            {
                "name": attack,
                "robust_accuracy": share,
                "seconds": 1.9,
                "forwards": passes + len(rows),
                "backwards": passes,
            }
        )
    pyarrow.parquet.write_table(
        pyarrow.table({**columns, "distance": [0.1] * len(columns["index"])}), folder / "outcomes.parquet"
    )
    x_adv = np.clip(x + 0.1 * np.sign(rng.normal(size=x.shape)), 0, 1).astype(np.float32)
    shown = np.sort(np.concatenate([np.flatnonzero(~standing)[:6], np.flatnonzero(standing)[:10]]))[:16]
    tensors = {"x": x, "x_adv": x_adv, "label": label, "clean_prediction": clean, "adversarial_prediction": adversarial}
    safetensors.numpy.save_file(
        {k: np.ascontiguousarray(v[shown]) for k, v in tensors.items()}, folder / "examples.safetensors"
    )
    right, left = int((clean == label).sum()), int(standing.sum())
    summary = {
        "schema_version": 1,
        "suite": suite,
        "threat": "linf:0.1",
        "mode": None,
        "seed": 0,
        "examples": examples,
        "clean_accuracy": right / examples,
        "robust_accuracy": left / examples if attacks else None,
        "interval95": {
            "clean": list(wilson(right, examples)),
            "robust": list(wilson(left, examples)) if attacks else None,
        },
        "attacks": results,
        "flags": [],
        "seconds": 3.9,
        "verified": True,
        "calibration": {"clean_ece": 0.021, "bins": []},
        "protocol": {
            "threat": "linf:0.1",
            "attacks": [{"kind": "pgd", "steps": 20, "start": "uniform"}],
            "precision": "float32",
            "data_hash": f"{examples:x}",
        },
        **changes,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def _write_settings(path: Path, method: str, seed: int, epochs: int, class_names: list[str]) -> None:
    attack = {
        "kind": "pgd",
        "steps": 5,
        "step_size": 0.05,
        "start": "uniform",
        "threat": {"kind": "linf", "epsilon": 0.2},
    }
    recipe = {
        "seed": seed,
        "epochs": epochs,
        "batch_size": 64,
        "data": {"source": "digits", "validation": 0.1},
        "model": {"name": "vit_digits", "img_size": 8, "patch_size": 2},
        "method": {"kind": method} if method == "standard" else {"kind": method, "attack": attack},
        "optimizer": {"kind": "adamw", "lr": 0.003, "weight_decay": 0.05},
        "schedule": {"kind": "cosine", "warmup": 0.075},
        "evaluation": {"threat": {"kind": "linf", "epsilon": 0.1}, "suite": "quick"},
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    environment = {
        "inure": "0.1.0",
        "python": "3.11.7",
        "torch": "2.15.0",
        "timm": "1.0.31",
        "platform": "Linux-6.1-x86_64",
        "device": "cpu",
        "threads": 2,
        "packages": {"numpy": "2.4.6", "lightning-fabric": "2.6.6"},
        "command": ["inure", "train", f"digits/{method}", f"seed={seed}"],
        "git": None,
    }
    (path / "environment.json").write_text(json.dumps(environment))


def _write_metrics(path: Path, rng, epochs: int, robust: bool) -> dict:
    lines, scores = [], []
    for epoch in range(1, epochs + 1):
        progress = epoch / epochs
        rise = 1 - np.exp(-epoch / 5)
        clean = round((0.1 + 0.87 * rise + 0.01 * rng.normal()).clip(0, 1) * 144) / 144
        hard = round((0.1 + (0.78 if robust else 0.05) * rise + 0.02 * rng.normal()).clip(0, 1) * 144) / 144
        loss = (0.45 if robust else 0.05) + 2.2 * np.exp(-epoch / 6) + 0.02 * rng.random()
        lr = 0.003 * min(epoch / 3, 0.5 * (1 + np.cos(np.pi * progress)))
        record = {"event": "epoch", "epoch": epoch, "step": 21 * epoch, "progress": progress, "lr": lr}
        record |= {
            "epsilon": 0.2 * min(1, 2 * progress) if robust else 0.0,
            "seconds": 1.5,
            "images_per_second": 850 + 30 * rng.random(),
        }
        record["train"] = {"loss": loss, "grad_norm": 0.8 + np.exp(-epoch / 4) * 4 + 0.2 * rng.random()}
        record["validation"] = {
            "clean_accuracy": clean,
            "robust_accuracy": hard,
            "fgsm_accuracy": min(1, hard + 0.06),
            "clean_loss": loss,
        }
        lines.append(json.dumps(record))
        scores.append({"epoch": epoch, "clean_accuracy": clean, "robust_accuracy": hard})
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return {"best": max(scores, key=lambda s: s["robust_accuracy"]), "last": scores[-1]} if scores else {}


def write_shifted(
    folder: Path, suite: str = "corruptions+quick", *, seed: int = 0, plain: bool = True, **changes
) -> Path:
    """One finished evaluation on several sets: two corruptions at five severities, and a set that is none."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    attacked = "+" in suite
    sets = []
    names = [("digits#test", kind, severity) for kind in ("fog", "glass_blur") for severity in range(1, 6)]
    for base, kind, severity in [*names, *([("imagenet-r:DIR", None, None)] if plain else [])]:
        right = int(rng.integers(20, 60))
        left = int(rng.integers(1, right)) if attacked else 0
        sets.append(
            {
                "name": base if kind is None else f"{base}@{kind}:{severity}",
                "base": base,
                "corruption": kind,
                "severity": severity,
                "folder": f"sets/{kind}-{severity}",
                "examples": 60,
                "clean_accuracy": right / 60,
                "robust_accuracy": left / 60 if attacked else None,
                "interval95": {
                    "clean": list(wilson(right, 60)),
                    "robust": list(wilson(left, 60)) if attacked else None,
                },
            }
        )
    clean, robust = (
        float(np.mean([entry[f"{kind}_accuracy"] for entry in sets])) if kind == "clean" or attacked else None
        for kind in ("clean", "robust")
    )
    summary = {
        "schema_version": 1,
        "suite": suite,
        "threat": "linf:0.1",
        "mode": None,
        "seed": 0,
        "examples": 60,
        "clean_accuracy": 0.95,
        "robust_accuracy": 0.999 if attacked else None,
        "interval95": {"clean": list(wilson(57, 60)), "robust": [0.9, 1.0] if attacked else None},
        "attacks": [],
        "mean": {
            "sets": len(sets),
            "clean_accuracy": clean,
            "robust_accuracy": robust,
            "interval95": {"clean": [0.1, 0.9], "robust": [0.05, 0.8] if attacked else None},
        },
        "sets": sets,
        "flags": [],
        "seconds": 9.0,
        "verified": True,
        "protocol": {"suite": suite, "data_hash": "3c"},
        "command": f"inure evaluate run --suite {suite}",
        **changes,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder
