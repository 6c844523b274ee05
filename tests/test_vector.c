// test_vector.c: the operations of vector.h, of which every kernel has its own copy: each of them gives the same bits for the same
// input, whatever the input is. f16 and int8 against their definitions.

#include "../internal.h"
#include "random.h"
#include "test.h"

enum { MOST = 200 };  // elements of a vector

static const Kernel *plain;  // the definition

// ---- inputs ----

// Numbers of one kind; what is strange goes in anywhere.
static void fill(float *x, int n, int kind) {
    static const float sizes[] = {1, 1e-42f, 1e-30f, 1e20f, 1e38f, 30};
    for (int i = 0; i < n; i++) {
        x[i] = random_float(kind % 3 == 1) * sizes[kind % 6];
        if (kind % 3 == 2 && random_below(20) == 0) x[i] = (const float[]){NAN, INFINITY, -INFINITY, -0.0f}[random_below(4)];
    }
}

// ---- the same in all kernels ----

typedef struct {
    float x[3][MOST];
    int n, block;
    float number;
} Given;

// Everything that an operation writes.
typedef struct {
    float f[MOST + 8];
    int8_t q[TOKENS * (MOST + 128)];
    uint16_t h[MOST];
    int32_t i[MOST];
} Made;

typedef void Use(const VectorOps *ops, Made *m, const Given *g);

static void use_rmsnorm(const VectorOps *ops, Made *m, const Given *g) { ops->rmsnorm(m->f, g->x[0], g->x[1], g->n, g->number); }

static void use_layernorm(const VectorOps *ops, Made *m, const Given *g) {
    ops->layernorm(m->f, g->x[0], g->x[1], g->x[2], g->n, g->number);
}

static void use_softmax(const VectorOps *ops, Made *m, const Given *g) {
    memcpy(m->f, g->x[0], sizeof g->x[0]);
    ops->softmax(m->f, g->n, g->number);
}

static void use_gelu(const VectorOps *ops, Made *m, const Given *g) {
    memcpy(m->f, g->x[0], sizeof g->x[0]);
    ops->gelu_tanh(m->f, g->n);
}

static void use_silu(const VectorOps *ops, Made *m, const Given *g) {
    memcpy(m->f, g->x[0], sizeof g->x[0]);
    ops->silu_multiply(m->f, g->x[1], g->n);
}

static void use_quantise(const VectorOps *ops, Made *m, const Given *g) {
    const Int8Rows rows = {m->q, m->f, m->i, 0, 0, 1};
    ops->quantise(&rows, 0, 1, g->x[0], 0, g->n, g->block);
}

static void use_quantise_group(const VectorOps *ops, Made *m, const Given *g) {
    const Int8Rows rows = {m->q, m->f, m->i, 0, 0, TOKENS};
    ops->quantise(&rows, 0, TOKENS, g->x[0], MOST / 4, g->n / 2, g->n / 2 < 64 ? g->block : 64);
}

// A group of rows of scores, block by block. x: where they begin.
static void softmax_int8(const VectorOps *ops, const Int8Rows *to, const float *const x[TOKENS], int n_rows, int n,
                         float factor, float *inverse) {
    int n_blocks = (n + 63) / 64;
    for (int b = 0; b < n_blocks; b++) {
        float block[TOKENS * 64] = {0};
        int width = n - b * 64 < 64 ? n - b * 64 : 64;
        for (int r = 0; r < n_rows; r++) memcpy(block + r * 64, x[r] + b * 64, (size_t)width * sizeof *block);
        ops->softmax_block(to, 0, n_rows, b, block, width, factor);
    }
    ops->softmax_scales(to, 0, n_rows, n_blocks, factor, inverse);
}

static void use_softmax_int8(const VectorOps *ops, Made *m, const Given *g) {
    const Int8Rows rows = {m->q, m->f, m->i, 0, 0, TOKENS};
    const float *x[TOKENS];
    for (int r = 0; r < TOKENS; r++) x[r] = g->x[r % 3];
    softmax_int8(ops, &rows, x, TOKENS, g->n, g->number, m->f + MOST);
}

// Columns of 16: a multiple of 4 of them.
static void use_pack(const VectorOps *ops, Made *m, const Given *g) {
    ops->pack_q8(m->h, (uint8_t *)m->q, g->x[0], g->n / (4 * LANES) * 4);
}

static void use_narrow(const VectorOps *ops, Made *m, const Given *g) { ops->narrow(m->h, g->x[0], g->n); }

