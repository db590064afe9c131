"""What a killed evaluation leaves is continued exactly; nothing foreign is ever mixed in."""

import errno
import json
import os
import random
import shutil
import signal
import time

import pyarrow.parquet as pq
import pytest
import torch
from digit_nets import by_example, by_workers, contents, tensors, without_seconds, write_net
from safetensors.torch import load_file

from inure.evaluation import SUITES, evaluate, journal
from inure.evaluation.cascade import Cascade
from inure.settings.errors import UserError
from inure.threat import L2, Linf
from processes import Command, inure

OPTIONS = {"suite": "quick", "threat": Linf(epsilon=0.06)}


@pytest.fixture(autouse=True, scope="module")
def _few_steps():
    """The attacks of ``quick`` in this process take five steps: as many batches, a quarter of the time."""
    usual = SUITES["quick"]

    def short(threat):
        return [member._replace(attack=member.attack.model_copy(update={"steps": 5})) for member in usual(threat)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SUITES, "quick", short)
        yield


class Cut(Exception):
    """Stands in for a power failure."""


def cut_after(batches: int, monkeypatch, net, images, out, **options) -> None:
    """An evaluation that dies once so many batches are in the journal."""
    add, done = journal.Journal.add, []

    def failing(self, record):
        if len(done) >= batches:
            raise Cut
        done.append(add(self, record))

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", failing)
        with pytest.raises(Cut):
            evaluate(net, images, out=out, **{**OPTIONS, "batch_size": 16, **options})


def lines(folder) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("progress-*.jsonl"))


def assert_same(folder, result, reference) -> None:
    """Verdicts, counts and files as those of an uninterrupted evaluation."""
    assert by_example(result.outcomes) == by_example(reference.outcomes)
    assert torch.equal(result.robust, reference.robust)
    assert without_seconds(result.summary) == without_seconds(reference.summary)
    assert json.loads((folder / "summary.json").read_text()) == result.summary
    assert by_example(pq.read_table(folder / "outcomes.parquet")) == by_example(reference.outcomes)
    assert {p.name for p in folder.iterdir() if p.name != "previous"} == {
        "summary.json",
        "outcomes.parquet",
        "examples.safetensors",
    }


def assert_same_folder(ours, theirs) -> None:
    """Of two folders that commands wrote."""
    found, expected = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (ours, theirs))
    written = ["adversarial.safetensors", "examples.safetensors", "outcomes.parquet"]
    assert sorted(found) == sorted(expected) == [*written, "summary.json"]
    for name in written:
        assert found[name] == expected[name]
    summaries = [without_seconds(json.loads(files["summary.json"])) for files in (found, expected)]
    commands = [summary.pop("command") for summary in summaries]
    assert summaries[0] == summaries[1]
    assert commands[0].removesuffix(ours.name) == commands[1].removesuffix(theirs.name)


@pytest.fixture
def images(digits):
    return digits.head(100)


@pytest.fixture
def reference(cnn, images):
    return evaluate(cnn, images, **OPTIONS)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_kill_9_at_random_moments_and_resume_change_nothing(cnn, tmp_path, seed):
    words = (*write_net(tmp_path, cnn), "--examples", "100", "--suite", "quick", "--store-adversarial", "--quiet")
    words = (*words, "--out")
    assert inure(*words, "calm", folder=tmp_path).code == 0
    rng, out, kills = random.Random(seed), tmp_path / "out", 0
    while not (out / "summary.json").exists():
        # Nothing in the protocol speaks of the batch size: it may change on the way
        command = Command([*words, "out", "--resume", "--batch-size", rng.choice("479")], tmp_path)
        enough = lines(out) + rng.randrange(2, 12)
        command.wait_until(lambda enough=enough: lines(out) >= enough)
        time.sleep(0.05 * rng.random())
        command.kill()
        kills += command.process.exitcode == -signal.SIGKILL
        assert command.process.exitcode in (0, -signal.SIGKILL)
    assert kills >= 3
    done = inure(*words, "out", "--resume", folder=tmp_path)
    assert (done.code, done.out) == (0, "out\n")
    assert_same_folder(out, tmp_path / "calm")


class AtWrite:
    """Something befalls the ``number``-th flush or rename of a file."""

    def __init__(self, monkeypatch, number: int, strike) -> None:
        self.count, self.number, self.strike = 0, number, strike
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(os, "fsync", lambda descriptor: (self.step(descriptor), fsync(descriptor)))
        monkeypatch.setattr(os, "replace", lambda *paths: (self.step(None), replace(*paths)))

    def step(self, descriptor: int | None) -> None:
        self.count += 1
        if self.count == self.number:
            self.strike(descriptor)


def power_failure(descriptor: int | None) -> None:
    if descriptor is not None:
        os.ftruncate(descriptor, max(os.fstat(descriptor).st_size - 20, 0))
    raise Cut


