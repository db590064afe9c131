"""What a run would cost, before it is started: ``inure train ... --dry-run``."""

import time
from typing import Any

import torch

from . import engine
from .data import to_batch
from .models import build
from .recipe import Recipe
from .run import yaml_of
from .train import train_step
from .types import Batch

_MEASURED = 16


def passes(recipe: Recipe) -> dict[str, float]:
    """Passes of one training step in units of one batch, at full strength: forwards, input and full backwards."""
    method: Any = recipe.method
    attack = getattr(method, "attack", None)
    steps = getattr(attack, "steps", 1) if attack is not None else 0
    restarts = getattr(attack, "restarts", 1) if attack is not None else 0
    width = 2.0 if method.kind in ("trades", "mart") else 1.0
    updates = 2.0 if recipe.perturbation is not None else 1.0
    extra = 1.0 if method.kind == "trades" else 0.0
    if restarts > 1 or getattr(attack, "keep", "last") == "worst":
        extra += restarts  # every run's last point is looked at too
    return {
        "forwards": steps * restarts + extra + width * updates,
        "input_backwards": float(steps * restarts),
        "full_backwards": width * updates,
    }


def forecast(recipe: Recipe) -> None:
    """Print the resolved recipe, the passes per step and the time expected from one measured step.

    On a CPU the step is measured on at most 16 images and scaled up; on a GPU on the whole batch.
    """
    print(yaml_of(recipe), end="")
    fabric = engine.start(recipe.engine.model_copy(update={"devices": 1, "compile": False}))
    training, validation = recipe.data.load_training(recipe.model.img_size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        net = build(recipe.model, num_classes=training.num_classes, shape=training.shape)
        model, optimizer = fabric.setup(net, recipe.optimizer.build(net))
        measured = recipe.batch_size if fabric.device.type == "cuda" else min(recipe.batch_size, _MEASURED)
        rows = torch.arange(min(measured, len(training)))
        pixels, labels = training.batch(rows).to(fabric.device), training.labels[rows].to(fabric.device)
        x, y = to_batch(pixels, labels, recipe.augment, training.num_classes)
        seconds = 0.0
        for _ in range(2):  # the first one warms up
            begin = time.perf_counter()
            logged = train_step(
                fabric, model, optimizer, Batch(x, y, rows, 1.0 - 1e-9), method=recipe.method, balance=recipe.balance,
                regime=recipe.regime, perturbation=recipe.perturbation, clip_norm=recipe.optimizer.clip_norm,
            )  # fmt: skip
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
