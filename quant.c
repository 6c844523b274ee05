// quant.c: the matrix product that every layer goes through, in plain C, and the choice of a faster kernel. In f32 so far; 8 and
// 4 bits, which the name promises, will live here, too.
//
// Weights lie in panels of 16 rows (FORMAT.md), so that 16 outputs are 16 lanes of a register and no kernel ever adds lanes
// together: each output is a chain acc = fmaf(w, x, acc) along k, the same chain in every kernel. The plain C below is the
// definition; the others must equal it to the bit.

#include "internal.h"

#include <math.h>
#include <string.h>

// ---- plain C ----

static void panel_f32(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, int n_k, int n_tok) {
    for (int t = 0; t < n_tok; t++, y += ldy, x += ldx) {
        float acc[LANES];
        memcpy(acc, y, sizeof acc);
        for (int k = 0; k < n_k; k++) {
            for (int r = 0; r < LANES; r++) acc[r] = fmaf(w[(size_t)k * ldw + (size_t)r], x[k], acc[r]);
        }
        memcpy(y, acc, sizeof acc);
    }
}

static int always(void) { return 1; }

static const Kernel kernel_c = {"c", always, panel_f32};

// ---- choice ----

static const Kernel *const kernels[] = {
#ifdef __x86_64__
    &kernel_avx2,
#endif
    &kernel_c,
};

const char *smol_kernel(int i) {
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        if (kernels[k]->supported() && i-- == 0) return kernels[k]->name;
    }
    return NULL;
}

const Kernel *kernel_find(const char *name) {
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        if (kernels[k]->supported() && (!name || strcmp(name, kernels[k]->name) == 0)) return kernels[k];
    }
    return NULL;
}

// ---- matrix product ----

static void panel_bias(float *y, size_t ldy, const Matrix *w, int row, int n_tok) {
    for (int t = 0; t < n_tok; t++) {
        for (int r = 0; r < LANES; r++) {
            y[(size_t)t * ldy + (size_t)r] = w->bias && row + r < w->n_rows ? w->bias[row + r] : 0;
        }
    }
}

void matmul(const Kernel *kernel, int n_threads, float *y, int ldy, const float *x, int ldx, const Matrix *w, int n_tok) {
    // Waking threads costs microseconds, and milliseconds on a busy machine: a small product is done sooner without. Reading
    // a weight from memory takes about as long as using it for 16 tokens.
    int64_t work = (int64_t)w->n_rows * w->n_cols * (n_tok + 16);
    if (work < 1 << 23) n_threads = 1;
    (void)n_threads;  // without OpenMP
#pragma omp parallel for num_threads(n_threads)
    for (int row = 0; row < w->n_rows; row += LANES) {
        panel_bias(y + row, (size_t)ldy, w, row, n_tok);
        kernel->panel_f32(y + row, (size_t)ldy, w->data + (size_t)row * (size_t)w->n_cols, LANES, x, (size_t)ldx, w->n_cols,
                          n_tok);
    }
}

void matrix_row(float *out, const Matrix *w, int row) {
    const float *panel = w->data + (size_t)(row / LANES) * (size_t)w->n_cols * LANES + row % LANES;
    for (int c = 0; c < w->n_cols; c++) out[c] = panel[(size_t)c * LANES];
}
