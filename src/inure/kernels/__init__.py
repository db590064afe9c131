"""Empirical tangent kernels of nets: computed, measured, and the images to do it at."""

from ..models.modes import BatchNormMode
from .empirical import kernel, layer_kernels, per_class, trace_kernel, traced, whole
from .metrics import (
    alignment,
    centred,
    effective_rank,
    kernel_distance,
    kernel_velocity,
    specialisation,
    specialisation_score,
    spectrum,
    top_mass,
    top_share,
)
from .probe import balanced_rows

__all__ = [
    "BatchNormMode",
    "alignment",
    "balanced_rows",
    "centred",
    "effective_rank",
    "kernel",
    "kernel_distance",
    "kernel_velocity",
    "layer_kernels",
    "per_class",
    "specialisation",
    "specialisation_score",
    "spectrum",
    "top_mass",
    "top_share",
    "trace_kernel",
    "traced",
    "whole",
]
