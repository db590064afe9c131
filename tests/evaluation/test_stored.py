"""The stored images are those that broke, on disk before the journal speaks of them, whatever interrupts."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from stored_sets import COUNT, THREAT, about, attack_all, examples, expected, finished

import runs  # noqa: F401  (has prepared the server that processes are forked from)
from inure.evaluation.results import set_aside
from inure.evaluation.stored import PARTIAL, StoredImages, discard, refuse_unless_stored, was_storing
from inure.evaluation.stored import about as texts_of
from inure.settings.errors import UserError

FILE = "adversarial.safetensors"


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> bytes:
    """The file of an evaluation that nothing interrupted."""
    torch.set_num_threads(1)
    return attack_all(tmp_path_factory.mktemp("calm"))[0].finish().read_bytes()


def lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("progress-*.jsonl"))


def run_slowly(folder: Path, rank: int, world_size: int, resume: bool, batch_size: int) -> None:
    """In a process of its own, slow enough to be killed at any moment."""
    torch.set_num_threads(1)
    options = {"rank": rank, "world_size": world_size, "resume": resume, "batch_size": batch_size}
    attack_all(folder, before_journal=lambda: time.sleep(0.01), **options)


def started(*arguments) -> multiprocessing.Process:
    process = multiprocessing.get_context("forkserver").Process(target=run_slowly, args=arguments)
    process.start()
    return process


def test_the_images_are_those_that_broke_and_else_the_clean_ones(tmp_path):
    stored, data = attack_all(tmp_path)[0], examples()
    path = stored.finish()
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".jsonl"] == [FILE]
    found, (images, standing) = load_file(path), expected()
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()} == {
        "index": (torch.int64, (COUNT,)),
        "label": (torch.int64, (COUNT,)),
        "x_adv": (torch.float32, (COUNT, 3, 6, 6)),
    }
    assert torch.equal(found["index"], data.index)
    assert torch.equal(found["label"], data.labels)
    assert torch.equal(found["x_adv"], images)
    clean = (images == data.images(torch.arange(COUNT), torch.device("cpu"))).flatten(1).all(1)
    assert 5 < int((~clean).sum()) < COUNT - 5
    assert int(standing.sum()) > 5
    assert clean[standing].all()
    assert THREAT.distance(found["x_adv"], data.images(torch.arange(COUNT), torch.device("cpu"))).max() <= 0.03 + 1e-6


def test_the_file_can_be_sliced_and_says_what_it_is(tmp_path):
    path = attack_all(tmp_path)[0].finish()
    with safe_open(path, "pt") as file:
        assert file.metadata() == about()
        assert torch.equal(file.get_slice("x_adv")[7:9], load_file(path)["x_adv"][7:9])
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert header % 8 == 0
    assert path.stat().st_size == header + COUNT * (8 + 8 + 4 * 3 * 6 * 6)


def test_the_texts_are_those_of_the_protocol():
    protocol = {
        "suite": "quick", "mode": {"clean": 0.5, "robust": 0.5}, "seed": 3, "weights_hash": "a", "data_hash": "b",
        "versions": {"inure": "1", "torch": "2"},
    }  # fmt: skip
    mixed = {"suite": "quick", "seed": "3", "weights_hash": "a", "data_hash": "b", "inure": "1", "threat": "linf:0.03"}
    assert texts_of(THREAT, protocol) == {**mixed, "mode": '{"clean": 0.5, "robust": 0.5}'}
    assert [texts_of(THREAT, {**protocol, "mode": mode})["mode"] for mode in (None, "clean")] == ["null", "clean"]


@pytest.mark.parametrize("batch_size", [1, 60])
def test_the_bytes_do_not_depend_on_the_batch_size(tmp_path, calm, batch_size):
    assert attack_all(tmp_path, batch_size=batch_size)[0].finish().read_bytes() == calm


def test_kill_9_at_random_moments_and_resume_give_the_same_bytes(tmp_path, calm):
    rng, kills = random.Random(0), 0
    while kills < 4:
        process, enough = started(tmp_path, 0, 1, True, rng.choice([3, 4, 5])), lines(tmp_path) + rng.randrange(1, 5)
        deadline = time.monotonic() + 60
        while lines(tmp_path) < enough and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.02 * rng.random())
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        if process.exitcode == 0:
            break
        kills += 1
        assert was_storing(tmp_path)
        assert not (tmp_path / FILE).exists()
    assert kills >= 3
    assert attack_all(tmp_path, resume=True)[0].finish().read_bytes() == calm
    assert not was_storing(tmp_path)


def test_two_processes_write_the_same_bytes_into_one_file(tmp_path, calm):
    (tmp_path / PARTIAL).write_bytes(b"of an evaluation that was killed" * 10_000)
    processes = [started(tmp_path, rank, 2, False, 4) for rank in (0, 1)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    stored, journal = attack_all(tmp_path, resume=True)
    assert stored.finish().read_bytes() == calm
    assert len({r["attack"] for r in journal.records}) == 3


class Cut(Exception):
    """Stands in for a kill."""


@pytest.mark.parametrize("number", [1, 2, 3, 9, 14])
@pytest.mark.parametrize("full", [False, True])
def test_whatever_write_fails_the_resume_gives_the_same_bytes(tmp_path, calm, monkeypatch, number, full):
    count, fsync = 0, os.fsync

    def strike(descriptor):
        nonlocal count
        count += 1
        if count == number:
            raise OSError(errno.ENOSPC, "No space left on device") if full else Cut
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", strike)
        with pytest.raises(UserError if full else Cut) as caught:
            attack_all(tmp_path)
    assert not full or "no space left on the device" in str(caught.value)
    assert attack_all(tmp_path, resume=True)[0].finish().read_bytes() == calm


def test_a_disk_without_room_for_all_is_refused_at_the_beginning(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(UserError, match="no space left on the device"):
            attack_all(tmp_path)
    assert not (tmp_path / PARTIAL).exists()


def test_a_kill_between_the_file_and_the_summary_loses_nothing(tmp_path, calm):
    attack_all(tmp_path)[0].finish()
    again = attack_all(tmp_path, resume=True)[0]
    assert again.finish().read_bytes() == calm


@pytest.mark.parametrize("damage", ["missing", "short", "other"])
def test_a_resume_without_the_images_of_what_is_done_is_refused(tmp_path, damage):
    attack_all(tmp_path)
    path = tmp_path / PARTIAL
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:-20] if damage == "short" else content.replace(b"linf:0.03", b"linf:0.02"))
    message = "no adversarial.partial in .*try no --resume" if damage == "missing" else "another or a damaged file"
    with pytest.raises(UserError, match=message) as caught:
        attack_all(tmp_path, resume=True)
    assert "\n" not in str(caught.value)


def test_a_resume_of_what_had_not_begun_begins(tmp_path, calm):
    (tmp_path / "progress-0.jsonl").write_text('{"protocol": {"threat": "linf:0.03"}}\n')
    assert attack_all(tmp_path, resume=True)[0].finish().read_bytes() == calm


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_a_new_evaluation_does_not_keep_what_an_old_one_left(tmp_path, calm, ranks):
    for name in (FILE, PARTIAL):
        (tmp_path / name).write_bytes(b"old" * 5_000_000)
    data = examples()
    for rank in ranks:  # the second one comes when the first one has written already
        attack_all(tmp_path, data, rank=rank, world_size=2)
    assert not (tmp_path / FILE).exists()
    stored = StoredImages(tmp_path, data, about(), rank=1)
    assert stored.finish().read_bytes() == calm


def test_results_that_are_set_aside_take_their_images_along(tmp_path, calm):
    finished(tmp_path)
    previous = set_aside(tmp_path)
    assert previous is not None
    assert (previous / FILE).read_bytes() == calm
    assert not (tmp_path / FILE).exists()


def test_an_evaluation_without_images_leaves_none_and_a_finished_one_cannot_get_them(tmp_path):
    attack_all(tmp_path)
    discard(tmp_path)
    assert not was_storing(tmp_path)
    with pytest.raises(UserError, match="--store-adversarial: got .*finished without them"):
        refuse_unless_stored(tmp_path)
    attack_all(tmp_path)[0].finish()
    refuse_unless_stored(tmp_path)
    discard(tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".jsonl"]
