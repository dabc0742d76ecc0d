# Variables: make extract DATA=photos BACKBONE=inception_v3
PYTHON ?= python3
DATA ?= elpv
BACKBONE ?= vgg16
# A folder's whole name, a file's without its ending
SOURCE := $(if $(wildcard $(DATA)/.),$(notdir $(abspath $(DATA))),$(basename $(notdir $(abspath $(DATA)))))
STORE ?= cache/$(SOURCE)-$(BACKBONE).h5
HEAD ?= logistic
HEADS ?= all
REPEATS ?= 1
# Left out, report takes STORE's comparison; predict and export take its HEAD.
RUN ?=
IMAGES ?=
# ONNX, as which every base can be exported
MODEL ?= $(or $(RUN),$(RUNS)-$(HEAD)).onnx
# Further options of a command, such as OPTIONS='--image-size 180 --pool avg'
OPTIONS ?=
# make demo: as good on new modules as VGG16 at 160 pixels, in a fifth of the time; tests/README.md has the comparison
DEMO_BACKBONE ?= efficientnet_lite0
DEMO_HEADS ?= logistic,rbf-svm,ridge,knn,nearest-mean,majority

# make backbones: those whose ImageNet weights come as packages
BASES ?= efficientnet_lite0 efficientnet_lite2 squeezenet vgg16
BASE_STORES = cache/$(SOURCE)-avg

TORCH_TESTS := $(addprefix tests/features/,backbones/test_timm_models.py backbones/test_hub_models.py backbones/test_same_weights.py engines/test_torch_engine.py)

BIN := .venv/bin
EXTRAS := demo,onnx,openvino,numba,dask,export,pandas,hdf5plugin,heic,dicom,serve,completion,test,lint
PIPELINE := $(BIN)/cached-features
RUNS = runs/$(basename $(notdir $(STORE)))

.DEFAULT_GOAL := help
.PHONY: help setup demo extract train-head compare backbones predict export next serve probe audit budget report lecture layers inspect verify bench bench-start bench-heads bench-store bench-growth bench-cluster test fuzz test-oldest test-torch coverage lint format pins clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14
	@echo 'variables: DATA=$(DATA) BACKBONE=$(BACKBONE) STORE=$(STORE) HEAD=$(HEAD) HEADS=$(HEADS) REPEATS=$(REPEATS) RUN= IMAGES= MODEL= OPTIONS='

# A real target, so that any command works on a fresh clone. Pins make every machine install what was tested.
$(BIN)/.ready: setup.cfg pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python must be at least 3.11; got " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

setup: $(BIN)/.ready  ## make the virtual environment with all extras

demo: $(BIN)/.ready  ## solar cells through a base, heads compared on modules they never saw, and shown on a page (minutes)
	$(PIPELINE) extract --data elpv --backbone $(DEMO_BACKBONE) --out cache/elpv-demo.h5
	$(PIPELINE) compare --store cache/elpv-demo.h5 --heads $(DEMO_HEADS) --group module --repeats 5 --out runs/elpv-demo --overwrite
	@echo 'The heads above were tested on modules that they had not seen. The published benchmark draws cell by cell, as the next figures do first:'
	$(PIPELINE) audit --store cache/elpv-demo.h5 --group module --out runs/elpv-demo-audit --overwrite
	$(PIPELINE) report --run runs/elpv-demo

extract: $(BIN)/.ready  ## run BACKBONE once over DATA and keep its features in STORE
	$(PIPELINE) extract --data '$(DATA)' --backbone $(BACKBONE) --out '$(STORE)' $(OPTIONS)

train-head: $(BIN)/.ready  ## train HEAD on STORE
	$(PIPELINE) train-head --store '$(STORE)' --head $(HEAD) $(OPTIONS)

compare: $(BIN)/.ready  ## train HEADS on STORE and compare them
	$(PIPELINE) compare --store '$(STORE)' --heads $(HEADS) --repeats $(REPEATS) $(OPTIONS)

backbones: $(BIN)/.ready  ## run the BASES that come as packages over DATA, and say which to take
	for base in $(BASES); do $(PIPELINE) extract --data '$(DATA)' --backbone $$base --pool avg --out "$(BASE_STORES)-$$base.h5" $(OPTIONS) || exit; done
	$(PIPELINE) compare --store $(foreach base,$(BASES),'$(BASE_STORES)-$(base).h5') --repeats $(REPEATS)

predict: $(BIN)/.ready  ## classify IMAGES (files, folders, patterns) with the trained head in RUN
	$(PIPELINE) predict --run '$(or $(RUN),$(RUNS)-$(HEAD))' $(OPTIONS) $(IMAGES)

export: $(BIN)/.ready  ## make one MODEL (.keras, .onnx or a folder) of the head in RUN and its base
	$(PIPELINE) export --run '$(or $(RUN),$(RUNS)-$(HEAD))' --out '$(MODEL)' $(OPTIONS)

next: $(BIN)/.ready  ## choose the IMAGES that are most worth labelling, by the head in RUN, and write a page to label them
	$(PIPELINE) next --run '$(or $(RUN),$(RUNS)-$(HEAD))' $(OPTIONS) $(IMAGES)

