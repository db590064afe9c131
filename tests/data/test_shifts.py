"""The sets of shifted images in tiny folders of every layout: what is read, in which order, and what is refused."""

import io
import json

import numpy as np
import pytest
import torch
from loading_checks import everything, refused
from PIL import Image
from torchvision.transforms import v2

import inure
from inure.commands import _run
from inure.commands.listing import KINDS
from inure.data import load, load_labels
from inure.data.imagenet_files import imagenet_classes
from inure.data.shifts import SHIFTS
from inure.evaluation import evaluate
from inure.models import Classifier
from inure.models.from_file import net_from_file
from inure.settings.errors import UserError
from inure.targets.evaluate import evaluate_target
from inure.targets.request import Request

NET_FILE = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 1000))


def ten():
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 10))
"""
WNIDS = imagenet_classes()[0]


def picture(seed, width=12, height=9, kind="PNG", mode="RGB"):
    """A file in bytes, and its pixels."""
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


FEW = [picture(seed) for seed in range(7)]


def write(root, folders, *, name="{0}.png", contents=FEW):
    """One image in each folder."""
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name.format(number)).write_bytes(contents[number % len(contents)])
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """1000 folders named by WordNet ids, one image each."""
    return write(tmp_path_factory.mktemp("whole"), WNIDS)


@pytest.fixture(scope="module")
def renditions(tmp_path_factory):
    """200 such folders, and a file beside them, as ImageNet-R has it."""
    folder = write(tmp_path_factory.mktemp("r"), WNIDS[3::5])
    (folder / "README.txt").write_text("no image")
    return folder


def test_the_classes_are_those_of_imagenet_in_the_order_of_their_ids():
    assert len(WNIDS) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    assert (WNIDS[0], WNIDS[1], WNIDS[999]) == ("n01440764", "n01443537", "n15075141")
    assert imagenet_classes()[1][1] == "goldfish, Carassius auratus"


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_200_folders_are_read_through_a_mask_of_200_classes(renditions, name):
    images = load(f"{name}:{renditions}", "test", img_size=8)
    assert images.labels.tolist() == list(range(200))
    assert images.class_names[0] == imagenet_classes()[1][3]
    assert images.shape == (3, 8, 8)
    assert images.readout
    assert images.readout.groups == tuple((k,) for k in range(3, 1000, 5))
    assert (images.readout.name, images.readout.kind) == (name, "subset of 200 classes")
    labels, names = load_labels(f"{name}:{renditions}", "test")
    assert torch.equal(labels, images.labels)
    assert names == images.class_names
    assert len(load(f"{name}:{renditions}#test", None, img_size=8)) == 200


def test_sketches_have_the_labels_of_imagenet(whole):
    images = load(f"imagenet-sketch:{whole}", "test", img_size=8)
    assert images.labels.tolist() == list(range(1000))
    assert (images.num_classes, images.readout, images.accepted) == (1000, None, None)


def test_folders_with_numbers_are_in_the_order_of_the_numbers(tmp_path):
    root = write(tmp_path, map(str, range(1000)), name="a{0}.jpeg")
    images = load(f"imagenet-v2:{root}", "test", img_size=8)
    assert images.labels.tolist() == list(range(1000))
    # Folder 10 lies behind folder 1 in the order of names.
    assert torch.equal(everything(images)[2], cropped(FEW[2], 8))
    (root / "1000").mkdir()
    (root / "1000" / "a.jpeg").write_bytes(FEW[0])
    refused("the folder 1000 in .*allowed folders 0 to 999", f"imagenet-v2:{root}", "test")


def cropped(data, size):
    """What torchvision makes of it."""
    look = v2.Compose([v2.Resize(round(size * 256 / 224), v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])
    return torch.from_numpy(np.array(look(Image.open(io.BytesIO(data)).convert("RGB")))).permute(2, 0, 1)


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "lazy"])
@pytest.mark.parametrize(("size", "asked"), [(224, None), (224, 224), (33, 33), (8, 8)])
def test_images_of_any_shape_are_resized_and_cropped_as_by_torchvision(tmp_path, size, asked, limit):
    shapes = [(300, 200), (200, 301), (256, 256), (500, 375), (31, 90)]
    contents = [picture(i, *shape) for i, shape in enumerate(shapes)]
    root = write(tmp_path, ["."] * 5, name="ILSVRC2012_val_0000000{0}.png", contents=contents)
    (root / "ILSVRC2012_val_00000000.png").rename(root / "ILSVRC2012_val_00000005.png")
    (root / "real.json").write_text(json.dumps([[k] for k in range(5)]))
    images = load(f"imagenet-real:{root}", "test", img_size=asked, memory_limit=limit)
    assert images.in_memory == bool(limit)
    expected = torch.stack([cropped(contents[k], size) for k in (1, 2, 3, 4, 0)])
    assert torch.equal(everything(images), expected)


def test_without_crop_images_are_squeezed_as_before(tmp_path, write_parquet):
    path = write_parquet(tmp_path / "a.parquet", [picture(0, 20, 10)], [0])
    found = everything(load(str(path), None, img_size=8))[0]
    squeezed = Image.open(io.BytesIO(picture(0, 20, 10))).resize((8, 8), Image.Resampling.BILINEAR)
    assert torch.equal(found, torch.from_numpy(np.array(squeezed)).permute(2, 0, 1))


def test_grey_images_become_colour(renditions, tmp_path):
    root = write(tmp_path, WNIDS[:200], contents=[picture(0, mode="L")])
    images = everything(load(f"imagenet-a:{root}", "test", img_size=8))
    assert images.shape[1] == 3
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.fixture(params=["flat", "folders"])
def reassessed(request, tmp_path):
    """Six validation images, of which the second has no right class."""
    for number in range(1, 7):
        folder = tmp_path / ("" if request.param == "flat" else WNIDS[-number])
        folder.mkdir(exist_ok=True)
        (folder / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(FEW[number])
    (tmp_path / "real.json").write_text(json.dumps([[5], [], [7, 2, 999], [0], [3], [1, 4]]))
    return tmp_path


def test_reassessed_labels_go_by_the_number_of_the_file(reassessed):
    images = load(f"imagenet-real:{reassessed}", "test", img_size=8)
    assert (len(images), images.skipped) == (5, 1)
    assert images.labels.tolist() == [5, 7, 0, 3, 1]
    assert images.accepted is not None
    assert [row.nonzero().flatten().tolist() for row in images.accepted] == [[5], [2, 7, 999], [0], [3], [1, 4]]
    assert torch.equal(everything(images), torch.stack([cropped(FEW[k], 8) for k in (1, 3, 4, 5, 6)]))
    before = images.hash
    (reassessed / "real.json").write_text(json.dumps([[5], [], [7, 2, 998], [0], [3], [1, 4]]))
    assert load(f"imagenet-real:{reassessed}", "test", img_size=8).hash != before


def test_reassessed_labels_must_fit_the_images(reassessed):
    spec = f"imagenet-real:{reassessed}"
    (reassessed / "real.json").write_text("[[1], [2]]")
    refused("got 6 images for the 2 lists of .*real.json; allowed ILSVRC2012_val_00000001.JPEG", spec, "test")
    for text in ("{}", "[1, 2]", '[["a"]]', "[[1000]]"):
        (reassessed / "real.json").write_text(text)
        refused("real.json of another form", spec, "test")
    (reassessed / "real.json").write_text("[[]")
    refused("which is not there or no JSON", spec, "test")
    (reassessed / "real.json").unlink()
    refused("which is not there or no JSON; allowed real.json beside the images", spec, "test")


SHAPES = (
    "airplane bear bicycle bird boat bottle car cat chair clock dog elephant keyboard knife oven truck".split()  # noqa: SIM905
)


def test_cue_conflict_images_are_labelled_by_shape(tmp_path):
    for shape in SHAPES:
        for texture in ("truck2", f"{shape}3"):
            write(tmp_path, [shape], name=f"{shape}1-{texture}.png")
    images = load(f"conflict:{tmp_path}", "test")
    assert images.shape == (3, 9, 12)
    assert images.class_names == tuple(SHAPES)
    # Those without a conflict, such as cat1-cat3, are kept.
    assert torch.bincount(images.labels).tolist() == [2] * 16
    assert images.readout
    assert images.readout.kind == "16 groups, mean probability"
    assert len(images.readout.groups) == 16
    write(tmp_path, ["zebra"])
    refused("the folder zebra in", f"conflict:{tmp_path}", "test")
    (tmp_path / "zebra/0.png").unlink()
    for file in (tmp_path / "bear").iterdir():
        file.unlink()
    refused(r"no folder bear in .*allowed 16 folders of images: airplane \| bear", f"conflict:{tmp_path}", "test")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Files with holes: only the first and last rows of some severities are written."""
    root = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(root / "fog.npy", "w+", np.uint8, (50_000, 32, 32, 3))
    for row in (0, 20_000, 20_001, 29_999, 30_000):
        images[row] = rng.integers(0, 256, (32, 32, 3))
    np.save(root / "labels.npy", np.tile(np.arange(10_000) % 10, 5))
    np.save(root / "snow.npy", np.zeros((7, 32, 32, 3), np.uint8))
    return root


