# edgeprune: `make demo` shows everything, `make test` proves it, `make TARGET WEIGHTS=… DATA=…` uses it.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
# Where torch comes from; PyPI's build for Linux on x86-64 brings CUDA (5 GB), PyTorch's own index has one without:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := "torch>=2.6,<3" "torchvision>=0.21,<1"
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# Alone, without what they require: types of TensorRT's Python API (NVIDIA's libraries), Triton's schema of a model's
# configuration (an older protobuf than onnx brings).
STUBS ?= tensorrt-stubs==10.13.0.35.1 tritonclient==2.73.0
EDGEPRUNE := $(VENV)/bin/edgeprune

# What a target is built from; without WEIGHTS it is the model and the data of `make demo`.
WEIGHTS ?=
DATA ?=
LATENCY_MS ?=
SPEED_UP ?=
MACS_SPEED_UP ?=
MAX_MAP_DROP ?=
IMGSZ ?=
EPOCHS ?=
DEVICE ?=
SEED ?=
OUT ?=
HOURS ?= 2# of bench
ONLY ?=# of bench: names in benchmarks/README.md; all of them
TARGET ?=# of gpu-check: a profile by name or path, desktop-tensorrt; its page then lies in OUT
PHASES ?=# of gpu-check: batch-1 batch-16 int8 files table; all of them

