"""FGSM from anisotropic noise: its limits, where its noise lies, and how large it is."""

import os

import numpy as np
import pytest
import torch

from inure import load_recipe
from inure.attacks import FGSM, NoisyFGSM, input_gradient
from inure.losses import cross_entropy
from inure.settings.errors import UserError
from inure.threat import Linf
from inure.training.passes import passes
from inure.training.train import train
from processes import TINY_ATTACK
from tiny import noise_of

LINF = Linf(epsilon=0.05)


def test_without_noise_it_is_fgsm_bit_for_bit(net, batch):
    plain = FGSM(threat=LINF)(net, batch.x, batch.y)
    for scale in ("data", "gradient"):
        assert torch.equal(NoisyFGSM(threat=LINF, noise=0, scale=scale)(net, batch.x, batch.y), plain)


@pytest.mark.parametrize("scale", ["data", "gradient", "file"])
def test_the_noise_is_that_large_and_lies_where_the_scale_says(net, tmp_path, scale):
    generator = torch.Generator().manual_seed(0)
    spread = 0.1 * torch.rand(3, 6, 6, generator=generator)
    x = 0.5 + spread * (2 * torch.rand(4000, 3, 6, 6, generator=generator) - 1)
    y = torch.zeros(4000, dtype=torch.long)
    file = None
    if scale == "data":
        expected = (x - x.mean(0)).square().mean(0).sqrt()
    elif scale == "gradient":
        expected = input_gradient(net, x, y, cross_entropy)[0].abs().mean(0)
    else:
        expected, file = spread, str(tmp_path / "scale.npy")
        np.save(file, spread.numpy())
    expected = expected / expected.square().mean().sqrt()
    attack = NoisyFGSM(threat=LINF, noise=0.5, scale=scale, file=file, step_size=0)
    torch.manual_seed(0)
    found = (attack(net, x, y) - x).square().mean(0).sqrt()
    assert found.square().mean().sqrt().item() == pytest.approx(0.5 * 0.05, rel=0.01)
    assert torch.allclose(found, 0.5 * 0.05 * expected, rtol=0.1, atol=1e-3)


def test_images_that_do_not_differ_get_the_same_noise_everywhere(net):
    x, y = torch.full((200, 3, 6, 6), 0.5), torch.zeros(200, dtype=torch.long)
    torch.manual_seed(0)
    moved = NoisyFGSM(threat=LINF, step_size=0)(net, x, y) - x
    assert moved.std().item() == pytest.approx(0.05, rel=0.05)


def test_the_step_follows_the_gradient_at_the_noisy_image_and_clip_returns_to_the_ball(net, batch):
    still = NoisyFGSM(threat=LINF, step_size=0)(net, batch.x, batch.y, noise=noise_of(batch))
    x_adv = NoisyFGSM(threat=LINF, step_size=0.03)(net, batch.x, batch.y, noise=noise_of(batch))
    grad, _, _ = input_gradient(net, still, batch.y, cross_entropy)
    assert torch.equal(x_adv, (still + 0.03 * grad.sign()).clamp(0, 1))
    clipped = NoisyFGSM(threat=LINF, step_size=0.03, clip=True)(net, batch.x, batch.y, noise=noise_of(batch))
    assert LINF.distance(clipped, batch.x).max() <= 0.05 + 1e-6
    assert LINF.distance(x_adv, batch.x).max() > 0.06


def test_a_file_is_read_once_and_again_when_it_has_changed(net, batch, tmp_path, monkeypatch):
    file, read = str(tmp_path / "scale.npy"), []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, **o: read.append(a) or load(*a, **o))
    np.save(file, np.ones((3, 6, 6)))
    attack = NoisyFGSM(threat=LINF, scale="file", file=file, step_size=0)
    even = [attack(net, batch.x, batch.y, noise=noise_of(batch)) for _ in range(3)]
    assert len(read) == 1
    np.save(file, np.concatenate([np.zeros((2, 6, 6)), np.ones((1, 6, 6))]))
    os.utime(file, ns=(1, 1))  # the clock of a file system may be coarse
    changed = attack(net, batch.x, batch.y, noise=noise_of(batch))
    assert torch.equal(changed[:, :2], batch.x[:, :2])
    assert not torch.equal(even[0][:, :2], batch.x[:, :2])


@pytest.mark.parametrize("place", ["method.attack", "regime.phases[0].attack"])
def test_a_missing_file_is_told_by_its_key_before_a_run_begins_and_costs_no_name(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)

    def recipe(file):
        attack = f"{{kind: noisy_fgsm, scale: file, file: {file}}}"
        phases = f"regime.phases=[{{until: 1, attack: {attack}}}]"
        where = f"method.attack={attack}" if place == "method.attack" else phases
        return load_recipe("digits/pgd_at", [*TINY_ATTACK, "regime.epsilon=null", where])

    with pytest.raises(UserError, match="allowed a .npy file of numbers") as caught:
        train(recipe("none.npy"), "run", quiet=True)
    assert caught.value.setting == f"{place}.file"
    np.save("there.npy", np.ones((8, 8)))
    np.save("small.npy", np.ones((3, 4, 4)))
    with pytest.raises(UserError, match="allowed what broadcasts to"):
        train(recipe("small.npy"), "run", quiet=True)
    train(recipe("there.npy"), "run", quiet=True)
    assert passes(recipe("small.npy"))["forwards"] > 0, "counted on images of another shape"


def test_a_file_that_does_not_fit_is_refused_in_one_line(net, batch, tmp_path):
    with pytest.raises(UserError, match="file: got None; allowed a .npy file with scale=file"):
        NoisyFGSM(scale="file")
    with pytest.raises(UserError, match="file: got a.npy; allowed a .npy file with scale=file, else nothing"):
        NoisyFGSM(file="a.npy")
    for name, numbers, message in (
        ("shape", np.ones((2, 6, 6)), r"of shape \(2, 6, 6\); allowed what broadcasts to \(3, 6, 6\)"),
        ("sign", -np.ones((3, 6, 6)), "not negative"),
        ("infinite", np.full((3, 6, 6), np.inf), "finite"),
    ):
        file = str(tmp_path / f"{name}.npy")
        np.save(file, numbers)
        with pytest.raises(UserError, match=message):
            NoisyFGSM(threat=LINF, scale="file", file=file)(net, batch.x, batch.y)
    with pytest.raises(UserError, match="a .npy file of numbers"):
        NoisyFGSM(threat=LINF, scale="file", file=str(tmp_path / "none.npy"))(net, batch.x, batch.y)
