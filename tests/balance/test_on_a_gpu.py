"""On a GPU: criteria, radii and the counter give what they do on the CPU, and nobody waits for the device."""

from dataclasses import replace

import pytest
import torch

from contracts import CRITERIA
from inure.balance import Balance, ClassEpsilon, Counter
from tiny import soft, tiny_batch

pytestmark = pytest.mark.gpu


def batch_on(device, *, labels="hard"):
    batch = tiny_batch(64)
    y = soft(batch.y) if labels == "soft" else batch.y
    memory = {
        "class_counts": torch.tensor([50.0, 20, 7, 0]).double(),
        "counter.last": torch.tensor([60.0, 17, 0, 0]).double(),
        "counter.now": torch.zeros(4).double(),
    }
    memory = {name: value.to(device) for name, value in memory.items()}
    return replace(batch, x=batch.x.to(device), y=y.to(device), index=batch.index.to(device), memory=memory)


def results(criterion, device, labels, mode):
    batch = batch_on(device, labels=labels)
    logits = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    balance = Balance(train=criterion, epsilon=ClassEpsilon())
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)
    try:
        values = balance.train_at(batch)(logits, batch.y)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        radii = balance.radii(batch)
        Counter().observe(batch, logits.detach())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [t.cpu() for t in (values.detach(), gradient, radii, batch.memory["counter.now"])]


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: c.kind)
def test_criteria_radii_and_counter_agree_with_the_cpu_and_do_not_wait_for_the_device(criterion, labels):
    results(criterion, "cuda", labels, "default")  # the first call may set up libraries
    for here, there in zip(
        results(criterion, "cpu", labels, "default"), results(criterion, "cuda", labels, "error"), strict=True
    ):
        assert torch.allclose(here, there, rtol=1e-4, atol=1e-5)
