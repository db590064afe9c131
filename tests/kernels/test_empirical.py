"""The empirical kernel against brute force, first-order dynamics and closed forms, in float64."""

import math

import lightning_fabric
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inure.kernels import kernel, kernel_distance, layer_kernels, per_class, trace_kernel, traced, whole
from inure.models import Classifier, Model, build
from inure.models.adapt import adapt, fold
from inure.settings.errors import UserError
from tiny import CLASSES, SHAPE, assert_same_state, linear_net, state_of, tiny_batch, tiny_net

DOUBLE = {"dtype": torch.float64}


def slow_kernel(net: nn.Module, x: Tensor) -> Tensor:
    """(C, C, N, N) from one backward of torch.autograd for each image and logit."""
    rows = []
    for image in x:
        logits = net(image[None])[0]
        for value in logits:
            grads = torch.autograd.grad(value, [*net.parameters()], retain_graph=True)
            rows.append(torch.cat([grad.flatten() for grad in grads]))
    jacobian = torch.stack(rows)
    classes = len(rows) // len(x)
    return (jacobian @ jacobian.T).view(len(x), classes, len(x), classes).permute(1, 3, 0, 2)


@pytest.fixture
def net():
    return tiny_net().double().eval()


@pytest.fixture
def x():
    return tiny_batch(6).x.double()


def test_it_is_the_gram_matrix_of_autograd(net, x):
    expected = slow_kernel(net, x)
    assert torch.allclose(kernel(net, x, whole, **DOUBLE), expected, rtol=1e-11, atol=1e-11)
    diagonal = torch.stack([expected[c, c] for c in range(CLASSES)])
    assert torch.allclose(kernel(net, x, **DOUBLE), diagonal, rtol=1e-11, atol=1e-11)
    assert torch.allclose(trace_kernel(net, x, **DOUBLE), diagonal.mean(0), rtol=1e-11, atol=1e-11)


def test_it_is_symmetric_positive_and_its_trace_is_the_squared_jacobian(net, x):
    found = kernel(net, x, whole, **DOUBLE)
    matrix = found.permute(2, 0, 3, 1).reshape(len(x) * CLASSES, -1)
    assert torch.equal(matrix, matrix.T)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-12 * eigenvalues.max()
    squares = 0.0
    for image in x:
        for value in net(image[None])[0]:
            grads = torch.autograd.grad(value, [*net.parameters()], retain_graph=True)
            squares += float(sum((grad**2).sum() for grad in grads))
    assert float(matrix.trace()) == pytest.approx(squares, rel=1e-12)


def test_one_small_step_moves_the_logits_as_the_kernel_says(net, x):
    """f(theta - eta dL) - f = -eta K dL/df + O(eta^2): the relative error is linear in eta."""
    y = tiny_batch(6).y
    logits = net(x)
    loss = F.cross_entropy(logits, y, reduction="sum")
    grads = torch.autograd.grad(loss, [*net.parameters()])
    residual = logits.detach().softmax(1) - F.one_hot(y, CLASSES)
    predicted = -torch.einsum("cdij,jd->ic", kernel(net, x, whole, **DOUBLE), residual)
    errors = []
    for eta in (1e-7, 1e-8):
        moved = tiny_net().double().eval()
        with torch.no_grad():
            for parameter, grad in zip(moved.parameters(), grads, strict=True):
                parameter -= eta * grad
            change = (moved(x) - logits) / eta
        errors.append(float((change - predicted).norm() / predicted.norm()))
    assert errors[0] < 1e-2
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def test_a_net_homogeneous_of_degree_three_has_its_logits_along_the_weights(x):
    """<theta, df/dtheta> = L f of a ReLU net without biases: checks that no parameter is missing from the Jacobian."""
    from inure.kernels.jacobian import Jacobian, looking_at

    layers = [nn.Linear(math.prod(SHAPE), 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU()]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), *layers, nn.Linear(8, 3, bias=False)).double()
    with looking_at(net, "running") as plain:
        jacobian = Jacobian(plain, x, None, batch_statistics=False, dtype=torch.float64, chunk=2)
        names = [*jacobian.parameters]
        blocks = jacobian.blocks(names, slice(0, len(x)))
    along = sum(block @ net.get_parameter(name).flatten() for name, block in zip(names, blocks, strict=True))
    assert torch.allclose(along, 3 * net(x), rtol=1e-11)


def test_the_kernel_of_a_linear_net_is_that_of_the_images_whatever_its_weights(x):
    flat = x.flatten(1)
    expected = flat @ flat.T + 1  # and the bias
    kernels = [
        trace_kernel(linear_net(torch.randn(3, flat.shape[1]).double() * scale, torch.randn(3).double()), x, **DOUBLE)
        for scale in (0.1, 10)
    ]
    for found in kernels:
        assert torch.allclose(found, expected, rtol=1e-12)
    assert kernel_distance(*kernels) < 1e-12


@pytest.mark.parametrize("reduction", [per_class, traced, whole])
@pytest.mark.parametrize("options", [{"tile": 1}, {"tile": 4}, {"budget": 1}, {"budget": 40_000}, {"chunk": 1}])
def test_tiles_budget_and_chunks_do_not_change_it(net, x, reduction, options):
    expected = kernel(net, x, reduction, **DOUBLE)
    found = kernel(net, x, reduction, **DOUBLE, **options)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found[..., 0, 1], found[..., 1, 0].mT if reduction is whole else found[..., 1, 0])


