"""Train on digits with and without attacks, and print what each net is worth.

    python examples/train_in_30_lines.py [EPOCHS [NET [IMAGES]]]

The default, 12 vit_digits 360, takes about a minute; 1 cnn_tiny 16 takes seconds and shows the way only.
"""

import sys
import tempfile
from pathlib import Path

import inure
from inure.data import load

epochs, net, examples = (sys.argv[1:] + ["12", "vit_digits", "360"][len(sys.argv) - 1 :])[:3]
test = load("digits", "test").head(int(examples))
threat = inure.Linf(epsilon=0.1)

with tempfile.TemporaryDirectory() as folder:
    for method in ("standard", "pgd_at"):
        recipe = inure.load_recipe(f"digits/{method}", [f"epochs={epochs}", f"model.name={net}"])
        run = inure.train(recipe, Path(folder, method), quiet=True)
        found = inure.evaluate(inure.load(run), test, suite="quick", threat=threat).summary
        low, high = found["interval95"]["robust"]
        print(
            f"{method:9} clean {found['clean_accuracy']:.1%}  robust {found['robust_accuracy']:.1%} "
            f"[{low:.1%}, {high:.1%}] under linf:0.1, {found['examples']} test images"
        )
