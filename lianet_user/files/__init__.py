"""The files of this package: headers, the container, region and head files, checkpoints, locks."""

import lianet_user.geo  # noqa: F401  # before anything imports odc-geo by itself