def test_no_more_of_the_jacobian_is_held_than_the_budget_allows(net, x):
    budget, seen = 40_000, []

    def watched(a: Tensor, b: Tensor) -> Tensor:
        seen.append(a.nbytes + (0 if b is a else b.nbytes))
        return per_class(a, b)

    kernel(net, x, watched, budget=budget, **DOUBLE)
    whole_jacobian = len(x) * CLASSES * 8 * sum(p.numel() for p in net.parameters())
    assert budget / 2 < max(seen) <= budget < whole_jacobian


def test_kernels_of_layers_sum_to_the_whole(net, x):
    layers = layer_kernels(net, x, **DOUBLE)
    assert [*layers] == ["net.0", "net.1", "net.3", "net.4", "net.7"]
    assert torch.allclose(sum(layers.values()), trace_kernel(net, x, **DOUBLE), rtol=1e-12)
    head = layers["net.7"]
    maps = net.net[:7]((x - net.mean) / net.std)
    assert torch.allclose(head, maps @ maps.T + 1, rtol=1e-12)


def test_permuted_images_permute_it(net, x):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = kernel(net, x[order], **DOUBLE)
    assert torch.allclose(found, kernel(net, x, **DOUBLE)[:, order][:, :, order], rtol=1e-12)


def test_some_classes_are_those_of_all(net, x):
    assert torch.allclose(kernel(net, x, classes=[2, 0], **DOUBLE), kernel(net, x, **DOUBLE)[[2, 0]], rtol=1e-12)


def test_float32_is_near_float64_and_the_net_need_not_be_converted(x):
    net = tiny_net()
    found = kernel(net, x.float())
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), kernel(net, x, **DOUBLE), rtol=1e-4)


def test_with_running_statistics_an_entry_knows_only_its_two_images(net, x):
    other = torch.cat([x[:5], 1 - x[5:]])
    assert torch.allclose(trace_kernel(net, x)[:2, :2], trace_kernel(net, other)[:2, :2], rtol=1e-5)


def test_batch_statistics_make_entries_depend_on_the_batch_and_match_autograd(net, x):
    found = kernel(net, x, whole, bn_mode="batch", **DOUBLE)
    trained = tiny_net().double().train()
    rows = []
    logits = trained(x)
    for value in logits.flatten():
        grads = torch.autograd.grad(value, [*trained.parameters()], retain_graph=True)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    gram = torch.stack(rows) @ torch.stack(rows).T
    expected = gram.view(len(x), CLASSES, len(x), CLASSES).permute(1, 3, 0, 2)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    other = kernel(net, torch.cat([x[:5], 1 - x[5:]]), whole, bn_mode="batch", **DOUBLE)
    assert not torch.allclose(found[..., 0, 1], other[..., 0, 1], rtol=1e-3)


@pytest.mark.parametrize("bn_mode", ["running", "batch"])
def test_the_net_is_left_as_it_was(x, bn_mode):
    net = tiny_net().train()
    net.net[1].eval()
    next(net.parameters()).requires_grad_(False)
    net(x.float()).sum().backward()
    before = state_of(net)
    with torch.no_grad():
        kernel(net, x.float(), bn_mode=bn_mode)
    assert_same_state(before, state_of(net))


def test_dropout_is_off_and_autocast_has_no_say(x):
    net = Classifier(nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(math.prod(SHAPE), 3)))
    expected = trace_kernel(net.eval(), x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = trace_kernel(net.train(), x.float())
    assert torch.equal(found, expected)


def test_wrapped_and_compiled_nets_are_unwrapped(x):
    net = tiny_net()
    expected = trace_kernel(net, x.float())
    assert torch.equal(trace_kernel(nn.DataParallel(net), x.float()), expected)
    assert torch.equal(trace_kernel(torch.compile(net, backend="eager"), x.float()), expected)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    assert torch.equal(trace_kernel(fabric.setup_module(net), x.float()), expected)
    net.compile(backend="eager")
    assert torch.equal(trace_kernel(net, x.float()), expected)


def test_a_vit_and_a_folded_net_have_kernels():
    model = Model(name="vit_digits")
    net = build(model, num_classes=3, shape=(1, 8, 8)).double().eval()
    with torch.no_grad():
        net.net.get_classifier().weight.normal_()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(kernel(net, x, whole, **DOUBLE), slow_kernel(net, x), rtol=1e-9, atol=1e-9)
    folded = fold(adapt(net, "cls_token"), "robust")
    assert torch.allclose(kernel(folded, x, **DOUBLE), kernel(net, x, **DOUBLE), rtol=1e-9)


def test_it_reports_its_progress(net, x):
    seen = []
    kernel(net, x, tile=2, show=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [*range(1, seen[0][1] + 1)]
    assert seen[-1][0] == seen[-1][1]


def test_mistakes_are_named(net, x):
    with pytest.raises(UserError, match="parameters: got fc.weight"):
        kernel(net, x, parameters=["fc.weight"])
    bare = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten()).double()
    with pytest.raises(UserError, match="bn_mode: got running; allowed batch"):
        kernel(bare, x)
