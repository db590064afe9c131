"""The suites of several sets of images, by name: ``corruptions`` and ``shifts``, alone or with attacks on each set."""

from ..evaluation.suites import SUITES
from ..settings.errors import unknown_name

CORRUPTED, SHIFTED = "corruptions", "shifts"
ABOUT = {
    CORRUPTED: "accuracy under 15 corruptions at 5 severities, no attack; corruptions+SUITE attacks each set too",
    SHIFTED: "accuracy on the sets that --shift names, no attack; shifts+SUITE attacks each set too",
}


def split_suite(suite: str) -> tuple[str | None, str]:
    """``corruptions+quick`` as (``corruptions``, ``quick``), ``quick`` as (None, ``quick``).

    Raises:
        UserError: If there is no such suite of attacks.
    """
    family, _, attacks = suite.partition("+")
    if family not in ABOUT:
        family, attacks = None, suite
    elif suite == family:
        attacks = "clean"
    if attacks not in SUITES:
        names = [f"{family}+{name}" for name in SUITES] if family else [*SUITES, *ABOUT]
        raise unknown_name("--suite", suite, names, "inure list suites")
    return family, attacks
