"""Maps made by heads, and imagery reconstructed by regions, as Cloud-Optimized GeoTIFFs with names and colours.

    predict, reconstruct, change    the three commands that compute maps
    engine              from a request over tiles to finished files, which all three share; `--min-area` is applied here
    area, dates         where and when to map
    resume_store        the tiles of an unfinished run
    geotiff             writes and checks a GeoTIFF, puts it in place with its sidecar files, and reads it again
    product             what maps hold (classes, probabilities, reflectance, ...), and how it is stored and drawn
    spectral_indices    indices by name, computed from reconstructed bands
    style, picture, summary    tags, GDAL sidecar and QGIS style; the quick-look; counts and statistics of a map
    polygons, zones     a finished map's areas as polygons, and its content in each of a user's polygons
    suggest             places to label next
    geopackage          writes polygons and places in the colours of their classes

None of them holds a whole map in memory.
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
