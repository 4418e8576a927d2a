# Works on a fresh clone with make and Python 3.11 or later, and nothing else.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

# Tests in a process for each core, up to four. Each gets a stretch of them, so that files share what they set up, and takes
# over from others when it is done.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal
# Instructions of older processors: none beyond SSE 4.1, and AVX2 without AVX-512 and bfloat16.
OLDEST := ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41
AVX2 := ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2
TWO_THREADS := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive

# The tests start some hundred processes: each would compile the package anew where an environment forbids to keep that.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help install demo tutorials docs test test-portable lint bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv with the tested versions of everything

# The stamp is written last, so that an installation that was interrupted is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: install  ## labels to map in one go, with the region and the labels that ship with the project
	mkdir -p demo
	$(BIN)/lianet-user finetune models/havelland.safetensors tutorials/data/havelland_demo.gpkg \
		-o demo/head.safetensors --overwrite
	$(BIN)/lianet-user predict demo/head.safetensors -o demo/map.tif --overwrite
	@printf '\nMade in demo/:\n'
	@printf '  %-17s %s\n' \
		head.safetensors 'the fine-tuned head, for lianet-user predict' \
		head.png 'how well it does on labels it was not trained on' \
		head.html 'the whole report: open it in a browser' \
		map.tif 'the map: open it in QGIS' \
		map.png 'the map at a glance'

tutorials: install  ## execute the tutorials and refresh their pictures
	$(BIN)/python tutorials/run.py

docs: install  ## the documentation site, into site/: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: install  ## style, types, the direction of imports, dead code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/vulture

test: lint  ## everything a change has to pass
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -m 'not heavy'
	# what rounding may tell apart, as the oldest processors compute it
	$(OLDEST) OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -m 'numerics and not heavy'

test-portable: install  ## the tests as older processors compute, with one thread and with two: half an hour
	$(OLDEST) OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -m 'not heavy and not slow'
	$(OLDEST) $(TWO_THREADS) $(BIN)/pytest -m 'numerics and not heavy'
	$(AVX2) $(TWO_THREADS) $(BIN)/pytest -m 'numerics and not heavy'
	$(AVX2) OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) -m 'not heavy and not slow'

bench: install  ## measure the claims about speed; some ten minutes on two idle cores
	$(BIN)/python -m benchmarks.bench --results benchmarks/results/speed.json

clean:  ## remove what can be made again, the environment excepted
	rm -rf build dist demo site tutorials/out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find lianet_user tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
