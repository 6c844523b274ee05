// test_quant.c: the products with weights. Every kernel of this machine against the definition in FORMAT.md and internal.h,
// written down here once more and as plainly as can be, with ==; then products of whole matrices, and their rows.

#include "../internal.h"
#include "random.h"
#include "test.h"

// ---- numbers ----

// IEEE 754 binary16, from its definition.
static float half_value(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float magnitude = exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
    return h >> 15 ? -magnitude : magnitude;
}

// A finite f16: ordinary, or 0, -0, subnormal, negative, the largest.
static uint16_t random_half(int extreme) {
    static const uint16_t strange[] = {0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x7bff, 0xfbff, 0x3c00};
    if (extreme && random_below(2)) return strange[random_bits() % (sizeof strange / sizeof *strange)];
    return (uint16_t)((0x1c00 + random_below(0x800)) | (extreme ? random_below(2) << 15 : 0));
}

static uint8_t random_byte(int extreme) {
    static const uint8_t strange[] = {0, 1, 127, 128, 129, 254, 255};
    if (extreme && random_below(2)) return strange[random_bits() % sizeof strange];
    return (uint8_t)random_bits();
}

static int8_t random_int8(int extreme) {
    static const int8_t strange[] = {-127, 127, -126, 1, 0, -1};
    if (extreme && random_below(2)) return strange[random_bits() % sizeof strange];
    return (int8_t)(random_below(255) - 127);
}

static float random_scale(int extreme) {
    static const float strange[] = {0.0f, 1e-45f, 1e-38f, 3e38f, 1.0f};
    if (extreme && random_below(3) == 0) return strange[random_bits() % (sizeof strange / sizeof *strange)];
    return (float)(1 + random_below(1 << 20)) / 3e7f;
}

// ---- weights, as FORMAT.md lays them out ----

static size_t panel_size(int type, int block, int n_blocks) {
    return ((size_t)n_blocks * 32 + 63) / 64 * 64 + (size_t)n_blocks * 16 * (size_t)block / (type == SMOL_Q4 ? 2 : 1);
}

// Aligned as in a file, and of its exact size.
static uint8_t *random_panels(int type, int block, int n_blocks, int n_panels, int extreme) {
    size_t size = panel_size(type, block, n_blocks), n_scales = (size_t)n_blocks * 16;
    uint8_t *panels = aligned_alloc(64, size * (size_t)n_panels);
    if (!panels) exit(2);
    int same = extreme && random_below(4) == 0;  // all quants at one end: the largest sums
    uint8_t one = random_below(2) ? 255 : 0;
    for (size_t i = 0; i < size * (size_t)n_panels; i++) panels[i] = same ? one : random_byte(extreme);
    for (int p = 0; p < n_panels; p++) {
        for (size_t i = 0; i < n_scales; i++) {
            uint16_t half = random_half(extreme);
            memcpy(panels + (size_t)p * size + 2 * i, &half, sizeof half);
        }
    }
    return panels;
}

static float scale_of(const uint8_t *panel, int r, int b) {
    uint16_t half;
    memcpy(&half, panel + 2 * (b * 16 + r), sizeof half);
    return half_value(half);
}

// The quant of row r of a panel, column c.
static int quant_of(int type, const uint8_t *panel, int n_blocks, int r, int c) {
    static const int levels[16] = {-127, -100, -78, -60, -46, -33, -21, -9, 2, 13, 24, 36, 49, 64, 82, 106};
    const uint8_t *quants = panel + (n_blocks * 32 + 63) / 64 * 64;
    if (type == SMOL_Q8) return quants[(c / 4 * 16 + r) * 4 + c % 4] - 128;
    int pair = quants[(c / 8 * 16 + r) * 4 + c % 4];
    return levels[c % 8 < 4 ? pair % 16 : pair / 16];
}

// ---- strips ----

typedef struct {
    int type, block, n_blocks, n_panels, n_tok, extreme;
} Case;

