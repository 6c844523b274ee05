# make          builds ./run
# make demo     builds it and asks the demonstration model about a picture: needs a C compiler, nothing else
# make check    the C tests, no Python
# make test     everything: sets up .venv with the pinned Python packages, then C tests and comparisons with transformers
# make oracle   makes the golden files again from PyTorch and transformers; fails if they differ from what is committed
# make debug    ./run with -O0 and the address and undefined-behaviour sanitizers
# make clean

CC = cc
CFLAGS = -O3 -g
# -ffp-contract=off: a*b+c is fused only where the code says fmaf, so that every compiler gives the same bits.
STRICT = -std=c11 -ffp-contract=off -Wall -Wextra -Wshadow -Wno-unknown-pragmas

# Threads where the compiler has OpenMP; without it the program runs on one.
OPENMP := $(shell printf '\043include <omp.h>\nint main(void){return 0;}' | $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo -fopenmp)

ENGINE = support.c sha256.c ops.c quant.c kernels_avx2.c attention.c model.c engine.c vision.c decoder.c \
         image.c png.c jpeg.c tokenizer.c
PROGRAM = run.c options.c report.c trace.c host.c
HEADERS = smol.h internal.h cli.h unicode.h tests/test.h

run: $(ENGINE) $(PROGRAM) $(HEADERS)
	$(CC) $(STRICT) $(CFLAGS) $(OPENMP) $(ENGINE) $(PROGRAM) -o $@ -lm

demo: run
	./run models/demo/demo.smol -i models/demo/pictures/display.png "What does the display read?"

debug:
	$(MAKE) -B run CFLAGS="-O0 -g -fsanitize=address,undefined -fno-sanitize-recover=all"

TESTS = $(patsubst tests/test_%.c,build/test_%,$(wildcard tests/test_*.c))

build/test_%: tests/test_%.c $(ENGINE) $(HEADERS)
	@mkdir -p build
	$(CC) $(STRICT) $(CFLAGS) $(OPENMP) -I. $< $(ENGINE) -o $@ -lm

check: run $(TESTS)
	tests/check.sh $(TESTS)

PYTHON = .venv/bin/python

.venv/ready: requirements.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet -r requirements.txt
	touch $@

test: check .venv/ready
	$(PYTHON) -m pytest -q tests

oracle: .venv/ready run
	$(PYTHON) tests/oracle.py

clean:
	rm -rf run build

.PHONY: demo debug check test oracle clean
