"""``inure predict``: classes of image files, and the files that are none."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from inure.commands import _run
from inure.data import load as load_images
from inure.recipe.recipe import load_recipe
from inure.runs.load import load
from inure.settings.errors import UserError
from inure.targets.prediction import predict_files, read_image
from inure.training.train import train

NET_FILE = """
import torch
from torch import nn


def colour():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``run``, a tiny CNN, ``net.py``, and the first test digits as ``0.png`` to ``9.png``."""
    folder = tmp_path_factory.mktemp("prediction")
    (folder / "net.py").write_text(NET_FILE)
    with torch.random.fork_rng(devices=[]):
        train(load_recipe("digits/standard", ["model.name=cnn_tiny", "epochs=1"]), folder / "run", quiet=True)
    digits = load_images("digits", "test")
    for row in range(10):
        Image.fromarray(digits.batch(torch.tensor([row]))[0, 0].numpy()).save(folder / f"{row}.png")
    return folder


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_a_line_an_image_with_the_class_and_its_probability(folder, capsys):
    names = [f"{row}.png" for row in range(10)]
    assert _run(["predict", "run", *names]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    net, digits = load("run"), load_images("digits", "test")
    with torch.no_grad():
        probabilities = net(digits.batch(torch.arange(10)).float() / 255).softmax(1)
    assert [line[0] for line in lines] == names
    assert [line[1] for line in lines] == [digits.class_names[k] for k in probabilities.argmax(1)]
    found = [float(line[2]) for line in lines]
    assert found == pytest.approx(probabilities.amax(1).tolist(), abs=1e-4)


def test_top_orders_classes_by_probability(folder, capsys):
    assert _run(["predict", "run", "0.png", "--top", "10"]) == 0
    words = capsys.readouterr().out.strip().split("\t")
    shares = [float(w) for w in words[2::2]]
    assert sorted(words[1::2]) == [str(k) for k in range(10)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_a_function_of_a_file_predicts_numbers(folder, capsys):
    assert _run(["predict", "net.py:colour", "0.png"]) == 0
    assert capsys.readouterr().out.split("\t")[1] in {"0", "1", "2", "3"}


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
def test_every_kind_of_image_is_converted_and_resized(folder, tmp_path, mode):
    grey = Image.fromarray((np.arange(256).reshape(16, 16)).astype("uint8"))
    if mode == "I;16":
        image = Image.fromarray(np.arange(256, dtype="uint16").reshape(16, 16) * 256)
    else:
        image = grey.convert(mode)
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    image.save(path)
    for channels in (1, 3):
        x = read_image(path, channels, (8, 4))
        assert x.shape == (channels, 8, 4)
        assert x.dtype == torch.float32
        assert 0 <= x.min() < 0.3
        assert 0.7 < x.max() <= 1
    if mode in ("L", "I;16", "RGB"):
        expected = torch.arange(256).view(1, 16, 16) / 255
        torch.testing.assert_close(read_image(path, 1, None), expected, atol=1e-6, rtol=0)


def corrupt(path, kind: str) -> None:
    """A file that is no image, or no longer."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8")
    name = {"jpeg": "JPEG"}.get(kind.split()[0], "PNG")
    Image.fromarray(noise).save(path, name)
    whole = path.read_bytes()
    if kind.endswith("torn"):
        path.write_bytes(whole[: len(whole) // 2])
    elif kind.endswith("header"):
        path.write_bytes(whole[:12])
    elif kind.endswith("flipped"):
        path.write_bytes(whole[:200] + bytes(b ^ 0xFF for b in whole[200:260]) + whole[260:])
    elif kind == "text":
        path.write_text("no image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "bomb":
        # A header that promises 60,000 x 60,000 pixels
        path.write_bytes(whole[:16] + (60000).to_bytes(4, "big") * 2 + whole[24:])
    elif kind == "missing":
        path.unlink()
    else:
        path.unlink()
        path.mkdir()


KINDS = ["png torn", "png header", "png flipped", "jpeg header", "text", "empty", "bomb", "missing", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_image_is_one_line_and_nothing_is_classified(folder, tmp_path, capsys, kind):
    bad = tmp_path / "bad.png"
    corrupt(bad, kind)
    assert _run(["predict", "run", "0.png", str(bad), "1.png"]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert len(found.err.splitlines()) == 1
    assert found.err.startswith(f"inure: IMAGES: got {bad}"[:60])


MISTAKES = {
    "no run": (["nowhere", "0.png"], "TARGET: got nowhere"),
    "no images": (["run"], "IMAGES"),
    "top 0": (["run", "0.png", "--top", "0"], "--top: got 0; allowed 1 to 10"),
    "top 11": (["run", "0.png", "--top", "11"], "--top: got 11; allowed 1 to 10"),
    "top of a function": (["net.py:colour", "0.png", "--top", "9"], "--top: got 9; allowed 1 to 4"),
    "mode": (["run", "0.png", "--mode", "robust"], "--mode: got robust; allowed no mode"),
    "weights": (["net.py:colour", "0.png", "--weights", "run/weights.safetensors"], "2 missing: net.1.weight"),
    "size of a function": (["net.py:colour", "large.png"], "IMAGES: got large.png, (3, 9, 9) ("),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line_and_exit_code_2(folder, capsys, name):
    Image.new("RGB", (9, 9)).save(folder / "large.png")
    arguments, said = MISTAKES[name]
    assert _run(["predict", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert len(found.err.splitlines()) == 1
    assert said in found.err


def test_python_gets_pairs_and_the_net_is_asked_in_eval_mode(folder, monkeypatch):
    modes = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (modes.append(self.training), forward(self, x))[1])
    ((path, classes),) = predict_files("run", [folder / "3.png"], top=2)
    assert path == folder / "3.png"
    assert len(classes) == 2
    assert classes[0][1] >= classes[1][1]
    assert modes
    assert not any(modes)
    with pytest.raises(UserError, match="a file that exists"):
        list(predict_files("run", [folder / "3.png", folder / "none.png"]))
