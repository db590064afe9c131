"""When adversarial training meets vision transformers (Mo et al., 2022, arXiv:2210.07540): each claim is a study."""

from .claim import Claim
from .question import Condition, Question

_ARD, _PRM, _RAMP = "attention dropping", "perturbation masking", "epsilon"
_PLAIN = {_ARD: "no ARD", _PRM: "no PRM", _RAMP: "full epsilon"}
_BOTH = {_ARD: "ARD", _PRM: "PRM", _RAMP: "full epsilon"}
_PGD_AT = {"method": ("PGD-AT",)}
_SGD = {"optimizer": "SGD", "schedule": "piecewise"}

VIT_CLAIMS = (
    Claim(
        "vit/clipping",
        "Without gradient clipping ViT and DeiT collapse, with it they train (summary: 10 % at lr 0.1; smoke: lr 0.5)",
        Question(
            "vit_clipping",
            (Condition({"clipping": "clip 1"}, {"clipping": "no clip"}, margin=0.05),),
            {"net": ("ViT", "DeiT")},
        ),
    ),
    Claim(
        "vit/tricks",
        "Attention random dropping, perturbation random masking and both raise robust accuracy (abstract, summary)",
        Question(
            "vit_tricks",
            (
                Condition({**_PLAIN, _ARD: "ARD"}, _PLAIN),
                Condition({**_PLAIN, _PRM: "PRM"}, _PLAIN),
                Condition(_BOTH, _PLAIN),
            ),
            _PGD_AT,
        ),
    ),
    Claim(
        "vit/curriculum",
        "Both tricks are more than a warm-up of epsilon of the same length (our control; the paper has none)",
        Question("vit_tricks", (Condition(_BOTH, {**_PLAIN, _RAMP: "epsilon warm-up"}),), _PGD_AT),
    ),
    Claim(
        "vit/pretraining",
        "Starting from a clean net helps by far (summary: about 20 points on CIFAR-10)",
        Question("vit_pretraining", (Condition({"start": "clean"}, {"start": "none"}, margin=0.05),), {}),
    ),
    Claim(
        "vit/epochs",
        "Training twice as long does not help (summary)",
        Question("vit_epochs", (Condition({"length": "twice"}, {"length": "once"}, "stay below", margin=0.01),), {}),
    ),
    Claim(
        "vit/augmentation",
        "CutMix and mixup help, RandAugment hurts (summary)",
        Question(
            "vit_augmentation",
            (
                Condition({"augmentation": "CutMix"}, {"augmentation": "none"}),
                Condition({"augmentation": "mixup"}, {"augmentation": "none"}),
                Condition({"augmentation": "RandAugment"}, {"augmentation": "none"}, "stay below"),
            ),
            {},
        ),
    ),
    Claim(
        "vit/optimizer",
        "SGD with the piecewise schedule is better than AdamW with any (summary)",
        Question(
            "vit_optimizer",
            tuple(Condition(_SGD, {"optimizer": "AdamW", "schedule": s}) for s in ("piecewise", "cyclic", "cosine")),
            {},
        ),
    ),
)
