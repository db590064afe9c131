"""Robust overfitting, told from the validations of a run."""

import math

import pytest

from inure.training.overfitting import overfitting, overfitting_text


def records(*robust, every=1):
    return [{"epoch": every * (i + 1), "validation": {"robust_accuracy": value}} for i, value in enumerate(robust)]


def test_the_gap_is_best_minus_last_and_the_first_of_equal_bests_counts():
    found = overfitting(records(0.3, 0.5, 0.5, 0.45, every=10), 10_000)
    assert (found["best"], found["best_epoch"], found["last"], found["last_epoch"]) == (0.5, 20, 0.45, 40)
    assert found["gap"] == pytest.approx(0.05)


def test_it_begins_where_all_that_follows_is_beyond_chance():
    half_width = 1.96 * math.sqrt(2 * 0.5 * 0.5 / 1000)
    below, within = 0.5 - half_width - 0.001, 0.5 - half_width + 0.001
    assert overfitting(records(0.2, 0.5, below, below), 1000)["begins"] == 3
    assert overfitting(records(0.2, 0.5, below, within, below, below), 1000)["begins"] == 5
    assert overfitting(records(0.2, 0.5, below, within), 1000)["begins"] is None


def test_the_rise_before_the_best_is_no_overfitting():
    assert overfitting(records(0.1, 0.2, 0.5), 1000)["begins"] is None


def test_more_images_see_a_smaller_gap():
    history = records(0.4, 0.5, 0.47, 0.47)
    assert overfitting(history, 1000)["begins"] is None
    assert overfitting(history, 10_000)["begins"] == 3


def test_one_validation_says_nothing():
    assert overfitting(records(0.5), 1000) is None
    assert overfitting([], 1000) is None


def test_the_sentence_tells_epochs_and_whether_it_is_chance():
    text = overfitting_text(overfitting(records(0.2, 0.53, 0.45), 10_000))
    assert text.startswith(
        "robust overfitting: best 53.0 % (epoch 2), last 45.0 % (epoch 3): by more than chance below the best from "
        "epoch 3 on; try checkpoint.select=best"
    )
    assert overfitting_text(overfitting(records(0.2, 0.53, 0.52), 1000)).endswith("no more than chance apart")
    rising = overfitting_text(overfitting(records(0.2, 0.5), 1000))
    assert rising == "robust validation accuracy: 50.0 %, at its best in the last epoch"
