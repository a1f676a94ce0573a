PYTHON ?= python3
BIN := .venv/bin

help:       ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/' | expand -t 20

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

test-slow: .venv/installed  ## 50 kills of each training, an hour of damaged files
	$(BIN)/python -m pytest -m slow

test-browser: .venv/installed  ## test the explorers in Debian's Chromium (apt-get install chromium)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[test,browser]'
	$(BIN)/python -m pytest -m browser -n 0 -rs tests/browser

audit:      ## ask whether a vulnerability of an installed version is known (needs a network)
	test -x .venv/audit/bin/pip-audit || { $(PYTHON) -m venv .venv/audit && \
		.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

constraints:  ## renew constraints.txt: the newest versions that the project allows
	$(PYTHON) -m venv --clear .venv/newest
	.venv/newest/bin/python -m pip install --quiet --disable-pip-version-check '.[test]'
	head -3 constraints.txt > .venv/constraints.txt
	.venv/newest/bin/python -m pip freeze --all --exclude vqlib --exclude pip | \
		grep -vE '^(nvidia|cuda|triton)' | sed 's/+cpu$$//' >> .venv/constraints.txt
	mv .venv/constraints.txt constraints.txt

bench: .venv/installed  ## measure against what others would use (tests/bench/README.md)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[test,bench]'
	$(BIN)/python -m tests.bench

growth: .venv/installed  ## draw figures/growth.png: time and memory against every size
	$(BIN)/python -m tests.bench.growth

speedrun: .venv/installed  ## seconds to 30 dB and 2.6 nats per code (VQLIB_DATA=folder)
	$(BIN)/python -m tests.bench.speedrun

explore: .venv/installed  ## open the five explorers as one page, with the weights that ship
	$(BIN)/python -m vqlib explore

lab: .venv/installed  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

studies: .venv/installed  ## run rows of studies that have no result yet (VQLIB_DATA=folder)
	OMP_NUM_THREADS=1 $(BIN)/python -m vqlib.studies all

clean:      ## remove caches and runs; weights that ship, data and figures stay
	rm -rf data/cache data/runs notebooks/executed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[test]'
	touch $@

.venv/report: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		--editable '.[test,report]'
	touch $@

.PHONY: help notebooks pairs figures report test test-slow test-browser audit constraints \
	bench growth speedrun explore lab studies clean
