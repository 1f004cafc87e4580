# `make demo` and `make test` set up .venv by themselves; a second call installs nothing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The study of `make verify` and `make clean`.
export study ?= demo
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: help demo test test-workflow test-all test-faults test-gears test-long test-pythons test-slurm coverage verify lint format bench rehearsal gpu-check plan check-data check-addresses containerfile site pictures slurm-profile lock clean

help:  ## List these targets.
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## Set up .venv and run the default study (simulated, CPU, minutes): results/demo/report.html.
	@echo "Running the demo: about 6 minutes on two free cores, 2 GB of memory."
	$(BIN)/snakemake --profile profiles/local
	@echo "The report is results/demo/report.html: open it in a browser."

test: $(INSTALLED)  ## Test the library, in minutes: after every change.
	$(PYTEST) -m "not long" tests/unit tests/parity tests/bad_input tests/hostile
	@echo "Left out: whole configurations and the report in a browser (make test-workflow); Slurm, faults and whole"
	@echo "experiments (make test-all)."

test-workflow: $(INSTALLED)  ## Test the demo, real cells and plans through Snakemake, and the report in a browser.
	$(PYTEST) -m "not long" tests/workflow tests/report

test-all: lint test test-workflow test-faults test-gears test-slurm test-long  ## Run all tests: more than an hour.

test-faults: $(INSTALLED)  ## Test a full disk, read-only results, and killed downloads, installations and searches.
	$(PYTEST) -m "not long" tests/faults

test-gears: .venv-gears/installed  ## Test GEARS itself, in its own environment beside .venv.
	.venv-gears/bin/python -m pytest --numprocesses 0 --durations 3 tests/unit/test_gears.py

test-long: $(INSTALLED)  ## Test whole planted experiments, calibration, the same bytes after kills, memory.
	$(PYTEST) -m "long"

# PyTorch for another Python is gigabytes of CUDA; `make PYTHON=python3.13 test` is the whole library on it, in .venv.
PYTHONS ?= python3.12 python3.13
WITHOUT_TORCH := catalogue classes conditions controls files h5ad_variants imported mapped method_record metrics names \
	on_disk paired_inference predictions properties pseudobulk readers references scores seeding sources splits tenx \
	verdicts
test-pythons: $(PYTHONS:%=.venv-%/installed)  ## Test readers, splits, imported predictions and statistics, without PyTorch, on Python 3.12 and 3.13.
	for python in $(PYTHONS); do \
		.venv-$$python/bin/python -m pytest -q -m "not long" $(WITHOUT_TORCH:%=tests/unit/test_%.py) || exit; \
	done

test-slurm: $(INSTALLED)  ## Test the demo and most other rules on a Slurm that the tests start; root on Debian 12.
	SCGPT_BENCH_MUST_RUN=1 $(BIN)/python -m pytest -m "not long" --durations 10 tests/slurm

coverage: $(INSTALLED)  ## Measure which lines of the library the tests run; fails below 90 %.
	$(BIN)/coverage erase
	$(PYTEST) -m "not long" tests/unit tests/parity tests/bad_input tests/hostile tests/faults --cov --cov-report=
	$(BIN)/coverage report --fail-under 90 --skip-covered --sort cover

verify: $(INSTALLED)  ## study=NAME (default: demo): repeat its run in another folder and report what differs.
	PYTHONPATH=workflow/lib $(BIN)/python -m scgpt_bench.verification "results/$$study/provenance.json"

lint: $(INSTALLED)  ## Check style, spelling, types, dead code, and that code, workflow and documents agree.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture
	git ls-files -z | xargs -0 $(BIN)/codespell
	$(BIN)/snakefmt --check workflow
	$(BIN)/python -m pytest -q tests/consistency

format: $(INSTALLED)  ## Format code and workflow, and fix what ruff can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt workflow

bench: $(INSTALLED)  ## Measure speed and memory beside the upstream tools: benchmarks/results/<machine>.tsv.
	PYTHONPATH=workflow/lib $(BIN)/python benchmarks/run.py

rehearsal: $(INSTALLED)  ## fraction=0.1 (default: 1): a study of generated cells of full size: time, memory and disk by rule.
	PYTHONPATH=workflow/lib $(BIN)/python benchmarks/rehearsal.py --fraction "$${fraction:-1}"

