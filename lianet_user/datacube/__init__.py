"""Regions and heads as data cubes: xarray opens them like any file, and computes what is looked at.

A region file is a cube of reflectance (time, band, y, x) that is stored nowhere; a head file is one of the classes or
numbers that it maps (time, y, x). Opening reads headers only. Pixels are computed window by window when they are touched::

    import xarray as xr

    cube = xr.open_dataset("models/bouconne.safetensors", engine="lianet")
    cube.reflectance.sel(time="2018-07-08", band="B08").isel(x=slice(0, 100)).plot()  # computes 100 columns

    cube = xr.open_dataset("models/bouconne.safetensors", engine="lianet", chunks={})  # lazily, for dask
    red, infrared = cube.reflectance.sel(band="B04"), cube.reflectance.sel(band="B08")
    ndvi = ((infrared - red) / (infrared + red)).mean("time").compute()

    classes = xr.open_dataset("head.safetensors", engine="lianet", probabilities=True)
    classes["class"].isel(time=0)  # uint8, flag_meanings says what the values mean
    classes.probability.sel(class_name="water")  # 0 to 1

The same from this package, with its parameters documented: :func:`open_datacube`. On many processes or machines, with dask
(each worker opens its own copy of the files, which have to lie under the same path, unchanged)::

    from dask.distributed import Client

    with Client():
        ndvi.compute()

Dates between acquisitions are not what `cube.interp(time=...)` gives, which draws straight lines between reflectances. Ask
the field, which knows more: `open_datacube(path, dates=["2018-06-01"], between=True)`.

`backend` is what xarray finds, `dataset` describes a cube from headers, `array` turns indices into windows, `source` opens
files once in each process and computes, `writing` writes a cube to Zarr or NetCDF. No torch until a pixel is touched.
"""

from lianet_user.datacube.backend import LianetBackend, open_datacube

__all__ = ["LianetBackend", "open_datacube"]
