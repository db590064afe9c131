"""What is measured of a net between epochs. To add one: write the file, add it to the union, add its card."""

from typing import Annotated

from pydantic import Field

from .alignment import Alignment
from .gradient_noise import GradientNoiseScale
from .gradient_stability import GradientStability
from .kernel import Kernel
from .measure import Probe

Measure = Annotated[Alignment | GradientStability | GradientNoiseScale | Kernel, Field(discriminator="kind")]
MEASURES = (Alignment, GradientStability, GradientNoiseScale, Kernel)

__all__ = ["MEASURES", "Alignment", "GradientNoiseScale", "GradientStability", "Kernel", "Measure", "Probe"]
