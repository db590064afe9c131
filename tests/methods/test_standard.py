"""Standard training looks at clean images only."""

import torch

from inure.losses import cross_entropy
from inure.methods import Standard


def test_standard_training_is_the_criterion_on_the_clean_images(net, batch):
    method = Standard()
    assert method.craft(net, batch, None, cross_entropy) is batch.x
    losses = method.losses(net, batch, torch.full_like(batch.x, torch.nan), cross_entropy)
    assert torch.equal(losses.total, cross_entropy(net(batch.x), batch.y))
    assert losses.parts == {}