static void use_widen(const VectorOps *ops, Made *m, const Given *g) {
    uint16_t halves[MOST];
    for (int i = 0; i < g->n; i++) memcpy(&halves[i], &g->x[0][i], sizeof *halves);
    ops->widen(m->f, halves, g->n);
}

static void use_narrow8(const VectorOps *ops, Made *m, const Given *g) { m->f[0] = ops->narrow8(m->q, g->x[0], g->n); }

static void use_widen8(const VectorOps *ops, Made *m, const Given *g) { ops->widen8(m->f, (const int8_t *)g->x[0], g->n); }

static const struct {
    const char *name;
    Use *use;
} operations[] = {
    {"rmsnorm", use_rmsnorm}, {"layernorm", use_layernorm}, {"softmax", use_softmax}, {"gelu_tanh", use_gelu},
    {"silu_multiply", use_silu}, {"quantise", use_quantise}, {"quantise a group", use_quantise_group},
    {"softmax_int8", use_softmax_int8}, {"pack_q8", use_pack},
    {"narrow", use_narrow}, {"widen", use_widen}, {"narrow8", use_narrow8}, {"widen8", use_widen8},
};

static void check_operations(const Given *g, int kind) {
    static Made want, got;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        memset(&want, 0x55, sizeof want);
        operations[i].use(plain->ops, &want, g);
        for (int k = 0; smol_kernel(k); k++) {
            memset(&got, 0x55, sizeof got);
            operations[i].use(kernel_find(smol_kernel(k))->ops, &got, g);
            int same = same_floats(got.f, want.f, MOST + 8) && !memcmp(got.q, want.q, sizeof got.q) &&
                       !memcmp(got.h, want.h, sizeof got.h) && !memcmp(got.i, want.i, sizeof got.i);
            CHECK(same, "%s of %d, numbers of kind %d, kernel %s", operations[i].name, g->n, kind, smol_kernel(k));
        }
    }
}

static void test_operations(void) {
    static const int blocks[] = {32, 64, 4, 20, 128};
    static Given g;
    for (g.n = 1; g.n <= MOST; g.n++) {
        for (int kind = 0; kind < 12; kind++) {
            for (int j = 0; j < 3; j++) fill(g.x[j], MOST, kind);
            g.block = blocks[random_below(5)];
            g.number = kind % 2 ? 1e-5f : 0.125f;
            check_operations(&g, kind);
        }
    }
}

// ---- f16 ----

// IEEE 754 binary16, from its definition; finite.
static double half_value(int h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return h >> 15 ? -magnitude : magnitude;
}

static void check_narrow(const VectorOps *ops, float x, int want) {
    uint16_t positive, negative, both[2];
    ops->narrow(&positive, &x, 1);
    ops->narrow(&negative, (float[]){-x}, 1);
    ops->narrow(both, (float[]){x, -x}, 2);
    CHECK(positive == want && negative == (want | 0x8000) && both[0] == positive && both[1] == negative, "%a as f16: %04x, not %04x",
          (double)x, positive, want);
}

// Every finite half, the middle between it and the next, and the floats to both sides of the middle.
static void test_halves(const VectorOps *ops) {
    int good = 1;
    for (int h = 0; h < 0x10000; h++) {
        float x;
        ops->widen(&x, (uint16_t[]){(uint16_t)h}, 1);
        int is_finite = (h & 0x7c00) != 0x7c00;
        good = good && (is_finite ? x == half_value(h) && !signbit(x) == !(h >> 15) : h & 0x3ff ? isnan(x) : x == (h >> 15 ? -INFINITY : INFINITY));
    }
    CHECK(good, "all halves as floats");
    for (int h = 0; h < 0x7bff; h++) {
        float here = (float)half_value(h), middle = (float)((half_value(h) + half_value(h + 1)) / 2);
        check_narrow(ops, here, h);
        check_narrow(ops, nextafterf(middle, 0), h);
        check_narrow(ops, middle, h + h % 2);
        check_narrow(ops, nextafterf(middle, 1e9f), h + 1);
    }
    static const float large[] = {65503.99f, 65504, 65519, 65520, 1e6f, 3e38f};
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) check_narrow(ops, large[i], 0x7bff);
    check_narrow(ops, INFINITY, 0x7e00);
    uint16_t none;
    ops->narrow(&none, (float[]){NAN}, 1);
    CHECK((none & 0x7fff) == 0x7e00, "NaN as f16: %04x", none);
}

// ---- int8 ----

