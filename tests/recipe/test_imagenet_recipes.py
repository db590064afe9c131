"""The ImageNet recipes have the numbers of their papers, and train: on small images, and (slow) at full size."""

import io
import json
import math
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from inure.attacks import APGD
from inure.averaging import EMA
from inure.balance import CrossEntropy
from inure.data import Augment
from inure.recipe.recipe import load_recipe
from inure.settings.config import dump
from inure.threat import Linf
from inure.training.train import train
from processes import records, weights

RECIPES = [f"imagenet/{method}_vit_b16" for method in ("soup", "pgd_at", "standard")]


@pytest.mark.parametrize("name", RECIPES)
def test_imagenet_recipes_have_the_numbers_of_the_paper_and_its_follow_up(name):
    built = load_recipe(name)
    assert (built.epochs, built.batch_size, built.model.name) == (300, 4096, "vit_base_patch16_224")
    assert (built.model.pretrained, built.model.img_size, built.model.drop_path) == (False, 224, 0.1)
    adamw = built.optimizer
    assert (adamw.kind, adamw.weight_decay, adamw.betas, adamw.clip_norm) == ("adamw", 0.3, (0.9, 0.95), None)
    assert adamw.lr == pytest.approx(1e-4 * built.batch_size / 256)
    rates = [built.schedule.at(epoch / 300) for epoch in (0, 10, 20, 160, 300)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])
    rand_augment = {"layers": 2, "magnitude": 9, "magnitude_std": 0.5, "probability": 0.5}
    assert built.augment == Augment(
        resized_crop=(0.08, 1), flip=True, rand_augment=rand_augment, mixup=0.8, cutmix=1
    )  # fmt: skip
    assert built.balance.train == CrossEntropy(label_smoothing=0.1)
    assert built.averaging == EMA(decay=0.9999, warmup=True)
    assert (built.engine.precision, built.evaluation.threat) == ("bf16", Linf(epsilon=4 / 255))


def test_imagenet_methods_differ_in_alpha_only():
    soup, pgd_at, standard = (load_recipe(name) for name in RECIPES)
    assert soup.method.attack == APGD(steps=2, start="zero", threat=Linf(epsilon=4 / 255)) == pgd_at.method.attack
    assert (soup.method.alpha, soup.model.adapters.kinds) == (0.5, ["cls_token"])
    assert soup.balance == pgd_at.balance
    assert soup.balance.attack == soup.balance.train
    for other in (pgd_at, standard):
        differing = {key for key, value in dump(other).items() if value != dump(soup)[key]}
        assert differing <= {"about", "method", "model", "balance"}
        assert other.model == soup.model.model_copy(update={"adapters": None})


def write_photos(folder, split, classes, *, each):
    """A parquet file of photos of different sizes."""
    random, cells, labels = np.random.default_rng(len(split)), [], []
    for label in [*range(classes)] * each:
        height, width = random.integers(200, 300, 2)
        pixels = random.integers(0, 100, (height, width, 3), dtype=np.uint8)
        pixels[..., label] += 120
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG")
        cells.append({"bytes": stream.getvalue(), "path": f"{len(cells)}.jpg"})
        labels.append(label)
    path = folder / f"{split}-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": labels}), path)
    return path


def one_epoch(name, folder, *overrides, each=2):
    """Trains a recipe on a few synthetic photos of two classes, on a CPU; only sizes are changed."""
    train_file, test_file = write_photos(folder, "train", 2, each=each), write_photos(folder, "validation", 2, each=1)
    sizes = [
        f"data.source={train_file}", f"data.test={test_file}", "data.validation=2", "batch_size=2", "epochs=1",
        "evaluation.validation_steps=1", "engine.accelerator=cpu", "engine.precision=32", *overrides,
    ]  # fmt: skip
    return train(load_recipe(name, sizes), folder / "run", quiet=True)


def assert_trained(run):
    (epoch,) = records(run)
    assert {*epoch["train"]} == {"loss", "clean", "robust", "attack_success", "grad_norm"}
    assert all(math.isfinite(value) for value in epoch["train"].values())
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    return epoch


def test_the_imagenet_soup_trains_a_small_net_on_small_images(tmp_path):
    small = ("model.name=vit_digits", "model.img_size=32", "model.patch_size=8")
    assert assert_trained(one_epoch("imagenet/soup_vit_b16", tmp_path, *small, each=3))["step"] == 2


@pytest.mark.slow
def test_the_imagenet_soup_takes_a_step_at_full_size(tmp_path):
    run = one_epoch("imagenet/soup_vit_b16", tmp_path)
    assert assert_trained(run)["step"] == 1
    # Of a ViT-B/16's 86,567,656 parameters without 998 of 1,000 classes, and a second class token
    tensors = {name: tensor for name, tensor in weights(run).items() if name not in ("mean", "std")}
    assert sum(tensor.numel() for tensor in tensors.values()) == 86_567_656 - 998 * 769 + 768
    shutil.rmtree(run)  # gigabytes, which pytest would keep
