// quant.c: the matrix product that every layer goes through: which weights there are, how activations are rounded to meet them,
// the product in plain C, and the choice of a faster kernel.
//
// Weights lie in panels of 16 rows (FORMAT.md), so that 16 outputs are 16 lanes of a register and no kernel ever adds lanes
// together. For floats each output is a chain acc = fmaf(w, x, acc) along k. For 8 and 4 bits the activations are rounded to
// int8, too; the product of a block is summed in int32, which is exact in any order, and the chain runs over the blocks:
// acc = fmaf(w_scale * x_scale, sum, acc). The plain C below is the definition; the other kernels must equal it to the bit.

#define TARGET
#include "vector.h"

const int8_t q4_levels[16] = {-127, -100, -78, -60, -46, -33, -21, -9, 2, 13, 24, 36, 49, 64, 82, 106};

// ---- the layout of weights ----

static int weight_block(int type) { return type == SMOL_Q8 ? Q8_BLOCK : Q4_BLOCK; }

static int blocks_of(int n_cols, int block) { return (n_cols + block - 1) / block; }

// All scales of a panel come first, in whole cache lines: so every load of quants is aligned.
static size_t scale_bytes(int n_blocks) { return (size_t)round_up(n_blocks * LANES * 2, 64); }

uint64_t q8_panel_bytes(int block, int n_blocks) { return scale_bytes(n_blocks) + (uint64_t)n_blocks * LANES * (uint64_t)block; }

uint64_t panel_bytes(int type, int n_cols) {
    if (type == SMOL_F32X16) return (uint64_t)n_cols * LANES * sizeof(float);
    if (type == SMOL_Q8) return q8_panel_bytes(Q8_BLOCK, blocks_of(n_cols, Q8_BLOCK));
    return q8_panel_bytes(Q4_BLOCK / 2, blocks_of(n_cols, Q4_BLOCK));
}

static Strip strip_of(const Matrix *w, int panel, int n_panels, const float *start) {
    size_t bytes = (size_t)panel_bytes(w->type, w->n_cols);
    int block = weight_block(w->type);
    return (Strip){(const uint8_t *)w->data + (size_t)panel * bytes, bytes, n_panels, block, blocks_of(w->n_cols, block),
                   start};
}

const uint8_t *strip_quants(const Strip *w) { return w->panel + scale_bytes(w->n_blocks); }

static float scale_at(const uint8_t *panel, int i) {
    uint16_t half;
    memcpy(&half, panel + 2 * i, sizeof half);
    return f16_to_f32(half);
}

void matrix_row(float *out, const Matrix *w, int row) {
    if (w->type == SMOL_F32X16) {
        const float *panel = (const float *)w->data + (size_t)(row / LANES) * (size_t)w->n_cols * LANES + row % LANES;
        for (int c = 0; c < w->n_cols; c++) out[c] = panel[(size_t)c * LANES];
        return;
    }
    Strip s = strip_of(w, row / LANES, 1, NULL);
    const uint8_t *quants = strip_quants(&s);
    int r = row % LANES;
    for (int c = 0; c < w->n_cols; c++) {
        float scale = scale_at(s.panel, c / s.block * LANES + r);
        if (w->type == SMOL_Q8) {
            out[c] = scale * (float)(quants[(c / 4 * LANES + r) * 4 + c % 4] - 128);
        } else {
            uint8_t pair = quants[(c / 8 * LANES + r) * 4 + c % 4];
            out[c] = scale * (float)q4_levels[c % 8 < 4 ? pair & 15 : pair >> 4];
        }
    }
}

// ---- plain C ----

static void strip_f32(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok) {
    for (int i = 0; i < w->n_panels * n_tok; i++) {
        size_t p = (size_t)(i / n_tok), t = (size_t)(i % n_tok);
        float acc[LANES], *out = y + t * ldy + p * LANES;
        memcpy(acc, out, sizeof acc);
        for (size_t k = 0; k < (size_t)w->n_k; k++) {
            for (size_t r = 0; r < LANES; r++) acc[r] = fmaf(w->w[p * w->step + k * w->ldw + r], x[t * ldx + k], acc[r]);
        }
        memcpy(out, acc, sizeof acc);
    }
}

