"""Numbers of kernels, (N, N) or (C, N, N): distance, spectrum, specialisation. All in float64."""

from __future__ import annotations

import sys

from ..libraries import Tensor, torch

_TINY = sys.float_info.min
"""The least normal float64."""


def kernel_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 - <K1, K2> / (|K1| |K2|), a 0-d tensor: 0 where one is a positive multiple of the other.

    At most 1 for positive semi-definite kernels (Fort et al., 2020, arXiv:2010.15110). A zero kernel is at distance 1
    from all.
    """
    a, b = _double(first).flatten(), _double(second).flatten()
    a, b = a / a.abs().max().clamp_min(_TINY), b / b.abs().max().clamp_min(_TINY)  # squares of huge ones overflow
    return (1 - a @ b / (a.norm() * b.norm()).clamp_min(_TINY)).clamp_min(0)


def kernel_velocity(first: Tensor, second: Tensor, interval: float) -> Tensor:
    """The distance per unit of ``interval`` (epochs, steps) between the two."""
    return kernel_distance(first, second) / interval


def spectrum(kernel: Tensor) -> Tensor:
    """(..., N) eigenvalues, the largest first; what rounding made negative is 0."""
    kernel = _double(kernel)
    return torch.linalg.eigvalsh((kernel + kernel.mT) / 2).flip(-1).clamp_min(0)


def effective_rank(eigenvalues: Tensor) -> Tensor:
    """Exp of the entropy of the eigenvalues' shares (Roy and Vetterli, 2007): N for the identity, 1 for rank one."""
    return torch.special.entr(_shares(eigenvalues)).sum(-1).exp()


def top_share(eigenvalues: Tensor) -> Tensor:
    """The largest eigenvalue over the sum of all."""
    return _shares(eigenvalues)[..., 0]


def top_mass(eigenvalues: Tensor, k: int) -> Tensor:
    """The share of the ``k`` largest in the sum of squares, which is the squared Frobenius norm of the kernel."""
    squares = _shares(eigenvalues) ** 2
    return squares[..., :k].sum(-1) / squares.sum(-1).clamp_min(_TINY)


def centred(kernel: Tensor) -> Tensor:
    """The kernel of gradients from which their mean over the images was taken: H K H, H = 1 - 1/N."""
    kernel = _double(kernel)
    return kernel - kernel.mean(-1, keepdim=True) - kernel.mean(-2, keepdim=True) + kernel.mean((-2, -1), keepdim=True)


def alignment(kernel: Tensor, target: Tensor) -> Tensor:
    """y^T K y / (|K| |y|^2), kernel and target centred; (...,) of (..., N, N) and (N,).

    0 for a zero kernel; NaN for a target that is the same at all images.
    """
    kernel, target = centred(kernel), _double(target) - _double(target).mean()
    along = torch.einsum("i,...ij,j->...", target, kernel, target)
    return along / kernel.norm(dim=(-2, -1)).clamp_min(_TINY) / (target @ target)


def specialisation(per_class: Tensor, labels: Tensor) -> Tensor:
    """KSM[c, d] = A(K^cc, y_d) / mean over c' of A(K^c'c', y_d) (Shan and Bordelon, 2021, arXiv:2105.14301).

    How much more the kernel of logit c has to do with the images of class d than other logits' kernels have. Kernels
    and one-hot targets y_d are centred: without, the mean of all gradients hides the rest.

    Args:
        per_class: (C, N, N).
        labels: (N,) classes.

    Returns:
        (C, C) whose columns have mean 1; a column is NaN where no image, or every image, is of class d, or no kernel
        has to do with it.
    """
    count = len(per_class)
    targets = _double(torch.nn.functional.one_hot(labels, count))
    aligned = torch.stack([alignment(per_class, target) for target in targets.T], 1)
    means = aligned.mean(0)
    return torch.where(means.abs() > _TINY, aligned / means, torch.nan)


def specialisation_score(per_class: Tensor, labels: Tensor) -> Tensor:
    """The mean of the diagonal of ``specialisation`` over the classes there are; 1 where logits share a kernel.

    NaN if there is no such class.
    """
    return specialisation(per_class, labels).diagonal().nanmean()


def _shares(eigenvalues: Tensor) -> Tensor:
    return eigenvalues / eigenvalues.sum(-1, keepdim=True).clamp_min(_TINY)


def _double(values: Tensor) -> Tensor:
    return (values.cpu() if values.device.type == "mps" else values).double()
