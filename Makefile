# The only place that names the torch version: `make test TORCH="torch==2.8.0"` takes another one.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo

.PHONY: install demo test test-slow check bench fuzz clean help
help:  ## Say what each target does.
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed  ## Create the virtual environment and install everything.

# Oracles of the tests: other packages that must agree with ours; none of their own requirements is needed there.
ORACLES := trackeval==1.3.0 evt3==0.4.1 faery==0.7.1 eventcv==1.0.8
# What the benchmarks measure beside ours, in an environment of its own: some of these pull in half of PyPI.
PEERS := evt3==0.4.1 faery==0.7.1 eventcv==1.0.8 evutils==0.3.18 expelliarmus==1.1.12 evlib==0.13.2 tonic==1.7.0
BENCH := .venv-bench

$(VENV)/installed: pyproject.toml Makefile
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), 'spiketrack needs CPython 3.11 to 3.13'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[video,aedat,blosc,dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(ORACLES)
	touch $@

demo: install  ## Simulate a data set, train SpikeYOLO-p on it, evaluate and track unseen sequences.
	$(BIN)/spiketrack simulate $(DEMO)/data --train-objects 5 8
	$(BIN)/spiketrack train experiments/demo.yaml --set data.root=$(DEMO)/data --out $(DEMO)/run $$(test -f $(DEMO)/run/last.pt && echo --resume)
	$(BIN)/spiketrack evaluate experiments/demo.yaml --set data.root=$(DEMO)/data --weights $(DEMO)/run/best.pt --out $(DEMO)/evaluation
	$(BIN)/spiketrack track $(DEMO)/data/HDF5/test/test_0000_td.h5 --weights $(DEMO)/run/best.pt --config experiments/demo.yaml --out $(DEMO)/tracks
	@echo; echo "video   $(DEMO)/tracks/video.mp4"; echo "report  $(DEMO)/tracks/report.html"
	@echo "metrics $(DEMO)/evaluation/report.html (plots), $(DEMO)/evaluation/metrics.json (numbers)"

test: install  ## Run the tests.
	$(BIN)/python -m pytest -m "not slow"

test-slow: install  ## Run the tests that take minutes.
	$(BIN)/python -m pytest -m slow

check: install  ## Lint, formatting, types, import contract.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV) src
	$(BIN)/lint-imports

$(BENCH)/installed: pyproject.toml Makefile
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet "$(TORCH)"
	$(BENCH)/bin/python -m pip install --quiet -e . $(PEERS) "$(TORCH)"
	touch $@

bench: $(BENCH)/installed  ## Run the benchmarks beside other packages; each prints what it measured.
	$(BENCH)/bin/python benchmarks/decoding.py
	$(BENCH)/bin/python benchmarks/ecf.py
	$(BENCH)/bin/python benchmarks/representations.py
	$(BENCH)/bin/python benchmarks/end_to_end.py
	$(BENCH)/bin/python benchmarks/filters.py --peers $(BENCH)/bin/python
	$(BENCH)/bin/python benchmarks/train_step.py

fuzz: install  ## Read a million mutated files; Ctrl-C ends it with the figures so far.
	$(BIN)/python tests/fuzz/run.py --inputs 1000000 --processes 2 --seed 1 --out fuzz.json

clean:  ## Remove the environment and what the demo wrote.
	rm -rf $(VENV) $(BENCH) $(DEMO)