// Adds to sums[r] the products of n columns, a multiple of 4, with the quants of Q8; step: from four columns of x to the next.
static void block_q8(int32_t sums[LANES], const uint8_t *quants, const int8_t *x, size_t step, int n) {
    for (int k = 0; k < n; k += 4, x += step) {
        for (int r = 0; r < LANES; r++, quants += 4) {
            for (int j = 0; j < 4; j++) sums[r] += quants[j] * x[j];
        }
    }
}

// The same for Q4. The offset of the activations counts on weights + 128.
static void block_q4(int32_t sums[LANES], const uint8_t *quants, const int8_t *x, size_t step, int n) {
    for (int k = 0; k < n; k += 8, x += 2 * step) {
        for (int r = 0; r < LANES; r++, quants += 4) {
            for (int j = 0; j < 4; j++) {
                sums[r] += (q4_levels[quants[j] & 15] + 128) * x[j] + (q4_levels[quants[j] >> 4] + 128) * x[step + (size_t)j];
            }
        }
    }
}

static void strip(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok, size_t bytes,
                  void (*block)(int32_t sums[LANES], const uint8_t *quants, const int8_t *x, size_t step, int n)) {
    size_t step = (size_t)x->group * 4;
    for (int i = 0; i < w->n_panels * n_tok; i++) {
        int p = i / n_tok, t = i % n_tok;
        const uint8_t *panel = w->panel + (size_t)p * w->panel_bytes, *quants = panel + scale_bytes(w->n_blocks);
        size_t group = (size_t)(t / x->group), lane = (size_t)(t % x->group), at = group * x->n_scales + lane;
        const int8_t *q = x->q + group * x->q_bytes + lane * 4;
        float *out = y + (size_t)t * ldy + p * LANES;
        memcpy(out, w->start + p * LANES, LANES * sizeof *out);
        for (int b = 0; b < w->n_blocks; b++, quants += bytes, q += (size_t)w->block * (size_t)x->group, at += (size_t)x->group) {
            int32_t sums[LANES];
            for (int r = 0; r < LANES; r++) sums[r] = x->offset[at];
            block(sums, quants, q, step, w->block);
            for (int r = 0; r < LANES; r++) out[r] = fmaf(scale_at(panel, b * LANES + r) * x->scale[at], (float)sums[r], out[r]);
        }
    }
}

void plain_strip_q8(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    strip(y, ldy, w, x, n_tok, (size_t)w->block * LANES, block_q8);
}

void plain_strip_q4(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    strip(y, ldy, w, x, n_tok, (size_t)w->block * LANES / 2, block_q4);
}

static int always(void) { return 1; }

static const Kernel kernel_c = {"c", always, strip_f32, plain_strip_q8, plain_strip_q4, &vector_ops, NULL};

// ---- choice ----

