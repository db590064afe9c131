"""``inure evaluate --verify``: a stored set of adversarial images, checked and judged anew."""

from pathlib import Path
from typing import Any

from ..display.console import Bars, stderr, table, with_interval
from ..evaluation.examples import Examples
from ..evaluation.nets import count_classes, prepared
from ..evaluation.protocol import weights_hash
from ..evaluation.results import read_files
from ..evaluation.stored_check import verify_stored
from ..evaluation.stored_reader import open_stored
from ..machine import files
from .request import Request
from .target import device_of, find_images, open_target

VERIFICATION = "verification.json"


def verify_target(request: Request, path: Path) -> dict[str, Any]:
    """Check the images of ``path`` against a net, the clean images and the threat model.

    The threat model is that of the request, else what the file says, else the recipe's. With ``out`` the finding is
    written there as ``verification.json``.

    Returns:
        As ``evaluation.stored_check.verify_stored``.

    Raises:
        UserError: If the file cannot be read or holds something else, and as ``evaluate_target``.
    """
    threat = request.threat or open_stored(path).about.get("threat")
    found = open_target(request.target, threat, request.mode, request.weights)
    images = find_images(found.run, found.classifier, request.data).head(request.examples)
    place, every = device_of(request.device), Examples.of(images, None)
    model, plain = prepared(found.classifier, images, found.mix, place, channels_last=_channels_last(path))
    count_classes(model, every, place)
    with Bars(quiet=request.quiet) as bars:
        finding = verify_stored(
            model, every, path, threat=found.threat, device=place, batch_size=request.batch_size, bars=bars,
            weights=weights_hash(plain),
        )  # fmt: skip
    if request.out is not None:
        files.write_json(request.out / VERIFICATION, finding)
    if not request.quiet:
        _show(finding, f"{path} on {request.target}")
    return finding


def _channels_last(path: Path) -> bool:
    """Whether the evaluation beside the file ran so: other last bits could turn an image at the boundary."""
    beside = read_files(path.parent)
    return beside is not None and beside[1].get("protocol", {}).get("memory_format") == "channels_last"


def _show(finding: dict[str, Any], title: str) -> None:
    rows = [
        ["right on these images", with_interval(finding["robust_accuracy"], finding["interval95"])],
        ["largest distance", f"{finding['largest_distance']:.9g} ({finding['threat']})"],
        ["violations", str(finding["violations"]["count"])],
        ["forwards that differ", str(finding["unstable"]["count"])],
    ]
    if finding["differences"] is not None:
        rows.append(["verdicts unlike the stored ones", str(finding["differences"]["count"])])
    stderr().print(table(title, ["", ""], rows))
    stderr().print(finding["said"], markup=False, soft_wrap=True)
