"""Print README's table of the demo, for one folder per seed.

for seed in 0 1 2; do minifcn demo --out demo$seed --seed $seed; done
python benchmarks/demo_table.py demo0 demo1 demo2
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from minifcn.metrics import METRICS

ROWS = {
    "baseline_commonest": "commonest class everywhere",
    "baseline_colour": "look-up of each pixel's colour",
    "fcn32s": "FCN-32s",
    "fcn16s": "FCN-16s",
    "fcn8s": "FCN-8s",
}


def main(folders: list[str]) -> None:
    runs = [json.loads((Path(folder) / "metrics.json").read_text()) for folder in folders]
    print("| held-out tiles, in % | " + " | ".join(METRICS.values()) + " |")
    print("|---|" + "---|" * len(METRICS))
    for row, title in ROWS.items():
        cells = []
        for metric in METRICS:
            values = [f"{100 * run[row][metric]:.1f}" for run in runs]
            cells.append(values[0] if len(set(values)) == 1 else " / ".join(values))
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
