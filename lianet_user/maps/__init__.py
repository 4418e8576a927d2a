"""Maps: heads applied to the ground, and what regions remember of it, as Cloud-Optimized GeoTIFFs with names and colours.

    predict      from what a user asks for to what came of it
    planning     which maps there are: what heads are mapped together, on which ground, and what each map is called
    area, dates  where to map, and when
    placing      how a map's grid lies on a region's: which window a tile needs, and its values resampled
    answering    what heads answer on a tile: one reading of a region, one answer for all that is made of it
    product, certainty      what follows from what a map holds: how it is stored, counted, styled and drawn
    writing      maps from anything that computes tiles; `kept` keeps the tiles of an unfinished run, `geotiff` writes and
                 checks a GeoTIFF, `files` puts finished files in place
    style, picture, summary      what the values mean (tags, PAM sidecar, QGIS style), the map at a glance, what it came to
    reconstruct  the imagery that a region remembers; change: what differs between two dates
    moments      dates that were encoded, and dates between them that are estimated
    site         a region's windows brought to the tiles of such maps; runs: what all that write maps have
    images, indices, transitions, color    what they hold: reflectance, spectral indices, from-to codes, light
    polygons, zones      take a finished map further (`finished` opens it, `ground` measures it, `geopackage` writes)
    suggest      asks a head where to label next

None of them holds a whole map.
"""

from lianet_user.maps.area import MapArea
from lianet_user.maps.change import ChangeResult, change
from lianet_user.maps.engine import MapJob, Pass, write_maps
from lianet_user.maps.predict import MapResult, predict
from lianet_user.maps.reconstruct import reconstruct
from lianet_user.maps.summary import ClassCounts, NumberStatistics, Shares

__all__ = [
    "ChangeResult",
    "ClassCounts",
    "MapArea",
    "MapJob",
    "MapResult",
    "NumberStatistics",
    "Pass",
    "Shares",
    "change",
    "predict",
    "reconstruct",
    "write_maps",
]