serve: $(BIN)/.ready  ## serve a page on which photos are dropped, by the head in RUN
	$(PIPELINE) serve --run '$(or $(RUN),$(RUNS)-$(HEAD))' $(OPTIONS)

probe: $(BIN)/.ready  ## show accuracy layer by layer of STORE (extract it with OPTIONS='--layers a,b,c')
	$(PIPELINE) probe --store '$(STORE)' $(OPTIONS)

audit: $(BIN)/.ready  ## find near-copies across the split of STORE, and measure how optimistic it is
	$(PIPELINE) audit --store '$(STORE)' $(OPTIONS)

budget: $(BIN)/.ready  ## tell what more labelled images would bring to HEAD on STORE
	$(PIPELINE) budget --store '$(STORE)' --heads $(HEAD) $(OPTIONS)

report: $(BIN)/.ready  ## write one HTML page about RUN, a comparison or a trained head
	$(PIPELINE) report --run '$(or $(RUN),$(RUNS)-compare)' $(OPTIONS)

lecture: $(BIN)/.ready  ## run the lecture's models on DATA, as they were and corrected
	$(PIPELINE) lecture --data '$(DATA)' $(OPTIONS)

layers: $(BIN)/.ready  ## list the layers of BACKBONE
	$(PIPELINE) layers $(BACKBONE) $(OPTIONS)

verify: $(BIN)/.ready  ## check STORE: its checksums, its source, and some recomputed rows
	$(PIPELINE) verify '$(STORE)' $(OPTIONS)

inspect: $(BIN)/.ready  ## show what STORE holds
	$(PIPELINE) inspect '$(STORE)'

bench: $(BIN)/.ready  ## images/s of the pass beside what people do now, alternating in one run
	$(BIN)/python tests/bench/extraction.py $(OPTIONS)

bench-start: $(BIN)/.ready  ## cold processes: one photo to its class and folders to features, beside Keras and PyTorch scripts
	$(BIN)/python tests/bench/start.py $(OPTIONS)

bench-heads: $(BIN)/.ready  ## seconds of an experiment and of searches on STORE, beside Keras' and scikit-learn's own
	$(BIN)/python tests/bench/experiment.py --store '$(STORE)'
	$(BIN)/python tests/bench/heads.py --store '$(STORE)'

bench-store: $(BIN)/.ready  ## size and reading of STORE by compression, beside h5py and np.load
	$(BIN)/python tests/bench/storage.py --store '$(STORE)' $(OPTIONS)

bench-growth: $(BIN)/.ready  ## time and memory of the pass as images get more and larger
	$(BIN)/python tests/bench/growth.py $(OPTIONS)

bench-cluster: $(BIN)/.ready  ## two workers beside one process, an index of 10,000 parts, 64 workers that sleep
	$(BIN)/python tests/bench/cluster.py overhead
	$(BIN)/python tests/bench/cluster.py index
	$(BIN)/python tests/bench/cluster.py simulate

# A process per logical core, each with one thread for BLAS: threads of several processes wait for each other.
test: $(BIN)/.ready  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

# The table of tests/README.md: make fuzz OPTIONS='--times 2000'
fuzz: $(BIN)/.ready  ## damage files of all kinds and read them: errors of ours, or the same values (minutes)
	$(BIN)/python tests/torture/fuzz.py --times 200 $(OPTIONS)

test-oldest: $(BIN)/.ready  ## run the quick tests with the oldest versions that setup.cfg allows
	$(BIN)/python -m venv --clear .venv-oldest
	$(BIN)/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct --editable '.[test]'
	.venv-oldest/bin/python -m pytest -m 'not real'

# PyTorch is too large for setup: of Linux, pip takes the one for CUDA unless its configuration names PyTorch's index for CPUs.
test-torch:  ## run the tests of models of PyTorch in an environment with the extra torch (4 GB in all; more with CUDA)
	$(PYTHON) -m venv --clear .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[torch,demo,openvino,export,test]'
	OMP_NUM_THREADS=1 .venv-torch/bin/python -m pytest -rs $(TORCH_TESTS)

coverage: $(BIN)/.ready  ## run all tests and list the lines and branches that none reaches
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(BIN)/.ready  ## check style, docstrings, types and which package imports which
	$(BIN)/ruff check features pipeline tests
	$(BIN)/ruff format --check features pipeline tests
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BIN)/.ready  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix features pipeline tests
	$(BIN)/ruff format features pipeline tests

# Resolved and not installed, so that extras too large for setup have pins, too.
pins: $(BIN)/.ready  ## resolve the newest versions, of all extras, into .ci/constraints.txt
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report .pins.json '.[$(EXTRAS),torch]'
	$(BIN)/python -c 'import json; \
	    found = [each["metadata"] for each in json.load(open(".pins.json"))["install"] if not each["is_direct"]]; \
	    found = [each for each in found if each["name"] not in ("setuptools", "wheel")]; \
	    print(*sorted((each["name"] + "==" + each["version"] for each in found), key=str.lower), sep="\n")' > .ci/constraints.txt
	@rm .pins.json

clean:  ## remove the virtual environment and tools' caches; stores and runs stay
	rm -rf .venv .venv-oldest .venv-torch build *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find features pipeline tests -name __pycache__ -exec rm -rf {} +
