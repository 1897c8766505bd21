# The only place that names the torch version: `make test TORCH="torch==2.8.0"` takes another one.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
PROCESSES ?= 2

.PHONY: install demo demo-train traffic test test-slow check bench fuzz clean help
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
	$(BIN)/python -m pip install --quiet -e ".[video,aedat,blosc,export,search,dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(ORACLES)
	touch $@

demo: install  ## Simulate traffic, find and track what moves in it with the shipped network, draw.
	$(BIN)/spiketrack simulate --out $(DEMO)/traffic --preset davis346 --preset gen1 --classes 3 --train-scenes 0 --val-scenes 0 --test-scenes 2 --duration 3s --seed 7 --jobs 2 --view
	$(BIN)/spiketrack evaluate experiments/traffic.yaml --set data.root=$(DEMO)/traffic --out $(DEMO)/evaluation
	$(BIN)/spiketrack track $(DEMO)/traffic/HDF5/test/test_0000_td.h5 --out $(DEMO)/tracks
	@echo; echo "scenes  $(DEMO)/traffic/view/contact_sheet.png"
	@echo "video   $(DEMO)/tracks/video.mp4"; echo "report  $(DEMO)/tracks/report.html"
	@echo "metrics $(DEMO)/evaluation/report.html (plots), $(DEMO)/evaluation/metrics.json (numbers)"

demo-train: install  ## Train SpikeYOLO-p on moving shapes for about three minutes, evaluate, track.
	$(BIN)/spiketrack simulate $(DEMO)/data --scene shapes --train-objects 5 8
	$(BIN)/spiketrack train experiments/demo.yaml --set data.root=$(DEMO)/data --out $(DEMO)/run $$(test -f $(DEMO)/run/last.pt && echo --resume)
	$(BIN)/spiketrack evaluate experiments/demo.yaml --set data.root=$(DEMO)/data --weights $(DEMO)/run/best.pt --out $(DEMO)/run/evaluation
	$(BIN)/spiketrack track $(DEMO)/data/HDF5/test/test_0000_td.h5 --weights $(DEMO)/run/best.pt --config experiments/demo.yaml --out $(DEMO)/run/tracks