def test_a_severity_of_cifar10_c_is_its_block_of_the_file(cifar):
    images = load(f"cifar10-c:{cifar}@fog:3", "test")
    array = np.load(cifar / "fog.npy", mmap_mode="r")
    assert len(images) == 10_000
    assert images.labels.tolist() == [k % 10 for k in range(10_000)]
    assert images.class_names[1] == "automobile"
    rows = torch.tensor([0, 1, 9_999])
    assert array[20_000].any()
    assert torch.equal(images.batch(rows), torch.from_numpy(array[20_000 + rows.numpy()]).permute(0, 3, 1, 2))


def test_the_corruption_may_stand_before_or_after_the_split(cifar):
    for spec in (f"cifar10-c:{cifar}#test@fog:3", f"cifar10-c:{cifar}@fog:3#test"):
        labels, names = load_labels(spec, "test")
        assert (len(labels), len(names)) == (10_000, 10)


def test_a_corruption_of_renditions_is_computed(renditions):
    clean, foggy = (load(f"imagenet-r:{renditions}{end}", "test", img_size=16) for end in ("", "@fog:3"))
    assert foggy.readout == clean.readout
    assert not torch.equal(everything(foggy), everything(clean))


def test_mistakes_about_cifar10_c_name_the_files(cifar, tmp_path):
    spec = f"cifar10-c:{cifar}"
    line = refused("allowed cifar10-c:DIR@KIND:SEVERITY, a corruption and a severity from 1 to 5", spec, "test")
    assert line.endswith("try cifar10-c:DIR@fog:3")
    for suffix in ("@fog", "@fog:", "@fog:0", "@fog:6", "@:3"):
        with pytest.raises(UserError):
            load(spec + suffix, "test")
    refused(r"got frog; allowed fog \| snow; try fog", spec + "@frog:3", "test")
    refused(r"snow.npy of uint8 \(7, 32, 32, 3\); allowed an array \(50000, 32, 32, 3\)", spec + "@snow:1", "test")
    (tmp_path / "fog.npy").symlink_to(cifar / "fog.npy")
    refused("labels.npy, which is not there; allowed an array", f"cifar10-c:{tmp_path}@fog:1", "test")
    (tmp_path / "labels.npy").write_bytes(b"no array")
    refused("labels.npy, which is no whole array", f"cifar10-c:{tmp_path}@fog:1", "test")
    (tmp_path / "fog.npy").unlink()
    refused("without KIND.npy; allowed a folder with fog.npy", f"cifar10-c:{tmp_path}@fog:1", "test")