// x / scale to the nearest, half to even, within -127 .. 127.
static void test_quantise(const VectorOps *ops) {
    for (int round = 0; round < 300; round++) {
        int n = 1 + random_below(MOST), block = round % 2 ? 32 : 64, good = 1;
        float x[MOST], scale[MOST];
        int8_t q[MOST + 64];
        int32_t offset[MOST];
        const Int8Rows rows = {q, scale, offset, 0, 0, 1};
        fill(x, n, round % 2);
        ops->quantise(&rows, 0, 1, x, 0, n, block);
        for (int b = 0; b * block < n; b++) {
            float most = 0;
            int sum = 0;
            for (int i = b * block; i < n && i < (b + 1) * block; i++) most = fmaxf(most, fabsf(x[i]));
            good = good && scale[b] == (most > ldexpf(1, -100) ? most / 127 : 0);
            for (int i = b * block; i < (b + 1) * block; i++) {
                int want = i < n && scale[b] > 0 ? (int)nearbyintf(fmaxf(-127, fminf(127, x[i] * (127 / most)))) : 0;
                good = good && q[i] == want;
                sum += want;
            }
            good = good && offset[b] == -128 * sum;
        }
        CHECK(good, "%d numbers in blocks of %d", n, block);
    }
}

// Tokens in groups of eight, of which the last may not be full: the same numbers as alone, four columns apart.
static void test_groups(const VectorOps *ops) {
    enum { N = 150, BLOCKS = 5, GROUPS = 2 };
    float x[GROUPS * TOKENS * N], scale[GROUPS * BLOCKS * TOKENS], alone_scale[BLOCKS];
    int8_t q[GROUPS * 160 * TOKENS], alone_q[160];
    int32_t offset[GROUPS * BLOCKS * TOKENS], alone_offset[BLOCKS];
    const Int8Rows rows = {q, scale, offset, 160 * TOKENS, BLOCKS * TOKENS, TOKENS}, alone = {alone_q, alone_scale, alone_offset, 0, 0, 1};
    for (int n_rows = TOKENS + 1; n_rows <= GROUPS * TOKENS; n_rows++) {
        int n = 129 + random_below(22), good = 1;  // of blocks, the fifth is cut short
        fill(x, n_rows * N, 0);
        ops->quantise(&rows, 0, TOKENS, x, N, n, 32);
        ops->quantise(&rows, TOKENS, n_rows - TOKENS, x + TOKENS * N, N, n, 32);
        for (int t = 0; t < n_rows; t++) {
            ops->quantise(&alone, 0, 1, x + t * N, 0, n, 32);
            for (int i = 0; i < 160; i++) {
                good = good && q[t / TOKENS * 160 * TOKENS + (i / 4 * TOKENS + t % TOKENS) * 4 + i % 4] == alone_q[i];
            }
            for (int b = 0; b < BLOCKS; b++) {
                int at = t / TOKENS * BLOCKS * TOKENS + b * TOKENS + t % TOKENS;
                good = good && scale[at] == alone_scale[b] && offset[at] == alone_offset[b];
            }
        }
        CHECK(good, "%d tokens of %d columns in groups", n_rows, n);
    }
}

// Halves between two integers: the largest of the block is 127, so that the others are their own values.
static void test_ties(const VectorOps *ops) {
    float x[64] = {127}, scale;
    int8_t q[64];
    int32_t offset;
    int good = 1;
    const Int8Rows rows = {q, &scale, &offset, 0, 0, 1};
    for (int from = -126; from < 126; from += 42) {
        for (int i = 0; i < 42; i++) x[i + 1] = (float)(from + i) + 0.5f;
        ops->quantise(&rows, 0, 1, x, 0, 43, 64);
        for (int i = 0; i < 42; i++) good = good && q[i + 1] == (from + i) + ((from + i) & 1) && scale == 1;
    }
    CHECK(good, "half to even");
}

