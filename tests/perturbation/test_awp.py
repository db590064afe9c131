"""Adversarial weight perturbation: how far, which weights, and everything back afterwards."""

import pytest
import torch
from torch import nn

from inure.losses import cross_entropy
from inure.perturbation import AWP
from tiny import assert_same_state, state_of, tiny_net


def backward_of(net, batch):
    def backward():
        cross_entropy(net(batch.x), batch.y).mean().backward()

    return backward


def weights_of(net) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


class Named(nn.Module):
    """A matrix that is not called weight, a vector that is, and one matrix without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.table = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 4))
        self.weight_of_classes = nn.Parameter(torch.rand(4))
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        return self.net(x.mean((2, 3))) @ self.table * self.weight_of_classes


@pytest.mark.parametrize("gamma", [0.005, 0.1])
def test_every_matrix_moves_gamma_times_its_norm_along_its_gradient(batch, gamma):
    net = tiny_net().train().double()
    batch = type(batch)(batch.x.double(), batch.y, batch.index, batch.progress)
    reference = tiny_net().train().double()
    backward_of(reference, batch)()
    before = weights_of(net)
    matrices = {name for name, w in before.items() if w.ndim > 1}
    assert matrices == {"net.0.weight", "net.3.weight", "net.7.weight"}
    with AWP(gamma=gamma).active(net, backward_of(net, batch)):
        moved = {name: p.detach() - before[name] for name, p in net.named_parameters()}
    for name, gradient in ((name, p.grad) for name, p in reference.named_parameters()):
        if name in matrices:
            expected = gamma * before[name].norm() * gradient / gradient.norm()
            assert moved[name].norm().item() == pytest.approx(gamma * before[name].norm().item(), rel=1e-9)
            assert torch.allclose(moved[name], expected, rtol=1e-7)
        else:
            assert not moved[name].any(), name


def test_vectors_other_names_and_weights_without_gradient_stay(batch):
    net = Named()
    before = weights_of(net)
    with AWP(gamma=0.1).active(net, backward_of(net, batch)):
        moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"net.weight"}


def test_the_perturbation_raises_the_loss(net, batch):
    with torch.no_grad():
        before = cross_entropy(net.train()(batch.x), batch.y).mean()
    with AWP(gamma=0.05).active(net, backward_of(net, batch)), torch.no_grad():
        assert cross_entropy(net(batch.x), batch.y).mean() > before + 0.01


@pytest.mark.parametrize("breaks", [False, True])
def test_awp_restores_weights_exactly_even_after_an_exception(batch, breaks):
    net = tiny_net().train()
    before = state_of(net)
    try:
        with AWP(gamma=0.3).active(net, backward_of(net, batch)):
            assert not torch.equal(net.net[0].weight, before["value net.0.weight"])
            if breaks:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert breaks
    # Running statistics belong to the outer pass, which there was none of here
    assert_same_state(before, state_of(net))


def test_an_exception_in_the_first_pass_leaves_the_net_as_it_was(batch):
    net = tiny_net().train()
    before = state_of(net)

    def backward():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"), AWP().active(net, backward):
        pytest.fail("the block must not run")
    assert_same_state(before, state_of(net))


def test_batch_norm_statistics_see_the_outer_pass_only(batch):
    """One update, at the perturbed weights: as if the first pass had not been."""
    net, reference = tiny_net().train(), tiny_net().train()
    with AWP(gamma=0.1).active(net, backward_of(net, batch)):
        perturbed = weights_of(net)
        backward_of(net, batch)()
    with torch.no_grad():
        for name, p in reference.named_parameters():
            p.copy_(perturbed[name])
    backward_of(reference, batch)()
    for name, value in reference.named_buffers():
        assert torch.equal(dict(net.named_buffers())[name], value), name


def test_the_gradient_left_behind_is_the_one_at_the_perturbed_weights(batch):
    net, reference = tiny_net().train(), tiny_net().train()
    with AWP(gamma=0.1).active(net, backward_of(net, batch)):
        perturbed = weights_of(net)
        assert all(p.grad is None for p in net.parameters())
        backward_of(net, batch)()
    with torch.no_grad():
        for name, p in reference.named_parameters():
            p.copy_(perturbed[name])
    backward_of(reference, batch)()
    for name, p in reference.named_parameters():
        assert torch.equal(dict(net.named_parameters())[name].grad, p.grad), name


def test_gamma_zero_is_the_plain_gradient_bit_for_bit(batch):
    net, plain = tiny_net().train(), tiny_net().train()
    backward_of(plain, batch)()
    with AWP(gamma=0).active(net, backward_of(net, batch)):
        backward_of(net, batch)()
    assert_same_state(state_of(plain), state_of(net))


def test_a_gradient_of_zero_moves_nothing(net):
    before = weights_of(net)

    def backward():
        (net(torch.rand(8, 3, 6, 6)) * 0).sum().backward()

    with AWP(gamma=0.1).active(net, backward):
        for name, p in net.named_parameters():
            assert torch.equal(p, before[name])