@pytest.mark.parametrize("group", ["", "weather"])
def test_imagenet_c_is_found_with_and_without_groups(whole, tmp_path, group):
    (tmp_path / group / "fog").mkdir(parents=True)
    (tmp_path / group / "fog" / "3").symlink_to(whole)
    write(tmp_path, ["other/frost/1/n01440764"])
    images = load(f"imagenet-c:{tmp_path}@fog:3", "test", img_size=8)
    assert images.labels.tolist() == list(range(1000))
    # These are crops already: resized if asked for, never cropped again.
    squeezed = Image.open(io.BytesIO(FEW[0])).resize((8, 8), Image.Resampling.BILINEAR)
    assert torch.equal(everything(images.head(1))[0], torch.from_numpy(np.array(squeezed)).permute(2, 0, 1))
    assert load(f"imagenet-c:{tmp_path}@fog:3", "test").shape == (3, 9, 12)
    refused("fog/2, which is not there", f"imagenet-c:{tmp_path}@fog:2", "test")
    refused(r"got fig; allowed fog \| frost; try fog", f"imagenet-c:{tmp_path}@fig:3", "test")
    refused("1 such folders in .*frost/1; allowed 1000 folders", f"imagenet-c:{tmp_path}@frost:1", "test")
    refused("try imagenet-c:DIR@fog:3", f"imagenet-c:{tmp_path}", "test")
    refused("without such folders; allowed a folder with fog/3", f"imagenet-c:{whole}@fog:3", "test")


