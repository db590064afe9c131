"""Gradient alignment and the error of the linear model, on losses that are known."""

import pytest
import torch
from torch import Tensor, nn

from inure.losses import cross_entropy
from inure.measures.alignment import gradient_alignment, linearity_error
from inure.noise import CounterNoise
from tiny import assert_same_state, linear_net, noise_of, state_of, tiny_batch, tiny_net


def first_logit(logits: Tensor, y: Tensor) -> Tensor:
    return logits[:, 0]


def gentle_net() -> nn.Sequential:
    """Linear, with two classes, and so unsure that 1 - p keeps its digits."""
    generator = torch.Generator().manual_seed(0)
    return linear_net(0.1 * torch.randn(2, 108, generator=generator), torch.zeros(2))


class Square(nn.Module):
    """|x|^2 / 2 as the only logit; its input gradient is x."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) ** 2).sum(1, keepdim=True) / 2


def test_of_a_linear_net_with_two_classes_it_is_one():
    batch = tiny_batch(classes=2)
    net = gentle_net()
    found = gradient_alignment(net, batch.x, batch.y, epsilon=0.1, noise=noise_of(batch))
    assert float(found) == pytest.approx(1, abs=1e-5)


def test_of_a_quadratic_it_is_the_cosine_of_the_two_points():
    batch = tiny_batch()
    eta = 0.3 * (2 * noise_of(batch).uniform(batch.x) - 1)
    expected = nn.functional.cosine_similarity(batch.x.flatten(1), (batch.x + eta).flatten(1)).mean()
    found = gradient_alignment(
        Square(), batch.x, batch.y, epsilon=0.3, noise=noise_of(batch), criterion=first_logit
    )  # fmt: skip
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


def test_images_without_a_gradient_do_not_count_and_none_at_all_is_one():
    batch = tiny_batch()
    x = batch.x.clone()
    x[1:] = 0  # where the gradient of the square is zero

    def measured(images: Tensor) -> float:
        return float(
            gradient_alignment(Square(), images, batch.y, epsilon=0.3, noise=noise_of(batch), criterion=first_logit)
        )

    one = gradient_alignment(
        Square(), x[:1], batch.y[:1], epsilon=0.3, noise=CounterNoise(0, batch.index[:1]), criterion=first_logit
    )  # fmt: skip
    assert measured(x) == pytest.approx(float(one))
    assert measured(torch.zeros_like(x)) == 1


def test_gradients_too_small_to_be_squared_still_have_a_direction():
    batch = tiny_batch(classes=2)

    def tiny_loss(logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y) * 1e-30

    net = gentle_net()
    found = gradient_alignment(net, batch.x, batch.y, epsilon=0.1, noise=noise_of(batch), criterion=tiny_loss)
    assert float(found) == pytest.approx(1, abs=1e-5)


def test_it_is_the_same_at_every_look_and_knows_each_image_by_its_row():
    batch, net = tiny_batch(), tiny_net()
    found, again = (gradient_alignment(net, batch.x, batch.y, epsilon=0.1, noise=noise_of(batch)) for _ in range(2))
    other = gradient_alignment(net, batch.x, batch.y, epsilon=0.1, noise=noise_of(batch, seed=1))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    assert -1 <= float(found) < 1


def test_the_linear_error_is_zero_of_a_linear_loss_and_half_the_squared_distance_of_a_quadratic():
    batch = tiny_batch()
    x_adv = (batch.x + 0.1 * torch.randn_like(batch.x)).clamp(0, 1)
    linear = gentle_net()
    assert float(linearity_error(linear, batch.x, x_adv, batch.y, criterion=first_logit).max()) < 1e-4
    found = linearity_error(Square(), batch.x, x_adv, batch.y, criterion=first_logit)
    assert torch.allclose(found, ((x_adv - batch.x) ** 2).flatten(1).sum(1) / 2, rtol=1e-3, atol=1e-5)


def test_the_net_is_left_as_it_was():
    batch, net = tiny_batch(), tiny_net().train()
    net.net[1].eval()
    net(batch.x).sum().backward()
    before = state_of(net)
    gradient_alignment(net, batch.x, batch.y, epsilon=0.1, noise=noise_of(batch))
    linearity_error(net, batch.x, batch.x, batch.y)
    assert_same_state(before, state_of(net))
