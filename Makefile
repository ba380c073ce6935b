# `make` builds, `make test` installs what the tests need and runs all of them. Both work on a bare Debian or Ubuntu.

# On a build server the checkout is new each time; what was compiled stays outside of it.
ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(HOME)/.cache/sovereign/target
endif
export SOVEREIGN_TEST_MODELS ?= $(HOME)/.cache/sovereign/test-models
export SOVEREIGN_TEST_VENV   ?= $(HOME)/.cache/sovereign/test-venv
SOVEREIGN_PARITY             ?= $(HOME)/.cache/sovereign/parity
export SOVEREIGN_BINARY      ?= $(abspath $(or $(CARGO_TARGET_DIR),target))/debug/sovereign

BROWSER_TESTS := tests/browser
SDK_TESTS     := tests/sdk

.PHONY: build
build: assets kernels ## The release binary: target/release/sovereign
	cargo build --release

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# --- what is installed -------------------------------------------------------------------------------------------

.PHONY: tools
tools: ## What a build needs, from Debian's packages
	scripts/apt.sh gcc:gcc /usr/include/stdio.h:libc6-dev make:make curl:curl python3:python3 npm:npm

.PHONY: assets
assets: static/node_modules/.stamp ## Third-party scripts and styles, from the lock file
static/node_modules/.stamp: static/package-lock.json | tools
	npm ci --prefix static --ignore-scripts --omit=dev --no-audit --no-fund
	touch $@

.PHONY: kernels
kernels: | tools ## What the CUDA kernels are compiled with (no card and no CUDA needed)
	scripts/nvrtc.sh "$${SOVEREIGN_NVRTC:-$(HOME)/.cache/sovereign/nvrtc}"

.PHONY: test-tools
test-tools: tools ## What the tests need: Docker's engine, Chromium, Python SDKs
	scripts/apt.sh dockerd:docker.io chromium:chromium chromedriver:chromium-driver ip:iproute2 iptables:iptables openssl:openssl
	scripts/venv.sh "$(SOVEREIGN_TEST_VENV)" tests/requirements.txt

.PHONY: models
models: assets test-tools ## The models that the tests run: Gemma 3 270M, Qwen2.5-Coder 1.5B Instruct and MiniLM
	scripts/test-models.sh "$(SOVEREIGN_TEST_MODELS)"
	scripts/minilm.sh "$(SOVEREIGN_TEST_MODELS)" "$(SOVEREIGN_TEST_VENV)/bin/python"

# --- what is checked ---------------------------------------------------------------------------------------------

.PHONY: test
test: test-tools assets kernels lint models ## Everything: style, unit, integration, SDKs, browser
	cargo test
	"$(SOVEREIGN_TEST_VENV)/bin/python" -m pytest -q $(SDK_TESTS)
	"$(SOVEREIGN_TEST_VENV)/bin/python" -m pytest -q $(BROWSER_TESTS)

.PHONY: screenshots
screenshots: test-tools assets models ## The pictures in docs/screenshots, from the browser tests
	cargo build
	SOVEREIGN_SCREENSHOTS="$(CURDIR)/docs/screenshots" "$(SOVEREIGN_TEST_VENV)/bin/python" -m pytest -q $(BROWSER_TESTS)

.PHONY: lint
lint: assets
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# --- what takes longer, and is run when its part changes: figures go to docs/EVIDENCE.md -----------------------------

.PHONY: parity
parity: build models ## Tokens, templates, answers and log-probabilities against others' (llama.cpp takes ten minutes to build, once)
	scripts/venv.sh "$(SOVEREIGN_PARITY)-venv" tests/parity/requirements.txt
	tests/parity/source.sh "$(SOVEREIGN_PARITY)-source" "$(SOVEREIGN_PARITY)-venv/bin/python"
	"$(SOVEREIGN_PARITY)-venv/bin/python" tests/parity/run.py "$${CARGO_TARGET_DIR:-target}/release/sovereign" "$(SOVEREIGN_TEST_MODELS)" "$(SOVEREIGN_PARITY)-floats"
	"$(SOVEREIGN_PARITY)-venv/bin/python" tests/parity/templates.py "$(SOVEREIGN_PARITY)-source/vendor/llama.cpp/models/templates" "$(SOVEREIGN_PARITY)-templates.json"
	"$(SOVEREIGN_PARITY)-venv/bin/python" tests/parity/vocabularies.py "$(SOVEREIGN_PARITY)-source/vendor/llama.cpp/models"
	SOVEREIGN_VOCABULARIES="$(SOVEREIGN_PARITY)-source/vendor/llama.cpp/models" SOVEREIGN_TEMPLATES="$(SOVEREIGN_PARITY)-templates.json" cargo test --lib -- --ignored engine::tokenizer engine::template

.PHONY: parity-transformers
parity-transformers: build models ## Tiny models of every architecture, and embeddings, against transformers (5 GB of packages)
	scripts/venv.sh "$(SOVEREIGN_PARITY)-transformers" tests/parity/requirements-transformers.txt
	"$(SOVEREIGN_PARITY)-transformers/bin/python" tests/parity/architectures.py
	"$(SOVEREIGN_PARITY)-transformers/bin/python" tests/parity/lora.py
	"$(SOVEREIGN_PARITY)-transformers/bin/python" tests/parity/minilm.py "$${CARGO_TARGET_DIR:-target}/release/sovereign" \
		"$(SOVEREIGN_TEST_MODELS)/all-minilm-l6-v2" "$(SOVEREIGN_TEST_MODELS)/all-minilm-l6-v2-f32.gguf"
	cargo test --lib engine::model::tests::architectures

FUZZ_TARGETS := gguf safetensors lora tokenizer_json embedder chat_template json_schema grammar answer
FUZZ_SECONDS ?= 600

.PHONY: fuzz
fuzz: tools ## The engine's readers under random input, ten minutes each
	scripts/apt.sh g++:g++
	command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	for target in $(FUZZ_TARGETS); do scripts/fuzz.sh $$target $(FUZZ_SECONDS) || exit 1; done

.PHONY: test-soak
test-soak: tools assets ## A million random worlds for placement's planner, and two thousand sequences in turmoil
	SOVEREIGN_PLANS=1000000 cargo test --release --lib placement::plan
	SOVEREIGN_TURMOIL=2000 cargo test --test it turmoil

.PHONY: test-cuda
test-cuda: kernels ## The CUDA kernels and models on them against the processor's (an NVIDIA card)
	cargo test --lib cuda -- --nocapture

.PHONY: test-neon
test-neon: tools ## The ARM64 kernels against the plain ones, on emulated processors with and without products of bytes
	scripts/apt.sh qemu-aarch64:qemu-user aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu /usr/aarch64-linux-gnu/lib/libc.so.6:libc6-dev-arm64-cross
	rustup target add aarch64-unknown-linux-gnu
	for processor in max cortex-a72; do \
		CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $$processor -L /usr/aarch64-linux-gnu" \
		cargo test --target aarch64-unknown-linux-gnu --lib engine::kernels::cpu || exit 1; \
	done

.PHONY: test-install
test-install: ## `./install.sh --try` in a clean Debian (root; debootstrap)
	scripts/test-install.sh "$(HOME)/.cache/sovereign/chroot"