def test_folders_that_are_not_the_set_are_refused(tmp_path, renditions, whole):
    line = refused("imagenet-r:nowhere, which is no folder; allowed imagenet-r:DIR, art", "imagenet-r:nowhere", "test")
    assert "DIR/nXXXXXXXX/*.jpg" in line
    refused("which is no folder", "imagenet-r:", "test")
    refused("1000 such folders in .*allowed 200 folders of images named by WordNet ids", f"imagenet-r:{whole}", "test")
    refused("200 such folders in .*allowed 1000 folders", f"imagenet-sketch:{renditions}", "test")
    root = write(tmp_path, [*WNIDS[:199], "n00000001"])
    refused("the folder n00000001 in .*allowed 200 folders", f"imagenet-a:{root}", "test")


def test_an_unknown_name_lists_those_that_exist():
    line = refused("got imagenetr:somewhere; allowed hub: .*imagenet-r: ", "imagenetr:somewhere", "test")
    assert "imagenet-r" in line.split("try ")[1].split(" or ")
    assert refused("got x9:somewhere", "x9:somewhere", "test").endswith("try inure list shifts")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_sets_of_other_classes_are_not_trained_or_validated_on(renditions, reassessed, split):
    refused("a set to test on; try inure evaluate RUN --data imagenet-r:", f"imagenet-r:{renditions}", split)
    refused("a set to test on", f"imagenet-real:{reassessed}", split)


def test_every_set_has_a_line():
    assert [name for name, _ in KINDS["shifts"][1]()] == list(SHIFTS)
    assert all("DIR" in text and "\t" not in text for text in SHIFTS.values())


@pytest.fixture
def net_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET_FILE)
    return tmp_path


def test_a_net_is_evaluated_on_renditions_through_the_mask(net_file, renditions):
    spec = f"imagenet-r:{renditions}"
    options = {"suite": "fgsm", "data": spec, "threat": "linf:4/255", "examples": 24, "quiet": True}
    _, summary = evaluate_target(Request("net.py:net", out=net_file / "out", **options))
    assert summary["protocol"]["readout"] == {"name": "imagenet-r", "kind": "subset of 200 classes"}
    net, images = net_from_file("net.py:net", setting="target"), load(spec, "test").head(24)
    assert images.readout
    with torch.no_grad():
        logits = net(images.batch(torch.arange(24)).float() / 255)
    right = logits[:, 3::5].argmax(1) == images.labels
    assert summary["clean_accuracy"] == pytest.approx(float(right.double().mean()))
    assert summary["robust_accuracy"] <= summary["clean_accuracy"]
    again, _ = evaluate_target(Request("net.py:net", out=net_file / "out", resume=True, **options))
    assert again == net_file / "out"
    # The same from Python, for a bare net and for one that is read so already
    for model in (net, Classifier(net).read_as(images.readout)):
        found = inure.evaluate(model, images, suite="fgsm", threat="linf:4/255")
        assert found.summary["robust_accuracy"] == summary["robust_accuracy"]


def test_a_net_that_is_always_right_among_the_200_is_right_through_the_mask(renditions):
    images = load(f"imagenet-r:{renditions}", "test", img_size=8).head(7)
    readout = images.readout
    assert readout

    class Knows(torch.nn.Module):
        """The right class second, behind one that the set does not have."""

        def forward(self, x):
            logits = torch.zeros(len(x), 1000)
            logits[:, 0] = 9.0
            for row, image in enumerate(x):
                distance = (everything(images).float() / 255 - image).abs().flatten(1).sum(1)
                logits[row, readout.groups[int(distance.argmin())][0]] = 5.0
            return logits

    assert evaluate(Knows(), images, suite="clean", threat="linf:0").summary["clean_accuracy"] == 1.0


def test_sets_that_a_net_cannot_answer_are_refused_in_one_line(net_file, renditions, reassessed, capsys):
    for target, data, said in (
        ("ten", f"imagenet-r:{renditions}", "allowed a net whose output is one tensor (B, 1000)"),
        ("net", f"imagenet-real:{reassessed}", "--data: got imagenet-real:"),
        ("net", "imagenet-r:nowhere", "--data: got imagenet-r:nowhere, which is no folder"),
        ("net", f"imagenet-q:{renditions}", "--data: got imagenet-q:"),
    ):
        line = ["evaluate", f"net.py:{target}", "--data", data, "--threat", "linf:0.1", "--out", "no", "-q"]
        code = _run(line)
        err = capsys.readouterr().err
        assert (code, len(err.splitlines())) == (2, 1), err
        assert said in err
    assert not (net_file / "no").exists()
