"""Perturbation random masking: counts, places, whose derivative it is, and the limits of the schedule."""

import pytest
import torch
from nets import classifier, images, vit

from inure.attacks import PGD, input_gradient
from inure.crafting import PerturbationMasking
from inure.losses import cross_entropy
from inure.settings.errors import UserError
from inure.threat import Linf

LINF = Linf(epsilon=8 / 255)


def masks(trick, progress, x, steps=1):
    """(steps, B, G, G) bool: what is shown."""
    trick.begin(None, progress)
    shown = [trick.step(k, torch.ones_like(x), torch.zeros_like(x)) for k in range(steps)]
    trick.end()
    side = trick.patch
    cells = torch.stack(shown)[:, :, 0, ::side, ::side]
    for mask in shown:  # whole patches, all channels
        whole = cells[len(shown) - 1] if mask is shown[-1] else None
        if whole is not None:
            grown = whole.repeat_interleave(side, 1).repeat_interleave(side, 2)
            assert torch.equal(mask, grown[:, None].expand_as(mask))
    return cells.bool()


@pytest.mark.parametrize(("side", "patch"), [(8, 2), (32, 4), (224, 16), (12, 3), (6, 6)])
@pytest.mark.parametrize("r", [0, 0.05, 0.3, 0.5, 0.77, 1])
def test_floor_of_the_share_is_hidden(side, patch, r):
    trick, grid = PerturbationMasking(warmup=0.5, patch=patch), (side // patch) ** 2
    shown = masks(trick, 0.5 * r, torch.rand(2, 3, side, side))
    hidden = int(grid * (1 - 0.5 * r / 0.5))
    assert (~shown).sum((2, 3)).unique().tolist() == [hidden]


def test_one_mask_for_the_batch_redrawn_at_every_step():
    shown = masks(PerturbationMasking(warmup=1, patch=4), 0.5, torch.rand(3, 3, 32, 32), steps=5)
    assert all(torch.equal(step, step[:1].expand_as(step)) for step in shown)
    assert len({tuple(step[0].flatten().tolist()) for step in shown}) == 5


def test_a_mask_for_each_image_if_asked():
    trick = PerturbationMasking(warmup=1, patch=4, per_example=True)
    shown = masks(trick, 0.5, torch.rand(6, 3, 32, 32))[0]
    assert len({tuple(mask.flatten().tolist()) for mask in shown}) == 6


def test_every_patch_is_hidden_equally_often():
    shown = masks(PerturbationMasking(warmup=1, patch=4), 0.75, torch.rand(1, 1, 32, 32), steps=2000)
    share = (~shown).double().mean((0, 1))
    assert (share - 0.25).abs().max() < 5 * (0.25 * 0.75 / 2000) ** 0.5


def test_it_is_the_loop_written_out_with_the_derivative_at_the_masked_perturbation():
    net, (x, y) = classifier(vit(), torch.float64), images(dtype=torch.float64)
    trick = PerturbationMasking(warmup=1, patch=2)
    trick.begin(net, 0.5)
    torch.manual_seed(5)
    found = PGD(threat=LINF, steps=3, step_size=2 / 255)(net, x, y, crafting=trick)

    torch.manual_seed(5)
    delta = LINF.random_start(x, _Torch()) - x
    for _ in range(3):
        hidden = torch.rand(1, 16).topk(8, dim=1).indices[0].tolist()
        for cell in hidden:
            row, column = 2 * (cell // 4), 2 * (cell % 4)
            delta[:, :, row : row + 2, column : column + 2] = 0
        gradient = input_gradient(net, x + delta, y, cross_entropy)[0]
        assert (gradient[:, :, 2 * (hidden[0] // 4), 2 * (hidden[0] % 4)] != 0).any()
        delta = (delta + 2 / 255 * gradient.sign()).clamp(-8 / 255, 8 / 255)
        delta = (x + delta).clamp(0, 1) - x
    trick.end()
    torch.testing.assert_close(found, x + delta, rtol=0, atol=1e-12)


class _Torch:
    def uniform(self, like):
        return torch.rand_like(like)


@pytest.mark.parametrize("start", ["zero", "uniform", "gaussian"])
def test_at_the_start_ten_steps_go_no_further_than_one(start):
    net, (x, y) = classifier(vit()), images()
    trick = PerturbationMasking(patch=2)
    trick.begin(net, 0.0)
    x_adv = PGD(threat=LINF, steps=10, step_size=2 / 255, start=start)(net, x, y, crafting=trick)
    trick.end()
    assert 0 < (x_adv - x).abs().max() <= 2 / 255 + 1e-6


def test_the_result_is_masked_only_if_asked():
    x, x_adv = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)
    for final_mask, hidden in ((False, 0.0), (True, 0.5)):
        trick = PerturbationMasking(warmup=1, patch=2, final_mask=final_mask)
        trick.begin(None, 0.5)
        assert float((trick.finish(x_adv, x) == 0).double().mean()) == hidden
        trick.end()
        assert torch.equal(trick.finish(x_adv, x), x_adv)


def test_patches_that_do_not_tile_the_images_are_refused():
    trick = PerturbationMasking(patch=5)
    with pytest.raises(UserError, match="crafting.perturbation_masking.patch: got 5; allowed a divisor of 8"):
        trick.prepare(classifier(vit()))
    trick.begin(None, 0.0)
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(UserError, match="crafting.perturbation_masking.patch: got 5; allowed a divisor of 32"):
        trick.step(0, x, x)
