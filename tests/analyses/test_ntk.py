"""The analysis of tangent kernels: that its numbers are those of the functions, on the images and weights it names."""

import json

import pytest
import torch

from inure.analyses import NTK, Subject, ntk
from inure.attacks import PGD
from inure.commands import _run
from inure.data import ImageSet
from inure.display.console import Bars
from inure.kernels import balanced_rows, kernel_distance, trace_kernel
from inure.models.adapt import adapt, fold
from inure.noise import CounterNoise
from inure.recipe.recipe import load_recipe
from inure.runs.checkpoints import write_weights
from inure.runs.load import load
from inure.runs.run import Run
from inure.threat import Linf
from inure.training.train import train
from tiny import CLASSES, SHAPE, assert_same_state, state_of, tiny_net


def images(count: int = 24) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, *SHAPE), generator=generator, dtype=torch.uint8)
    return ImageSet.from_arrays(pixels, torch.arange(count) % CLASSES, tuple("abcd"))


def subject(net, run: Run | None = None) -> Subject:
    return Subject(net, images(), Linf(epsilon=0.1), 3, 5, torch.device("cpu"), Bars(quiet=True), run)


def test_a_net_alone_is_looked_at_on_clean_and_attacked_images():
    net = tiny_net()
    before = state_of(net)
    found = NTK(images=12, steps=3, precision="float64").run(subject(net))
    assert_same_state(before, state_of(net))
    about, numbers = images(), found.numbers
    rows = balanced_rows(about, 12)
    assert numbers["index"] == about.index[rows].tolist()
    x, y = about.batch(rows).float() / 255, about.labels[rows]
    x_adv = PGD(threat=Linf(epsilon=0.1), steps=3)(net.eval(), x, y, noise=CounterNoise(3, about.index[rows]))
    clean, attacked = (trace_kernel(net, each, dtype=torch.float64) for each in (x, x_adv))
    assert [(k["weights"], k["images"]) for k in numbers["kernels"]] == [
        ("the net", "clean"), ("the net", "adversarial"),
    ]  # fmt: skip
    assert numbers["kernels"][0]["trace"] == pytest.approx(float(clean.trace()), rel=1e-6)
    assert numbers["kernels"][1]["trace"] == pytest.approx(float(attacked.trace()), rel=1e-4)
    assert numbers["distances"]["values"][0][1] == pytest.approx(float(kernel_distance(clean, attacked)), rel=1e-3)
    assert sum(numbers["kernels"][0]["eigenvalues"]) == pytest.approx(float(clean.trace()), rel=1e-6)
    assert numbers["velocity"] == {}
    assert found.figure.startswith(b"\x89PNG")


def test_with_radius_zero_attacked_images_are_the_clean_ones():
    about = subject(tiny_net())
    still = Subject(about.classifier, about.images, Linf(epsilon=0), 0, 5, about.device, about.bars)
    found = NTK(images=8).run(still).numbers
    assert found["distances"]["values"][0][1] < 1e-6


def test_a_net_with_domains_is_looked_at_in_one_of_them():
    net = adapt(tiny_net(), "bias")
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "bias" in name and "original" in name:
                parameter[1] += torch.linspace(-1, 1, parameter[1].numel()).view_as(parameter[1])
    traces = {}
    for mode in ("clean", "robust"):
        found = NTK(images=8, on="clean", mode=mode).run(subject(net)).numbers
        x = images().batch(balanced_rows(images(), 8)).float() / 255
        traces[mode] = found["kernels"][0]["trace"]
        assert traces[mode] == pytest.approx(float(trace_kernel(fold(net, mode), x).trace()), rel=1e-4)
    assert traces["clean"] != pytest.approx(traces["robust"], rel=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    settings = ["epochs=2", "model.name=cnn_tiny", "evaluation.validation_steps=1"]
    path = train(load_recipe("digits/standard", settings), tmp_path_factory.mktemp("ntk") / "run", quiet=True)
    other = load(path)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= 1.5
    write_weights(path / "checkpoints/best.safetensors", other)
    Run(path).write_info(best={**Run(path).info()["last"], "epoch": 1})
    return path


def test_the_command_compares_the_best_and_the_last_weights(run, capsys):
    assert _run(["analyze", "ntk", str(run), "images=10", "steps=1"]) == 0
    out, err = capsys.readouterr()
    folder = run / "analyses" / "ntk"
    assert out == f"{folder}\n"
    assert "tangent kernels at 10 images" in " ".join(err.split())
    numbers = json.loads((folder / "analysis.json").read_text())
    names = ["best, clean", "best, adversarial", "last, clean", "last, adversarial"]
    assert numbers["distances"]["of"] == names
    assert numbers["epochs"] == {"best": 1, "last": 2}
    assert numbers["velocity"]["clean"] == numbers["distances"]["values"][0][2]
    assert len({k["weights_hash"] for k in numbers["kernels"]}) == 2
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "table.md").read_text().splitlines()) == 6