// Where column i of token t lies, and the scale of its block b.
static size_t place(const Int8Rows *x, int t, int i) {
    return (size_t)(t / x->group) * x->q_bytes + (size_t)((i / 4 * x->group + t % x->group) * 4 + i % 4);
}

static size_t scale_place(const Int8Rows *x, int t, int b) {
    return (size_t)(t / x->group) * x->n_scales + (size_t)(b * x->group + t % x->group);
}

// Activations in arrays that end with their last group; a single token is a group of its own.
static Int8Rows random_rows(const Case *c) {
    int alone = c->n_tok == 1 && c->block == (c->type == SMOL_Q8 ? Q8_BLOCK : Q4_BLOCK);
    int group = alone ? 1 : TOKENS, n_groups = (c->n_tok + group - 1) / group;
    size_t width = (size_t)(c->n_blocks * c->block * group), blocks = (size_t)(c->n_blocks * group);
    size_t q_bytes = width + (size_t)random_below(9) * 4, n_scales = blocks + (size_t)random_below(3);
    size_t n_q = (size_t)(n_groups - 1) * q_bytes + width, n_s = (size_t)(n_groups - 1) * n_scales + blocks;
    Int8Rows x = {malloc(n_q), malloc(n_s * sizeof(float)), malloc(n_s * sizeof(int32_t)), q_bytes, n_scales, group};
    if (!x.q || !x.scale || !x.offset) exit(2);
    int same = c->extreme && random_below(4) == 0;
    for (size_t i = 0; i < n_q; i++) x.q[i] = same ? (int8_t)(random_state >> 63 ? 127 : -127) : random_int8(c->extreme);
    for (size_t i = 0; i < n_s; i++) x.scale[i] = random_scale(c->extreme), x.offset[i] = 0x55555555;
    for (int t = 0; t < c->n_tok; t++) {
        for (int b = 0; b < c->n_blocks; b++) {
            int sum = 0;
            for (int i = 0; i < c->block; i++) sum += x.q[place(&x, t, b * c->block + i)];
            x.offset[scale_place(&x, t, b)] = -128 * sum;
        }
    }
    return x;
}

// y[t][r] = start[r], then fmaf(w_scale * x_scale, (float)isum, y[t][r]), block after block.
static void strip_definition(float *y, size_t ldy, const Case *c, const uint8_t *panels, const float *start,
                             const Int8Rows *x) {
    size_t size = panel_size(c->type, c->block, c->n_blocks);
    for (int t = 0; t < c->n_tok; t++) {
        for (int r = 0; r < 16 * c->n_panels; r++) {
            const uint8_t *panel = panels + (size_t)(r / 16) * size;
            float *out = y + (size_t)t * ldy + r;
            *out = start[r];
            for (int b = 0; b < c->n_blocks; b++) {
                int32_t sum = 0;
                for (int i = b * c->block; i < (b + 1) * c->block; i++) {
                    sum += quant_of(c->type, panel, c->n_blocks, r % 16, i) * x->q[place(x, t, i)];
                }
                float scale = scale_of(panel, r % 16, b) * x->scale[scale_place(x, t, b)];
                *out = fmaf(scale, (float)sum, *out);
            }
        }
    }
}

static float *aligned_floats(size_t n) {
    float *x = aligned_alloc(64, (n * sizeof *x + 63) / 64 * 64);
    if (!x) exit(2);
    return x;
}

// Makes those places of a tile that a kernel may use as it likes equal to what is wanted.
static void forget_waste(float *y, const float *want, size_t ldy, const Case *c, int n_rows) {
    for (int t = 0; t < n_rows; t++) {
        size_t from = (size_t)t * ldy + (t < c->n_tok ? 16 * (size_t)c->n_panels : 0), end = (size_t)t * ldy + 32;
        memcpy(y + from, want + from, (end - from) * sizeof *y);
    }
}

