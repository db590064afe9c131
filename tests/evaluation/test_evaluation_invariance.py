"""No verdict depends on the batch size, the order of the examples, the threads, or memory running out."""

import pytest
import torch
from digit_nets import Limited, by_example, fingerprint, tensors
from torch import Tensor, nn

from inure.attacks import PGD
from inure.evaluation import SUITES, Member, evaluate
from inure.losses import cross_entropy
from inure.models import Model, build
from inure.threat import Linf


def pgd(steps: int, epsilon: float) -> list[Member]:
    attack = PGD(threat=Linf(epsilon=epsilon), steps=steps, step_size=epsilon / 4, keep="worst")
    return [Member("pgd", attack, cross_entropy)]


def own_labels(net: nn.Module, x: Tensor) -> Tensor:
    """What the net predicts: every example is attacked."""
    with torch.no_grad():
        return net.eval()(x).argmax(1)


def perceptron(first: int, second: int, activation: nn.Module) -> nn.Module:
    """For images (3, 4, 4)."""
    hidden = [nn.Linear(48, first), activation, nn.Linear(first, second), activation]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(second, 7))


@pytest.fixture(scope="module")
def of_cnn(cnn, digits):
    """What is asked of the CNN, and the answer for all examples in one batch."""
    case = (cnn, *tensors(digits.head(140)), SUITES["quick"](Linf(epsilon=0.06)))
    return case, fingerprint(*case, batch_size=360)


@pytest.mark.parametrize("batch_size", [7, 64, 128])
def test_a_cnn_gives_the_same_bits_for_every_batch_size(of_cnn, batch_size):
    case, alone = of_cnn
    assert fingerprint(*case, batch_size=batch_size) == alone
    assert {name for name, _ in alone} == {"clean", "pgd20", "cw20"}


@pytest.fixture(scope="module")
def of_vit(vit, digits):
    """What is asked of the ViT, and the answer for all examples in one batch."""
    case = (vit, *tensors(digits.head(100)), pgd(4, 0.03))
    return case, fingerprint(*case, batch_size=128)


@pytest.mark.parametrize("batch_size", [7, 64])
def test_a_vit_gives_the_same_bits_for_every_batch_size(of_vit, batch_size):
    case, alone = of_vit
    assert fingerprint(*case, batch_size=batch_size) == alone


def test_a_resnet_of_random_weights_gives_the_same_bits_for_every_batch_size():
    net = build(Model(name="cifar_resnet18"), num_classes=10, shape=(3, 16, 16))
    x = torch.rand(34, 3, 16, 16)
    y = own_labels(net, x)
    members = pgd(1, 1 / 255)
    # Two batches of 32 against one of 64, padding included
    assert fingerprint(net, x, y, members, batch_size=17) == fingerprint(net, x, y, members, batch_size=128)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet18", "preact_resnet18", "vit_tiny"])
def test_larger_nets_give_the_same_bits_for_every_batch_size(name):
    net = build(Model(name=name), num_classes=10, shape=(3, 32, 32))
    x = torch.rand(70, 3, 32, 32)
    y = own_labels(net, x)
    found = [fingerprint(net, x, y, pgd(5, 1 / 255), batch_size=size) for size in (128, 64, 7)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("batch_size", [1, 8, 40, 256])
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.Mish(), nn.Softplus()], ids=str)
def test_odd_widths_give_the_same_bits_for_every_batch_size(activation, batch_size):
    # A tensor that ends within a vector of the CPU has its last elements computed by other code
    net, x = perceptron(33, 32, activation), torch.rand(200, 3, 4, 4)
    y, members = own_labels(net, x), pgd(1, 0.05)
    assert fingerprint(net, x, y, members, batch_size=batch_size) == fingerprint(net, x, y, members, batch_size=128)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads):
    net, x = perceptron(601, 604, nn.Mish()), torch.rand(500, 3, 4, 4)
    y, members = own_labels(net, x), pgd(1, 0.05)
    alone = fingerprint(net, x, y, members, batch_size=32)
    torch.set_num_threads(threads)
    assert [fingerprint(net, x, y, members, batch_size=size) for size in (32, 128, 512)] == [alone] * 3
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("suite", ["quick", "fgsm", "clean"])
def test_a_permutation_of_the_examples_permutes_the_verdicts(cnn, digits, suite):
    x, y = tensors(digits.head(140))
    index, order = torch.arange(len(x)) * 3 + 5, torch.randperm(len(x))
    options = {"suite": suite, "threat": Linf(epsilon=0.06)}
    straight = evaluate(cnn, x, y, index=index, **options)
    mixed = evaluate(cnn, x[order], y[order], index=index[order], batch_size=50, **options)
    assert by_example(mixed.outcomes) == by_example(straight.outcomes)
    assert torch.equal(mixed.robust, straight.robust[order])
    assert {i for _, i in by_example(straight.outcomes)} == set(index.tolist())


