"""Geography that maps, labels and imagery share: grids and windows, patches, CRS transformation, resampling, areas."""
