"""``inure evaluate``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..settings.errors import UserError
from ..targets.request import Request


def evaluate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A run directory, or path/to/file.py:function.")],
    suite: Annotated[str | None, typer.Option(help="Which attacks (inure list suites). Default: the recipe's.")] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="A set for --suite shifts; again for more; 'SPEC@*': all corruptions."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="digits, parquet, a folder, hub:OWNER/NAME; #test picks a split."),
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Only the first N rows.")] = None,
    threat: Annotated[
        str | None,
        typer.Option(metavar="KIND:EPSILON", help="linf:8/255, l2:0.5, l1:12. Default: the recipe's."),
    ] = None,
    mode: Annotated[str | None, typer.Option(metavar="MIX", help="clean, robust, or clean=0.3,robust=0.7.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights (.pt, .safetensors) to load into the net.")] = None,
    transfer_from: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN", help="Also try images made for this other net, at the end; again for more."),
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Also ask, on 128 images, whether attacks on this net can be trusted.")
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Attack nothing: check a stored set of adversarial images on this net."),
    ] = None,
    store_adversarial: Annotated[
        bool, typer.Option("--store-adversarial", help="Keep the worst image of every example, for --verify.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: RUN/evaluations/SUITE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted evaluation.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images attacked at once; changes no verdict.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the random starts.")] = 0,
    search_precision: Annotated[
        str, typer.Option(help="float32; bfloat16 for searches alone is faster on hardware that has it, and weaker.")
    ] = "float32",
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Run convolutions in this memory format, as a rule faster.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes to share the examples; changes no verdict.")] = 1,
    fail_under: Annotated[
        float | None,
        typer.Option(help="Exit code 3 if robust accuracy (a fraction; of sets the mean) is lower, or unverified."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> int:
    """Measure clean and robust accuracy. The last line of stdout is the folder of the results.

    Robust accuracy is the pointwise worst case over the attacks of the suite, over all examples. A suite other
    than the full cascade gives an upper bound. The suites corruptions and shifts measure several sets, and with
    +SUITE attack each: corruptions+quick. --verify exits with 3 where a stored set is not what it claims to be.
    """
    if fail_under is not None and not 0 <= fail_under <= 1:
        raise UserError("--fail-under", fail_under, "a fraction in [0, 1]", "0.4")
    request = Request(
        target, suite=suite, shift=shift or (), data=data, examples=examples, threat=threat, mode=mode,
        weights=weights, transfer_from=transfer_from or (), out=out, resume=resume, audit=audit,
        store_adversarial=store_adversarial, batch_size=batch_size, seed=seed, search_precision=search_precision,
        channels_last=channels_last, device=device, devices=devices, quiet=quiet,
    )  # fmt: skip
    if verify is not None:
        return _verify(request, verify, fail_under)
    from ..targets.evaluate import evaluate_target

    folder, summary = evaluate_target(request)
    from ..evaluation.flags import severe
    from ..machine.engine import is_child

    if is_child():
        return 0
    print(folder)
    gate = summary.get("mean", summary)  # of several sets, over all of them
    accuracy = gate["robust_accuracy"] if gate["robust_accuracy"] is not None else gate["clean_accuracy"]
    if fail_under is not None and not summary["verified"]:
        names = ", ".join(severe(summary["flags"]))
        print(f"inure: --fail-under: accuracy {accuracy:.4f} is not verified: {names}", file=sys.stderr)
        return 3
    return _gate(accuracy, fail_under)


def _verify(request: Request, path: Path, fail_under: float | None) -> int:
    for name, value in (
        ("--suite", request.suite), ("--audit", request.audit), ("--store-adversarial", request.store_adversarial),
    ):  # fmt: skip
        if value:
            raise UserError(name, "with --verify", f"no {name}: a stored set is checked, nothing is attacked")
    from ..targets.verify import verify_target

    finding = verify_target(request, path)
    print(path)
    return _gate(finding["robust_accuracy"], fail_under) if finding["passed"] else 3


def _gate(accuracy: float, fail_under: float | None) -> int:
    if fail_under is None or accuracy >= fail_under:
        return 0
    print(f"inure: --fail-under: accuracy {accuracy:.4f} is under {fail_under}", file=sys.stderr)
    return 3
