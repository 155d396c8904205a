#!/usr/bin/env python3
"""Makes the models that golden files were recorded with: make_golden_models.py OUT_DIR [NAME ...].

Each directory of tests/golden/models has a golden.json whose "arguments" are make_random.py's; the
recall model is made as well, under the name recall. Weights are a function of these arguments, so
that the tree holds none. A model that is there already is left as it is. python3 and numpy only.
"""

import json
import os
import subprocess
import sys

TOOLS = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(TOOLS, "..", "tests", "golden", "models")


def make(command, target):
    """Runs a maker on a temporary name, so that a half-made model is never taken for a whole one."""
    if os.path.exists(target):
        return
    temporary = f"{target}.{os.getpid()}"
    subprocess.run([sys.executable, os.path.join(TOOLS, command[0]), temporary, *command[1:]],
                   check=True)
    try:
        os.rename(temporary, target)
    except OSError:   # another run was faster
        if not os.path.exists(target):
            raise


def main(out, names):
    os.makedirs(out, exist_ok=True)
    for name in names or [*sorted(os.listdir(GOLDEN)), "recall"]:
        if name == "recall":
            make(["make_recall.py"], os.path.join(out, name))
            continue
        with open(os.path.join(GOLDEN, name, "golden.json"), encoding="utf-8") as file:
            golden = json.load(file)
        # The arguments are in the name: a golden file that was recorded anew has a new model.
        make(["make_random.py", *golden["arguments"]], os.path.join(out, golden["model"]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else sys.exit(__doc__)