// All kernels on one random case; what lies between the rows of the tile must stay as it was.
static void check_strip(Case c) {
    Int8Rows x = random_rows(&c);
    int n_rows = (c.n_tok + x.group - 1) / x.group * x.group;
    size_t size = panel_size(c.type, c.block, c.n_blocks), ldy = (size_t)(32 + 16 * random_below(3));
    size_t n_y = (size_t)(n_rows - 1) * ldy + 32;
    uint8_t *panels = random_panels(c.type, c.block, c.n_blocks, c.n_panels, c.extreme);
    float *start = aligned_floats(32), *before = random_floats(n_y, 0);
    float *want = aligned_floats(n_y), *y = aligned_floats(n_y);
    for (int i = 0; i < 32; i++) start[i] = random_float(c.extreme);
    memcpy(want, before, n_y * sizeof *y);
    strip_definition(want, ldy, &c, panels, start, &x);
    for (int i = 0; smol_kernel(i); i++) {
        const Kernel *kernel = kernel_find(smol_kernel(i));
        const Strip strip = {panels, size, c.n_panels, c.block, c.n_blocks, start};
        memcpy(y, before, n_y * sizeof *y);
        (c.type == SMOL_Q8 ? kernel->strip_q8 : kernel->strip_q4)(y, ldy, &strip, &x, c.n_tok);
        forget_waste(y, want, ldy, &c, n_rows);
        CHECK(same_floats(y, want, n_y), "kernel %s, Q%d, %d blocks of %d, %d panels, %d tokens, extreme %d", kernel->name,
              c.type == SMOL_Q8 ? 8 : 4, c.n_blocks, c.block, c.n_panels, c.n_tok, c.extreme);
    }
    free(panels);
    free(x.q);
    free(x.scale);
    free(x.offset);
    free(start);
    free(before);
    free(want);
    free(y);
}

// Blocks of 64 are the file's; attention has blocks of whole heads, 4 to 128.
static void test_strips(void) {
    for (int n_tok = 1, block = 4; n_tok <= 40; n_tok++) {
        for (int i = 0; i < 16; i++, block = block < 128 ? block + 4 : 4) {
            int n_panels = 1 + i % 2, extreme = i / 2 % 2;
            check_strip((Case){SMOL_Q8, block, 1 + random_below(4), n_panels, n_tok, extreme});
            check_strip((Case){SMOL_Q8, 64, 1 + random_below(5), n_panels, n_tok, extreme});
            check_strip((Case){SMOL_Q4, 32, 1 + random_below(9), n_panels, n_tok, extreme});
        }
    }
    for (int n_blocks = 1; n_blocks <= 70; n_blocks++) {
        for (int n_tok = 1; n_tok <= 9; n_tok += 4) {
            check_strip((Case){SMOL_Q8, 64, n_blocks, 1 + n_blocks % 2, n_tok, n_tok == 5});
            check_strip((Case){SMOL_Q4, 32, n_blocks, 2 - n_blocks % 2, n_tok, n_tok == 5});
        }
    }
}

// ---- strips of floats ----

// The definition in internal.h, word for word.
static void floats_definition(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok) {
    for (size_t t = 0; t < (size_t)n_tok; t++) {
        for (size_t r = 0; r < LANES * (size_t)w->n_panels; r++) {
            const float *row = w->w + r / LANES * w->step + r % LANES;
            for (size_t k = 0; k < (size_t)w->n_k; k++) y[t * ldy + r] = fmaf(row[k * w->ldw], x[t * ldx + k], y[t * ldy + r]);
        }
    }
}

