"""A provider's imagery: files of any of the usual kinds -> acquisitions of one area on one grid. No torch here.

`opening` decides by content which reader a source needs: `sentinel2` (band files), `stacks` (rasters of many layers),
`arrays` (NetCDF and Zarr) or `stac`. Each makes planes, one band of one acquisition each, which `planes` puts together:
masked by `masks`, laid on one grid by `grids`, refined where they are coarser by `refine`.

Importing this package imports none of them; a name below is loaded when it is first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from lianet_user.imagery.imagery import Imagery, Patch, Resident
    from lianet_user.imagery.opening import open_imagery
    from lianet_user.imagery.options import ImageryOptions

__all__ = [
    "Imagery",
    "ImageryOptions",
    "Patch",
    "Resident",
    "open_imagery",
]

__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "imagery": ["Imagery", "Patch", "Resident"],
        "opening": ["open_imagery"],
        "options": ["ImageryOptions"],
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
