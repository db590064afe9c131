"""Who is attacked from where, who counts, what is refused, how much it costs, and an exact case."""

import numpy as np
import pytest
import torch
from digit_nets import ReadsPixels, Spy, by_example
from torch import Tensor, nn

from closed_forms import worst_case
from inure.attacks import FGSM, PGD
from inure.evaluation import SUITES, evaluate
from inure.settings.errors import UserError
from inure.threat import L1, L2, Linf
from tiny import linear_net

EPSILON = 0.15
THREAT = Linf(epsilon=EPSILON)


def readable(count: int = 40) -> tuple[Tensor, Tensor]:
    """Images whose first pixel says k / 9, k = 0, 1, ...; every fourth label is not what it says."""
    x, k = torch.rand(count, 1, 4, 4), torch.arange(count) % 10
    x[:, 0, 0, 0] = k / 9
    return x, torch.where(torch.arange(count) % 4 == 0, (k + 1) % 10, k)


def unread(x: Tensor, y: Tensor) -> Tensor:
    """Changes a pixel that the net does not look at."""
    x_adv = x.clone()
    x_adv[:, 0, 3, 3] = (x_adv[:, 0, 3, 3] - 0.1).clamp_min(0)
    return x_adv


def breaks(divisor: int, step: float = 1 / 9):
    """Moves the pixel that is read by one class where label % divisor == 0, else one that is not."""

    def move(x: Tensor, y: Tensor) -> Tensor:
        x_adv = unread(x, y)
        there = y % divisor == 0
        x_adv[there, 0, 0, 0] += torch.where(x[there, 0, 0, 0] > 0.5, -step, step)
        return x_adv

    return move


def test_later_attacks_see_only_survivors_and_always_the_original_image(monkeypatch):
    spy = Spy(monkeypatch, first=breaks(3), second=breaks(2), third=unread)
    x, y = readable()
    index = torch.arange(len(x)) * 7 + 2
    found = evaluate(ReadsPixels(), x, y, suite="spy", threat=THREAT, index=index, batch_size=8)
    right = {int(i) for i, row in zip(index, range(40), strict=True) if row % 4}
    labels = dict(zip(index.tolist(), y.tolist(), strict=True))
    second = {i for i in right if labels[i] % 3}
    third = {i for i in second if labels[i] % 2}
    for name, expected in (("first", right), ("second", second), ("third", third)):
        given = spy.given(name)
        assert given.keys() == expected
        for i, (image, label) in given.items():
            row = index.tolist().index(i)
            assert torch.equal(image, x[row])
            assert label == y[row]
    assert found.robust.tolist() == [i in third for i in index.tolist()]
    shares = [a["robust_accuracy"] for a in found.summary["attacks"]]
    assert shares == [len(second) / 40, len(third) / 40, len(third) / 40]
    assert found.summary["clean_accuracy"] == len(right) / 40
    rows = by_example(found.outcomes)
    assert {name for name, i in rows if i == int(index[0])} == {"clean"}


def test_what_is_wrong_from_the_start_is_never_attacked_but_counts(monkeypatch):
    spy = Spy(monkeypatch, only=unread)
    x, y = readable()
    found = evaluate(ReadsPixels(), x, y, suite="spy", threat=THREAT)
    assert not spy.given("only").keys() & set(range(0, 40, 4))
    assert found.summary["robust_accuracy"] == found.summary["clean_accuracy"] == 0.75
    assert found.summary["examples"] == 40


def test_an_attack_that_finds_nobody_standing_is_not_run(monkeypatch):
    spy = Spy(monkeypatch, first=breaks(1), second=unread)
    x, y = readable()
    found = evaluate(ReadsPixels(), x, y, suite="spy", threat=THREAT)
    assert not spy.given("second")
    second = found.summary["attacks"][1]
    assert second == {"name": "second", "robust_accuracy": 0.0, "seconds": 0.0, "forwards": 0, "backwards": 0}


def test_a_fresh_forward_decides_and_not_what_the_attack_believes(monkeypatch):
    Spy(monkeypatch, idle=lambda x, y: x)
    x, y = readable()
    found = evaluate(ReadsPixels(), x, y, suite="spy", threat=THREAT)
    assert found.summary["robust_accuracy"] == found.summary["clean_accuracy"]
    assert found.summary["attacks"][0]["forwards"] == 30


