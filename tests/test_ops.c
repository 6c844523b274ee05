// test_ops.c: the functions under the numerics contract. Elementary functions, norms and activations against high-precision
// values (tests/golden/ops.tsv, from make_ops_golden.py); kernels, attention and the KV cache against plain loops, with ==;
// SHA-256 against FIPS 180-4.

#include "../internal.h"
#include "test.h"

#include <float.h>
#include <math.h>

enum { MAX_FIELDS = 6, MAX_NUMBERS = 256 };

// ---- reference values ----

typedef struct {
    double v[MAX_NUMBERS];
    float f[MAX_NUMBERS];  // the same as floats
    int n;
} Field;

static Field fields[MAX_FIELDS];

static void read_field(Field *field, char *text) {
    field->n = 0;
    for (char *end; field->n < MAX_NUMBERS; text = end) {
        double v = strtod(text, &end);
        if (end == text) break;
        field->v[field->n] = v;
        field->f[field->n++] = (float)v;
    }
}

static double largest(const Field *x) {
    double most = FLT_MIN;
    for (int i = 0; i < x->n; i++) most = fabs(x->v[i]) > most ? fabs(x->v[i]) : most;
    return most;
}

// Whether got is within tolerance times scale of every expected value; the largest multiple goes to *worst.
static int near(const float *got, const Field *want, double scale, double tolerance, double *worst) {
    *worst = 0;
    for (int i = 0; i < want->n; i++) {
        double error = fabs(got[i] - want->v[i]) / scale;
        if (!(error <= *worst)) *worst = error;
    }
    return *worst <= tolerance;
}

// The largest of 1 and |x| / spread: how much a mean that is rounded to f32 weighs where x is nearly constant.
static double condition(const Field *x) {
    double mean = 0, square = 0;
    for (int i = 0; i < x->n; i++) mean += x->v[i] / x->n;
    for (int i = 0; i < x->n; i++) square += (x->v[i] - mean) * (x->v[i] - mean) / x->n;
    double c = largest(x) / sqrt(square + 1e-5);
    return c > 1 ? c : 1;
}

// Errors are in units of 2^-24, half a unit in the last place of the largest value; the limits leave a factor of two.
static void check_case(const VectorOps *ops, const char *name, int n_fields) {
    const double unit = 1.0 / (1 << 24);
    const Field *want = &fields[n_fields - 1], *x = &fields[1];
    int n = want->n;
    float y[MAX_NUMBERS], cos[MAX_NUMBERS], sin[MAX_NUMBERS];
    double worst = 0, limit = 8, scale = largest(want);
    if (!strcmp(name, "sin") || !strcmp(name, "cos")) {
        double got = name[0] == 's' ? sin_exact(fields[0].v[0]) : cos_exact(fields[0].v[0]);
        CHECK(fabs(got - want->v[0]) < 2e-16, "%s(%.17g) is %.17g, not %.17g", name, fields[0].v[0], got, want->v[0]);
        return;
    }
    if (!strcmp(name, "rmsnorm")) {
        ops->rmsnorm(y, x->f, fields[2].f, n, fields[0].f[0]);
    } else if (!strcmp(name, "layernorm")) {
        ops->layernorm(y, x->f, fields[2].f, fields[3].f, n, fields[0].f[0]);
        limit *= condition(x);
    } else if (!strcmp(name, "softmax")) {
        memcpy(y, x->f, sizeof y);
        ops->softmax(y, n, fields[0].f[0]);
        limit = 16;  // the product with the scale is rounded before e^x
    } else if (!strcmp(name, "gelu")) {
        memcpy(y, fields[0].f, sizeof y);
        ops->gelu_tanh(y, n);
        scale = largest(&fields[0]);  // next to nothing is left of a negative x, and the error is relative to x
    } else if (!strcmp(name, "silu")) {
        memcpy(y, fields[0].f, sizeof y);
        ops->silu_multiply(y, fields[1].f, n);
    } else if (!strcmp(name, "rope")) {
        memcpy(y, fields[2].f, sizeof y);
        rope_angles(cos, sin, x->f, n / 2, (int)fields[0].v[0]);
        rope(y, cos, sin, n / 2);
    }
    CHECK(near(y, want, scale, limit * unit, &worst), "%s of %d: off by %g units of 2^-24, limit %g", name, n, worst / unit, limit);
}

