"""Masks and groups of outputs, against the definition in float64."""

import copy

import pytest
import torch
from torch import nn

from inure.data import ImageSet, Readout
from inure.data.cue_conflict import sixteen_classes
from inure.evaluation.examples import Examples
from inure.models import Classifier
from inure.models.adapt import adapt, fold
from inure.settings.errors import UserError

SUBSET = Readout(((4,), (0,), (7,)), 9, "three")
GROUPS = Readout(((4,), (0, 2, 8), (7, 1)), 9, "grouped")


@pytest.fixture
def logits():
    return 5 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0))


def slow_means(readout, logits):
    """log of the mean probability of each group, one number after the other."""
    rows = []
    for row in logits.double().softmax(1).tolist():
        rows.append([sum(row[c] for c in group) / len(group) for group in readout.groups])
    return torch.tensor(rows, dtype=torch.float64).log()


def test_single_classes_are_masked_logits_bit_for_bit(logits):
    assert torch.equal(SUBSET(logits), torch.stack([logits[:, 4], logits[:, 0], logits[:, 7]], 1))
    masked = torch.full_like(logits, -torch.inf)
    masked[:, [4, 0, 7]] = logits[:, [4, 0, 7]]
    chosen = torch.tensor([4, 0, 7])[SUBSET(logits).argmax(1)]
    assert torch.equal(chosen, masked.argmax(1))


def test_groups_are_the_log_of_their_mean_probability(logits):
    assert GROUPS(logits).dtype == torch.float32
    assert torch.allclose(GROUPS(logits).double(), slow_means(GROUPS, logits), atol=1e-5)
    assert torch.allclose(GROUPS(logits.double()), slow_means(GROUPS, logits), atol=1e-12)


def test_the_mean_does_not_favour_large_groups_as_the_sum_does():
    probabilities = torch.tensor([[0.3, 0.0, 0.2, 0.0, 0.0, 0.2, 0.0, 0.0, 0.2]])
    readout = Readout(((0,), (2, 5, 8)), 9)
    assert readout((probabilities + 1e-30).log()).argmax() == 0
    assert probabilities[:, [2, 5, 8]].sum() > probabilities[:, 0]


def test_far_classes_and_huge_logits_stay_finite_with_gradients():
    logits = torch.tensor([[3e4, -3e4, 0.0, 0, 0, 0, 0, 0, 1e3]], requires_grad=True)
    out = GROUPS(logits)
    assert out.isfinite().all()
    (grad,) = torch.autograd.grad(out.sum(), logits)
    assert grad.isfinite().all()
    assert torch.allclose(out[0, 0], torch.tensor(-3e4))


def test_groups_of_every_size_have_the_gradient_of_the_definition(logits):
    x = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(GROUPS, x)


@pytest.mark.parametrize("groups", [(), ((1,), ()), ((1, 1),), ((1,), (1,)), ((9,),), ((-1,),)])
def test_groups_that_make_no_sense_are_refused(groups):
    with pytest.raises(UserError, match="readout.groups"):
        Readout(groups, 9)


def test_logits_of_another_width_are_refused(logits):
    for readout in (SUBSET, GROUPS):
        with pytest.raises(UserError, match=r"logits of shape \(6, 8\); allowed \(B, 9\)"):
            readout(logits[:, :8])


def test_the_kind_is_told_in_words():
    assert (SUBSET.kind, GROUPS.kind) == ("subset of 3 classes", "3 groups, mean probability")


def test_the_sixteen_classes_share_no_output_and_hold_109_dogs():
    readout = sixteen_classes()
    sizes = [len(group) for group in readout.groups]
    assert sizes == [1, 4, 2, 49, 5, 7, 3, 6, 4, 3, 109, 2, 2, 1, 1, 8]
    assert readout.kind == "16 groups, mean probability"


