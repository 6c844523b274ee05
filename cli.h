// cli.h: what the files of the command line (run.c, options.c, report.c, trace.c, host.c) share. None of this is the engine.

#ifndef CLI_H
#define CLI_H

#include "smol.h"

#include <stdio.h>

enum { MAX_IMAGES = 64 };

// ---- options.c ----

typedef struct {
    const char *model, *prompt, *system, *trace, *kernel;
    const char *images[MAX_IMAGES];
    int n_images;
    int n_tokens, context, threads, max_tiles;  // max_tiles 0: no bound; context 0: as long as the prompt and the answer need
    float temperature, top_p;
    int top_k;
    uint64_t seed;
    int no_tiling, raw, special, json, tokenize, info, verify, plan, list_kernels, timings;
} Options;

// Fills o from the command line. Returns -1, or the exit status if there is nothing left to do.
int options_parse(Options *o, int argc, char **argv);

// ---- host.c ----

// Prints one line, "smol: NAME: MESSAGE" (no NAME if NULL); die exits with status 1 after it.
void complain(const char *name, const char *message);
_Noreturn void die(const char *name, const char *message);

// A line on the terminal that the next one replaces; NULL takes it away. Nothing if standard error is no terminal.
void progress(const char *text);

// realloc that does not return NULL.
void *need(void *old, size_t bytes, const char *what);

typedef struct {
    char *bytes;  // terminated
    size_t n, cap;
} Buffer;

void buffer_add(Buffer *b, const char *bytes, size_t n);

// A regular file is mapped; anything else, and standard input for "-", is read. NULL with err->text filled on failure.
const uint8_t *load_file(const char *name, size_t *n, SmolErr *err);

// Holds the bytes of a character until it is complete, then adds it to out. What is no UTF-8 becomes U+FFFD.
typedef struct {
    char held[4];
    int n, wanted;
} Utf8;

void utf8_add(Utf8 *u, Buffer *out, char c);
void utf8_end(Utf8 *u, Buffer *out);

double now_ms(void);

// ---- run.c ----

// One answer and what it took.
typedef struct {
    Buffer text;
    int32_t *ids;
    int n_ids;
    const char *finish;  // stop, length, context, interrupted
    int n_prompt, n_reused, n_tiles;
    double load_ms, encode_ms, prompt_ms, decode_ms;
    uint8_t logits_sha256[32];
} Answer;

// ---- report.c ----

void report_info(const SmolModel *m, const char *name);
void report_plan(const SmolModel *m, const SmolLimits *limits, size_t picture_bytes);
void report_timings(const Answer *a, const char *kernel, int n_threads);
void report_json(const Options *o, const SmolModel *m, const Answer *a, const int32_t *prompt, const SmolPicture *pictures,
                 const SmolTiling *tilings, int n_pictures, size_t memory, const char *kernel);
void report_ids(const int32_t *ids, long n, int json);
size_t peak_memory(void);  // bytes of this process, 0 where it is not known

// ---- trace.c ----

typedef struct Trace Trace;

Trace *trace_open(const char *path);
void trace_add(Trace *t, const char *name, const float *x, int n_rows, int n_cols, int ld);
void trace_close(Trace *t);  // writes the file under its final name

#endif
