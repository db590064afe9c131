"""From a recipe to a session: data, net, optimizer, averager and memory, with the newest checkpoint loaded."""

from typing import Any

import torch

from .. import memory as memory_of_run
from ..balance.notices import notices
from ..data import Loader
from ..data.record import record, remarks
from ..machine import engine
from ..models import build
from ..models.adapters import settle
from ..recipe.recipe import Recipe
from ..recipe.refusals import refuse_unfit
from ..runs.run import Run
from .session import Session
from .step import local_module
from .validation import Validator


def assemble(fabric: Any, recipe: Recipe, run: Run, *, seed: int, deadline: float | None, quiet: bool) -> Session:
    """Data, net, optimizer and averager as the recipe says, with the newest checkpoint loaded."""
    training, validation = recipe.data.load_training(recipe.model.img_size)
    refuse_unfit(recipe, training.shape)
    torch.manual_seed(seed)
    net = build(recipe.model, num_classes=training.num_classes, shape=training.shape)
    if net.mixture is not None:  # before it is compiled
        settle(net, training.batch(torch.arange(2)).cpu().float() / 255)
    if recipe.crafting is not None:
        recipe.crafting.prepare(net)
    net = engine.prepare(recipe.engine, net)
    model, optimizer = fabric.setup(net, recipe.optimizer.build(net))
    averager = recipe.averaging.build(local_module(model)) if recipe.averaging else None
    place = {"device": fabric.device, "rank": fabric.global_rank, "world_size": fabric.world_size}
    loader = Loader(
        training.to(fabric.device), batch_size=recipe.batch_size, seed=recipe.seed, augment=recipe.augment,
        num_workers=recipe.data.workers, **place,
    )  # fmt: skip
    validator = Validator(
        validation.to(fabric.device), recipe.evaluation, clean=getattr(recipe.method, "clean", None),
        robust=getattr(recipe.method, "robust", None), every_class=recipe.data.long_tail is not None, **place,
    )  # fmt: skip
    facts = memory_of_run.facts_of(
        training.labels, training.num_classes, training.shape, recipe.batch_size, fabric.device
    )
    memory = memory_of_run.begin(recipe, facts)
    session = Session(
        fabric=fabric, recipe=recipe, run=run, model=model, optimizer=optimizer, averager=averager, loader=loader,
        validator=validator, memory=memory, num_classes=training.num_classes, deadline=deadline, quiet=quiet,
    )  # fmt: skip
    for line in remarks(recipe.data, training, validation):
        session.bars.say(line)
    if fabric.is_global_zero:
        data = record(recipe.data, training, validation, run.path)
        run.write_info(
            status="running", command=run.command(), data=data, class_names=list(training.class_names),
            num_classes=training.num_classes, input_shape=list(training.shape),
        )  # fmt: skip
    session.restore()
    if session.progress.step > 0 and fabric.is_global_zero:
        run.log({"event": "resume", "step": session.progress.step})
    if session.progress.step == 0 and "rollback" in (recipe.guards.nonfinite, recipe.guards.catastrophic):
        session.save(sound=True)  # something to go back to
    if session.progress.step == 0:
        for kind, detail in notices(recipe, net):
            session.ledger.warn(0, 0, kind, detail)
    return session