// Arrays of their exact size, so that the address sanitizer sees a step beyond; elements between the rows must stay.
static void check_floats(const Kernel *kernel, int n_tok, int n_k, int adversarial) {
    int n_panels = 1 + random_below(6);
    size_t ldw = LANES + random_bits() % 4 * 3, panel = n_k ? ((size_t)n_k - 1) * ldw + LANES : 0, step = panel + random_bits() % 3;
    size_t ldy = (size_t)n_panels * LANES + (size_t)random_below(5), ldx = (size_t)n_k + random_bits() % 6;
    size_t n_y = ((size_t)n_tok - 1) * ldy + LANES * (size_t)n_panels, n_w = ((size_t)n_panels - 1) * step + panel;
    float *y = random_floats(n_y, adversarial), *want = malloc(n_y * sizeof *want);
    float *w = random_floats(n_w, adversarial), *x = random_floats(((size_t)n_tok - 1) * ldx + (size_t)n_k, adversarial);
    const StripF32 strip = {w, ldw, step, n_panels, n_k};
    memcpy(want, y, n_y * sizeof *y);
    kernel->strip_f32(y, ldy, &strip, x, ldx, n_tok);
    floats_definition(want, ldy, &strip, x, ldx, n_tok);
    CHECK(same_floats(y, want, n_y), "kernel %s, %d tokens, %d panels, %d columns", kernel->name, n_tok, n_panels, n_k);
    free(y);
    free(want);
    free(w);
    free(x);
}

static void test_floats(void) {
    CHECK(smol_kernel(0) && !kernel_find("none") && kernel_find("c") && kernel_find(NULL) == kernel_find(smol_kernel(0)),
          "the list of kernels");
    for (int i = 0; smol_kernel(i); i++) {
        const Kernel *kernel = kernel_find(smol_kernel(i));
        CHECK(kernel && !strcmp(kernel->name, smol_kernel(i)), "kernel %d by its name", i);
        for (int n_tok = 1; n_tok <= 9; n_tok++) {
            for (int n_k = 0; n_k <= 70; n_k++) {
                check_floats(kernel, n_tok, n_k, 0);
                check_floats(kernel, n_tok, n_k, 1);
            }
        }
    }
}

// ---- matrices ----

static int block_of(int type) { return type == SMOL_Q8 ? 64 : 32; }

static int blocks_in(int type, int n_cols) { return (n_cols + block_of(type) - 1) / block_of(type); }

static float weight_of(const Matrix *w, int row, int c) {
    if (w->type == SMOL_F32X16) return ((const float *)w->data)[(row / 16 * w->n_cols + c) * 16 + row % 16];
    int n_blocks = blocks_in(w->type, w->n_cols);
    const uint8_t *panel = (const uint8_t *)w->data + (size_t)(row / 16) * panel_size(w->type, block_of(w->type), n_blocks);
    return scale_of(panel, row % 16, c / block_of(w->type)) * (float)quant_of(w->type, panel, n_blocks, row % 16, c);
}

static Matrix random_matrix(int type, int n_rows, int n_cols) {
    int n_panels = (n_rows + 15) / 16;
    void *data = type == SMOL_F32X16 ? (void *)random_floats((size_t)(16 * n_panels * n_cols), 0)
                                     : random_panels(type, block_of(type), blocks_in(type, n_cols), n_panels, 0);
    return (Matrix){data, random_below(3) ? random_floats((size_t)n_rows, 0) : NULL, type, n_rows, n_cols};
}

static void test_rows(void) {
    for (int round = 0; round < 60; round++) {
        int n_rows = 1 + random_below(70), n_cols = 1 + random_below(200), good = 1;
        Matrix w = random_matrix((const int[]){SMOL_Q8, SMOL_Q4, SMOL_F32X16}[round % 3], n_rows, n_cols);
        float *out = random_floats((size_t)n_cols, 0);
        for (int r = 0; r < n_rows; r++) {
            matrix_row(out, &w, r);
            for (int c = 0; c < n_cols; c++) good = good && out[c] == weight_of(&w, r, c);
        }
        CHECK(good, "rows of a matrix of type %d, %d x %d", w.type, n_rows, n_cols);
        free((void *)w.data);
        free((void *)w.bias);
        free(out);
    }
}

// A row of activations in int8: scale = max|x| / 127, half to even; what is next to nothing is nothing.
static void round_definition(int8_t *q, float *scale, const float *x, int n, int block) {
    for (int i = 0; i < n; i += block, scale++) {
        int end = n - i < block ? n : i + block;
        float most = 0;
        for (int j = i; j < end; j++) most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
        *scale = most > ldexpf(1, -100) ? most / 127 : 0;
        for (int j = i; j < end; j++) q[j] = (int8_t)(*scale > 0 ? lrintf(x[j] * (127 / most)) : 0);
    }
}

