"""Maps: a head applied to a window of its region, as a Cloud-Optimized GeoTIFF that opens with names and colours.

`predict` runs the loop and puts finished files in place, `product` knows what follows from whether a map holds classes or
numbers, `geotiff` writes and checks the GeoTIFF, `style` says what the values mean (tags, PAM sidecar, QGIS style),
`picture` draws the map at a glance, and `summary` says what it came to. None of them holds a whole map.

`polygons` and `zones` take a finished map further (`finished` opens it, `ground` measures it, `geopackage` writes);
`suggest` asks a head where to label next.
"""

from lianet_user.maps.predict import MapResult, predict
from lianet_user.maps.summary import ClassCounts, NumberStatistics

__all__ = ["ClassCounts", "MapResult", "NumberStatistics", "predict"]
