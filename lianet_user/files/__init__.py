"""The files of this package: headers, the container, region and head files, checkpoints, locks."""