# A cluster's GPU node needs no .venv: GPU_PYTHON is any Python with torch 2.11 or newer (docs/gpu.md).
GPU_PYTHON ?= $(firstword $(wildcard $(BIN)/python) $(PYTHON))
gpu-check:  ## Test and measure this machine's GPU, in eight minutes: benchmarks/results/<GPU>.tsv.
	PYTHONPATH="workflow/lib:$$PYTHONPATH" $(GPU_PYTHON) benchmarks/gpu_check.py

plan: $(INSTALLED)  ## configfile=FILE: estimate jobs, core and GPU hours, disk and memory of a study; runs nothing.
	@test -z "$$configfile" || test -f "$$configfile" || { \
		echo "error: configfile: found '$$configfile', which is no file; expected a configuration in YAML" >&2; exit 1; }
	@$(BIN)/snakemake --profile profiles/local --dry-run --quiet progress rules $${configfile:+--configfile "$$configfile"}

check-data: $(INSTALLED)  ## dataset=NAME (configfile=FILE, table=FILE): show what is understood of a row of a data-set table.
	@PYTHONPATH=workflow/lib $(BIN)/python -m scgpt_bench.check "$$dataset" $${configfile:+--configfile "$$configfile"} \
		$${table:+--datasets "$$table"}

check-addresses: $(INSTALLED)  ## Ask every address of the tables in config/ (over the network): size, name, kind of file.
	@PYTHONPATH=workflow/lib $(BIN)/python -m scgpt_bench.check_addresses

containerfile: $(INSTALLED)  ## configfile=FILE: write Dockerfile, an image with the environments of a study (needs conda).
	$(BIN)/python envs/write_dockerfile.py "$$configfile"

site: $(INSTALLED)  ## Build the documents as a site, without network: build/docs/site/index.html.
	PYTHONPATH=workflow/lib $(BIN)/python docs/site.py

pictures: $(INSTALLED)  ## Make the pictures of the documents again, from results/ (after make demo): docs/images.
	PYTHONPATH=workflow/lib:tests $(BIN)/python docs/pictures.py

slurm-profile:  ## Link profiles/slurm to where `snakemake --profile slurm` finds it.
	sh profiles/link_slurm_profile.sh

# scgpt goes last, without its declared dependencies: it does not need them, and they cannot be installed together.
$(INSTALLED): requirements.lock requirements-no-deps.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "error: $(PYTHON) is Python %d.%d; expected 3.11 to 3.13: call make PYTHON=python3.11" % v)'
	@PYTHONPATH=workflow/lib $(PYTHON) -m scgpt_bench.folders
	@echo "Setting up .venv: a few minutes; 2.8 GB of disk with a CPU build of PyTorch, 6.6 GB with the CUDA build that"
	@echo "pip finds on Linux by default. README.md says how to get the CPU build."
	$(PYTHON) -m venv .venv
	$(PIP) --requirement requirements.lock
	$(PIP) --no-deps --requirement requirements-no-deps.lock
	@touch $@

# cell-gears fails on the NumPy and SciPy of .venv; everything else is taken from there.
.venv-gears/installed: $(INSTALLED) requirements-gears.lock
	$(BIN)/python -m venv .venv-gears
	.venv-gears/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-gears.lock
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-gears/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
	.venv-gears/bin/python -c 'import gears'
	@touch $@

.venv-python%/installed: $(INSTALLED) requirements.lock requirements-no-deps.lock pyproject.toml
	python$* -m venv .venv-python$*
	python$* -c 'import tomllib; print(*{*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]} - {"torch", "pdex"})' \
		| xargs .venv-python$*/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
		--constraint requirements.lock pytest hypothesis
	.venv-python$*/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --no-deps \
		--requirement requirements-no-deps.lock
	@touch $@

lock:  ## Resolve requirements.in again into requirements.lock.
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.in
	(echo "# Resolved from requirements.in by \`make lock\`."; .venv-lock/bin/python -m pip freeze | sed "s/+cpu//") > requirements.lock
	rm -rf .venv-lock

# Checkpoints are kept with what they were pretrained on, and with .snakemake: without its record there, a checkpoint
# would be kept whatever its options became. One that was pretrained on measured cells is pretrained again with them.
clean:  ## study=NAME (default: demo): remove its results and logs; keep checkpoints, generated, downloads, .snakemake, .venv.
	@echo "$$study" | grep -qx '[a-z0-9_-]*[a-z0-9_-]' || { echo "error: study: found '$$study'; expected the name of a study"; exit 2; }
	@test -d "results/$$study" || { echo "error: study: found '$$study'; expected a folder of results/"; exit 2; }
	find "results/$$study" -mindepth 1 -maxdepth 1 ! -name checkpoints ! -name generated -exec rm -r {} +
