"""``inure predict``."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    target: Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or path/to/file.py:function.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files.")],
    mode: Annotated[str | None, typer.Option(metavar="MIX", help="clean, robust, or clean=0.3,robust=0.7.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights to load into the net.")] = None,
    top: Annotated[int, typer.Option(help="Classes to print for each image.")] = 1,
) -> None:
    """Classify image files: one line each on stdout, file, then class and probability, tabs between."""
    from ..targets.prediction import predict_files

    for path, classes in predict_files(target, images, mode=mode, weights=weights, top=top):
        print("\t".join([str(path), *(f"{name}\t{probability:.4f}" for name, probability in classes)]))