static const Kernel *const kernels[] = {
#ifdef __x86_64__
    &kernel_avx512,
    &kernel_avx2,
#endif
#ifdef __aarch64__
    &kernel_i8mm,
    &kernel_dotprod,
    &kernel_neon,
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

// ---- rows of int8 ----

// A token's share of the three parts; blocks of 32 need the most scales.
static size_t q_row(int n_cols) { return (size_t)round_up(n_cols, Q8_BLOCK); }

static size_t scale_row(int n_cols) { return (size_t)round_up(blocks_of(n_cols, Q4_BLOCK), LANES); }

static int group_of(int n_tok) { return n_tok == 1 ? 1 : TOKENS; }

uint64_t int8_bytes(int n_tok, int n_cols) {
    return (uint64_t)round_up(n_tok, group_of(n_tok)) * ((uint64_t)q_row(n_cols) + (uint64_t)scale_row(n_cols) * 8);
}

Int8Rows int8_rows(void *room, int n_tok, int n_cols) {
    int group = group_of(n_tok);
    size_t n = (size_t)round_up(n_tok, group);
    int8_t *q = room;
    float *scale = room ? (float *)(void *)(q + n * q_row(n_cols)) : NULL;
    int32_t *offset = room ? (int32_t *)(void *)(scale + n * scale_row(n_cols)) : NULL;
    return (Int8Rows){q, scale, offset, (size_t)group * q_row(n_cols), (size_t)group * scale_row(n_cols), group};
}

static void round_input(const Kernel *kernel, int n_threads, Input *in, int block, int n_tok) {
    (void)n_threads;  // without OpenMP
#pragma omp parallel for num_threads(n_threads) if (n_tok >= 2 * TOKENS)
    for (int t = 0; t < n_tok; t += TOKENS) {
        kernel->ops->quantise(&in->int8, t, group_rows(n_tok, t), in->x + (size_t)t * in->ldx, in->ldx, in->n_cols, block);
    }
    in->block = block;
}

// ---- the product ----

// The outputs of a strip are computed into a tile, which stays in the cache, and go from there to where they are wanted.

uint64_t tile_floats(int rows) { return (uint64_t)rows * 2 * Q8_BLOCK; }

static float *tile_of(const Workers *w, int thread) { return w->tiles + (size_t)thread * (size_t)tile_floats(w->rows); }

// Rows from first on, which begins a group.
static Int8Rows rows_from(const Int8Rows *x, int first) {
    size_t group = (size_t)(first / x->group);
    return (Int8Rows){x->q + group * x->q_bytes, x->scale + group * x->n_scales, x->offset + group * x->n_scales,
                      x->q_bytes, x->n_scales, x->group};
}

// One or two panels of outputs of tokens first .. first + n_tok - 1.  tile (n_tok, ld)
static void strip_outputs(const Kernel *kernel, float *tile, size_t ld, const Matrix *w, int panel, const Input *x, int first,
                          int n_tok) {
    _Alignas(64) float start[2 * LANES] = {0};
    int n = w->n_rows - panel * LANES, n_panels = n > LANES ? 2 : 1;
    if (w->bias) memcpy(start, w->bias + panel * LANES, (size_t)(n < 2 * LANES ? n : 2 * LANES) * sizeof *start);
    if (w->type == SMOL_F32X16) {
        size_t step = (size_t)w->n_cols * LANES;
        StripF32 s = {(const float *)w->data + (size_t)panel * step, LANES, step, n_panels, w->n_cols};
        for (int t = 0; t < n_tok; t++) memcpy(tile + (size_t)t * ld, start, sizeof start);
        kernel->strip_f32(tile, ld, &s, x->x + (size_t)first * x->ldx, x->ldx, n_tok);
        return;
    }
    Strip s = strip_of(w, panel, n_panels, start);
    const Int8Rows rows = rows_from(&x->int8, first);
    (w->type == SMOL_Q8 ? kernel->strip_q8 : kernel->strip_q4)(tile, ld, &s, &rows, n_tok);
}

static void multiply_strip(const Workers *w, float *tile, const Input *x, const Product *p, int panel, int n_tok) {
    float *y = p->y + (size_t)panel * LANES;
    int width = p->w.n_rows - panel * LANES > LANES ? 2 * LANES : LANES;
    for (int t = 0; t < n_tok; t += w->rows) {
        int n = n_tok - t < w->rows ? n_tok - t : w->rows;
        strip_outputs(w->kernel, tile, 2 * LANES, &p->w, panel, x, t, n);
        w->kernel->ops->put_rows(y + (size_t)t * p->ldy, p->ldy, tile, 2 * LANES, n, width, p->adds);
    }
}

static int strips_of(const Matrix *w) { return (w->n_rows + 2 * LANES - 1) / (2 * LANES); }

// Waking threads costs microseconds, and milliseconds on a busy machine: a small product is done sooner without. Reading
// a weight from memory takes about as long as using it for 16 tokens.
static int threads_for(const Workers *w, int64_t weights, int n_tok) {
    return weights * (n_tok + 16) < 1 << 22 ? 1 : w->n_threads;
}

// Products that read the input in the same form: all of a layer's do, as a rule.
static void multiply_alike(const Workers *w, const Input *x, const Product *products, int n_products, int n_tok) {
    int64_t weights = 0;
    int n_strips = 0;
    for (int i = 0; i < n_products; i++) {
        weights += (int64_t)products[i].w.n_rows * products[i].w.n_cols;
        n_strips += strips_of(&products[i].w);
    }
    int n_threads = threads_for(w, weights, n_tok);
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
    for (int thread = 0; thread < n_threads; thread++) {
        for (int s = share(n_strips, thread, n_threads); s < share(n_strips, thread + 1, n_threads); s++) {
            const Product *p = products;
            int i = s;
            for (; i >= strips_of(&p->w); p++) i -= strips_of(&p->w);
            multiply_strip(w, tile_of(w, thread), x, p, 2 * i, n_tok);
        }
    }
}

// The input in the form that weights of this type want.
static void prepare(const Workers *w, Input *x, int type, int n_tok) {
    if (type == SMOL_F32X16 || x->block == weight_block(type)) return;
    round_input(w->kernel, w->n_threads, x, weight_block(type), n_tok);
}

void multiply(const Workers *w, Input *x, const Product *products, int n_products, int n_tok) {
    for (int i = 0, n; i < n_products; i += n) {
        int type = products[i].w.type;
        for (n = 1; i + n < n_products && products[i + n].w.type == type; n++) {}
        prepare(w, x, type, n_tok);
        multiply_alike(w, x, products + i, n, n_tok);
    }
}

// ---- two products with the activation function between them ----

// Q8_BLOCK columns of outputs, of which n are there.  tile (n_tok, Q8_BLOCK)
static void block_outputs(const Kernel *kernel, float *tile, const Matrix *w, int column, int n, const Input *x, int first,
                          int n_tok) {
    if (n < Q8_BLOCK) memset(tile, 0, (size_t)n_tok * Q8_BLOCK * sizeof *tile);
    for (int c = 0; c < n; c += 2 * LANES) strip_outputs(kernel, tile + c, Q8_BLOCK, w, (column + c) / LANES, x, first, n_tok);
}

// Columns of a tile become those of h, from token first on.
static void put_activated(const Kernel *kernel, const Input *h, int column, int n, const float *tile, int first, int n_tok) {
    if (!h->block) {
        float *y = (float *)h->x + (size_t)first * h->ldx + column;
        for (int t = 0; t < n_tok; t++) memcpy(y + (size_t)t * h->ldx, tile + t * Q8_BLOCK, (size_t)n * sizeof *tile);
        return;
    }
    Int8Rows to = rows_from(&h->int8, first);
    size_t at = (size_t)column * (size_t)to.group;
    to.q += at, to.scale += at / (size_t)h->block, to.offset += at / (size_t)h->block;
    for (int t = 0; t < n_tok; t += TOKENS) {
        kernel->ops->quantise(&to, t, group_rows(n_tok, t), tile + t * Q8_BLOCK, Q8_BLOCK, n, h->block);
    }
}

// Q8_BLOCK columns of h for all tokens, as many of them at a time as a tile has rows.
static void activate_columns(const Workers *w, float *tile, const Input *x, const Matrix *gate, const Matrix *up, int column,
                             const Input *h, int n_tok) {
    const VectorOps *ops = w->kernel->ops;
    float *factor = tile + (size_t)w->rows * Q8_BLOCK;
    int width = gate->n_rows - column < Q8_BLOCK ? gate->n_rows - column : Q8_BLOCK;
    for (int t = 0; t < n_tok; t += w->rows) {
        int n = n_tok - t < w->rows ? n_tok - t : w->rows;
        block_outputs(w->kernel, tile, gate, column, width, x, t, n);
        if (up) {
            block_outputs(w->kernel, factor, up, column, width, x, t, n);
            ops->silu_multiply(tile, factor, n * Q8_BLOCK);
        } else {
            ops->gelu_tanh(tile, n * Q8_BLOCK);
        }
        put_activated(w->kernel, h, column, width, tile, t, n);
    }
}

void multiply_activated(const Workers *w, Input *x, const Matrix *gate, const Matrix *up, Input *h, int next_type, int n_tok) {
    int n_blocks = blocks_of(gate->n_rows, Q8_BLOCK);
    int n_threads = threads_for(w, (int64_t)gate->n_rows * gate->n_cols * (up ? 2 : 1), n_tok);
    prepare(w, x, gate->type, n_tok);
    h->block = next_type == SMOL_F32X16 ? 0 : weight_block(next_type);
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
    for (int thread = 0; thread < n_threads; thread++) {
        for (int b = share(n_blocks, thread, n_threads); b < share(n_blocks, thread + 1, n_threads); b++) {
            activate_columns(w, tile_of(w, thread), x, gate, up, b * Q8_BLOCK, h, n_tok);
        }
    }
}