def disk_full(descriptor: int | None) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("strike", [power_failure, disk_full])
def test_whatever_write_fails_the_resume_changes_nothing(cnn, images, tmp_path, monkeypatch, strike):
    images, options = images.head(30), {**OPTIONS, "batch_size": 16}
    reference = evaluate(cnn, images, out=tmp_path / "calm", **options)
    number, out, said = 0, tmp_path / "out", []
    while True:
        number += 1
        shutil.rmtree(out, ignore_errors=True)
        with monkeypatch.context() as patch:
            writes = AtWrite(patch, number, strike)
            try:
                evaluate(cnn, images, out=out, **options)
            except (Cut, UserError) as error:
                said.append(str(error))
        if writes.count < number:
            break
        result = evaluate(cnn, images, out=out, resume=True, **OPTIONS)
        assert_same(out, result, reference)
        assert (out / "examples.safetensors").read_bytes() == (tmp_path / "calm/examples.safetensors").read_bytes()
    assert len(said) == number - 1 > 10
    assert strike is power_failure or all("no space left on the device" in line for line in said)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.99])
def test_a_journal_torn_at_any_byte_is_continued(cnn, images, reference, tmp_path, monkeypatch, share):
    cut_after(9, monkeypatch, cnn, images, tmp_path)
    path = tmp_path / "progress-0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert not path.read_bytes().endswith(b"\n")
    assert_same(tmp_path, evaluate(cnn, images, out=tmp_path, resume=True, **OPTIONS), reference)


def test_a_resume_repeats_no_batch_that_is_in_the_journal(cnn, images, tmp_path, monkeypatch):
    seen = []
    cut_after(9, monkeypatch, cnn, images, tmp_path)
    known = [json.loads(line) for line in (tmp_path / "progress-0.jsonl").read_text().splitlines()[1:]]
    add = journal.Journal.add
    monkeypatch.setattr(journal.Journal, "add", lambda self, record: (seen.append(record), add(self, record)))
    evaluate(cnn, images, out=tmp_path, resume=True, **OPTIONS)
    again = {(r["attack"], i) for r in known for i in r["index"]} & {(r["attack"], i) for r in seen for i in r["index"]}
    assert len(known) == 9
    assert not again


OTHERS = {
    "seed": {"seed": 1},
    "threat.epsilon": {"threat": Linf(epsilon=0.05)},
    "threat.kind": {"threat": L2(epsilon=0.06)},
    "suite": {"suite": "pgd20"},
    "attacks": {"suite": "pgd20"},
}


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("key", OTHERS)
def test_other_settings_are_refused_by_name_and_nothing_is_touched(cnn, images, tmp_path, monkeypatch, key, finished):
    if finished:
        evaluate(cnn, images.head(20), out=tmp_path, **OPTIONS)
    else:
        cut_after(3, monkeypatch, cnn, images.head(20), tmp_path, batch_size=8)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"--resume: .*\b{key}\b"):
        evaluate(cnn, images.head(20), out=tmp_path, resume=True, **{**OPTIONS, **OTHERS[key]})
    assert contents(tmp_path) == before


def test_another_net_and_other_images_are_refused_by_name(cnn, vit, images, tmp_path, monkeypatch):
    cut_after(3, monkeypatch, cnn, images, tmp_path)
    x, y = tensors(images)
    for key, model, data in (
        ("weights_hash", vit, (images,)),
        ("examples", cnn, (images.head(99),)),
        ("index_hash", cnn, (images.subset(torch.arange(99, -1, -1)),)),
        ("data_hash", cnn, (x.flip(3), y)),
        ("data_hash", cnn, (x, (y + 1) % 10)),
    ):
        with pytest.raises(UserError, match=rf"--resume: .*\b{key}\b"):
            evaluate(model, *data, out=tmp_path, resume=True, **OPTIONS)


def test_a_finished_evaluation_returns_at_once_with_the_same_summary(cnn, images, tmp_path, monkeypatch):
    first = evaluate(cnn, images, out=tmp_path, **OPTIONS)
    before = contents(tmp_path)
    monkeypatch.setattr(Cascade, "run", None)
    again = evaluate(cnn, images, out=tmp_path, resume=True, batch_size=9, **OPTIONS)
    assert again.summary == first.summary
    assert torch.equal(again.robust, first.robust)
    assert by_example(again.outcomes) == by_example(first.outcomes)
    assert all(torch.equal(again.pictures[name], first.pictures[name]) for name in first.pictures)
    assert contents(tmp_path) == before


