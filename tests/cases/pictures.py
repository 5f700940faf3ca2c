"""PNG files as a golden case keeps them: by name, and whether they are pictures with a drawing.

Their bytes belong to the version of matplotlib and to the fonts that are there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.image
import numpy as np


def said(path: Path) -> str:
    """Wide enough to be read, neither blank nor one colour from edge to edge."""
    pixels = matplotlib.image.imread(path, format="png")
    height, width = pixels.shape[:2]
    flat = pixels[..., :3].reshape(-1, 3)
    background = flat[0]
    share = float(np.mean(np.any(np.abs(flat - background) > 0.05, axis=1)))
    colours = len(np.unique((flat * 255).round().astype(np.uint8), axis=0))
    if width < 600 or height < 150:
        return f"{width} x {height}: too small to be read"
    return "drawn" if colours > 8 and 0.005 < share < 0.95 else "blank"


if __name__ == "__main__":
    for one in sorted(Path(sys.argv[1]).rglob("*.png")):
        print(f"{one.relative_to(sys.argv[1])}: {said(one)}")