def test_the_outputs_of_the_sixteen_classes_are_called_so():
    from timm.data import ImageNetInfo

    name = ImageNetInfo().index_to_description
    airplane, bear, bicycle, bird, boat, _, car, cat, chair, clock, dog, elephant, keyboard, knife, _, truck = (
        sixteen_classes().groups
    )
    for group, word in ((bear, "bear"), (elephant, "elephant"), (chair, "chair"), (clock, "clock")):
        assert all(word in name(output) for output in group if output != 857), word  # a throne
    assert [name(airplane[0]), name(knife[0]).split(",")[0]] == ["airliner", "cleaver"]
    assert [name(output).split(",")[0] for output in keyboard] == ["computer keyboard", "typewriter keyboard"]
    assert (name(cat[0]), name(bird[0]), name(dog[0])) == ("tabby, tabby cat", "hen", "Japanese spaniel")
    assert all("truck" in name(k) or k in (656, 675, 734) for k in truck)
    assert len(bicycle) == 2
    assert "canoe" in name(boat[0])
    assert "convertible" in name(car[1])


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 9))
    return Classifier(net, num_classes=9, mean=[0.5] * 3, std=[0.2] * 3).eval()


X = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("readout", [SUBSET, GROUPS], ids=["subset", "groups"])
def test_a_classifier_read_as_something_is_the_readout_of_its_logits(classifier, readout):
    read = classifier.read_as(readout)
    assert torch.equal(read(X), readout(classifier(X)))
    assert (read.num_classes, classifier.num_classes, classifier.readout) == (3, 9, None)
    assert read.read_as(readout) is read
    assert torch.equal(copy.deepcopy(read)(X), read(X))
    with torch.autocast("cpu", torch.bfloat16):
        assert read(X).dtype == torch.float32


def test_a_read_classifier_shares_its_parameters(classifier):
    read = classifier.read_as(SUBSET)
    assert [id(p) for p in read.parameters()] == [id(p) for p in classifier.parameters()]
    assert read.state_dict().keys() == classifier.state_dict().keys()
    with torch.no_grad():
        classifier.net[3].weight.mul_(2)
    assert torch.equal(read(X), SUBSET(classifier(X)))


@pytest.mark.parametrize("mix", [None, "robust", {"clean": 0.3, "robust": 0.7}, ["clean"], "rows"])
def test_domains_and_mixes_go_through_the_readout(classifier, mix):
    adapted = adapt(classifier, ["bias", "head"])
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    mix = torch.tensor([[0.2, 0.8]]).repeat(5, 1) if mix == "rows" else mix
    read = adapted.read_as(GROUPS)
    assert read.domains == adapted.domains
    assert torch.equal(read(X, mix=mix), GROUPS(adapted(X, mix=mix)))
    if mix is None or isinstance(mix, str | dict):
        assert torch.equal(fold(read, mix)(X), GROUPS(adapted(X, mix=mix)))
        assert not torch.equal(adapted(X, mix="robust"), adapted(X))


def test_a_readout_for_another_net_is_refused(classifier):
    with pytest.raises(UserError, match="got conflict, for nets of 1000 classes; allowed .* 9 classes"):
        classifier.read_as(sixteen_classes())
    with pytest.raises(UserError, match="readout"):
        classifier.read_as(SUBSET).read_as(GROUPS)
    unknown = Classifier(classifier.net).read_as(sixteen_classes())
    with pytest.raises(UserError, match=r"output \(5, 9\); allowed a net whose output is one tensor \(B, 1000\)"):
        unknown(X)


@pytest.fixture
def several():
    pixels = torch.randint(0, 256, (4, 3, 2, 2), dtype=torch.uint8)
    accepted = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]]).bool()
    plain = ImageSet.from_arrays(pixels, torch.tensor([0, 0, 2, 1]), ("a", "b", "c"))
    return ImageSet(**{**plain.__dict__, "accepted": accepted})


def test_accepted_classes_follow_their_images(several):
    assert several.head(2).accepted.tolist() == several.accepted[:2].tolist()
    part = several.subset(torch.tensor([3, 0]))
    assert part.accepted.tolist() == [[True, True, True], [True, False, False]]


def test_a_prediction_is_right_if_it_is_the_label_or_accepted(several):
    rows, prediction = torch.tensor([1, 1, 1, 2, 3, 0]), torch.tensor([0, 1, 2, 0, -1, -1])
    assert Examples.of(several, None).right(rows, prediction).tolist() == [True, True, False, False, False, False]
    plain = ImageSet(**{**several.__dict__, "accepted": None})
    assert Examples.of(plain, None).right(rows, prediction).tolist() == [True, False, False, False, False, False]