def test_resume_goes_on_with_the_newest_evaluation_and_not_with_an_older_finished_one(
    cnn, images, tmp_path, monkeypatch
):
    evaluate(cnn, images, out=tmp_path, **OPTIONS)
    cut_after(5, monkeypatch, cnn, images, tmp_path, seed=1)
    with pytest.raises(UserError, match=r"--resume: .*\(seed\)"):
        evaluate(cnn, images, out=tmp_path, resume=True, **OPTIONS)
    result = evaluate(cnn, images, out=tmp_path, resume=True, seed=1, **OPTIONS)
    assert_same(tmp_path, result, evaluate(cnn, images, seed=1, **OPTIONS))


def test_resume_where_nothing_is_there_starts(cnn, images, reference, tmp_path):
    result = evaluate(cnn, images, out=tmp_path / "a" / "b", resume=True, **OPTIONS)
    assert_same(tmp_path / "a" / "b", result, reference)


def test_without_resume_everything_starts_anew(cnn, vit, images, reference, tmp_path, monkeypatch):
    # Journals of two processes and of another net, pictures, results, and what kill -9 leaves of a file
    cut_after(3, monkeypatch, vit, images, tmp_path)
    (tmp_path / "progress-1.jsonl").write_bytes((tmp_path / "progress-0.jsonl").read_bytes())
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / ".summary.json.abc.tmp").write_text("{")
    result = evaluate(cnn, images, out=tmp_path, **OPTIONS)
    assert_same(tmp_path, result, reference)


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_workers_find_what_one_finds(cnn, images, reference, tmp_path, world_size):
    for result in by_workers(cnn, world_size, images, out=tmp_path, **OPTIONS):
        assert by_example(result.outcomes) == by_example(reference.outcomes)
        assert torch.equal(result.robust, reference.robust)
        assert without_seconds(result.summary) == without_seconds(reference.summary)
    assert {p.name for p in tmp_path.iterdir()} == {"summary.json", "outcomes.parquet", "examples.safetensors"}


def test_no_worker_removes_what_another_still_reads(cnn, images, reference, tmp_path, monkeypatch):
    gather = journal.Journal.gather
    monkeypatch.setattr(journal.Journal, "gather", lambda self: (time.sleep(0.2 * self._rank), gather(self))[1])
    for result in by_workers(cnn, 3, images, out=tmp_path, **OPTIONS):
        assert by_example(result.outcomes) == by_example(reference.outcomes)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_the_number_of_workers_may_change_at_a_resume(cnn, images, reference, tmp_path, monkeypatch, before, after):
    counts, add = [], journal.Journal.add

    def failing(self, record):
        if len(counts) >= 8:
            raise Cut
        counts.append(add(self, record))

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", failing)
        with pytest.raises(Cut):
            by_workers(cnn, before, images, out=tmp_path, batch_size=8, store_adversarial=True, **OPTIONS)
    # That they are stored is seen in the folder
    for result in by_workers(cnn, after, images, out=tmp_path, resume=True, **OPTIONS):
        assert by_example(result.outcomes) == by_example(reference.outcomes)
        assert without_seconds(result.summary) == without_seconds(reference.summary)
    kept, stored = load_file(tmp_path / "examples.safetensors"), load_file(tmp_path / "adversarial.safetensors")
    x, y = tensors(images)
    with torch.no_grad():
        assert torch.equal(cnn(stored["x_adv"]).argmax(1) == y, reference.robust)
    assert torch.equal(kept["x"], x[[images.index.tolist().index(i) for i in kept["index"].tolist()]])


def test_an_image_is_on_disk_before_the_journal_knows_of_it(cnn, images, tmp_path, monkeypatch):
    add, checked = journal.Journal.add, []

    def checking(self, record):
        kept = tmp_path / "adversarial.partial"
        whole = load_file(shutil.copy(kept, tmp_path.parent / "copy.safetensors"))
        rows = [whole["index"].tolist().index(i) for i in record["index"]]
        with torch.no_grad():
            found = cnn(whole["x_adv"][rows]).argmax(1)
        wrong = torch.tensor(record["prediction"]) != torch.tensor(record["label"])
        assert torch.equal(found[wrong], torch.tensor(record["prediction"])[wrong])
        checked.append(int(wrong.sum()))
        add(self, record)

    monkeypatch.setattr(journal.Journal, "add", checking)
    evaluate(cnn, images, out=tmp_path, store_adversarial=True, batch_size=40, **OPTIONS)
    assert sum(checked) > 10


def test_more_workers_than_examples(cnn, images, tmp_path):
    for result in by_workers(cnn, 3, images.head(2), out=tmp_path, **OPTIONS):
        assert result.summary["examples"] == len(result.robust) == 2


def test_workers_need_a_folder_and_the_same_net(cnn, vit, images, tmp_path):
    with pytest.raises(UserError, match="out: got None"):
        by_workers(cnn, 2, images, **OPTIONS)
    with pytest.raises(UserError, match=r"TARGET: .*weights_hash.*the same in every process"):
        by_workers([cnn, vit], 2, images.head(10), out=tmp_path, **{**OPTIONS, "suite": "clean"})
