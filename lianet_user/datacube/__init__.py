"""Regions and heads as data cubes: xarray opens them like any file, and their pixels are computed when they are read.

A region file is a cube of reflectance (time, band, y, x) that is stored nowhere; a head file is one of the classes or
numbers that it maps (time, y, x). Opening reads only headers. Pixels are computed window by window when they are read::

    import xarray as xr

    cube = xr.open_dataset("models/bouconne.safetensors", engine="lianet")
    cube.reflectance.sel(time="2018-07-08", band="B08").isel(x=slice(0, 100)).plot()  # computes 100 columns

    cube = xr.open_dataset("models/bouconne.safetensors", engine="lianet", chunks={})  # lazily, for dask
    red, infrared = cube.reflectance.sel(band="B04"), cube.reflectance.sel(band="B08")
    ndvi = ((infrared - red) / (infrared + red)).mean("time").compute()

    classes = xr.open_dataset("head.safetensors", engine="lianet", probabilities=True)
    classes["class"].isel(time=0)  # uint8, with the names of the values in flag_meanings
    classes.probability.sel(class_name="water")  # 0 to 1

With its parameters documented: :func:`open_datacube`. On several processes or machines, with dask (each worker opens its own
copy of the files, which must have the same path and be unchanged)::

    from dask.distributed import Client

    with Client():
        ndvi.compute()

For dates between acquisitions do not use `cube.interp(time=...)`, which interpolates linearly between reflectances. The field
knows more: `open_datacube(path, dates=["2018-06-01"], between=True)`.

`backend` is the entry point for xarray, `dataset` describes a cube from headers, `lazy_array` computes pixels when they are
read, `write` writes a cube to Zarr or NetCDF. Torch is not imported until a pixel is read.
"""

from lianet_user.datacube.backend import LianetBackend, open_datacube

__all__ = ["LianetBackend", "open_datacube"]
