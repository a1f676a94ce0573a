PYTHON ?= python3
BIN := .venv/bin

help:       ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/' | expand -t 20

# VQLIB_DATA=folder, VQLIB_PRESET=smoke|quick|report|flagship|flagship-f4
notebooks: .venv/installed  ## run the five notebooks
	$(BIN)/python notebooks/run.py

pairs: .venv/installed  ## run them and refresh the committed .ipynb files
	$(BIN)/python notebooks/run.py --commit

figures: .venv/installed  ## redraw figures/ with the weights that ship (needs VQLIB_DATA=folder)
	@test -n "$(VQLIB_DATA)" -o -d data/ham10000 || { \
		echo "figures/ shows real lesions: VQLIB_DATA=path/to/ham10000 make figures"; exit 1; }
	VQLIB_PRESET=flagship $(BIN)/python notebooks/run.py

report: .venv/report  ## write report/: the course report as a page and a PDF, from saved metrics
	$(BIN)/python -m vqlib.report

test: .venv/report  ## lint and test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

bench: .venv/installed  ## measure against what others would use (tests/bench/README.md)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,bench]'
	$(BIN)/python -m tests.bench

growth: .venv/installed  ## draw figures/growth.png: time and memory against every size
	$(BIN)/python -m tests.bench.growth

speedrun: .venv/installed  ## seconds to 30 dB and 2.6 nats per code (VQLIB_DATA=folder)
	$(BIN)/python -m tests.bench.speedrun

lab: .venv/installed  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

studies: .venv/installed  ## run rows of studies that have no result yet (VQLIB_DATA=folder)
	OMP_NUM_THREADS=1 $(BIN)/python -m vqlib.studies all

clean:      ## remove caches and runs; weights that ship, data and figures stay
	rm -rf data/cache data/runs notebooks/executed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

.venv/report: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,report]'
	touch $@

.PHONY: help notebooks pairs figures report test bench growth speedrun lab studies clean
