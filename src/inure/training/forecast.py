"""What a run would cost, before it is started: ``inure train ... --dry-run``."""

import time

import torch

from .. import memory
from ..data import to_batch
from ..machine import engine
from ..models import build
from ..recipe.recipe import Recipe
from ..recipe.refusals import refuse_unfit
from ..recipe.regime import END
from ..runs.run import yaml_of
from ..types import Batch
from .passes import passes
from .step import joints_of, step_of

_MEASURED = 16


def forecast(recipe: Recipe) -> None:
    """Print the resolved recipe, the passes per step and the time expected from one measured step.

    On a CPU the step is measured on at most 16 images and scaled up; on a GPU on the whole batch.
    """
    print(yaml_of(recipe), end="")
    fabric = engine.start(recipe.engine.model_copy(update={"devices": 1, "compile": False}))
    training, validation = recipe.data.load_training(recipe.model.img_size)
    refuse_unfit(recipe, training.shape)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        net = build(recipe.model, num_classes=training.num_classes, shape=training.shape)
        model, optimizer = fabric.setup(net, recipe.optimizer.build(net))
        measured = recipe.batch_size if fabric.device.type == "cuda" else min(recipe.batch_size, _MEASURED)
        rows = torch.arange(min(measured, len(training)))
        pixels, labels = training.batch(rows).to(fabric.device), training.labels[rows].to(fabric.device)
        x, y = to_batch(pixels, labels, recipe.augment, training.num_classes)
        facts = memory.facts_of(training.labels, training.num_classes, training.shape, len(rows), fabric.device)
        batch = Batch(x, y, rows, END, memory.begin(recipe, facts))
        seconds = 0.0
        for _ in range(2):  # the first one warms up
            begin = time.perf_counter()
            joints = joints_of(recipe, recipe.method)
            logged = step_of(recipe.method)(fabric, model, optimizer, batch, method=recipe.method, joints=joints)
            float(logged["loss"])
            seconds = time.perf_counter() - begin
    per_step = seconds * recipe.batch_size / len(rows)
    steps_per_epoch = -(-len(training) // recipe.batch_size)
    parameters = sum(p.numel() for p in net.parameters())
    for name, value in passes(recipe).items():
        print(f"# {name.replace('_', ' ')} a step: {value:g} x batch")
    print(f"# {parameters:,} parameters, {len(training):,} training and {len(validation):,} validation images")
    print(f"# {steps_per_epoch} steps an epoch, {per_step:.3g} s a step on {fabric.device} (from {len(rows)} images)")
    minutes = per_step * steps_per_epoch * recipe.epochs / 60
    print(f"# expected: {minutes:.1f} minutes of training for {recipe.epochs} epochs on one device, without validation")