def beyond(x: Tensor, y: Tensor) -> Tensor:
    inward = torch.where(x > 0.5, -1.0, 1.0)
    return x + inward * (EPSILON + 2e-6)


BAD_ATTACKS = {
    "perturbation": beyond,
    r"not in \[0, 1\]": lambda x, y: torch.where(x > 0.5, x + 0.1, x),
    "not finite": lambda x, y: torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 3, torch.nan, x),
}


@pytest.mark.parametrize("said", BAD_ATTACKS)
def test_an_attack_that_leaves_the_ball_or_the_box_ends_the_evaluation(monkeypatch, tmp_path, said):
    Spy(monkeypatch, cheat=BAD_ATTACKS[said])
    x, y = readable()
    with pytest.raises(RuntimeError, match=f"cheat: .*{said}"):
        evaluate(ReadsPixels(), x, y, suite="spy", threat=THREAT, out=tmp_path)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("threat", [L2(epsilon=0.5), L1(epsilon=0.5)], ids=str)
def test_the_ball_is_that_of_the_threat_and_not_of_the_attack(monkeypatch, threat):
    Spy(monkeypatch, linf=lambda x, y: (x + 0.15).clamp_max(1))
    x, y = readable()
    with pytest.raises(RuntimeError, match="linf: returned a perturbation"):
        evaluate(ReadsPixels(), x, y, suite="spy", threat=threat)


@pytest.mark.parametrize("size", [6, 32])
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 3.0, 12.0])
@pytest.mark.parametrize("kind", [L2, L1])
def test_our_own_attacks_stay_inside_to_the_last_float64_digit(kind, epsilon, size):
    x = (torch.rand(64, 3, size, size) * 1.3 - 0.15).clamp(0, 1)
    net = linear_net(torch.randn(5, 3 * size * size), torch.zeros(5)).eval()
    with torch.no_grad():
        y = net(x).argmax(1)
    evaluate(net, x, y, suite="quick", threat=kind(epsilon=epsilon))


@pytest.mark.parametrize("steps", [20, 100])
def test_passes_of_pgd_are_those_of_the_closed_form(cnn, digits, steps):
    found = evaluate(cnn, digits.head(45), suite=f"pgd{steps}", threat=Linf(epsilon=0.06), batch_size=16)
    attacked = round(found.summary["clean_accuracy"] * 45)
    (attack,) = found.summary["attacks"]
    # A gradient pass per step, the last iterate's loss, the verdict
    assert attack["backwards"] == steps * attacked
    assert attack["forwards"] == (steps + 2) * attacked


def test_passes_of_every_attack_of_a_cascade(cnn, digits):
    found = evaluate(cnn, digits.head(45), suite="quick", threat=Linf(epsilon=0.06))
    standing = found.summary["clean_accuracy"]
    for attack in found.summary["attacks"]:
        assert attack["forwards"] == 22 * round(45 * standing)
        assert attack["backwards"] == 20 * round(45 * standing)
        standing = attack["robust_accuracy"]
    fgsm = evaluate(cnn, digits.head(45), suite="fgsm", threat=Linf(epsilon=0.06)).summary
    attacked = round(45 * fgsm["clean_accuracy"])
    assert [fgsm["attacks"][0][key] for key in ("forwards", "backwards")] == [2 * attacked, attacked]


def test_the_clean_verdict_costs_one_forward_an_example(cnn, digits, tmp_path, monkeypatch):
    from inure.evaluation import journal

    records, add = [], journal.Journal.add
    monkeypatch.setattr(journal.Journal, "add", lambda self, record: (records.append(record), add(self, record)))
    evaluate(cnn, digits.head(45), suite="clean", threat=THREAT, batch_size=16)
    assert sum(r["forwards"] for r in records) == 45
    assert sum(r["backwards"] for r in records) == 0


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("suite", ["fgsm", "pgd20", "quick"])
def test_a_linear_classifier_falls_exactly_where_the_closed_form_says(suite, epsilon):
    weight, bias = torch.randn(2, 64), 0.1 * torch.randn(2)
    x = (1.4 * torch.rand(300, 1, 8, 8) - 0.2).clamp(0, 1)
    net, threat = linear_net(weight, bias), Linf(epsilon=epsilon)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::7] = 1 - y[::7]
    w = weight.double().numpy()
    margins = np.array([
        (w[1 - t] - w[t]) @ image + float(bias[1 - t] - bias[t]) + worst_case(threat, w[1 - t] - w[t], image)
        for t, image in zip(y.tolist(), x.flatten(1).double().numpy(), strict=True)
    ])  # fmt: skip
    assert np.abs(margins).min() > 1e-4
    found = evaluate(net, x, y, suite=suite, threat=threat)
    assert found.robust.tolist() == (margins < 0).tolist()
    assert 0 < found.robust.sum() < 258 or epsilon == 0


