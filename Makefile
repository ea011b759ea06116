# Everything a developer, CI or a lab machine runs. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# Debian's own interpreter, because bcc comes as Debian's python3-bpfcc.
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
ARCH := $(shell dpkg --print-architecture 2>/dev/null || echo amd64)
KERNEL := $(shell uname -r)

# What `make demo` shows, one word (quoted where it has options) a scenario.
DEMOS := upload download echo 'bgp --peer bird'

# .ci/packages.txt names every package once, by list. `make demo` installs the lists build, run and demo,
# `make setup` and `make test` test besides, other targets their own: $(call packages,LIST).
LISTS := build run demo test kernels vm deb fuzz
packages = $(subst ARCH,$(ARCH),$(shell awk '$$1 == "$(1)" { print $$2 }' .ci/packages.txt))

C_FILES := $(wildcard bpf/*.c userspace/*/*.c docs/examples/*.c)
H_FILES := $(wildcard bpf/*.h userspace/*.h userspace/*/*.h)
DEF_FILES := $(wildcard bpf/*.def userspace/*/*.def)
TEST_FILES := $(wildcard tests/fuzz/*.[ch] tests/sim/*.[ch])
PY_FILES := $(wildcard prl tests docs/examples setup.py userspace/build_ffi.py userspace/facts.py bpf/trace)

APT := $(LISTS:%=apt-%)
.PHONY: help setup setup-demo root $(APT) kernel-headers bpffs build install-client deb dist demo test fresh-results test-vm test-quick test-kernels fuzz sim chaos test-sanitizers facts lint tidy format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: setup-demo apt-test apt-fuzz ## install all that demo and test need (root; quick when nothing is missing)

setup-demo: root apt-demo kernel-headers bpffs build ## the same for the demo alone

root:
	@if [ "$$(id -u)" != 0 ]; then
	    echo "make setup: must run as root (it installs Debian packages and mounts bpffs)" >&2; exit 1
	fi

# Debian starts a service as soon as its package is installed. While apt runs, a policy-rc.d that
# says no is in place; whatever was there before comes back, also after a failure. What a run left that was
# killed is known by its second line, and not what was there before.
POLICY := /usr/sbin/policy-rc.d
POLICY_MARK := \# the Makefile of prl, while it runs apt

$(APT): apt-%:
	@exec 9<.ci/packages.txt
	flock 9 # not two at a time, whatever -j says
	missing=$$(comm -13 \
	    <(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | sort -u) \
	    <(printf '%s\n' $(call packages,$*) | sort -u))
	[ -n "$$missing" ] || exit 0
	command -v apt-get >/dev/null || { echo "make $@: no apt-get here; install:" $$missing >&2; exit 1; }
	[ "$$(id -u)" = 0 ] || { echo "make $@: must run as root to install:" $$missing >&2; exit 1; }
	policy=$(POLICY)
	restore() { rm -f $$policy; [ ! -e $$policy.prl-saved ] || mv $$policy.prl-saved $$policy; }
	trap restore EXIT
	trap 'exit 1' HUP INT TERM
	if [ -e $$policy ] && ! grep -qxF '$(POLICY_MARK)' $$policy; then mv $$policy $$policy.prl-saved; fi
	printf '#!/bin/sh\n%s\nexit 101\n' '$(POLICY_MARK)' > $$policy
	chmod 755 $$policy
	export DEBIAN_FRONTEND=noninteractive
	echo "installing ($*):" $$missing
	apt-get -o Acquire::Retries=3 update -qq </dev/null
	apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends $$missing </dev/null 9<&-

# bcc looks under /lib/modules/$(uname -r). Where the running kernel's headers are not packaged,
# Debian's do for programs that touch UAPI types only.
kernel-headers: apt-run
	@modules=/lib/modules/$(KERNEL)
	[ ! -e $$modules/build ] || exit 0
	headers=$$(ls -d /usr/src/linux-headers-*-$(ARCH) 2>/dev/null | sort -V | tail -n 1)
	if [ -z "$$headers" ]; then
	    echo "make setup: no kernel headers under /usr/src: the bcc scripts will not run" >&2; exit 0
	fi
	mkdir -p $$modules
	ln -sfn $$headers $$modules/build
	ln -sfn $${headers%-$(ARCH)}-common $$modules/source

bpffs: apt-run
	@mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf

$(BIN)/python: | apt-build
	$(PYTHON) -m venv --system-site-packages $(VENV)

# Without build isolation nothing is fetched that is already there.
$(VENV)/.installed: pyproject.toml setup.py MANIFEST.in | $(BIN)/python
	@$(BIN)/python -m pip install -q --no-input 'setuptools>=77' wheel 'cffi>=1.16' </dev/null
	$(BIN)/python -m pip install -q --no-input --no-build-isolation -e '.[dev]' </dev/null
	touch $@

build: $(VENV)/.built ## rebuild the C extension, the C client and the BPF objects where sources changed

$(VENV)/.built: $(C_FILES) $(H_FILES) $(DEF_FILES) setup.py userspace/build_ffi.py userspace/facts.py | $(VENV)/.installed
	@$(BIN)/python setup.py -q build_facts build_bpf --inplace build_client --inplace build_bench --inplace build_ext --inplace
	touch $@

demo: setup-demo ## show live sessions surviving the death of their host
	@for scenario in $(DEMOS); do
	    $(BIN)/prlctl demo $$scenario </dev/null
	done

# Other kernels run in QEMU with this machine's root, so they are of its architecture.
LANES := $(if $(filter amd64,$(ARCH)),kernels)

# On a machine so slow that by then the rest is not done they are left to `make test-kernels`, which is said: CI
# has 90 minutes. Counted from behind the quick checks.
LANES_BEGIN_S := 2700

# Every run of pytest in it leaves a record, of which the table at the end tells what ran where.
RESULTS := $(CURDIR)/.results
test: export PRL_RESULTS := $(RESULTS)
test: export PRL_LANE := host
test: setup $(LANES:%=apt-%) fresh-results test-quick tidy ## every check, then which test ran where (root)
	@bad=() started=() called=()
	beside() { # NAME COMMAND: what waits for the most part runs beside what follows, and tells of it at the end
	    called+=("$$1")
	    shift
	    set -m # or it would not hear that it is interrupted
	    "$$@" </dev/null >"$(RESULTS)/beside.$${#started[@]}" 2>&1 &
	    set +m
	    started+=("$$!")
	}
	trap '[ $${#started[@]} -eq 0 ] || kill -INT "$${started[@]}" 2>/dev/null || true' EXIT
	trap 'exit 1' HUP INT TERM
	$(BIN)/python -m pytest -rs -n auto --dist loadfile -m "fuzz or model or sim" tests/fuzz tests/model tests/sim </dev/null || bad+=("fuzz, model, simulator")
	for lane in $(LANES); do
	    beside "BPF programs on other $$lane" $(BIN)/python -m tests.$$lane programs $(RESULTS)
	done
	# Of these, what failed (1) is run again by itself, and judged by that.
	waits=$${#started[@]}
	beside "what waits" $(BIN)/python -m pytest -rs -m waits tests/system
	$(BIN)/python -m pytest -rs --durations=25 -m "(kernel or system) and not waits" tests </dev/null || [ $$? -eq 1 ] || bad+=("kernel, system")
	for number in "$${!started[@]}"; do
	    wait "$${started[number]}" || [ "$$? $$number" = "1 $$waits" ] || bad+=("$${called[number]}")
	    cat "$(RESULTS)/beside.$$number"
	done
	started=()
	$(BIN)/python -m tests.again $(RESULTS) $$PRL_LANE </dev/null || bad+=("kernel, system, what waits: run again")
	$(BIN)/python -m tests.fuzz --seconds 10 </dev/null || bad+=("fuzzers")
	complete=()
	for lane in $(LANES); do
	    if [ $$SECONDS -ge $(LANES_BEGIN_S) ]; then
	        echo "make test: after $$((SECONDS / 60)) minutes the demos on other $$lane, and what this one lacks, are left to make test-$$lane"
	        continue
	    fi
	    $(BIN)/python -m tests.$$lane short $(RESULTS) </dev/null || bad+=("other $$lane")
	    complete+=(--complete "$$lane")
	done
	$(BIN)/python -m tests.table $(RESULTS) "$${complete[@]}" || bad+=("the table")
	# The last thing said, as it is the first thing asked.
	for part in "$${bad[@]}"; do echo "make test: not good: $$part"; done
	[ $${#bad[@]} -eq 0 ]

test-kernels: setup apt-kernels ## the demos and tests on Debian's kernels, each in a virtual machine (root)
	@status=0
	$(BIN)/python -m tests.kernels whole $(RESULTS) </dev/null || status=$$?
	$(BIN)/python -m tests.table $(RESULTS) --complete kernels || status=1
	exit $$status

fresh-results:
	@rm -rf $(RESULTS)

# The machines' own libvirt and networks are in namespaces of the tests'; the host's are left alone.
test-vm: export PRL_RESULTS := $(RESULTS)
test-vm: export PRL_LANE := vm
test-vm: setup apt-deb apt-kernels apt-vm ## boot the three machines of vagrant/ and let them fail (root; half an hour, emulated)
	@$(BIN)/python -m pytest -s -rs -m "vm or unit" tests/vm tests/unit/test_vagrant.py </dev/null

test-quick: build lint ## what needs no root; under two minutes
	@$(BIN)/python -m pytest -q -n auto --dist loadfile -m "not kernel" tests/unit </dev/null

facts: $(BIN)/python ## write what wire.def says into the dissector and the documents
	@$(BIN)/python userspace/facts.py

# What is found, and what the corpora have grown to, stays in .fuzz.
FUZZ_SECONDS := 600
fuzz: apt-fuzz | $(BIN)/python ## fuzz each target (or TARGETS) with sanitizers for FUZZ_SECONDS
	@$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(TARGETS) </dev/null

# `make test` has a quarter of them.
SIM_SEEDS := 10000
sim: build ## the simulator: SIM_SEEDS seeds, and every mutant
	@PRL_SIM_SEEDS=$(SIM_SEEDS) $(BIN)/python -m pytest -rs -m sim tests/sim </dev/null

# A failing seed's logs and captures stay in .chaos (docs/chaos.md).
CHAOS_SECONDS := 3600
chaos: setup ## random faults in real labs for CHAOS_SECONDS, from CHAOS_SEED on (root)
	@$(BIN)/python -m tests.chaos --seconds $(CHAOS_SECONDS) $(CHAOS_SEED:%=--seed %) $(CHAOS_MODE:%=--mode %) </dev/null

test-sanitizers: build ## the tests of the C code, compiled with sanitizers (as root also two in the kernel)
	@$(BIN)/python -m tests.sanitized </dev/null

lint: $(VENV)/.built ## style, types, import directions
	@$(BIN)/ruff check -q $(PY_FILES)
	$(BIN)/ruff format -q --check $(PY_FILES)
	$(BIN)/mypy --strict prl
	$(BIN)/lint-imports --no-cache
	[ -z "$(C_FILES)$(H_FILES)" ] || $(BIN)/clang-format --dry-run -Werror $(C_FILES) $(H_FILES) $(TEST_FILES)

tidy: $(VENV)/.installed ## clang-tidy over the C datapath
	@[ -z "$(filter userspace/%,$(C_FILES))" ] || \
	    printf '%s\n' $(filter userspace/% docs/%,$(C_FILES)) | xargs -n 4 -P "$$(nproc)" sh -c \
	        'exec $(BIN)/clang-tidy --quiet "$$@" -- -std=gnu11 -I bpf -I userspace -I userspace/client' clang-tidy

format: $(VENV)/.installed ## lay out Python and C as the checks want it
	@$(BIN)/ruff check -q --fix-only $(PY_FILES)
	$(BIN)/ruff format -q $(PY_FILES)
	[ -z "$(C_FILES)$(H_FILES)" ] || $(BIN)/clang-format -i $(C_FILES) $(H_FILES) $(TEST_FILES)

deb: build ## build the Debian package, dist/prl_*.deb
	@prl/packaging/deb/build $(DEB_VERSION)

dist: build ## build a release into dist/ from HEAD: sdist, wheel, Debian package, SHA256SUMS
	@prl/packaging/dist

# For programs in C that do not want to look into the Python package for it.
PREFIX ?= /usr/local
install-client: build ## install the C client library and its header under PREFIX
	@install -D -m 644 prl/c/prl_client.h $(DESTDIR)$(PREFIX)/include/prl_client.h
	install -D -m 644 prl/c/libprl_client.a $(DESTDIR)$(PREFIX)/lib/libprl_client.a
	install -D -m 755 prl/c/libprl_client.so $(DESTDIR)$(PREFIX)/lib/libprl_client.so

clean: ## remove all that was built here, the virtual environment too
	rm -rf $(VENV) build dist *.egg-info prl/bpf prl/c prl/bindings/facts.py prl/_core.* .pytest_cache .mypy_cache .ruff_cache
	rm -rf .hypothesis .import_linter_cache .results .fuzz .chaos
	find prl tests userspace bpf -name __pycache__ -type d -prune -exec rm -rf {} +
