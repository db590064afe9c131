"""A net of any mode and precision is evaluated in eval mode and float32, and left exactly as it was found."""

import copy

import pytest
import torch
from digit_nets import Spy, by_example, tensors
from torch import Tensor, nn

from inure.evaluation import evaluate
from inure.models import Classifier
from inure.settings.errors import UserError
from inure.threat import Linf
from tiny import assert_same_state, state_of, tiny_batch, tiny_net

THREAT = Linf(epsilon=0.02)


def worn(dtype: torch.dtype = torch.float32) -> Classifier:
    """A net with BatchNorm and dropout in the middle of training: mixed modes, gradients, a frozen parameter."""
    net = tiny_net()
    net.net.insert(6, nn.Dropout(0.5))
    net.train()
    net.net[1].eval()
    batch = tiny_batch()
    nn.functional.cross_entropy(net(batch.x), batch.y).backward()
    net.net[0].weight.requires_grad_(False)
    net.net[3].weight.grad = None
    return net.to(dtype)


def images(size: int = 40) -> tuple[Tensor, Tensor]:
    """With the labels that the net predicts."""
    batch, net = tiny_batch(size), worn().eval()
    with torch.no_grad():
        return batch.x, net(batch.x).argmax(1)


@pytest.mark.parametrize("suite", ["clean", "quick"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_net_is_left_exactly_as_it_was_found(dtype, suite):
    net = worn(dtype)
    before = state_of(net)
    found = evaluate(net, *images(), suite=suite, threat=THREAT)
    assert_same_state(before, state_of(net))
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert not any(hooks for m in net.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks))
    as_float32 = evaluate(copy.deepcopy(net).eval().float(), *images(), suite=suite, threat=THREAT)
    assert by_example(found.outcomes) == by_example(as_float32.outcomes)
    if dtype == torch.float32:
        # Dropout and batch statistics would have changed predictions
        assert found.summary["clean_accuracy"] == 1


def test_the_net_is_left_as_it_was_found_after_a_fault_too(monkeypatch):
    def fails(x: Tensor, y: Tensor) -> Tensor:
        raise ArithmeticError

    Spy(monkeypatch, broken=fails)
    net = worn()
    before = state_of(net)
    with pytest.raises(ArithmeticError):
        evaluate(net, *images(), suite="spy", threat=THREAT)
    assert_same_state(before, state_of(net))
    with pytest.raises(UserError, match="images: got"):
        evaluate(net, torch.rand(4, 1, 5, 5), torch.zeros(4).long(), suite="clean", threat=THREAT)
    assert_same_state(before, state_of(net))


class Recorder(nn.Module):
    """Remembers the mode, the precision and the gradient flags of every forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, set()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x)
        modes = {m.training for m in self.modules()}
        trainable = {p.requires_grad for p in self.parameters()}
        self.seen.add((str(x.dtype), str(logits.dtype), *modes, *trainable, torch.is_autocast_enabled("cpu")))
        return logits


@pytest.mark.parametrize("autocast", [False, True])
def test_every_forward_is_in_eval_mode_frozen_and_in_float32(autocast):
    net = Recorder(worn())
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = evaluate(net, *images(), suite="quick", threat=THREAT)
        assert torch.is_autocast_enabled("cpu") == autocast
    # The probe before the attacks comes before the parameters are frozen
    expected = {("torch.float32", "torch.float32", False, False, False)}
    assert expected <= net.seen
    assert {row[:3] + row[-1:] for row in net.seen} == {("torch.float32", "torch.float32", False, False)}
    plain = evaluate(worn(), *images(), suite="quick", threat=THREAT)
    assert by_example(found.outcomes) == by_example(plain.outcomes)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad])
def test_global_state_of_torch_is_untouched(grad, tmp_path):
    net, data = worn(), images()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with grad():
        enabled = torch.is_grad_enabled()
        evaluate(net, *data, suite="quick", threat=THREAT, out=tmp_path)
        assert torch.is_grad_enabled() == enabled
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_generator_of_torch_decides_nothing():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(evaluate(worn(), *images(), suite="quick", threat=THREAT))
    assert by_example(found[0].outcomes) == by_example(found[1].outcomes)
    assert torch.equal(found[0].pictures["x_adv"], found[1].pictures["x_adv"])


def test_images_and_labels_are_left_as_they_were_found():
    x, y = images()
    x_before, y_before = x.clone(), y.clone()
    evaluate(worn(), x.requires_grad_(), y, suite="quick", threat=THREAT)
    assert torch.equal(x, x_before)
    assert torch.equal(y, y_before)
    assert x.grad is None


def test_precision_and_layout_of_the_images_change_nothing(cnn, digits):
    x, y = tensors(digits.head(60))
    plain = by_example(evaluate(cnn, x, y, suite="pgd20", threat=THREAT).outcomes)
    last = x.contiguous(memory_format=torch.channels_last)
    for images_, labels in ((x.double(), y), (last, y), (x, y.int()), (x, y.to(torch.uint8)), (digits.head(60), None)):
        found = by_example(evaluate(cnn, images_, labels, suite="pgd20", threat=THREAT).outcomes)
        assert {(n, i): r for (n, i), r in found.items()} == renumbered(plain, digits.index[:60], images_)


def renumbered(rows, index: Tensor, images_) -> dict:
    """Rows with the numbers of the data set, if that is what was evaluated."""
    if isinstance(images_, Tensor):
        return rows
    return {(name, int(index[i])): {**row, "index": int(index[i])} for (name, i), row in rows.items()}


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum((1, 2, 3))


class Whole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(0, keepdim=True)


STRANGE = [
    (Flat(), r"shape \(8,\)"),
    (Whole(), r"shape \(1, 16\)"),
    (Pair(), "AttributeError"),
    (nn.Conv2d(3, 4, 3), "3 channels"),
]


@pytest.mark.parametrize(("net", "said"), STRANGE)
def test_a_net_that_does_not_make_logits_of_these_images_is_refused(net, said, tmp_path):
    with pytest.raises(UserError, match=rf"^model: .*{said}") as caught:
        evaluate(net, torch.rand(4, 1, 4, 4), torch.zeros(4).long(), threat=THREAT, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
