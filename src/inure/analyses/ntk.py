"""The empirical tangent kernel of a run's nets at clean and at attacked images: how large, how many directions, how
far apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from ..attacks import PGD
from ..display.drawing import heat_map, png
from ..evaluation import weights_hash
from ..evaluation.nets import in_float32
from ..kernels import (
    BatchNormMode,
    balanced_rows,
    effective_rank,
    kernel,
    kernel_distance,
    specialisation_score,
    spectrum,
    top_mass,
    top_share,
)
from ..libraries import Tensor, torch
from ..models.modes import attack_mode, frozen
from ..noise import CounterNoise
from ..runs.load import in_mode, load
from ..settings.config import Real, Settings, Whole
from ..settings.errors import UserError
from ..targets.target import parse_mode
from .subject import Finding, Subject

if TYPE_CHECKING:
    from ..models import Classifier

_CHECKPOINTS = ("best", "last")
_TOP = 10
_COLUMNS = ["kernel", "trace", "largest", f"top {_TOP}", "eff. rank", "special.", "distance"]


class NTK(Settings):
    """K[i, j] = (1 / C) sum_c <df_c(x_i) / dtheta, df_c(x_j) / dtheta>, and the kernels of single logits.

    At the same balanced list of test images for every net: as they are, and as PGD leaves them for that net, with the
    same noise each time. Of a run the best and the last weights are compared.
    """

    kind: Literal["ntk"] = "ntk"
    images: Annotated[Whole, Field(ge=2)] = 200
    """How many, equally many of each class."""
    on: Literal["clean", "adversarial", "both"] = "both"
    steps: Annotated[Whole, Field(ge=1)] = 10
    """Of PGD inside ``--threat``, step size 2.5 epsilon / steps as everywhere."""
    weights: Annotated[list[Literal["best", "last"]], Field(min_length=1)] = [*_CHECKPOINTS]
    """Checkpoints of the run; ``--weights`` and ``file.py:function`` have only their own."""
    mode: str | None = None
    """Of a net with domains; None is the usual one."""
    bn_mode: BatchNormMode = "running"
    """``batch``: BatchNorm sees all images at once; entries then depend on all of them, and cost as many times more."""
    precision: Literal["float32", "float64"] = "float32"
    memory: Annotated[Real, Field(gt=0)] = 1
    """GiB of Jacobian held at a time; less memory is more passes."""
    chunk: Annotated[Whole, Field(ge=1)] = 16
    """Images in one vectorised backward."""

    @field_validator("weights", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return value.split() if isinstance(value, str) else value

    def run(self, subject: Subject) -> Finding:
        """One kernel for each of the weights and kinds of images.

        Raises:
            UserError: If a checkpoint or the mode is not there, or the net has no running statistics.
        """
        rows = balanced_rows(subject.images, self.images)
        if len(rows) < 2:
            raise UserError("images", len(rows), "two images or more of the data")
        kinds = ["clean", "adversarial"] if self.on == "both" else [self.on]
        found = []
        for name, classifier in self._nets(subject):
            net = in_float32(in_mode(classifier, parse_mode(self.mode)), subject.device)
            for kind in kinds:
                x, y, index = subject.images.examples(rows, subject.device)
                if kind == "adversarial":
                    x = self._attacked(net, x, y, index, subject)
                found.append(self._look(net, x, y, name, kind, subject))
        return _finding(found, subject, subject.images.index[rows].tolist(), _epochs(subject))

    def _nets(self, subject: Subject) -> Iterator[tuple[str, Classifier]]:
        if subject.run is None:
            yield "the net", subject.classifier
            return
        seen = {}
        for name in dict.fromkeys(self.weights):
            path = subject.run.checkpoints / f"{name}.safetensors"
            if not path.exists():
                raise UserError("weights", name, f"a checkpoint of the run: {path} is not there", "--weights FILE")
            classifier = load(subject.run.path, path).read_as(subject.images.readout)
            digest = weights_hash(classifier)
            if digest in seen:
                subject.bars.say(f"{name} and {seen[digest]} are the same weights")
                continue
            seen[digest] = name
            yield name, classifier

    def _attacked(self, net: Classifier, x: Tensor, y: Tensor, index: Tensor, subject: Subject) -> Tensor:
        attack = PGD(threat=subject.threat, steps=self.steps)
        parts = []
        with attack_mode(net, "eval"), frozen(net):
            for place in torch.arange(len(x), device=x.device).split(subject.batch_size):
                noise = CounterNoise(subject.seed, index[place])
                parts.append(attack(net, x[place], y[place], noise=noise))
        return torch.cat(parts)

    def _look(self, net: Classifier, x: Tensor, y: Tensor, name: str, kind: str, subject: Subject) -> _Look:
        def show(done: int, total: int) -> None:
            subject.bars.show(f"{name}, {kind}", done, total, unit="backwards")

        each = kernel(
            net, x, bn_mode=self.bn_mode, dtype=getattr(torch, self.precision), budget=int(self.memory * 2**30),
            chunk=self.chunk, show=show,
        )  # fmt: skip
        trace = each.mean(0)
        return _Look(
            name, kind, weights_hash(net), trace.cpu(), spectrum(trace).cpu(), float(specialisation_score(each, y))
        )


class _Look(NamedTuple):
    weights: str
    images: str
    weights_hash: str
    kernel: Tensor
    """(N, N)."""
    eigenvalues: Tensor
    specialisation: float

    @property
    def label(self) -> str:
        return f"{self.weights}, {self.images}"


def _epochs(subject: Subject) -> dict[str, int]:
    info = subject.run.info() if subject.run is not None else {}
    return {name: info[name]["epoch"] for name in _CHECKPOINTS if info.get(name)}


def _finding(looks: list[_Look], subject: Subject, index: list[int], epochs: dict[str, int]) -> Finding:
    distances = [[float(kernel_distance(a.kernel, b.kernel)) for b in looks] for a in looks]
    measured = [_measured(look) for look in looks]
    cells = [
        [look.label, _short(m["trace"]), f"{m['largest_share']:.3f}", f"{m['top_mass']:.3f}",
         f"{m['effective_rank']:.1f}", f"{m['specialisation']:.2f}", f"{distance:.4f}"]
        for look, m, distance in zip(looks, measured, distances[0], strict=True)
    ]  # fmt: skip
    numbers: dict[str, Any] = {
        "images": len(index), "index": index, "epochs": epochs, "kernels": measured,
        "distances": {"of": [look.label for look in looks], "values": distances},
        "velocity": _velocity(looks, distances, epochs),
    }  # fmt: skip
    title = f"tangent kernels at {len(index)} images of {subject.images.name}; distance from the first"
    return Finding(title, _COLUMNS, cells, _figure(looks, distances), numbers)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _measured(look: _Look) -> dict[str, Any]:
    values = look.eigenvalues
    return {
        "weights": look.weights, "images": look.images, "weights_hash": look.weights_hash,
        "trace": float(look.kernel.double().trace()),
        "largest_share": float(top_share(values)), "top_mass": float(top_mass(values, _TOP)),
        "effective_rank": float(effective_rank(values)), "specialisation": look.specialisation,
        "eigenvalues": values.tolist(),
    }  # fmt: skip


def _velocity(looks: list[_Look], distances: list[list[float]], epochs: dict[str, int]) -> dict[str, float]:
    """By images, the distance of the best from the last weights per epoch between them."""
    place = {(look.weights, look.images): i for i, look in enumerate(looks)}
    between = epochs.get("last", 0) - epochs.get("best", 0)
    return {
        kind: distances[i][place["last", kind]] / between
        for (name, kind), i in place.items()
        if name == "best" and ("last", kind) in place and between > 0
    }


def _figure(looks: list[_Look], distances: list[list[float]]) -> bytes:
    from matplotlib.figure import Figure

    side = 1.6 + 0.8 * len(looks)
    drawing = Figure(figsize=(4.6 + side, max(3.4, side)), layout="constrained")
    left, right = drawing.subplots(1, 2, width_ratios=[4.2, side])
    for look in looks:
        shares = look.eigenvalues / look.eigenvalues.sum().clamp_min(1e-300)
        left.loglog(range(1, len(shares) + 1), shares.clamp_min(1e-12), label=look.label)
    left.set_xlabel("rank")
    left.set_ylabel("share of the trace")
    left.set_title("eigenvalues", fontsize=10)
    left.legend(fontsize=8)
    names = [look.label.replace(", ", "\n") for look in looks]
    heat_map(right, [[100 * (1 - d) for d in row] for row in distances], rows=names, columns=names, dark=0.6)
    # Below, where it has room: a panel of one kernel is narrower than the words beside each other
    right.set_xlabel("100 (1 - distance)")
    right.set_title("similarity, %", fontsize=10)
    return png(drawing)
