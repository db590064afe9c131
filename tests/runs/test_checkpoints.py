"""States on disk and the files they are made of: torn, foreign and unwritable ones cost nothing that was there."""

import errno
import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from inure.machine import files
from inure.runs.checkpoints import Checkpoints, write_weights
from inure.settings.errors import UserError


def state(step: int, recipe: str = "ours") -> dict:
    return {"recipe_hash": recipe, "step": step, "model": {"w": torch.full((3,), float(step))}}


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    """States of steps 1 to 4, written one after the other."""
    made = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        made.save(step, state(step))
    return made


def index(checkpoints: Checkpoints) -> list[dict]:
    return json.loads((checkpoints.folder / "index.json").read_text())


def path_of(checkpoints: Checkpoints, step: int):
    return next(checkpoints.folder / entry["file"] for entry in index(checkpoints) if entry["step"] == step)


def test_the_newest_state_comes_back_as_it_was(checkpoints):
    loaded, refused = checkpoints.load("ours")
    assert loaded is not None
    assert (loaded["step"], refused) == (4, [])
    assert torch.equal(loaded["model"]["w"], torch.full((3,), 4.0))


def test_the_newest_two_states_are_kept_and_their_hashes_are_right(checkpoints):
    names = {path.name for path in checkpoints.folder.glob("*.pt")}
    assert [entry["step"] for entry in index(checkpoints)] == [4, 3]
    assert names == {entry["file"] for entry in index(checkpoints)}
    for entry in index(checkpoints):
        content = (checkpoints.folder / entry["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]


def test_the_newest_sound_state_outlives_newer_ones_and_is_what_one_returns_to(tmp_path):
    made = Checkpoints(tmp_path)
    for step, sound in ((1, True), (2, True), (3, False), (4, False), (5, False)):
        made.save(step, state(step), sound=sound)
    assert [entry["step"] for entry in index(made)] == [5, 4, 2]
    assert len([*tmp_path.glob("*.pt")]) == 3
    loaded, _ = made.load("ours", sound=True)
    assert loaded is not None
    assert loaded["step"] == 2
    # After the return later states are those of an abandoned course
    made.save(2, state(2), sound=True)
    assert [entry["step"] for entry in index(made)] == [2]
    assert made.load("ours")[0]["step"] == 2


def test_without_a_sound_state_there_is_nothing_to_return_to(checkpoints):
    assert checkpoints.load("ours", sound=True) == (None, [])


def test_nothing_saved_is_nothing_loaded(tmp_path):
    assert Checkpoints(tmp_path).load("ours") == (None, [])
    assert Checkpoints(tmp_path / "absent").load("ours") == (None, [])
    assert Checkpoints(tmp_path).newest() == "none"


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_torn_state_is_refused_and_the_one_before_used(checkpoints, keep):
    newest = path_of(checkpoints, 4)
    newest.write_bytes(newest.read_bytes()[:keep])
    loaded, refused = checkpoints.load("ours")
    assert loaded is not None
    assert loaded["step"] == 3
    assert len(refused) == 1
    assert newest.name in refused[0]
    assert "truncated or altered" in refused[0]


def test_a_refused_state_is_not_what_the_next_save_keeps(checkpoints):
    """Two states of which one is torn would be one state."""
    path_of(checkpoints, 4).write_bytes(b"torn")
    checkpoints.load("ours")
    checkpoints.save(5, state(5))
    assert [entry["step"] for entry in index(checkpoints)] == [5, 3]


def test_a_state_of_another_recipe_is_refused(checkpoints):
    checkpoints.save(5, state(5, "theirs"))
    loaded, refused = checkpoints.load("ours")
    assert loaded is not None
    assert loaded["step"] == 4
    assert "another recipe" in refused[0]
    with pytest.raises(UserError, match="2 and none is good"):
        checkpoints.load("a third one's")


def test_no_good_state_is_a_mistake_that_names_the_folder(checkpoints):
    for step in (3, 4):
        path_of(checkpoints, step).unlink()
    with pytest.raises(UserError) as caught:
        checkpoints.load("ours")
    assert caught.value.setting == str(checkpoints.folder)
    assert "No such file" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '[{"file": "x"}]', '{"file": 1}', "\x80"])
def test_a_damaged_index_is_a_mistake_that_names_it(checkpoints, text):
    (checkpoints.folder / "index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"index\.json: got damaged"):
        checkpoints.load("ours")


def test_a_state_is_never_unpickled_into_code(checkpoints, tmp_path):
    """A foreign file with a good hash runs nothing: it is loaded as weights only."""
    ran = tmp_path / "ran"
    content = _malicious(ran)
    path = path_of(checkpoints, 4)
    path.write_bytes(content)
    entries = index(checkpoints)
    entries[0]["sha256"] = hashlib.sha256(content).hexdigest()
    (checkpoints.folder / "index.json").write_text(json.dumps(entries))
    loaded, refused = checkpoints.load("ours")
    assert loaded is not None
    assert loaded["step"] == 3
    assert len(refused) == 1
    assert not ran.exists()


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _malicious(path) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save({"recipe_hash": "ours", "model": _Touch(path)}, buffer)
    return buffer.getvalue()


def test_saving_a_step_again_never_overwrites_what_the_index_names(checkpoints, monkeypatch):
    """Killed between the state and the index, the old pair must still fit together."""
    monkeypatch.setattr(files, "write_json", _killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(4, {**state(4), "model": {"w": torch.zeros(3)}})
    monkeypatch.undo()
    loaded, refused = Checkpoints(checkpoints.folder).load("ours")
    assert loaded is not None
    assert refused == []
    assert torch.equal(loaded["model"]["w"], torch.full((3,), 4.0))


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_space_leaves_the_old_states_and_no_litter(checkpoints, monkeypatch, call):
    before = {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()}
    monkeypatch.setattr(os, call, _full)
    with pytest.raises(UserError, match=r"no space left on the device; .*try free space, then --resume"):
        checkpoints.save(5, state(5))
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in checkpoints.folder.iterdir()} == before


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "x.json"
    files.write_json(path, {"a": 1})
    monkeypatch.setattr(os, "replace", _full)
    with pytest.raises(UserError):
        files.write_json(path, {"a": 2})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize("write", [files.write_text, files.append_line, lambda path, _: files.make_folder(path)])
def test_a_place_that_cannot_be_written_is_a_mistake(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a folder that can be written"):
        write(tmp_path / "file" / "x", "text")


def test_lines_that_were_appended_come_back_without_a_torn_last_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert files.read_lines(path) == []
    for step in (1, 2):
        files.append_line(path, {"step": step, "name": "ü"})
    with path.open("a") as file:
        file.write('{"step": 3, "na')
    assert [record["step"] for record in files.read_lines(path)] == [1, 2]


def test_leftovers_of_killed_writers_are_cleared_and_nothing_else(tmp_path):
    names = [".metrics.jsonl.abc.tmp", "notes.tmp", ".hidden", "x.pt"]
    for name in names:
        (tmp_path / name).write_text("")
    files.clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])


def test_weights_are_written_whatever_their_memory_format_and_ties(tmp_path):
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[3].weight = net[2].weight
    net = net.to(memory_format=torch.channels_last)
    write_weights(tmp_path / "w.safetensors", net)
    loaded = load_file(tmp_path / "w.safetensors")
    assert loaded.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded[name], tensor)
