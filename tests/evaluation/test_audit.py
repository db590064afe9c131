"""The audit finds what is wrong with attacks on broken defences, and nothing wrong with honest nets."""

import dataclasses
import json
import zlib
from typing import Any, Literal

import pytest
import torch
from digit_nets import tensors
from test_flags import Loud, NoGradient, Quantised, Softmax, Stochastic
from torch import Tensor, nn
from torch.nn import functional as F

from inure.attacks import PGD
from inure.data import load
from inure.display.console import Bars
from inure.evaluation.audit import Audit, Effort, audit, checks, draw, signs
from inure.evaluation.audit.curves import last_part
from inure.evaluation.audit.evidence import Evidence
from inure.evaluation.audit.local import Surroundings, surroundings
from inure.evaluation.audit.runs import Subject
from inure.evaluation.examples import Examples
from inure.evaluation.flags import FLAGS
from inure.evaluation.metered import Metered
from inure.evaluation.suites import Member
from inure.losses import cross_entropy
from inure.noise import CounterNoise
from inure.settings.config import Settings
from inure.settings.errors import UserError
from inure.threat import L1, L2, Geometry, Linf, ThreatModel

CPU = torch.device("cpu")
QUICK = Effort(short=3, steps=6, curve_steps=4, queries=20, points=3)
BALL = Linf(epsilon=0.06)


class Silent(Bars):
    """Bars that only remember: (done, total) of every call."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seen: list[tuple[int, int]] = []

    def show(self, name: str, done: int, total: int, *, note: str = "", unit: str = "") -> None:
        self.seen.append((done, total))


def audited(net: nn.Module, examples: Examples, threat: Geometry = BALL, **options: Any) -> Audit:
    settings: dict[str, Any] = {
        "seed": 0,
        "batch_size": 64,
        "device": CPU,
        "bars": Silent(),
        "size": 32,
        "effort": QUICK,
    }
    return audit(Metered(net), examples, threat=threat, **(settings | options))


def severities(result: Audit) -> dict[str, str]:
    return {flag["name"]: flag["severity"] for flag in result.flags}


def check(result: Audit, name: str) -> dict[str, Any]:
    (found,) = [c for c in result.checks if c["name"] == name]
    return found


def evidence(**known: Any) -> Evidence:
    """With nothing but what one check asks for."""
    return Evidence(**({field.name: None for field in dataclasses.fields(Evidence)} | known))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def examples(digits) -> Examples:
    return Examples.of(*tensors(digits.head(64)))


class TwoClasses(nn.Module):
    """Logits (0, w . (x - 1/2) + b): margins, gradients and radii have closed forms."""

    def __init__(self, shape: tuple[int, ...] = (1, 4, 4)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.w = nn.Parameter(torch.randn(shape, generator=generator).flatten())
        self.b = 0.1

    def value(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.w + self.b

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        return torch.stack([torch.zeros_like(value), value], 1)


def two_class_examples(net: TwoClasses, size: int = 24) -> Examples:
    """All right, and far from 0 and 1."""
    x = 0.5 + 0.2 * (torch.rand(size, 1, 4, 4, generator=torch.Generator().manual_seed(5)) - 0.5)
    return Examples.of(x, (net.value(x) > 0).long())


@pytest.fixture(scope="module")
def mlp() -> nn.Module:
    """Fitted to the training digits by a few steps on all of them."""
    x, y = tensors(load("digits", "train"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def of_cnn(cnn, examples) -> Audit:
    return audited(cnn, examples)


def test_an_honest_net_raises_no_severe_flag(of_cnn):
    assert of_cnn.subset["right"] > 28
    assert "severe" not in severities(of_cnn).values(), of_cnn.flags
    assert {c["letter"] for c in of_cnn.checks} == set("abcdefghijk")
    assert len({c["name"] for c in of_cnn.checks}) == len(of_cnn.checks)
    json.dumps(dataclasses.asdict(of_cnn), allow_nan=False)


@pytest.mark.parametrize("threat", [Linf(epsilon=0.1), L1(epsilon=2.0)])
def test_an_honest_net_raises_nothing_with_as_many_steps_as_by_default(mlp, examples, threat):
    result = audited(mlp, examples, threat, size=24, effort=Effort(queries=20, points=10))
    assert result.flags == []
    assert [c["name"] for c in result.checks if not c["passed"]] == ["transfer_is_weaker"]


class Disconnected(Softmax):
    """Autograd finds no way from the logits to the image."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.detach())


