"""Pictures of the tutorials: shown in a notebook, and kept in images/ for the page."""

from __future__ import annotations

from pathlib import Path

from IPython.display import Image
from PIL import Image as Pillow

SIDE = 1200  # pixels of the longer side; what a page shows is narrower still


def show(path: str | Path, name: str) -> Image:
    """The picture at `path`, for a notebook to display; a copy goes to images/ as `name`, a .jpg or a .png of few colours."""
    kept = Path(__file__).with_name("images") / name
    with Pillow.open(path) as picture:
        drawn = picture.convert("RGB")
    drawn.thumbnail((SIDE, SIDE), Pillow.Resampling.LANCZOS)
    if kept.suffix == ".png":
        drawn.quantize(256).save(kept, optimize=True)
    else:
        drawn.save(kept, quality=82, optimize=True)
    return Image(filename=str(kept))