static void test_golden(void) {
    size_t n;
    char *text = (char *)read_file("tests/golden/ops.tsv", &n);
    CHECK(text != NULL, "cannot read tests/golden/ops.tsv");
    if (!text) return;
    text[n] = 0;
    int n_cases = 0;
    for (char *line = text, *end; *line; line = end, n_cases++) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = 0;
        char *name = line, *field = strchr(line, '\t');
        int n_fields = 0;
        for (; field && n_fields < MAX_FIELDS; n_fields++) {
            *field++ = 0;
            char *next = strchr(field, '\t');
            if (next) *next = 0;
            read_field(&fields[n_fields], field);
            if (next) *next = '\t';
            field = next;
        }
        for (int i = 0; smol_kernel(i); i++) check_case(kernel_find(smol_kernel(i))->ops, name, n_fields);
    }
    CHECK(n_cases > 300, "%d cases", n_cases);
    free(text);
}

// What no table is needed for.
static void test_properties(const VectorOps *ops) {
    for (int i = 0; i < 2000; i++) {
        double x = (i - 1000) * 987.654321;
        double s = sin_exact(x), c = cos_exact(x);
        CHECK(fabs(s * s + c * c - 1) < 4e-16 && sin_exact(-x) == -s && cos_exact(-x) == c, "sin and cos of %g", x);
    }
    CHECK(sin_exact(0) == 0 && cos_exact(0) == 1, "sin and cos of 0");
    float same[7] = {3, 3, 3, 3, 3, 3, 3}, far[3] = {-3e38f, 0, 3e38f}, none[2] = {NAN, 1};
    ops->softmax(same, 7, 1);
    for (int i = 1; i < 7; i++) CHECK(same[i] == same[0] && fabsf(same[0] - 1 / 7.0f) < 1e-7f, "softmax of equal numbers");
    ops->softmax(far, 3, 1);
    CHECK(far[2] == 1 && far[0] < 1e-30f && far[0] >= 0, "softmax of far numbers");
    ops->softmax(none, 2, 1);  // defined, whatever it is: the sanitizers watch
    float huge[2] = {3e38f, -3e38f};
    ops->gelu_tanh(huge, 2);
    CHECK(huge[0] == 3e38f && fabsf(huge[1]) < 5, "gelu of huge numbers: %g %g", (double)huge[0], (double)huge[1]);
}

// ---- random numbers ----

static uint64_t state = 1;

static uint32_t random_bits(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

// Ordinary, or one of the numbers at which kernels could differ.
static float random_float(int adversarial) {
    static const float strange[] = {0.0f, -0.0f, 1e-45f, -1e-45f, 1e-38f, -3e-39f, 3e38f, -3e38f, 1e20f, -1e19f, 1.0f, -1.0f};
    if (adversarial && random_bits() % 3 == 0) return strange[random_bits() % (sizeof strange / sizeof *strange)];
    return (float)(int32_t)random_bits() / 1e9f;
}

static float *random_floats(size_t n, int adversarial) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = random_float(adversarial);
    return x;
}

// The same bits; infinities may come out of huge numbers, and any NaN equals any other.
static int same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]))) return 0;
    }
    return 1;
}

// ---- kernels ----

// The definition in internal.h, word for word.
static void strip_definition(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok) {
    for (size_t t = 0; t < (size_t)n_tok; t++) {
        for (size_t r = 0; r < LANES * (size_t)w->n_panels; r++) {
            const float *row = w->w + r / LANES * w->step + r % LANES;
            for (size_t k = 0; k < (size_t)w->n_k; k++) y[t * ldy + r] = fmaf(row[k * w->ldw], x[t * ldx + k], y[t * ldy + r]);
        }
    }
}

