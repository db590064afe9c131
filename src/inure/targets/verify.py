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
from .target import device_of, find_images, open_target

VERIFICATION = "verification.json"


def verify_target(
    target: str,
    path: Path,
    *,
    data: str | None = None,
    examples: int | None = None,
    threat: str | None = None,
    mode: str | None = None,
    weights: Path | None = None,
    out: Path | None = None,
    batch_size: int = 128,
    device: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Check the images of ``path`` against a net, the clean images and the threat model.

    The threat model is ``threat``, else what the file says, else the recipe's; the other arguments are those of
    ``inure evaluate``. With ``out`` the finding is written there as ``verification.json``.

    Returns:
        As ``evaluation.stored_check.verify_stored``.

    Raises:
        UserError: If the file cannot be read or holds something else, and as ``evaluate_target``.
    """
    found = open_target(target, threat or open_stored(path).about.get("threat"), mode, weights)
    images = find_images(found.run, found.classifier, data).head(examples)
    place, every = device_of(device), Examples.of(images, None)
    model, plain = prepared(found.classifier, images, found.mix, place, channels_last=_channels_last(path))
    count_classes(model, every, place)
    with Bars(quiet=quiet) as bars:
        finding = verify_stored(
            model, every, path, threat=found.threat, device=place, batch_size=batch_size, bars=bars,
            weights=weights_hash(plain),
        )  # fmt: skip
    if out is not None:
        files.write_json(out / VERIFICATION, finding)
    if not quiet:
        _show(finding, f"{path} on {target}")
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
