// trace.c: --trace, every stage's tensors as a safetensors file for Python.
//
// A tensor comes in pieces: a tile at a time, a batch of tokens at a time. Pieces go to a scratch file as they come; at the end
// each tensor's pieces are copied together behind the header that only then can be written.

#define _DEFAULT_SOURCE
#define _FILE_OFFSET_BITS 64

#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    char name[96];
    long long offset;  // in the scratch file
    int n_rows, n_cols;
} Piece;

struct Trace {
    char *path, *tmp_path;  // FILE, FILE.tmp
    FILE *scratch;
    long long scratch_bytes;
    Piece *pieces;
    size_t n_pieces, cap;
};

static Trace *open_trace;  // whose unfinished file is removed if the program ends early

static void clean_up(void) {
    if (open_trace) remove(open_trace->tmp_path);
}

static char *join(const char *a, const char *b) {
    char *s = need(NULL, strlen(a) + strlen(b) + 1, "file name");
    strcpy(s, a);
    return strcat(s, b);
}

static void check(int ok, const Trace *t) {
    if (!ok) die(t->path, strerror(errno));
}

Trace *trace_open(const char *path) {
    Trace *t = need(NULL, sizeof *t, "trace");
    *t = (Trace){.path = join(path, ""), .tmp_path = join(path, ".tmp")};
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) die(path, "is no regular file, and would be replaced");
    char *scratch_path = join(path, ".pieces.tmp");
    t->scratch = nameless_file(scratch_path);
    check(t->scratch != NULL, t);
    free(scratch_path);
    open_trace = t;
    atexit(clean_up);
    return t;
}

void trace_add(Trace *t, const char *name, const float *x, int n_rows, int n_cols, int ld) {
    if (t->n_pieces == t->cap) {
        t->cap = t->cap * 2 + 64;
        t->pieces = need(t->pieces, t->cap * sizeof *t->pieces, "trace");
    }
    Piece *p = &t->pieces[t->n_pieces++];
    *p = (Piece){.offset = t->scratch_bytes, .n_rows = n_rows, .n_cols = n_cols};
    snprintf(p->name, sizeof p->name, "%s", name);
    for (int i = 0; i < n_rows; i++) {
        check(fwrite(x + (size_t)i * (size_t)ld, sizeof *x, (size_t)n_cols, t->scratch) == (size_t)n_cols, t);
    }
    t->scratch_bytes += (long long)n_rows * n_cols * 4;
}

static int starts_with(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

static int is_first(const Trace *t, size_t i) {
    for (size_t k = 0; k < i; k++) {
        if (!strcmp(t->pieces[k].name, t->pieces[i].name)) return 0;
    }
    return 1;
}

// The encoder's tensors have a dimension for the tile; the decoder's are one long list of tokens.
static size_t print_shape(char *out, size_t cap, const Trace *t, const Piece *p, long long *bytes) {
    long long n_pieces = 0, n_rows = 0;
    for (size_t k = 0; k < t->n_pieces; k++) {
        if (strcmp(t->pieces[k].name, p->name) != 0) continue;
        n_pieces++;
        n_rows += t->pieces[k].n_rows;
    }
    *bytes = n_rows * p->n_cols * 4;
    if (!strcmp(p->name, "pixel_values")) {
        return (size_t)snprintf(out, cap, "[%lld,3,%d,%d]", n_pieces, p->n_cols, p->n_cols);
    }
    if (starts_with(p->name, "model.vision_model") || starts_with(p->name, "model.connector")) {
        return (size_t)snprintf(out, cap, "[%lld,%d,%d]", n_pieces, p->n_rows, p->n_cols);
    }
    return (size_t)snprintf(out, cap, "[%lld,%d]", n_rows, p->n_cols);
}

static void write_header(const Trace *t, FILE *f) {
    Buffer json = {0};
    long long offset = 0;
    buffer_add(&json, "{", 1);
    for (size_t i = 0; i < t->n_pieces; i++) {
        if (!is_first(t, i)) continue;
        char shape[80], line[320];
        long long bytes;
        print_shape(shape, sizeof shape, t, &t->pieces[i], &bytes);
        int n = snprintf(line, sizeof line, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%lld,%lld]}",
                         json.n > 1 ? "," : "", t->pieces[i].name, shape, offset, offset + bytes);
        buffer_add(&json, line, (size_t)n);
        offset += bytes;
    }
    buffer_add(&json, "}", 1);
    while (json.n % 8) buffer_add(&json, " ", 1);
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)json.n >> (8 * i));
    check(fwrite(length, 1, 8, f) == 8 && fwrite(json.bytes, 1, json.n, f) == json.n, t);
    free(json.bytes);
}

static void copy_piece(const Trace *t, const Piece *p, FILE *f) {
    static char block[1 << 16];
    long long left = (long long)p->n_rows * p->n_cols * 4;
    check(fseeko(t->scratch, (off_t)p->offset, SEEK_SET) == 0, t);
    while (left > 0) {
        size_t n = left < (long long)sizeof block ? (size_t)left : sizeof block;
        check(fread(block, 1, n, t->scratch) == n && fwrite(block, 1, n, f) == n, t);
        left -= (long long)n;
    }
}

void trace_close(Trace *t) {
    check(fflush(t->scratch) == 0, t);
    FILE *f = fopen(t->tmp_path, "wb");
    check(f != NULL, t);
    write_header(t, f);
    for (size_t i = 0; i < t->n_pieces; i++) {
        if (!is_first(t, i)) continue;
        for (size_t k = i; k < t->n_pieces; k++) {
            if (!strcmp(t->pieces[k].name, t->pieces[i].name)) copy_piece(t, &t->pieces[k], f);
        }
    }
    check(fclose(f) == 0 && replace_file(t->tmp_path, t->path) == 0, t);
    fclose(t->scratch);
    open_trace = NULL;
}