class NotANumber(Softmax):
    """Right logits with gradients that are not finite."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + (0 * x).sqrt().flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("defence", "flags"),
    [
        (NoGradient, {"zero_gradient", "vanishing_gradient", "unreachable_zero"}),
        (Disconnected, {"zero_gradient", "vanishing_gradient", "unreachable_zero"}),
        (Quantised, {"zero_gradient", "vanishing_gradient", "unreachable_zero"}),
        (Softmax, {"softmax_output"}),
        (Loud, {"saturated_logits", "vanishing_gradient"}),
        (NotANumber, {"non_finite_gradients"}),
        (Stochastic, {"randomised", "verdict_reversed"}),
    ],
)
def test_a_broken_defence_raises_its_flags(cnn, examples, defence, flags):
    torch.manual_seed(0)
    found = severities(audited(defence(cnn), examples))
    assert flags <= found.keys()
    assert all(found[name] == "severe" for name in flags)


def test_square_and_transferred_images_show_what_a_quantiser_hides(cnn, examples):
    class Foreign(Settings):
        kind: Literal["foreign"] = "foreign"
        threat: ThreatModel = Linf(epsilon=0.12)

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, loss: Any, noise: Any) -> Tensor:
            return PGD(threat=self.threat, steps=5)(cnn, x, y, loss=loss, noise=noise)

    foreign = Member("foreign", Foreign(), cross_entropy)  # type: ignore[arg-type]
    more = dataclasses.replace(QUICK, queries=150)
    found = audited(Quantised(cnn), examples, Linf(epsilon=0.12), transfer=foreign, effort=more)
    assert {"square_beats_white_box", "transfer_beats_white_box"} <= severities(found).keys()
    numbers = check(found, "transfer_is_weaker")["found"]
    assert numbers["broken_only_here"] <= numbers["broken"] > numbers["broken_by_white_box"]
    honest = audited(cnn, examples, Linf(epsilon=0.12), transfer=foreign)
    assert check(honest, "transfer_is_weaker")["passed"] is True


def test_without_another_net_transfer_is_not_decided(of_cnn):
    assert check(of_cnn, "transfer_is_weaker")["passed"] is None


class Trap(nn.Module):
    """Of one number, the shift of a grey image: near 0 it lures steps up, further on back, and at 1 it is wrong."""

    def forward(self, x: Tensor) -> Tensor:
        s = (x - 0.5).flatten(1).mean(1) / 0.1
        bend = s - 2 * F.relu(s - 0.15) + 8 * F.relu(s - 0.6)
        return torch.stack([torch.full_like(s, 0.6), bend], 1)


def test_fgsm_that_breaks_more_than_pgd_raises_its_flag():
    grey = Examples.of(torch.full((8, 1, 8, 8), 0.5), torch.zeros(8, dtype=torch.long))
    result = audited(Trap(), grey, Linf(epsilon=0.1))
    assert severities(result)["fgsm_beats_pgd"] == "severe"
    found = check(result, "weaker_is_not_stronger")["found"]
    assert (found["broken_by_fgsm"], found["broken_by_pgd3"], found["only_fgsm_not_pgd3"]) == (8, 0, 8)


def test_a_net_that_recovers_far_from_the_images_raises_non_monotone():
    class Returning(TwoClasses):
        """Far from grey it looks at the signs of the images that it knows."""

        def forward(self, x: Tensor) -> Tensor:
            far = (x - known).abs().flatten(1).amax(1).max() > 0.11
            return super().forward(known[: len(x)] + 0 * x if far else x)

    net = Returning()
    some = two_class_examples(net, 32)
    known = some.images(torch.arange(32), CPU)
    result = audited(net, some, Linf(epsilon=0.1))
    assert severities(result)["non_monotone"] == "severe"
    standing = check(result, "larger_radius_breaks_more")["found"]["standing"]
    assert standing[3] < standing[4] - 3


def test_too_few_steps_are_called_weak_and_not_converged(cnn, examples):
    found = severities(audited(cnn, examples, Linf(epsilon=0.1), effort=dataclasses.replace(QUICK, short=1, steps=2)))
    assert found["weak_attack"] == found["not_converged"] == "warning"


@pytest.mark.parametrize("threat", [Linf(epsilon=0.02), L2(epsilon=0.06)])
def test_success_against_the_radius_is_that_of_the_closed_form(threat):
    net = TwoClasses()
    some = two_class_examples(net)
    margins = net.value(some.images(torch.arange(len(some)), CPU)).abs().detach()
    norm = net.w.abs().sum() if threat.kind == "linf" else net.w.norm()
    result = audited(net, some, threat, effort=dataclasses.replace(QUICK, curve_steps=20))
    points = result.curves["success"]["points"]
    assert [p["ratio"] for p in points] == pytest.approx([0, 0.25, 0.5, 1, 2, 4, 8])
    expected = [int((margins > p["radius"] * norm).sum()) for p in points]
    assert [p["standing"] for p in points] == expected
    assert len(set(expected)) > 3
    assert result.curves["success"]["chance"] == 0.5


def test_linearity_and_cosine_are_those_of_the_closed_form():
    net = TwoClasses()
    some = two_class_examples(net)
    subject = Subject(Metered(net), some, 24, Linf(epsilon=0.02), 0, 5, CPU, lambda *_: None)
    near = surroundings(subject, 3)
    assert near is not None
    z = net.value(some.images(torch.arange(24), CPU)).abs().double().detach()
    drop = 0.02 * float(net.w.detach().abs().sum())
    torch.testing.assert_close(near.cosine, torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(near.predicted, drop * torch.sigmoid(-z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(near.rise, F.softplus(drop - z) - F.softplus(-z), rtol=1e-4, atol=1e-5)
    assert bool((near.instability.double() <= (drop / z).clamp_max(1)).all())
    assert float(near.instability.min()) > 0


def test_recorded_losses_are_those_of_the_iterates_of_an_independent_loop(cnn, examples):
    subject = Subject(Metered(cnn), examples, 12, BALL, 7, 5, CPU, lambda *_: None)
    attack = PGD(threat=BALL, steps=3, step_size=0.02, start="uniform", keep="worst")
    steps = subject.run(Member("pgd3", attack, cross_entropy), 4).steps
    assert steps is not None
    x, y, index = subject.batch(subject.attacked)
    x_adv = BALL.random_start(x, CounterNoise(7, index, zlib.crc32(b"pgd3")))
    for k in range(4):
        x_adv = x_adv.detach().requires_grad_()
        logits = cnn(x_adv)
        loss = F.cross_entropy(logits, y, reduction="none")
        (grad,) = torch.autograd.grad(loss.sum(), x_adv)
        torch.testing.assert_close(steps.loss[k], loss.detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(steps.fooled[k], logits.argmax(1) != y)
        x_adv = (x + (x_adv + 0.02 * grad.sign() - x).clamp(-0.06, 0.06)).clamp(0, 1)
    assert steps.zero.shape == (3, len(y))


def test_an_attack_that_forgets_what_it_found_is_a_silent_success(cnn, examples):
    class Forgetful(Settings):
        kind: Literal["forgetful"] = "forgetful"
        threat: ThreatModel = Linf(epsilon=0.2)

        def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, loss: Any, noise: Any) -> Tensor:
            PGD(threat=self.threat, steps=5, keep="worst")(model, x, y, loss=loss, noise=noise)
            return x

    subject = Subject(Metered(cnn), examples, 16, Linf(epsilon=0.2), 0, 16, CPU, lambda *_: None)
    run = subject.run(Member("forgetful", Forgetful(), cross_entropy), 6)  # type: ignore[arg-type]
    found = checks.best_is_returned(evidence(right=subject.right, long=run, steps=100))
    assert found["passed"] is False
    assert found["flag"] == "silent_success"
    assert found["found"]["silent_successes"] == run.standing.sum() == subject.right.sum()


@pytest.mark.parametrize(("gap", "cosine", "passed"), [(30, 0.1, False), (30, 0.5, True), (20, 0.1, True)])
def test_overfitting_to_one_step_needs_the_gap_and_the_turned_gradient(gap, cosine, passed):
    def run(standing: int) -> Any:
        return type("Stood", (), {"standing": torch.arange(100) < standing})

    values = torch.full((4,), cosine, dtype=torch.float64)
    near = Surroundings(predicted=values + 2, rise=values + 1, cosine=values, instability=values)
    known = evidence(right=torch.ones(100).bool(), near=near, fgsm=run(50 + gap), short=run(50), short_steps=10)
    found = signs.no_single_step_overfitting(known)
    assert found["passed"] is passed
    assert found["found"]["fgsm_minus_pgd"] == pytest.approx(gap / 100)
    assert found["found"]["relative_linear_error"] == pytest.approx(1 / (1 + cosine))


def test_the_last_part_of_a_curve_is_that_of_its_rise():
    assert last_part([float(k) for k in range(101)]) == pytest.approx(0.1)
    assert last_part([1 - 0.5**k for k in range(101)]) == pytest.approx(0.5**90, rel=1e-3, abs=1e-15)
    assert last_part([2.0, 2.0, 2.0]) is None
    assert last_part([1.0, None, None]) is None
    assert last_part([]) is None


def without_costs(tree: Any) -> Any:
    if isinstance(tree, dict):
        costs = ("seconds", "forwards", "backwards")
        return {key: without_costs(value) for key, value in tree.items() if key not in costs}
    return [without_costs(item) for item in tree] if isinstance(tree, list) else tree


def test_nothing_depends_on_the_batch_size_or_on_memory_that_runs_out(cnn, examples, of_cnn):
    class Large(Softmax):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 16:
                raise torch.OutOfMemoryError
            return self.net(x)

    # What passes were made depends on it: those that broke leave a batch at certain steps, and two stay at least
    whole = without_costs(dataclasses.asdict(of_cnn))
    few = without_costs(dataclasses.asdict(audited(cnn, examples, batch_size=16)))
    assert few == whole
    poor = without_costs(dataclasses.asdict(audited(Large(cnn), examples)))
    assert [c["passed"] for c in poor["checks"]] == [c["passed"] for c in whole["checks"]]
    assert poor["curves"]["success"] == whole["curves"]["success"]


def test_the_callers_net_counts_and_generator_are_left_alone(cnn, examples):
    model, state = Metered(cnn.train()), torch.get_rng_state()
    model.forwards = 5
    audit(
        model, examples, threat=BALL, seed=0, batch_size=8, device=CPU, bars=Silent(), size=8, effort=QUICK
    )  # fmt: skip
    assert (model.forwards, model.backwards) == (5, 0)
    assert cnn.training
    cnn.eval()
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None or not p.grad.any() for p in cnn.parameters())


def test_the_bar_ends_where_it_was_planned_to():
    net, bars = TwoClasses(), Silent()
    some = two_class_examples(net)
    result = audited(net, some, Linf(epsilon=0.02), bars=bars, size=24, batch_size=10)
    assert bars.seen[-2] == bars.seen[-1] == (bars.seen[0][1],) * 2
    # Square and searches stop early at most: the bar counts no more than is planned
    assert result.subset["forwards"] <= bars.seen[0][1]


def test_wrong_examples_stay_in_the_denominators_and_are_not_attacked(cnn, examples):
    x, y = examples.images(torch.arange(16), CPU), examples.labels[:16].clone()
    y[:4] = (cnn(x[:4]).argmax(1) + 1) % 10
    result = audited(cnn, Examples.of(x, y))
    assert result.subset["right"] <= 12
    assert result.curves["success"]["points"][0]["robust_accuracy"] == result.subset["right"] / 16
    assert all(attack["standing"] <= result.subset["right"] for attack in result.subset["attacks"])


def test_where_nothing_is_right_no_question_about_attacks_is_decided(cnn, examples):
    x = examples.images(torch.arange(8), CPU)
    result = audited(cnn, Examples.of(x, (cnn(x).argmax(1) + 1) % 10))
    decided = {c["letter"] for c in result.checks if c["passed"] is not None}
    assert decided == {"f", "g"}
    json.dumps(dataclasses.asdict(result), allow_nan=False)
    assert draw(result).startswith(b"\x89PNG")


def test_randomness_that_the_attacks_average_over_is_a_note(cnn, examples):
    torch.manual_seed(0)
    found = severities(audited(Stochastic(cnn), examples, averages=True))
    assert found["randomised"] == found["verdict_reversed"] == "note"


def test_the_picture_names_its_axes_and_marks_epsilon_and_chance(monkeypatch):
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
    net = TwoClasses()
    picture = draw(audited(net, two_class_examples(net), Linf(epsilon=0.2)))
    assert picture.startswith(b"\x89PNG")
    (figure,) = drawn
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    left, right = figure.axes
    legend = left.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert "epsilon = 0.2" in words
    assert "guessing at random" in words
    # 8 times 0.2 is cut to 1, the largest distance there is
    assert [label.get_text() for label in left.get_xticklabels()][-1] == "1\n5"
    assert torch.as_tensor(right.lines[0].get_xdata())[-1] == 2 * QUICK.steps


def test_radius_zero_can_be_audited(cnn, examples):
    result = audited(cnn, examples, Linf(epsilon=0.0), size=8)
    assert len(result.curves["success"]["points"]) == 1
    assert draw(result).startswith(b"\x89PNG")


def test_thresholds_are_those_in_the_table_of_flags():
    share, least = f"{100 * checks.NOISE:g} %", f"(and {checks.NOISE_EXAMPLES})"
    for name in ("fgsm_beats_pgd", "non_monotone"):
        assert f"over {share} {least}" in FLAGS[name].threshold
    share, least = f"{100 * checks.GAIN:g} %", f"(and {checks.GAIN_EXAMPLES})"
    for name in ("weak_attack", "silent_success", "transfer_beats_white_box"):
        assert f"over {share} {least}" in FLAGS[name].threshold
    for name, value in (
        ("vanishing_gradient", f"{100 * signs.ZERO_GRADIENTS:g} %"),
        ("not_converged", f"{100 * signs.LAST_RISE:g} %"),
        ("unstable_predictions", f"{100 * signs.INSTABILITY:g} %"),
        ("catastrophic_overfitting", f"{100 * signs.OVERFIT_GAP:g} points"),
        ("catastrophic_overfitting", f"under {signs.OVERFIT_COSINE:g}"),
    ):
        assert value in FLAGS[name].threshold


def test_settings_out_of_range_are_refused(cnn, examples):
    with pytest.raises(UserError):
        audited(cnn, examples, size=0)
    with pytest.raises(UserError):
        Effort(short=100, steps=100)