// Arrays of their exact size, so that the address sanitizer sees a step beyond; elements between the rows must stay.
static void check_kernel(const Kernel *kernel, int n_tok, int n_k, int adversarial) {
    int n_panels = 1 + (int)(random_bits() % 6);
    size_t ldw = LANES + random_bits() % 4 * 3, panel = n_k ? ((size_t)n_k - 1) * ldw + LANES : 0, step = panel + random_bits() % 3;
    size_t ldy = (size_t)n_panels * LANES + random_bits() % 5, ldx = (size_t)n_k + random_bits() % 6;
    size_t n_y = ((size_t)n_tok - 1) * ldy + LANES * (size_t)n_panels, n_w = ((size_t)n_panels - 1) * step + panel;
    float *y = random_floats(n_y, adversarial), *want = malloc(n_y * sizeof *want);
    float *w = random_floats(n_w, adversarial), *x = random_floats(((size_t)n_tok - 1) * ldx + (size_t)n_k, adversarial);
    const StripF32 strip = {w, ldw, step, n_panels, n_k};
    memcpy(want, y, n_y * sizeof *y);
    kernel->strip_f32(y, ldy, &strip, x, ldx, n_tok);
    strip_definition(want, ldy, &strip, x, ldx, n_tok);
    CHECK(same_floats(y, want, n_y), "kernel %s, %d tokens, %d panels, %d columns", kernel->name, n_tok, n_panels, n_k);
    free(y);
    free(want);
    free(w);
    free(x);
}

static void test_kernels(void) {
    CHECK(smol_kernel(0) && !kernel_find("none") && kernel_find("c") && kernel_find(NULL) == kernel_find(smol_kernel(0)),
          "the list of kernels");
    for (int i = 0; smol_kernel(i); i++) {
        const Kernel *kernel = kernel_find(smol_kernel(i));
        CHECK(kernel && !strcmp(kernel->name, smol_kernel(i)), "kernel %d by its name", i);
        for (int n_tok = 1; n_tok <= 9; n_tok++) {
            for (int n_k = 0; n_k <= 70; n_k++) {
                check_kernel(kernel, n_tok, n_k, 0);
                check_kernel(kernel, n_tok, n_k, 1);
            }
        }
    }
}

// ---- matrix product ----

static void test_multiply(void) {
    for (int round = 0; round < 60; round++) {
        int n_rows = 1 + (int)(random_bits() % 50), n_cols = 1 + (int)(random_bits() % 40), n_tok = 1 + (int)(random_bits() % 7);
        int ldy = round_up(n_rows, LANES) + (int)(random_bits() % 3), ldx = n_cols + (int)(random_bits() % 3);
        size_t n_y = (size_t)n_tok * (size_t)ldy;
        float *data = random_floats((size_t)round_up(n_rows, LANES) * (size_t)n_cols, 0), *bias = random_floats((size_t)n_rows, 0);
        float *x = random_floats((size_t)n_tok * (size_t)ldx, 0), *row = malloc((size_t)n_cols * sizeof *row);
        Matrix w = {data, round % 3 ? bias : NULL, SMOL_F32X16, n_rows, n_cols};
        float *y = random_floats(n_y, 0);
        Input in = {.x = x, .ldx = (size_t)ldx, .n_cols = n_cols};
        Product product = {w, y, (size_t)ldy};
        multiply(kernel_find(NULL), 1 + round % 3, &in, &product, 1, n_tok);
        int good = 1;
        for (int r = 0; r < n_rows; r++) {
            matrix_row(row, &w, r);
            for (int t = 0; t < n_tok; t++) {
                float acc = w.bias ? bias[r] : 0;
                for (int k = 0; k < n_cols; k++) {
                    good = good && row[k] == data[(r / LANES * n_cols + k) * LANES + r % LANES];
                    acc = fmaf(row[k], x[t * ldx + k], acc);
                }
                good = good && acc == y[t * ldy + r];
            }
        }
        CHECK(good, "product of %d x %d, %d tokens", n_rows, n_cols, n_tok);
        free(data);
        free(bias);
        free(x);
        free(row);
        free(y);
    }
}

// ---- attention ----