def test_weights_that_are_named_are_looked_at_alone(run, capsys, tmp_path):
    given = str(run / "checkpoints/last.safetensors")
    arguments = ["ntk", str(run), "images=10", "on=clean", "--weights", given, "--out", str(tmp_path / "found")]
    assert _run(["analyze", *arguments]) == 0
    numbers = json.loads((tmp_path / "found/analysis.json").read_text())
    assert numbers["distances"]["of"] == ["the net, clean"]


def test_results_of_an_earlier_analysis_are_kept_in_previous(run, capsys, tmp_path):
    folder = tmp_path / "found"

    def found(*settings):
        assert _run(["analyze", "ntk", str(run), "on=clean", "--out", str(folder), *settings]) == 0
        return capsys.readouterr().err

    def images_in(place):
        return json.loads((place / "analysis.json").read_text())["images"]

    assert "previous" not in found("images=8")
    assert not (folder / "previous").exists()
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    # The line is broken where the console ends
    assert f"arenowin{folder / 'previous'}" in "".join(found("images=12").split())
    assert {path.name: path.read_bytes() for path in (folder / "previous").iterdir()} == first
    assert (images_in(folder), images_in(folder / "previous")) == (12, 8)
    assert _run(["analyze", "ntk", str(run), "images=1", "--out", str(folder)]) == 2
    assert images_in(folder) == 12, "a mistake moves nothing"
    found("images=10", "--quiet")
    assert (images_in(folder), images_in(folder / "previous")) == (10, 12)


@pytest.mark.parametrize("kernels", [1, 2, 4])
def test_the_words_of_the_figure_stay_on_it(kernels, monkeypatch):
    drawn = []
    monkeypatch.setattr(ntk, "png", lambda drawing: drawn.append(drawing) or b"")
    look = ntk._Look("the net", "adversarial", "", torch.eye(4), torch.ones(4), 1.0)
    ntk._figure([look] * kernels, [[0.0] * kernels] * kernels)
    (drawing,) = drawn
    drawing.draw_without_rendering()
    for axes in drawing.axes:
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
            box = text.get_window_extent()
            assert 0 <= box.x0 <= box.x1 <= drawing.bbox.width
            assert 0 <= box.y0 <= box.y1 <= drawing.bbox.height


def test_equal_weights_are_looked_at_once(tmp_path, capsys):
    path = train(load_recipe("digits/standard", ["epochs=1", "model.name=cnn_tiny"]), tmp_path / "run", quiet=True)
    assert _run(["analyze", "ntk", str(path), "images=10", "on=clean"]) == 0
    assert "last and best are the same weights" in capsys.readouterr().err
    assert len((path / "analyses/ntk/table.md").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["images=1"], "images: got 1"),
        (["on=both sides"], "on: got both sides"),
        (["weights=first"], "weights"),
        (["memory=0"], "memory: got 0"),
        (["mode=robust", "images=10"], "--mode: got robust; allowed no mode"),
        (["--examples", "1"], "images: got 1; allowed two images or more"),
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line(run, capsys, arguments, line):
    assert _run(["analyze", "ntk", str(run), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"inure: {line}")
    assert err.count("\n") == 1
