"""Make romania_tree_cover_2018.tif, the numbers that a tutorial learns.

    python make_romania_tree_cover.py tree_cover_density_2018_romania.tif [romania_tree_cover_2018.tif]

The extract (50 x 50 px of 20 m of Copernicus Tree Cover Density 2018, in the wheel of the PyPI package nrt 0.2.0, `nrt/data`)
has its values as they are. Its coordinate reference system is spelt out there without a code: here it is EPSG:3035,
which it is. Name, unit and attribution are added.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rasterio

ATTRIBUTION = "(c) European Union, Copernicus Land Monitoring Service 2018, European Environment Agency (EEA)"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the numbers that a tutorial learns.")
    parser.add_argument("extract", type=Path, help="tree_cover_density_2018_romania.tif")
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("romania_tree_cover_2018.tif"))
    arguments = parser.parse_args()
    with rasterio.open(arguments.extract) as extract:
        values, profile = extract.read(1), extract.profile
    with rasterio.open(arguments.output, "w", **profile | {"crs": "EPSG:3035"}) as written:
        written.write(values, 1)
        written.set_band_description(1, "tree cover density")
        written.set_band_unit(1, "%")
        written.update_tags(ATTRIBUTION=ATTRIBUTION)
    print(f"{arguments.output}: {values.size} pixels, {values.min()} to {values.max()} %, mean {values.mean():.1f}")


if __name__ == "__main__":
    main()
