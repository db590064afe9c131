"""Eight deliberately broken defences each raise their flag; five honest nets raise none."""

import copy
from pathlib import Path

import pytest
import torch
from digit_nets import fitted, tensors
from torch import Tensor, nn

from inure.attacks import PGD
from inure.evaluation.examples import Examples
from inure.evaluation.flags import FLAGS, beaten_white_box
from inure.evaluation.metered import Metered
from inure.evaluation.probes import probe
from inure.losses import cross_entropy
from inure.models import Classifier, Model, build
from inure.threat import Linf

CPU = torch.device("cpu")


class Softmax(nn.Module):
    """Probabilities instead of logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(1)


class Stochastic(Softmax):
    """Noise on the image, also in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.05 * torch.randn_like(x))


class Quantised(Softmax):
    """Eight grey levels: right where it was right, no gradient anywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((7 * x).round() / 7)


class NoGradient(Softmax):
    """A layer whose backward gives nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.detach() + 0 * x)


class Optimising(Softmax):
    """Cleans the image by a few gradient steps inside the forward."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            cleaned = x.detach().requires_grad_()
            entropy = torch.special.entr(self.net(cleaned).softmax(1)).sum()
            (grad,) = torch.autograd.grad(entropy, cleaned)
        return self.net(x - 0.01 * grad)


class BatchStatistics(Softmax):
    """A BatchNorm that never leaves train mode."""

    def train(self, mode: bool = True) -> "BatchStatistics":
        return super().train(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Twice(Softmax):
    """Normalises images that the net inside normalises again."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.5) / 0.5)


class Loud(Softmax):
    """Logits times a thousand."""

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * self.net(x)


@pytest.fixture(scope="module")
def examples(digits) -> Examples:
    return Examples.of(*tensors(digits.head(64)))


@pytest.fixture(scope="module")
def wrn() -> Classifier:
    """A net with BatchNorm."""
    return fitted("wrn10_1", epochs=2, lr=3e-3)


@pytest.fixture(scope="module")
def normalised() -> Classifier:
    """A net that was trained with mean and std 0.5 inside."""
    return fitted("vit_digits", epochs=7, lr=3e-3)


def names(net: nn.Module, examples: Examples) -> list[str]:
    return [flag["name"] for flag in probe(Metered(net), examples, CPU)]


@pytest.mark.parametrize(
    ("defence", "flag"),
    [
        (Softmax, "softmax_output"),
        (NoGradient, "zero_gradient"),
        (Stochastic, "randomised"),
        (Quantised, "zero_gradient"),
        (Optimising, "dynamic_forward"),
        (Loud, "saturated_logits"),
    ],
)
def test_a_broken_defence_raises_its_flag(cnn, examples, defence, flag):
    found = probe(Metered(defence(cnn)), examples, CPU)
    assert flag in [f["name"] for f in found]
    assert all(f["severity"] == FLAGS[f["name"]].severity == "severe" and f["detail"] for f in found)


def test_batchnorm_in_train_mode_raises_its_flag(wrn, examples):
    assert "batch_dependent" in names(BatchStatistics(copy.deepcopy(wrn)), examples)


def test_double_and_missing_normalisation_raise_their_flags(normalised, examples):
    assert "double_normalisation" in names(Twice(normalised), examples)
    bare = copy.deepcopy(normalised)
    bare.mean.zero_()
    bare.std.fill_(1)
    assert "missing_normalisation" in names(bare, examples)


@pytest.mark.parametrize("net", ["cnn", "vit", "wrn", "normalised", "hardened"])
def test_an_honest_net_raises_none(request, examples, net):
    if net == "hardened":
        honest = copy.deepcopy(request.getfixturevalue("cnn"))
        x, y = examples.images(torch.arange(64), CPU), examples.labels
        optimizer = torch.optim.SGD(honest.parameters(), lr=0.05)
        for _ in range(20):
            torch.manual_seed(0)
            x_adv = PGD(threat=Linf(epsilon=0.05), steps=3)(honest.eval(), x, y)
            optimizer.zero_grad()
            cross_entropy(honest(x_adv), y).mean().backward()
            optimizer.step()
    else:
        honest = request.getfixturevalue(net)
    assert names(honest, examples) == []


def test_a_net_left_in_train_mode_is_put_into_eval_mode_and_back(wrn, examples):
    net = copy.deepcopy(wrn).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert names(net, examples) == []
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_probing_costs_nothing_in_the_counts_and_draws_nothing(cnn, examples):
    model, state = Metered(cnn), torch.get_rng_state()
    probe(model, examples, CPU)
    assert (model.forwards, model.backwards) == (0, 0)
    assert torch.equal(state, torch.get_rng_state())


def test_randomness_is_a_note_where_the_attacks_average(cnn, examples):
    (flag,) = [f for f in probe(Metered(Stochastic(cnn)), examples, CPU, averages=True) if f["name"] == "randomised"]
    assert flag["severity"] == "note"


def test_colours_and_few_images_are_probed_too():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(Model(name="cnn_tiny"), num_classes=3, shape=(3, 8, 8)).eval()
        x = torch.rand(3, 3, 8, 8)
    assert names(net, Examples.of(x, net(x).argmax(1))) == []


def test_the_engine_of_autograd_is_put_back_after_a_fault(examples):
    from torch.autograd import Variable

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError

    before = Variable._execution_engine
    with pytest.raises(ValueError):
        probe(Metered(Broken()), examples, CPU)
    assert Variable._execution_engine is before


@pytest.mark.parametrize(
    ("standing", "total", "raised"),
    [
        ([("clean", 90), ("apgd_ce", 60), ("square", 57)], 100, True),
        ([("clean", 90), ("apgd_ce", 60), ("square", 59)], 100, False),
        ([("clean", 9000), ("apgd_ce", 6000), ("square", 5985)], 10000, False),
        ([("clean", 9000), ("apgd_ce", 6000), ("square", 5979)], 10000, True),
        ([("clean", 90), ("apgd_ce", 60)], 100, False),
        ([("clean", 90), ("square", 30)], 100, False),
        ([("clean", 90), ("transfer-other", 50), ("square", 30)], 100, False),
    ],
)
def test_square_beats_white_box_by_the_written_threshold(standing, total, raised):
    names = [f["name"] for f in beaten_white_box(standing, total)]
    assert names == ["square_beats_white_box"] * raised


def test_a_transfer_may_beat_the_white_box_too():
    (found,) = beaten_white_box([("clean", 90), ("pgd20", 60), ("transfer-other", 40)], 100)
    assert (found["name"], found["severity"]) == ("transfer_beats_white_box", "severe")


def test_the_table_of_flags_in_the_docs_is_what_the_code_says():
    page = (Path(__file__).parents[2] / "docs/robustness.md").read_text()
    rows = [f"| `{name}` | {rule.severity} | {rule.threshold} |" for name, rule in FLAGS.items()]
    assert "\n".join(rows) in page
