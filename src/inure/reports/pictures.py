"""Small PNG pictures of examples: the clean image, the perturbation made visible, the adversarial image."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

_LARGEST = 128


@dataclass(frozen=True)
class ExamplePictures:
    """One example: three data URIs and what they show."""

    clean: str
    perturbation: str
    adversarial: str
    label: int
    clean_prediction: int
    adversarial_prediction: int
    attacked: bool
    """False if no attack was needed: the clean image is already taken for something else."""


def example_pictures(examples: "Mapping[str, numpy.ndarray]") -> tuple[list[ExamplePictures], float]:
    """Pictures of all examples, and the one factor by which all their perturbations are amplified.

    A perturbation is shown as ``0.5 + factor * (x_adv - x)``: grey is no change. The factor is the largest
    for which nothing is clipped, rounded down to at most two digits, and at least 1.
    """
    import numpy as np

    x = np.nan_to_num(np.asarray(examples["x"], dtype=np.float32))
    x_adv = np.nan_to_num(np.asarray(examples["x_adv"], dtype=np.float32))
    factor = _amplification(float(np.abs(x_adv - x).max(initial=0.0)))
    pictures = [
        ExamplePictures(
            clean=_data_uri(x[i], smooth=True),
            perturbation=_data_uri(0.5 + factor * (x_adv[i] - x[i]), smooth=False),
            adversarial=_data_uri(x_adv[i], smooth=True),
            label=int(examples["label"][i]),
            clean_prediction=int(examples["clean_prediction"][i]),
            adversarial_prediction=int(examples["adversarial_prediction"][i]),
            attacked=bool(examples["clean_prediction"][i] == examples["label"][i] or (x[i] != x_adv[i]).any()),
        )
        for i in range(len(x))
    ]
    return pictures, factor


def _amplification(largest: float) -> float:
    if largest <= 0:
        return 1.0
    factor = 0.5 / largest * (1 + 1e-4)
    digits = 10 ** max(0, len(str(int(factor))) - 2)
    return float(max(1, int(factor) // digits * digits))


def _data_uri(image: "numpy.ndarray", *, smooth: bool) -> str:
    """A (C, H, W) image in [0, 1] as PNG; ``smooth`` averages if it must be shrunk: noise would vanish."""
    import numpy as np
    from PIL import Image

    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    channels = pixels[:3].transpose(1, 2, 0) if len(pixels) >= 3 else pixels[0]
    picture = Image.fromarray(channels)
    if max(picture.size) > _LARGEST:
        scale = _LARGEST / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BOX if smooth else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
