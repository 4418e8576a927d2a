"""A provider's imagery: files of any of the usual kinds -> acquisitions of one area on one grid. No torch here.

`formats` decides by content which reader the files need: `sentinel2` (band files), `stacks` (rasters of many layers),
`netcdf_zarr` or `stac`. Each reader makes planes, one band of one acquisition each, which `planes` assembles: masked by
`masks`, and put on one grid by `grids`, which also refines coarse bands.

Importing this package imports none of them; a name below is loaded when it is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lianet_user.imagery.formats import open_imagery
    from lianet_user.imagery.imagery import Imagery, ImageryOptions, Patch, Resident

__all__ = ["Imagery", "ImageryOptions", "Patch", "Resident", "open_imagery"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "imagery": ["Imagery", "ImageryOptions", "Patch", "Resident"],
        "formats": ["open_imagery"],
    },
)