static float dot_definition(const Matrix *w, int row, const float *x) {
    static int8_t q[4096];
    static float scale[128];
    float acc = w->bias ? w->bias[row] : 0;
    if (w->type == SMOL_F32X16) {
        for (int c = 0; c < w->n_cols; c++) acc = fmaf(weight_of(w, row, c), x[c], acc);
        return acc;
    }
    int block = block_of(w->type), n_blocks = blocks_in(w->type, w->n_cols);
    const uint8_t *panel = (const uint8_t *)w->data + (size_t)(row / 16) * panel_size(w->type, block, n_blocks);
    round_definition(q, scale, x, w->n_cols, block);
    for (int b = 0; b < n_blocks; b++) {
        int32_t sum = 0;
        for (int c = b * block; c < w->n_cols && c < (b + 1) * block; c++) {
            sum += quant_of(w->type, panel, n_blocks, row % 16, c) * q[c];
        }
        acc = fmaf(scale_of(panel, row % 16, b) * scale[b], (float)sum, acc);
    }
    return acc;
}

// Several products of one input, of mixed types and sizes, with all kernels and thread counts. n_some: rows that are compared.
static void check_multiply(int n_cols, int most_rows, int n_tok, int n_some) {
    enum { N = 4 };
    static const int types[] = {SMOL_Q8, SMOL_Q4, SMOL_F32X16}, threads[] = {1, 2, 3, 8};
    Product products[N];
    float *before[N], *tiles = aligned_floats((size_t)(8 * tile_floats(16)));
    int n_products = 1 + random_below(N), good = 1;
    size_t ldx = (size_t)(n_cols + random_below(4));
    float *x = random_floats((size_t)n_tok * ldx, 0);
    for (int i = 0; i < n_tok; i++) memset(x + (size_t)i * ldx, 0, (size_t)(random_below(3) ? 0 : n_cols / 2) * sizeof *x);
    for (int i = 0; i < n_products; i++) {
        int n_rows = most_rows - random_below(20);
        products[i] = (Product){random_matrix(types[random_below(3)], n_rows, n_cols), NULL,
                                (size_t)(round_up(n_rows, 16) + random_below(3)), random_below(2)};
        products[i].y = malloc((size_t)n_tok * products[i].ldy * sizeof(float));
        before[i] = random_floats((size_t)n_tok * products[i].ldy, 0);
    }
    size_t room_bytes = (size_t)int8_bytes(n_tok, n_cols);
    void *room = aligned_alloc(64, room_bytes);
    for (int k = 0; smol_kernel(k); k++) {
        for (int j = 0; j < 4; j++) {
            memset(room, 0x77, room_bytes);
            Input in = {x, ldx, n_cols, int8_rows(room, n_tok, n_cols), 0};
            const Workers workers = {kernel_find(smol_kernel(k)), threads[j], 8 << random_below(2), tiles};
            for (int i = 0; i < n_products; i++) memcpy(products[i].y, before[i], (size_t)n_tok * products[i].ldy * sizeof *x);
            multiply(&workers, &in, products, n_products, n_tok);
            for (int i = 0; i < n_products * n_some; i++) {
                const Product *p = &products[i % n_products];
                int t = random_below(n_tok), r = random_below(p->w.n_rows);
                size_t at = (size_t)t * p->ldy + (size_t)r;
                float want = dot_definition(&p->w, r, x + (size_t)t * ldx);
                good = good && p->y[at] == (p->adds ? before[i % n_products][at] + want : want);
            }
            CHECK(good, "%d products of %d columns, %d tokens, %s, %d threads", n_products, n_cols, n_tok, smol_kernel(k), threads[j]);
        }
    }
    for (int i = 0; i < n_products; i++) {
        free((void *)products[i].w.data);
        free((void *)products[i].w.bias);
        free(products[i].y);
        free(before[i]);
    }
    free(tiles);
    free(x);
    free(room);
}