// Weights of a softmax in int8, against the softmax in double: each off by half a 127th of its block's largest, and a little
// for the cubic that stands for 2^t.
static void test_softmax_int8(const VectorOps *ops) {
    for (int round = 0; round < 300; round++) {
        int n = 1 + random_below(MOST), n_rows = 1 + random_below(TOKENS), r = random_below(n_rows);
        float x[TOKENS][MOST], scale[MOST], inverse[TOKENS], factor = 0.05f + (float)random_below(100) / 40;
        int8_t q[TOKENS * (MOST + 64)];
        int32_t offset[MOST];
        const Int8Rows rows = {q, scale, offset, 0, 0, TOKENS};
        const float *row[TOKENS];
        for (int i = 0; i < n_rows; i++) fill(x[i], n, 0), row[i] = x[i];
        softmax_int8(ops, &rows, row, n_rows, n, factor, inverse);
        double total = 0, worst = 0, most = -1e9;
        for (int i = 0; i < n; i++) most = larger(most, x[r][i]);
        for (int i = 0; i < (n + 63) / 64 * 64; i++) {
            int weight = q[(i / 4 * TOKENS + r) * 4 + i % 4];
            double unit = scale[i / 64 * TOKENS + r], want = i < n ? exp((x[r][i] - most) * factor) : 0;
            total += weight * unit * inverse[r];
            worst = larger(worst, fabs(weight * unit / 127 - want) / unit);
        }
        CHECK(worst < 0.52 / 127 && fabs(total - 1) < 1e-6, "%d weights are off by %g / 127, their sum is %g", n, worst * 127, total);
    }
}

// 16 rows of weights: the scale is rounded to f16 first, then the quants by it.
static void test_pack(const VectorOps *ops) {
    for (int round = 0; round < 200; round++) {
        int n = 4 * (1 + random_below(16)), good = 1;
        float x[64 * LANES], scale;
        uint16_t scales[LANES];
        uint8_t quants[64 * LANES];
        fill(x, n * LANES, 0);
        for (int i = 0; i < n * LANES; i++) x[i] = ldexpf(x[i], round % 30 - 20);
        if (round % 3 == 0) memset(x, 0, sizeof *x * (size_t)(n * LANES / 2));
        for (int i = 0; round % 4 == 0 && i < n; i++) x[i * LANES + 3] = 0;
        ops->pack_q8(scales, quants, x, n);
        for (int r = 0; r < LANES; r++) {
            float most = 0;
            for (int c = 0; c < n; c++) most = fmaxf(most, fabsf(x[c * LANES + r]));
            ops->widen(&scale, &scales[r], 1);
            good = good && fabsf(scale - most / 127) <= fmaxf(ldexpf(most / 127, -11), ldexpf(1, -25));
            for (int c = 0; c < n; c++) {
                int want = scale > 0 ? (int)nearbyintf(fmaxf(-127, fminf(127, x[c * LANES + r] * (1 / scale)))) : 0;
                good = good && quants[(c / 4 * LANES + r) * 4 + c % 4] == want + 128;
            }
        }
        CHECK(good, "%d columns packed", n);
    }
}

// NaN or infinity among the numbers: no operation loses it, so that it shows in the logits.
static void test_not_finite(const VectorOps *ops) {
    static const float broken[] = {NAN, INFINITY, -INFINITY};
    for (int round = 0; round < 300; round++) {
        int n = 65 + random_below(MOST - 65), at = random_below(64);
        float x[MOST], y[MOST], scale[MOST];
        int8_t q[TOKENS * (MOST + 64)];
        int32_t offset[MOST];
        uint16_t scales[LANES];
        uint8_t quants[64 * LANES];
        const Int8Rows rows = {q, scale, offset, 0, 0, 1}, group = {q, scale, offset, 0, 0, TOKENS};
        fill(x, n, 0);
        x[at] = broken[round % 3];
        ops->quantise(&rows, 0, 1, x, 0, n, 64);
        CHECK(isnan(scale[0]) && !isnan(scale[1]), "a block with %g", (double)x[at]);
        ops->pack_q8(scales, quants, x, 4);
        CHECK((scales[at % LANES] & 0x7fff) == 0x7e00, "a row with %g", (double)x[at]);
        ops->rmsnorm(y, x, x, n, 1e-5f);
        CHECK(isnan(y[at]), "rmsnorm of %g", (double)x[at]);
        memcpy(y, x, sizeof y);
        ops->softmax(y, n, 1);
        CHECK(isnan(y[0]) || x[at] == -INFINITY, "softmax of %g", (double)x[at]);
        x[at] = NAN;
        softmax_int8(ops, &group, (const float *const[TOKENS]){x}, 1, n, 1, y);
        CHECK(isnan(y[0]) && isnan(scale[0]), "softmax in int8 of NaN");
    }
}

int main(void) {
    plain = kernel_find("c");
    test_operations();
    for (int i = 0; smol_kernel(i); i++) {
        const VectorOps *ops = kernel_find(smol_kernel(i))->ops;
        test_halves(ops);
        test_quantise(ops);
        test_groups(ops);
        test_ties(ops);
        test_softmax_int8(ops);
        test_pack(ops);
        test_not_finite(ops);
    }
    return test_end("test_vector");
}
