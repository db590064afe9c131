"""Classes of image files by a trained net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..data.contrast import Shrink
from ..data.decode import FORMATS
from ..libraries import Tensor, torch
from ..models import Classifier
from ..runs.load import in_mode, load
from ..runs.run import Run
from ..settings.errors import UserError
from .target import parse_mode


def predict_files(
    target: str, paths: Sequence[Path], *, mode: str | None = None, weights: Path | None = None, top: int = 1
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """For each file its ``top`` likeliest classes and their probabilities.

    Images are resized to the net's input (bilinear) and converted to its number of channels.

    Raises:
        UserError: For a file that is missing or no image, before anything is classified.
    """
    classifier = in_mode(load(target, weights), parse_mode(mode))
    run = None if ".py:" in target else Run(Path(target))
    names, contrast = (run.info().get("class_names", []), run.recipe().data.contrast) if run else ([], 1.0)
    most = classifier.num_classes or top
    if not 1 <= top <= most:
        raise UserError("--top", top, f"1 to {most}")
    tensors = [read_image(path, classifier.in_channels or 3, classifier.img_size, contrast) for path in paths]
    for path, x in zip(paths, tensors, strict=True):
        probabilities = _probabilities(classifier, x, path)
        if top > len(probabilities):
            raise UserError("--top", top, f"1 to {len(probabilities)}")
        best = probabilities.topk(top)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        yield path, [(names[k] if k < len(names) else str(k), p) for k, p in pairs]


def _probabilities(classifier: Classifier, x: Tensor, path: Path) -> Tensor:
    """(K,). A function of the user's does not say which sizes its net takes: the net says it."""
    try:
        with torch.inference_mode():
            return classifier(x[None]).softmax(1)[0]
    except UserError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        given = f"{path}, {tuple(x.shape)} ({reason})"
        raise UserError("IMAGES", given, "images of the size that the net takes") from error


def read_image(path: Path, channels: int, size: tuple[int, int] | None, contrast: float = 1.0) -> Tensor:
    """(C, H, W) float32 in [0, 1], at the contrast that a run sees (``data.contrast``).

    Raises:
        UserError: If the file is missing or no image.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as opened:
            image: Image.Image = opened
            if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip it at 255
                image = Image.fromarray((np.asarray(image).astype(int) >> 8).clip(0, 255).astype("uint8"))
            image = image.convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise UserError("IMAGES", str(path), "a file that exists") from None
    except Exception as error:  # Pillow's decoders raise whatever comes: OSError, SyntaxError, struct.error, ...
        raise UserError("IMAGES", f"{path} ({error})", "an image file such as PNG or JPEG") from None
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype="uint8"))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    return (pixels if contrast == 1 else Shrink(contrast)(pixels)).float().div(255)
