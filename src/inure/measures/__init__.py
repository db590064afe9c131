"""What is measured of a net between epochs. To add one: write the file, add it to the union, add its card."""

from .measure import Measure, Probe, balanced_order

__all__ = ["Measure", "Probe", "balanced_order"]
