"""Where the outer gradient is taken. To add one: write the file, add it to the union."""

from .awp import AWP

Perturbation = AWP
PERTURBATIONS = (AWP,)

__all__ = ["AWP", "PERTURBATIONS", "Perturbation"]