// Both products of an MLP, with all kernels, against the same in single steps: outputs as floats, activation, rounding.
static void check_activated(int n_cols, int n_rows, int n_tok, int gated) {
    static const int types[] = {SMOL_Q8, SMOL_Q4, SMOL_F32X16}, threads[] = {1, 2, 3, 8};
    int type = types[random_below(3)], next = types[random_below(3)], ldy = round_up(n_rows, 16);
    Matrix gate = random_matrix(type, n_rows, n_cols), up = random_matrix(type, n_rows, n_cols);
    size_t n_y = (size_t)n_tok * (size_t)ldy;
    size_t in_bytes = (size_t)int8_bytes(n_tok, n_cols), out_bytes = (size_t)int8_bytes(n_tok, n_rows);
    float *x = random_floats((size_t)n_tok * (size_t)n_cols, 0), *h = random_floats(n_y, 0);
    float *tiles = aligned_floats((size_t)(8 * tile_floats(16))), *y = random_floats(n_y, 0), *factor = random_floats(n_y, 0);
    uint8_t *room = aligned_alloc(64, in_bytes), *got = aligned_alloc(64, out_bytes), *want = aligned_alloc(64, out_bytes);
    for (int k = 0; smol_kernel(k); k++) {
        const Workers workers = {kernel_find(smol_kernel(k)), threads[random_below(4)], 8 << random_below(2), tiles};
        const VectorOps *ops = workers.kernel->ops;
        Input in = {x, (size_t)n_cols, n_cols, int8_rows(room, n_tok, n_cols), 0};
        Input out = {h, (size_t)ldy, n_rows, int8_rows(got, n_tok, n_rows), 0};
        Int8Rows rounded = int8_rows(want, n_tok, n_rows);
        const Product both[] = {{gate, y, (size_t)ldy, 0}, {up, factor, (size_t)ldy, 0}};
        memset(got, 0x55, out_bytes), memset(want, 0x55, out_bytes);
        multiply_activated(&workers, &in, &gate, gated ? &up : NULL, &out, next, n_tok);
        multiply(&workers, &in, both, 2, n_tok);
        int good = 1;
        for (int t = 0; t < n_tok; t++) {
            float *row = y + t * ldy;
            if (gated) ops->silu_multiply(row, factor + t * ldy, n_rows);
            if (!gated) ops->gelu_tanh(row, n_rows);
            good = good && (next != SMOL_F32X16 || memcmp(row, h + t * ldy, (size_t)n_rows * sizeof *h) == 0);
        }
        for (int t = 0; t < n_tok && next != SMOL_F32X16; t += TOKENS) {
            ops->quantise(&rounded, t, group_rows(n_tok, t), y + t * ldy, (size_t)ldy, n_rows, block_of(next));
        }
        CHECK(good && memcmp(got, want, out_bytes) == 0, "%d x %d, activated, %d tokens, %s, type %d then %d, gated %d", n_rows,
              n_cols, n_tok, smol_kernel(k), type, next, gated);
    }
    free((void *)gate.data), free((void *)gate.bias), free((void *)up.data), free((void *)up.bias);
    free(x), free(h), free(tiles), free(y), free(factor), free(room), free(got), free(want);
}

static void test_activated(void) {
    for (int round = 0; round < 100; round++) {
        check_activated(1 + random_below(200), 1 + random_below(200), 1 + random_below(20), round % 2);
    }
    check_activated(700, 1000, 40, 1);  // enough for threads
}

static void test_multiply(void) {
    for (int round = 0; round < 60; round++) check_multiply(1 + random_below(260), 21 + random_below(80), 1 + random_below(20), 50);
    for (int n_tok = 1; n_tok <= 33; n_tok += 8) check_multiply(700 + random_below(100), 300, n_tok, 50);  // enough for threads
}

int main(void) {
    test_strips();
    test_floats();
    test_rows();
    test_multiply();
    test_activated();
    return test_end("test_quant");
}