static KvLayer kv_new(int n_pos, int n_kv_heads, int head_dim) {
    uint64_t n_v, n_k = kv_elements(n_pos, n_kv_heads, head_dim, &n_v);
    return (KvLayer){random_floats((size_t)n_k, 1), random_floats((size_t)n_v, 1), n_pos, n_kv_heads, head_dim, 0};
}

static void kv_free(KvLayer *kv) {
    free(kv->k);
    free(kv->v);
}

// softmax(q k / sqrt(head_dim)) v in double, from the rows as they were given to kv_store.
static void attend_plainly(double *out, const float *q, const float *k, const float *v, int n_seen, int ld, int head_dim) {
    double scores[64], most = -1e300, sum = 0;
    for (int p = 0; p < n_seen; p++) {
        scores[p] = 0;
        for (int d = 0; d < head_dim; d++) scores[p] += (double)q[d] * k[p * ld + d];
        scores[p] /= sqrt(head_dim);
        most = scores[p] > most ? scores[p] : most;
    }
    for (int p = 0; p < n_seen; p++) sum += scores[p] = exp(scores[p] - most);
    for (int d = 0; d < head_dim; d++) {
        out[d] = 0;
        for (int p = 0; p < n_seen; p++) out[d] += scores[p] / sum * v[p * ld + d];
    }
}

// A batch of n_tok queries: every kernel, thread count and division into batches gives the same bits, near the plain result.
static void check_attention(int n_before, int n_tok, int n_heads, int n_kv_heads, int head_dim, int causal) {
    int n_pos = n_before + n_tok, ld_kv = n_kv_heads * head_dim, ldq = n_heads * head_dim + 3;
    size_t n_q = (size_t)n_tok * (size_t)ldq * sizeof(float);
    float *k = random_floats((size_t)n_pos * (size_t)ld_kv, 0), *v = random_floats((size_t)n_pos * (size_t)ld_kv, 0);
    float *q = random_floats((size_t)n_tok * (size_t)ldq, 0), *batch = malloc(n_q), *single = malloc(n_q);
    float *scratch = random_floats((size_t)(4 * attention_floats(n_pos, n_heads, n_kv_heads, head_dim)), 1);
    KvLayer kv = kv_new(n_pos, n_kv_heads, head_dim);
    for (int p = 0; p < n_pos; p++) kv_store(kernel_find(NULL), &kv, p, k + p * ld_kv, v + p * ld_kv);

    memcpy(batch, q, n_q);
    attention(kernel_find(NULL), 1, batch, ldq, n_tok, n_heads, &kv, causal ? n_before + 1 : n_pos, causal, scratch);
    for (int i = 0; smol_kernel(i); i++) {
        memcpy(single, q, n_q);
        attention(kernel_find(smol_kernel(i)), 1 + i * 3, single, ldq, n_tok, n_heads, &kv, causal ? n_before + 1 : n_pos, causal,
                  scratch);
        CHECK(memcmp(batch, single, n_q) == 0, "attention with kernel %s and %d threads", smol_kernel(i), 1 + i * 3);
    }
    memcpy(single, q, n_q);
    for (int t = 0; t < n_tok; t++) {
        attention(kernel_find(NULL), 1, single + t * ldq, ldq, 1, n_heads, &kv, causal ? n_before + t + 1 : n_pos, causal, scratch);
    }
    CHECK(memcmp(batch, single, n_q) == 0, "%d queries after %d: a batch equals single tokens", n_tok, n_before);

    double want[64], worst = 0;
    for (int t = 0; t < n_tok; t++) {
        for (int h = 0; h < n_heads; h++) {
            int at = h / (n_heads / n_kv_heads) * head_dim;
            attend_plainly(want, q + t * ldq + h * head_dim, k + at, v + at, causal ? n_before + t + 1 : n_pos, ld_kv, head_dim);
            for (int d = 0; d < head_dim; d++) worst = fmax(worst, fabs(want[d] - batch[t * ldq + h * head_dim + d]));
        }
    }
    CHECK(worst < 3e-6, "attention of %d queries after %d is off by %g", n_tok, n_before, worst);
    free(k);
    free(v);
    free(q);
    free(batch);
    free(single);
    free(scratch);
    kv_free(&kv);
}