WORKERS ?= 2# of pytest; a file of tests stays with one
OWN := demo
TARGETS := $(filter-out $(OWN),$(patsubst targets/%.yaml,%,$(wildcard targets/*.yaml)))
# What each goal uses; a variable that none of the goals uses is refused, and not left out in silence.
ANY := SHELL PYTHON VENV TORCH_INDEX STUBS
ASKED := WEIGHTS DATA LATENCY_MS SPEED_UP MACS_SPEED_UP MAX_MAP_DROP IMGSZ EPOCHS DEVICE SEED OUT
USES_gpu-check := WEIGHTS DATA SPEED_UP IMGSZ EPOCHS OUT PHASES TARGET
USES_bench := HOURS WEIGHTS DATA ONLY OUT
USES_test := WORKERS PYTEST
USES_test-slow := $(USES_test)
USES_test-hostile := $(USES_test)
USES_test-matrix := PYTEST
BLANK := $() $()
GIVEN := $(foreach word,$(subst \$(BLANK),_,$(MAKEOVERRIDES)),$(if $(findstring =,$(word)),$(firstword $(subst =, ,$(word)))))
GOALS := $(or $(MAKECMDGOALS),help)
# Every goal to ask for; a word that is none of them is refused first, so that a misspelt target is not taken for one
# that uses nothing.
KNOWN := help install install-dev demo test test-slow test-hostile test-matrix gpu-check bench check schemas pages docs \
	headers wheel clean distclean
FILES := $(VENV)/.installed $(VENV)/.installed-dev demo/digits/data.yaml demo/run/bundle/build.json
UNKNOWN := $(firstword $(filter-out $(KNOWN) $(TARGETS) $(FILES),$(GOALS)))
USED := $(foreach goal,$(GOALS),$(if $(filter $(goal),$(TARGETS)),$(ASKED),$(USES_$(goal))))
UNUSED := $(filter-out $(ANY) $(USED),$(GIVEN))
ifneq ($(UNKNOWN),)
NEAR := $(shell $(or $(PYTHON),false) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:]))' \
	'$(subst ',,$(UNKNOWN))' $(TARGETS) $(KNOWN))
$(error no target '$(UNKNOWN)'; $(if $(NEAR),did you mean $(firstword $(NEAR))? Close are $(NEAR),allowed are $(KNOWN), and to build for $(TARGETS)); next: make help)
endif
ifeq ($(MAKELEVEL),0)
ifneq ($(UNUSED),)
ifneq ($(filter $(OWN),$(GOALS)),)
$(error $(UNUSED): make demo is the same for everybody; next: make cpu WEIGHTS=best.pt DATA=data.yaml)
endif
$(error $(UNUSED): not used by make $(GOALS); used are $(strip $(sort $(USED)) $(ANY)))
endif
endif
ifneq ($(words $(VENV)),1)
$(error VENV=$(VENV): make takes no path with a blank in it as the name of a file; give another)
endif
# Recipes have these in quotes, in which no shell replaces ~, and most leave the one of OUT=~/runs to make.
QUOTED := $(filter $(USED),OUT DATA TARGET $(if $(filter bench,$(GOALS)),,WEIGHTS))
TILDE := $(firstword $(foreach name,$(QUOTED),$(if $(filter ~ ~/%,$(firstword $($(name)))),$(name))))
ifneq ($(TILDE),)
$(error $(TILDE)=$($(TILDE)): the shell did not expand ~; write $(TILDE)=$(patsubst ~%,$$HOME%,$($(TILDE))))
endif
REQUEST = $(if $(LATENCY_MS),--latency-ms $(LATENCY_MS)) $(if $(SPEED_UP),--speed-up $(SPEED_UP)) \
	$(if $(MACS_SPEED_UP),--macs-speed-up $(MACS_SPEED_UP)) $(if $(MAX_MAP_DROP),--max-map-drop $(MAX_MAP_DROP)) \
	$(if $(DEVICE),--device "$(DEVICE)") $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out "$(OUT)")
SIZE = $(if $(IMGSZ),--imgsz $(IMGSZ)) $(if $(EPOCHS),--epochs $(EPOCHS))

.PHONY: $(KNOWN) $(TARGETS)

help:
	@echo "make demo               train, prune, fine-tune, export, compile, benchmark: all of it, in minutes"
	@echo "make install            the package into .venv, and no more; [TORCH_INDEX=] [PYTHON=] [VENV=]"
	@echo "make test               the tests that take seconds, a quarter of an hour on two cores"
	@echo "make test-slow          those that take minutes: whole builds, kills, sweeps, notebooks"
	@echo "make test-hostile       every command on every situation, hostile inputs by the thousand: an hour or two"
	@echo "make test-matrix        the pruning tests on the oldest and the newest Ultralytics of the range"
	@echo "make gpu-check WEIGHTS=best.pt DATA=data.yaml [SPEED_UP=] [IMGSZ=] [EPOCHS=] [OUT=] [PHASES=] [TARGET=]"
	@echo "                        a build with real TensorRT engines where an NVIDIA GPU and trtexec are"
	@echo "make bench HOURS=2 [WEIGHTS=\"a.pt b.pt\"] [DATA=data.yaml] [ONLY=] [OUT=]"
	@echo "                        the benchmarks that fit into so many hours; goes on where it stopped"
	@echo "make check              linter, formatter, type checker, floors of the house, strict build of the pages"
	@echo "make docs               the pages of docs/ into site/"
	@echo "make clean              what was built of the package and the pages; distclean: demo/, runs/, .matrix/, .headers/ too"
	@echo "make TARGET WEIGHTS=best.pt DATA=data.yaml [LATENCY_MS=8 | SPEED_UP=1.5 | MACS_SPEED_UP=2] [MAX_MAP_DROP=]"
	@echo "                        [IMGSZ=] [EPOCHS=] [SEED=] [OUT=] [DEVICE=user@host[:port]] [TORCH_INDEX=]"
	@echo "                        TARGET is one of: $(TARGETS)"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.10 to 3.13 with venv is needed (Debian, Ubuntu: sudo apt install python3-venv);" \
		"or name one: make install PYTHON=/path/to/python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install $(TORCH) --index-url $(TORCH_INDEX))
	$(PIP) install -e .
	@touch $@

# What the tests, the type checker and the pages need besides.
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -e ".[dev]"
	$(PIP) install --no-deps $(STUBS)
	@touch $@

demo/digits/data.yaml: | install
	$(EDGEPRUNE) data digits --out demo/digits

demo: install demo/digits/data.yaml
	$(EDGEPRUNE) build --target demo --weights yolov8n.yaml --data demo/digits/data.yaml --out demo/run

demo/run/bundle/build.json: | install demo/digits/data.yaml
	$(MAKE) demo

ifeq ($(WEIGHTS)$(DATA),)
$(TARGETS): install demo/run/bundle/build.json
	@echo "no WEIGHTS given: using the model and the data of make demo"
	$(EDGEPRUNE) build --target $@ --weights "$$(ls -t demo/run/pretrain-*/best.pt | head -n 1)" \
		--data demo/digits/data.yaml $(if $(IMGSZ),--imgsz $(IMGSZ)) --epochs $(or $(EPOCHS),5) $(REQUEST)
else
$(TARGETS): install
	@test -n "$(DATA)" || { echo "DATA is missing: make $@ WEIGHTS=$(WEIGHTS) DATA=data.yaml"; exit 2; }
	@test -n "$(WEIGHTS)" || { echo "WEIGHTS is missing: make $@ WEIGHTS=best.pt DATA=$(DATA)"; exit 2; }
	$(EDGEPRUNE) build --target $@ --weights "$(WEIGHTS)" --data "$(DATA)" $(REQUEST) $(SIZE)
endif

# ONNX Runtime's C++ headers, which the tests of the C++ sample are compiled against; without them these are skipped.
headers:
	@.ci/onnxruntime-headers || echo "no headers of ONNX Runtime: the C++ sample is not tested with it (tests/shipped/test_cpp.py)" >&2

test: install-dev headers
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

test-slow: install-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m 'slow and not hostile' $(PYTEST)

# What `make test` has the fast part of. Kills and long runs, and the page of all: benchmarks/robustness.py.
test-hostile: install-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m hostile tests/situations tests/hostile $(PYTEST)

# The tests of pruning and of checkpoints on the oldest and the newest Ultralytics of the range in pyproject.toml.
test-matrix: install-dev
	$(VENV)/bin/python tests/matrix/run.py $(PYTEST)

# benchmarks/gpu_check.py says what each phase does; code 4 without a GPU or TensorRT.
gpu-check: install
	@test -n "$(WEIGHTS)" -a -n "$(DATA)" || { echo "WEIGHTS or DATA is missing: make gpu-check WEIGHTS=best.pt DATA=data.yaml"; exit 2; }
	$(VENV)/bin/python -m benchmarks.gpu_check --weights "$(WEIGHTS)" --data "$(DATA)" $(if $(SPEED_UP),--speed-up $(SPEED_UP)) \
		$(SIZE) $(if $(OUT),--out "$(OUT)") $(if $(PHASES),--phases $(PHASES)) \
		$(if $(TARGET),--target "$(TARGET)",--page benchmarks/tensorrt_gpu.md)

# benchmarks/suite.py says what each is; what does not fit, or needs what is not here, is named.
bench: install-dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.suite --hours $(HOURS) $(if $(WEIGHTS),--weights $(WEIGHTS)) \
		$(if $(DATA),--data "$(DATA)") $(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out "$(OUT)")

check: install-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/zensical build --clean --strict

# Both schemas are generated; a test compares them with what is committed.
schemas: install-dev
	$(EDGEPRUNE) targets schema > targets/schema.json
	$(VENV)/bin/python -m edgeprune.records.build > edgeprune/records/build.schema.json

# What docs/ says of commands, profile keys and criteria; tests/test_docs.py compares it with the code.
pages: install-dev
	$(VENV)/bin/python docs/pages.py

docs: pages
	$(VENV)/bin/zensical build --clean --strict

wheel: install-dev
	$(VENV)/bin/python -m build --wheel --no-isolation

clean:
	rm -rf dist build site .pytest_cache .ruff_cache .hypothesis

# Bundles and hours of training with it, the packages of test-matrix, and what `make headers` fetched.
distclean: clean
	rm -rf demo runs .matrix .headers
