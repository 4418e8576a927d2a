"""Maps: a head applied to a window of its region, as a Cloud-Optimized GeoTIFF that opens with names and colours.

`predict` runs the loop and puts finished files in place, `geotiff` writes and checks the GeoTIFF, `style` says what the
values mean (tags, PAM sidecar, QGIS style), and `picture` draws the map at a glance. None of them holds a whole map.
"""

from lianet_user.maps.predict import MapResult, predict

__all__ = ["MapResult", "predict"]
