"""Transfer between modes of one net: attacked in one, judged in another; and an attack on a mode drawn at random."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..display.console import percent, with_interval
from ..display.drawing import heat_map, png
from ..evaluation import SUITES, Member, wilson
from ..evaluation.examples import Examples
from ..evaluation.nets import in_float32
from ..evaluation.suites import WHOLE_BATCH
from ..evaluation.verdicts import judge
from ..libraries import Tensor, nn, torch
from ..models.modes import attack_mode, frozen
from ..runs.load import refuse_mode
from ..settings.config import Settings
from ..settings.errors import UserError, unknown_name
from ..targets.target import parse_mode
from ..threat import describe_threat
from ..types import Criterion, Images, Logits, PerExample
from .subject import Finding, Subject

EVERY = "every mode at once"
_NONE = "no attack"


class Transfer(Settings):
    """accuracy(crafted in A, judged in B) for all pairs of modes, over all examples.

    The last row attacks a net whose mode is drawn at random for each image: by the mean of the loss over the modes,
    an expectation over transformations (Athalye et al., 2018, arXiv:1802.00420), exact since there are few of them.
    Column ``random`` is the mean of a row over the modes, what such a defender keeps on average; ``all`` counts the
    images that are right in every mode. A defender who counts on an attacker not knowing the mode has at most the
    lowest ``random`` among the rows; what it shows is an upper bound, as with any single attack.
    """

    kind: Literal["transfer"] = "transfer"
    modes: Annotated[list[str], Field(min_length=2)] | None = None
    """Domains or mixes, the net's domains by default; a text is split: ``clean robust clean=0.5,robust=0.5``."""
    suite: str = "pgd20"
    """Of several attacks, each image takes what serves best in the mode that is attacked."""

    @field_validator("modes", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return value.split() if isinstance(value, str) else value

    def run(self, subject: Subject) -> Finding:
        """Attack every image in every mode, judge it in all.

        Raises:
            UserError: If the net has not these modes or the suite does not attack.
        """
        net = in_float32(subject.classifier, subject.device)
        names = list(self.modes or net.domains)
        for name in names:
            refuse_mode(net, parse_mode(name))
        if len(names) < 2:
            raise UserError("modes", names, "two or more", "a run whose net has domains (model.adapters)")
        if self.suite not in SUITES:
            raise unknown_name("suite", self.suite, SUITES)
        members = SUITES[self.suite](subject.threat)
        if not members:
            raise UserError("suite", self.suite, "a suite that attacks", "pgd20")
        if any(not isinstance(member.attack, WHOLE_BATCH) for member in members):
            # Others look at the prediction on their way, and of all modes at once there is none
            raise UserError("suite", self.suite, "a suite of FGSM and PGD alone", "pgd20")
        modes = [parse_mode(name) for name in names]
        right: dict[str, list[Tensor]] = {row: [] for row in (_NONE, *names, EVERY)}
        attacked = {**{name: [mode] for name, mode in zip(names, modes, strict=True)}, EVERY: modes}
        examples = Examples.of(subject.images, None)
        with attack_mode(net, "eval"), frozen(net):
            rows = torch.arange(len(examples)).split(subject.batch_size)
            for done, chunk in enumerate(rows, start=1):
                x, y = examples.images(chunk, subject.device), examples.labels[chunk].to(subject.device)
                index = examples.index[chunk].to(subject.device)
                right[_NONE].append(_right(net, modes, x, y).cpu())
                for row, targets in attacked.items():
                    x_adv = _craft(net, targets, members, x, y, index, subject)
                    right[row].append(_right(net, modes, x_adv, y).cpu())
                subject.bars.show("batches", done, len(rows), unit="batches")
        together = {row: torch.cat(parts, 1) for row, parts in right.items()}
        return _finding(together, names, self.suite, describe_threat(subject.threat))


def _means(members: list[Member], count: int) -> list[Member]:
    """The attacks, climbing the mean of their loss over the modes."""
    return [member._replace(loss=_mean_over(count, member.loss)) for member in members]


def _mean_over(count: int, loss: Criterion) -> Criterion:
    def mean(logits: Logits, y: Tensor) -> PerExample:
        return torch.stack([loss(part, y) for part in logits.chunk(count, 1)]).mean(0)

    return mean


def _craft(
    net: nn.Module, modes: list[Any], members: list[Member], x: Images, y: Tensor, index: Tensor, subject: Subject
) -> Images:
    """Of each image what the first attack makes of it after which it is right in the fewest of ``modes``."""
    from ..evaluation.metered import Metered
    from .all_modes import AllModes

    model = Metered(net, modes[0]) if len(modes) == 1 else Metered(AllModes(net, modes))
    best, x_adv = torch.full((len(x),), len(modes) + 1, device=x.device), x
    for member in members if len(modes) == 1 else _means(members, len(modes)):
        found = judge(model, x, y, index, member, threat=subject.threat, seed=subject.seed).x_adv.to(x.device)
        right = _right(net, modes, found, y).sum(0)
        x_adv = torch.where((right < best).view(-1, 1, 1, 1), found, x_adv)
        best = torch.minimum(right, best)
    return x_adv


def _right(net: nn.Module, modes: list[Any], x: Images, y: Tensor) -> Tensor:
    """(M, B) bool."""
    with torch.no_grad():
        return torch.stack([net(x, mix=mode).argmax(1) == y for mode in modes])


def _finding(right: dict[str, Tensor], names: list[str], suite: str, threat: str) -> Finding:
    columns = [*names, "random", "all"]
    shares = {row: _shares(found) for row, found in right.items()}
    total = next(iter(right.values())).shape[1]
    intervals = {row: [wilson(round(share * total), total) for share in values[:-2]] for row, values in shares.items()}
    cells = [
        [row, *map(with_interval, values[:-2], intervals[row]), percent(values[-2]), percent(values[-1])]
        for row, values in shares.items()
    ]
    numbers = {
        "examples": total, "suite": suite, "threat": threat, "modes": names,
        "accuracy": {row: dict(zip(columns, values, strict=True)) for row, values in shares.items()},
        "interval95": {row: dict(zip(names, pairs, strict=True)) for row, pairs in intervals.items()},
    }  # fmt: skip
    title = f"accuracy of {total} images, attacked in the row's mode by {suite} under {threat}, judged in the column's"
    return Finding(title, ["attacked in", *columns], cells, _figure(shares, columns, suite, threat), numbers)


def _shares(found: Tensor) -> list[float]:
    """Accuracy in every mode, in a random one, in all."""
    return [*found.double().mean(1).tolist(), float(found.double().mean()), float(found.all(0).double().mean())]


def _figure(shares: dict[str, list[float]], columns: list[str], suite: str, threat: str) -> bytes:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(2.4 + 0.9 * len(columns), 1.5 + 0.5 * len(shares)), layout="constrained")
    axes = drawing.subplots()
    values = [[100 * share for share in row] for row in shares.values()]
    labels = [[name.replace(",", ",\n") for name in names] for names in (shares, columns)]
    heat_map(axes, values, rows=labels[0], columns=labels[1], fontsize=9, dark=0.6)
    axes.set_xlabel("judged in")
    axes.set_ylabel("attacked in")
    axes.set_title(f"accuracy, %: {suite} under {threat}", fontsize=10)
    return png(drawing)