traffic: install  ## Simulate the data of the shipped network and train it: six hours.
	$(BIN)/spiketrack simulate --out data/static --preset davis346 --preset evk4 --preset gen1 --preset gen3 --classes 3 --train-scenes 180 --val-scenes 8 --test-scenes 0 --duration 1.5s --seed 0 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/moving --preset davis346 --preset gen1 --camera moving --classes 3 --train-scenes 70 --val-scenes 4 --test-scenes 0 --duration 1.5s --seed 1 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/test_static --preset davis346 --preset evk4 --preset gen1 --preset gen3 --classes 3 --train-scenes 0 --val-scenes 0 --test-scenes 16 --duration 3s --seed 100 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/test_moving --preset davis346 --preset gen1 --camera moving --classes 3 --train-scenes 0 --val-scenes 0 --test-scenes 8 --duration 3s --seed 101 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/light --preset davis346 --preset evk4 --preset gen1 --preset gen3 --classes 3 --train-scenes 80 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 2 --spread 1 --light-traffic 4 --jobs 2
	$(BIN)/spiketrack simulate --out data/more_davis346 --preset davis346 --classes 3 --train-scenes 80 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 11 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/more_evk4 --preset evk4 --classes 3 --train-scenes 40 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 12 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/more_gen --preset gen1 --preset gen3 --classes 3 --train-scenes 30 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 13 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/more_light --preset davis346 --preset evk4 --classes 3 --train-scenes 60 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 21 --spread 1 --light-traffic 4 --jobs 2
	$(BIN)/spiketrack simulate --out data/last_davis346 --preset davis346 --classes 3 --train-scenes 150 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 31 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/last_moving --preset davis346 --preset gen1 --camera moving --classes 3 --train-scenes 50 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 32 --spread 1 --jobs 2
	$(BIN)/spiketrack simulate --out data/views_davis346 --preset davis346 --classes 3 --train-scenes 96 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 41 --spread 1 --light-traffic 2 --jobs 2
	$(BIN)/spiketrack simulate --out data/views_evk4 --preset evk4 --classes 3 --train-scenes 36 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 42 --spread 1 --light-traffic 2 --jobs 2
	$(BIN)/spiketrack simulate --out data/views_moving --preset davis346 --preset gen1 --camera moving --classes 3 --train-scenes 28 --val-scenes 0 --test-scenes 0 --duration 1.5s --seed 43 --spread 1 --light-traffic 2 --jobs 2
	mkdir -p data/traffic/HDF5 && cp data/static/classes.txt data/traffic/
	for split in train val; do for camera in static moving; do ln -sfn ../../$$camera/HDF5/$$split data/traffic/HDF5/$${split}_$$camera; done; done
	ln -sfn ../../light/HDF5/train data/traffic/HDF5/train_light
	for camera in static moving; do ln -sfn ../../test_$$camera/HDF5/test data/traffic/HDF5/test_$$camera; done
	OMP_NUM_THREADS=1 $(BIN)/spiketrack train experiments/traffic.yaml --out runs/traffic $$(test -f runs/traffic/last.pt && echo --resume)
	OMP_NUM_THREADS=1 $(BIN)/spiketrack train experiments/traffic.yaml --start-from runs/traffic/best.pt --set training.epochs=2 --set training.learning_rate=1.0e-3 --set training.warm_up=0.02 --set training.validate_every=2 --set seed=1 --out runs/traffic_more
	for more in davis346 evk4 gen light; do ln -sfn ../../more_$$more/HDF5/train data/traffic/HDF5/train_more_$$more; done
	OMP_NUM_THREADS=1 $(BIN)/spiketrack train experiments/traffic.yaml --start-from runs/traffic_more/best.pt --set training.epochs=4 --set training.learning_rate=2.0e-3 --set training.warm_up=0.02 --set training.validate_every=4 --set data.cache_mb=10000 --set data.augment.zoom=0.7 --set data.augment.drop=0.3 --set data.augment.noise_hz=1.0 --set data.augment.polarity_noise=0.1 --set seed=2 --out runs/traffic_third
	for last in davis346 moving; do ln -sfn ../../last_$$last/HDF5/train data/traffic/HDF5/train_last_$$last; done
	OMP_NUM_THREADS=1 $(BIN)/spiketrack train experiments/traffic.yaml --start-from runs/traffic_third/best.pt --set training.epochs=2 --set training.max_steps=5000 --set training.learning_rate=2.0e-3 --set training.warm_up=0.01 --set training.validate_every=2 --set data.cache_mb=9000 --set data.augment.zoom=0.7 --set data.augment.drop=0.3 --set data.augment.noise_hz=1.0 --set data.augment.polarity_noise=0.1 --set seed=4 --out runs/traffic_fourth
	for views in davis346 evk4 moving; do ln -sfn ../../views_$$views/HDF5/train data/traffic/HDF5/train_views_$$views; done
	OMP_NUM_THREADS=1 $(BIN)/spiketrack train experiments/traffic.yaml --start-from runs/traffic_fourth/best.pt --set training.epochs=3 --set training.max_steps=5500 --set training.learning_rate=2.0e-3 --set training.warm_up=0.01 --set training.validate_every=3 --set data.cache_mb=9500 --set data.augment.zoom=0.7 --set data.augment.drop=0.6 --set data.augment.drop_polarity=0.8 --set data.augment.noise_hz=2.0 --set data.augment.polarity_noise=0.1 --set seed=5 --out runs/traffic_fifth

# Torch's CUDA builds bring triton; elsewhere its interpreter runs the kernels for GPUs in the tests (1 GB on disk).
$(VENV)/triton: $(VENV)/installed
	$(BIN)/python -c "import triton" 2>/dev/null || $(BIN)/python -m pip install --quiet "triton>=3.3; platform_system == 'Linux'"
	touch $@

test: install $(VENV)/triton  ## Run the tests, in two processes (PROCESSES=1 for fewer).
	$(BIN)/python -m pytest -m "not slow" -n $(PROCESSES) --dist worksteal

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
	$(BENCH)/bin/python benchmarks/simulation.py
	$(BENCH)/bin/python benchmarks/train_step.py
	$(BENCH)/bin/python benchmarks/heatmaps.py

fuzz: install  ## Read a million mutated files; Ctrl-C ends it with the figures so far.
	$(BIN)/python tests/fuzz/run.py --inputs 1000000 --processes 2 --seed 1 --out fuzz.json

clean:  ## Remove the environment and what the demo wrote.
	rm -rf $(VENV) $(BENCH) $(DEMO)
