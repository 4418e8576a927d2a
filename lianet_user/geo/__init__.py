"""What maps, labels and imagery share of geography: grids and windows, patches, coordinate operations, resampling, areas."""