def test_a_subset_of_the_examples_has_the_verdicts_it_has_among_all(cnn, digits):
    options = {"suite": "pgd20", "threat": Linf(epsilon=0.06)}
    every = by_example(evaluate(cnn, digits, **options).outcomes)
    rows = torch.arange(3, 360, 17)
    some = by_example(evaluate(cnn, digits.subset(rows), **options).outcomes)
    assert some == {key: row for key, row in every.items() if key[1] in rows.tolist()}


def test_an_attack_finds_in_a_suite_what_it_finds_alone(cnn, digits):
    together, alone = (evaluate(cnn, digits, suite=s, threat="linf:0.06").outcomes for s in ("quick", "cw20"))
    alone = by_example(alone)
    second = {key: row for key, row in by_example(together).items() if key[0] == "cw20"}
    assert len(second) > 100
    assert all(row == alone[key] for key, row in second.items())


def test_the_seed_and_the_index_do_change_the_start(cnn, digits):
    x, y = tensors(digits.head(40))
    once = SUITES["pgd20"](Linf(epsilon=0.06))
    first = fingerprint(cnn, x, y, once, batch_size=64)
    other = fingerprint(cnn, x, y, once, batch_size=64, index=torch.arange(40) + 1)
    attacked = [i for name, i in first if name != "clean"]
    assert sum(first["pgd20", i] != other["pgd20", i + 1] for i in attacked) > len(attacked) / 2
    seeds = [evaluate(cnn, x, y, suite="pgd20", threat=Linf(epsilon=0.06), seed=s).pictures["x_adv"] for s in (0, 1)]
    assert not torch.equal(*seeds)


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory")
MPS = RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)")


AT_ONCE = {"suite": "quick", "threat": Linf(epsilon=0.06), "batch_size": 128}


@pytest.fixture(scope="module")
def plain(cnn, digits):
    """What is found where memory suffices."""
    return evaluate(cnn, digits.head(140), **AT_ONCE)


@pytest.mark.parametrize(("limit", "error"), [(127, CUDA), (40, CPU), (16, MPS), (8, CUDA)], ids=str)
def test_out_of_memory_retreats_to_a_smaller_batch_with_the_same_verdicts(cnn, digits, plain, limit, error):
    net = Limited(cnn, limit, error)
    retreated = evaluate(net, digits.head(140), **AT_ONCE)
    assert net.largest == 1 << (limit.bit_length() - 1)
    assert by_example(retreated.outcomes) == by_example(plain.outcomes)
    for ours, theirs in zip(retreated.summary["attacks"], plain.summary["attacks"], strict=True):
        assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}


def test_memory_that_holds_no_eight_images_and_other_faults_end_the_evaluation(cnn, digits):
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Limited(cnn, 7, CUDA), digits, suite="clean", threat=Linf())
    with pytest.raises(RuntimeError, match="another fault"):
        evaluate(Limited(cnn, 8, RuntimeError("another fault")), digits, suite="clean", threat=Linf())
