"""Print the tables of docs/performance.md from results of `minifcn bench ... --tuned --out FILE`.

minifcn bench small64 small128 demo96 vgg224 --tuned --out avx512.json
OPENBLAS_CORETYPE=Haswell minifcn bench small64 small128 demo96 vgg224 --tuned --out avx2.json
python benchmarks/performance_table.py avx512.json avx2.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = [
    *("work", "minifcn ms", "memory kept", "PyTorch ms", "tuned", "ratio", "tuned"),
    *("GFLOP/s", "of peak", "memory MB", "PyTorch MB", "ratio"),
]


def main(files: list[str]) -> None:
    for file in files:
        report = json.loads(Path(file).read_text())
        peaks = ", ".join(f"{v:.0f} GFLOP/s with {n}" for n, v in report["peaks"].items())
        print(f"\n{file}: {report['machine']['BLAS']}; matrix product {peaks} threads\n")
        print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
        for result in report["results"]:
            if result["case"] == result["work"]:  # a whole net
                print(row(result, report["peaks"]))


def row(result: dict[str, Any], peaks: dict[str, float]) -> str:
    ours, kept = (best(result, "minifcn", tuned) for tuned in (False, True))
    theirs, tuned = (best(result, "torch", tuned) for tuned in (False, True))
    speed = result["flops"] / 1e6 / ours["ms"]
    cells = [result["work"], number(ours), number(kept), number(theirs), number(tuned)]
    cells += [ratio(theirs), ratio(tuned)]
    cells += [f"{speed:.0f}", f"{100 * speed / max(peaks.values()):.0f} %"]
    mine, other = (side and side.get("memory") for side in (ours, theirs))
    if mine and other:
        used = [(memory["peak"] - memory["before"]) / 1e6 for memory in (mine, other)]
        cells += [f"{used[0]:,.0f}", f"{used[1]:,.0f}", f"{used[0] / used[1]:.2f}"]
    else:
        cells += ["", "", ""]
    return "| " + " | ".join(cells) + " |"


def best(result: dict[str, Any], peer: str, tuned: bool) -> dict[str, Any] | None:
    """Return the fastest form of a library, or None if it was not measured."""
    sides = [s for s in result["sides"] if s["side"]["peer"] == peer]
    sides = [s for s in sides if s["side"]["tuned"] == tuned]
    return min(sides, key=lambda side: side["ms"], default=None)


def number(side: dict[str, Any] | None) -> str:
    return "" if side is None else f"{side['ms']:,.1f}{'*' * side['doubtful']}"


def ratio(side: dict[str, Any] | None) -> str:
    return "" if side is None else f"{side['ours_over_this']:.2f}"


if __name__ == "__main__":
    main(sys.argv[1:])