static void test_attention(void) {
    for (int n_tok = 1; n_tok <= 35; n_tok += n_tok < 4 ? 1 : 6) {
        for (int n_before = 0; n_before <= 19; n_before += n_before < 2 ? 1 : 7) {
            check_attention(n_before, n_tok, 4, 2, 8, 1);
            check_attention(n_before, n_tok, 3, 1, 18, 1);
            check_attention(n_before, n_tok, 3, 3, 6, 0);
        }
    }
}

// Positions stored again, and in any order of panels, give what was stored last (after a rewind).
static void test_kv_order(void) {
    enum { N = 37, HEADS = 2, WIDTH = 6 };
    KvLayer straight = kv_new(N, HEADS, WIDTH), again = kv_new(N, HEADS, WIDTH);
    float *k = random_floats(N * HEADS * WIDTH, 0), *v = random_floats(N * HEADS * WIDTH, 0);
    float *junk = random_floats(HEADS * WIDTH, 0);
    uint64_t n_v, n_k = kv_elements(N, HEADS, WIDTH, &n_v);
    const float *keys = straight.k, *values = straight.v;
    memset(again.v, 0, n_v * sizeof *values);
    memset(straight.v, 0, n_v * sizeof *values);
    memset(again.k, 0, n_k * sizeof *keys);
    memset(straight.k, 0, n_k * sizeof *keys);
    for (int p = 0; p < N; p++) kv_store(kernel_find(NULL), &straight, p, k + p * HEADS * WIDTH, v + p * HEADS * WIDTH);
    for (int p = 0; p < 20; p++) kv_store(kernel_find(NULL), &again, p, p < 13 ? k + p * HEADS * WIDTH : junk, p < 13 ? v + p * HEADS * WIDTH : junk);
    for (int p = 13; p < N; p++) kv_store(kernel_find(NULL), &again, p, k + p * HEADS * WIDTH, v + p * HEADS * WIDTH);
    CHECK(memcmp(straight.k, again.k, n_k * sizeof *keys) == 0 && memcmp(straight.v, again.v, n_v * sizeof *values) == 0,
          "stored again after a rewind");
    int good = 1;
    for (int p = 0; p < N; p++) {
        for (int h = 0; h < HEADS; h++) {
            for (int d = 0; d < WIDTH; d++) {  // the layout that internal.h describes
                size_t in_k = ((size_t)(h * 3 + p / LANES) * WIDTH + (size_t)d) * LANES + (size_t)(p % LANES);
                size_t in_v = ((size_t)h * 48 + (size_t)p) * 16 + (size_t)d;
                size_t given = (size_t)((p * HEADS + h) * WIDTH + d);
                good = good && keys[in_k] == k[given] && values[in_v] == v[given];
            }
        }
    }
    CHECK(good, "keys lie in panels of positions, values in rows");
    kv_free(&straight);
    kv_free(&again);
    free(k);
    free(v);
    free(junk);
}

// ---- SHA-256 ----

static void check_sha256(const char *name, const char *bytes, size_t n, size_t piece, const char *want) {
    SmolSha256 s;
    uint8_t digest[32];
    char got[65];
    smol_sha256_init(&s);
    for (size_t i = 0; i < n; i += piece) smol_sha256_add(&s, bytes + i, n - i < piece ? n - i : piece);
    smol_sha256_end(&s, digest);
    hex(got, digest);
    CHECK(!strcmp(got, want), "SHA-256 of %s in pieces of %zu is %s", name, piece, got);
}

static void test_sha256(void) {
    const char *two_blocks = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    for (size_t piece = 1; piece < 140; piece += 23) {
        check_sha256("\"\"", "", 0, piece, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        check_sha256("abc", "abc", 3, piece, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        check_sha256("56 bytes", two_blocks, 56, piece, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
        check_sha256("a million a", million, 1000000, piece, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
    check_sha256("a million a", million, 1000000, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

int main(void) {
    test_golden();
    for (int i = 0; smol_kernel(i); i++) test_properties(kernel_find(smol_kernel(i))->ops);
    test_kernels();
    test_multiply();
    test_attention();
    test_kv_order();
    test_sha256();
    return test_end("ops");
}
