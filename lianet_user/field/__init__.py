"""The neural field f(x, y, t): coordinates and a date in, features and reflectance out. Knows nothing of maps.

`config` imports no torch, so that a region file's header can be read without it; everything else does.
"""