class Sick(nn.Module):
    """A linear net with logits that are not finite where the first pixel exceeds a bound."""

    def __init__(self, bound: float, value: float) -> None:
        super().__init__()
        self.linear, self.bound, self.value = nn.Linear(16, 3), bound, value

    def forward(self, x: Tensor) -> Tensor:
        sick = x[:, 0, 0, 0, None] > self.bound
        logits = self.linear(x.flatten(1))
        return torch.where(sick, logits * self.value, logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_count_as_wrong_and_are_flagged(value, tmp_path):
    net, x = Sick(0.8, value), torch.rand(60, 1, 4, 4)
    sick = x[:, 0, 0, 0] > 0.8
    with torch.no_grad():
        y = net.linear(x.flatten(1)).argmax(1)
    found = evaluate(net, x, y, suite="clean", threat=THREAT, out=tmp_path)
    assert torch.equal(found.robust, ~sick)
    rows = by_example(found.outcomes)
    assert all((rows["clean", i]["clean_prediction"] == -1) == bool(sick[i]) for i in range(60))
    (flag,) = found.summary["flags"]
    assert (flag["name"], flag["severity"]) == ("non_finite_logits", "severe")
    assert flag["detail"].startswith(f"{int(sick.sum())} of 60 ")
    assert found.summary["verified"] is False
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    assert 0 <= found.summary["calibration"]["clean_ece"] <= 1


def test_a_net_that_falls_ill_under_attack_ends_in_a_flag_and_not_in_an_error():
    net, x = Sick(0.8, float("nan")), 0.8 * torch.rand(60, 1, 4, 4)
    with torch.no_grad():
        net.linear.weight[:, 0] = torch.tensor([1.0, 2.0, 3.0])
        y = net(x).argmax(1)
    found = evaluate(net, x, y, suite="quick", threat=Linf(epsilon=0.3))
    names = {flag["name"] for flag in found.summary["flags"]}
    assert names == {"non_finite_logits", "non_finite_gradients"}
    assert found.summary["verified"] is False
    ill = [r for r in found.outcomes.to_pylist() if r["adversarial_prediction"] == -1]
    assert ill
    assert not any(r["robust"] for r in ill)


def test_flags_of_the_caller_join_those_found(cnn, digits):
    flag = {"name": "training_images", "severity": "severe", "detail": "seen before"}
    found = evaluate(cnn, digits.head(8), suite="clean", threat=THREAT, flags=[flag])
    assert found.summary["flags"] == [flag]
    assert found.summary["verified"] is False


def test_suites_are_what_their_names_say():
    threat = Linf(epsilon=8 / 255)
    every = {name: suite(threat) for name, suite in SUITES.items() if name != "ddn"}
    with pytest.raises(UserError, match="--suite: got ddn under linf; allowed ddn under l2"):
        SUITES["ddn"](threat)
    assert {"clean", "fgsm", "pgd20", "pgd100", "cw20", "quick"} <= every.keys()
    assert [m.name for m in every["quick"]] == ["pgd20", "cw20"]
    assert every["fgsm"][0].attack == FGSM(threat=threat)
    for name, steps, loss in (("pgd20", 20, "cross_entropy"), ("pgd100", 100, "cross_entropy"), ("cw20", 20, "margin")):
        (member,) = every[name]
        expected = PGD(threat=threat, steps=steps, step_size=2 / 255, start="uniform", keep="worst")
        assert isinstance(member.attack, PGD)
        assert member.attack.step_size == pytest.approx(2 / 255, rel=1e-12)
        assert member.attack.model_copy(update={"step_size": 2 / 255}) == expected
        assert member.loss.__name__ == loss
    with pytest.raises(UserError, match="--suite: got nonsense"):
        evaluate(nn.Identity(), torch.rand(1, 1, 1, 1), torch.zeros(1).long(), suite="nonsense", threat=threat)
