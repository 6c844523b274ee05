// test_attention.c: the KV cache and attention, in floats with caches of every type, and in int8. Kernels, threads, batches and
// caches give the same bits; all are near a plain computation in double.

#include "../internal.h"
#include "random.h"
#include "test.h"

enum { MOST = 512 };  // positions, and elements of a head

// softmax(q k / sqrt(head_dim)) v in double.  k, v (n_seen, ld)
static void attend_plainly(double *out, const float *q, const float *k, const float *v, int n_seen, int ld, int head_dim) {
    double scores[MOST], most = -1e300, sum = 0;
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

// ---- floats ----

typedef struct {
    int n_before, n_tok, n_heads, n_kv_heads, head_dim, causal;
    KvType type;
} Case;

typedef struct {
    Case c;
    int n_pos, ldq, ld_kv;
    float *q, *k, *v, *scratch;  // as given
    KvLayer kv;
} Inputs;

// Its memory begins with the keys.
static KvLayer kv_new(int n_pos, int n_kv_heads, int head_dim, KvType type) {
    KvLayer kv = {.type = type, .n_pos = n_pos, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    size_t bytes = (size_t)kv_bytes(&kv);
    kv_place(&kv, malloc(bytes));
    memset(kv.k, 0xff, bytes);  // NaN, of int8 the scales: what is read before it is written shows
    return kv;
}

static Inputs inputs_of(const Case *c) {
    Inputs in = {.c = *c, .n_pos = c->n_before + c->n_tok, .ldq = c->n_heads * c->head_dim + 3, .ld_kv = c->n_kv_heads * c->head_dim};
    size_t n_kv = (size_t)in.n_pos * (size_t)in.ld_kv;
    in.k = random_floats(n_kv, 0);
    in.v = random_floats(n_kv, 0);
    in.q = random_floats((size_t)c->n_tok * (size_t)in.ldq, 0);
    in.scratch = random_floats((size_t)(8 * attention_floats(in.n_pos, c->n_heads, c->n_kv_heads, c->head_dim)), 1);
    return in;
}

static void inputs_free(Inputs *in) {
    free(in->k);
    free(in->v);
    free(in->q);
    free(in->scratch);
    free(in->kv.k);
}

// Tokens first .. first + n - 1 of q, n_seen of all positions being before them.
static void attend(const Inputs *in, const Kernel *kernel, int n_threads, float *q, int first, int n) {
    int n_seen = in->c.causal ? in->c.n_before + first + 1 : in->n_pos;
    attention(kernel, n_threads, q + first * in->ldq, in->ldq, n, in->c.n_heads, &in->kv, n_seen, in->c.causal, in->scratch);
}

// All queries with every kernel, its own cache, several threads, and in pieces, against one kernel at once.
static void check_same(Inputs *in, const float *want, const char *what) {
    size_t bytes = (size_t)in->c.n_tok * (size_t)in->ldq * sizeof(float);
    float *q = malloc(bytes);
    static const int threads[] = {1, 2, 3, 8}, pieces[] = {1000, 1, 5, 17};
    for (int i = 0; smol_kernel(i); i++) {
        const Kernel *kernel = kernel_find(smol_kernel(i));
        for (int p = 0; p < in->n_pos; p++) kv_store(kernel, &in->kv, p, in->k + p * in->ld_kv, in->v + p * in->ld_kv);
        for (int j = 0; j < 4; j++) {
            memcpy(q, in->q, bytes);
            for (int t = 0, n; t < in->c.n_tok; t += n) {
                n = in->c.n_tok - t < pieces[j] ? in->c.n_tok - t : pieces[j];
                attend(in, kernel, threads[j], q, t, n);
            }
            CHECK(memcmp(q, want, bytes) == 0, "%s, kernel %s, %d threads, %d at a time", what, kernel->name, threads[j], pieces[j]);
        }
    }
    free(q);
}

// What the cache keeps of k or v, head by head.
static void as_f16(float *x, int n) {
    const VectorOps *ops = kernel_find("c")->ops;
    for (int i = 0; i < n; i++) {
        uint16_t half;
        ops->narrow(&half, x + i, 1);
        ops->widen(x + i, &half, 1);
    }
}

static void as_int8(float *x, int n) {
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    for (int i = 0; i < n; i++) x[i] = most / 127 * nearbyintf(x[i] * (127 / most));
}

static void as_kept(const Inputs *in, float *x) {
    for (int i = 0; i < in->n_pos * in->c.n_kv_heads; i++, x += in->c.head_dim) {
        if (in->c.type == KV_F16) as_f16(x, in->c.head_dim);
        if (in->c.type == KV_INT8) as_int8(x, in->c.head_dim);
    }
}

static double error_of(const Inputs *in, const float *got) {
    double want[MOST], worst = 0;
    for (int t = 0; t < in->c.n_tok; t++) {
        for (int h = 0; h < in->c.n_heads; h++) {
            int at = h / (in->c.n_heads / in->c.n_kv_heads) * in->c.head_dim, from = t * in->ldq + h * in->c.head_dim;
            int n_seen = in->c.causal ? in->c.n_before + t + 1 : in->n_pos;
            attend_plainly(want, in->q + from, in->k + at, in->v + at, n_seen, in->ld_kv, in->c.head_dim);
            for (int d = 0; d < in->c.head_dim; d++) worst = larger(worst, fabs(want[d] - got[from + d]));
        }
    }
    return worst;
}

static void check_attention(Case c) {
    char what[80];
    Inputs in = inputs_of(&c);
    in.kv = kv_new(in.n_pos, c.n_kv_heads, c.head_dim, c.type);
    size_t n = (size_t)c.n_tok * (size_t)in.ldq;
    float *q = malloc(n * sizeof *q);
    memcpy(q, in.q, n * sizeof *q);
    for (int p = 0; p < in.n_pos; p++) kv_store(kernel_find("c"), &in.kv, p, in.k + p * in.ld_kv, in.v + p * in.ld_kv);
    attend(&in, kernel_find("c"), 1, q, 0, c.n_tok);
    snprintf(what, sizeof what, "%d queries after %d, type %d, causal %d", c.n_tok, c.n_before, (int)c.type, c.causal);
    check_same(&in, q, what);
    as_kept(&in, in.k);
    as_kept(&in, in.v);
    double worst = error_of(&in, q);
    CHECK(worst < 4e-6, "%s: off by %g", what, worst);
    free(q);
    inputs_free(&in);
}

static void test_attention(void) {
    for (int n_tok = 1; n_tok <= 35; n_tok += n_tok < 4 ? 1 : 6) {
        for (int n_before = 0; n_before <= 19; n_before += n_before < 2 ? 1 : 7) {
            for (KvType type = KV_F32; type <= KV_INT8; type++) {
                check_attention((Case){n_before, n_tok, 4, 2, 8, 1, type});
                check_attention((Case){n_before, n_tok, 3, 1, 18, 1, type});
                check_attention((Case){n_before, n_tok, 3, 3, 6, 0, type});
            }
        }
    }
    for (KvType type = KV_F32; type <= KV_INT8; type++) {  // more positions than are taken at a time; enough work for threads
        check_attention((Case){130, 3, 6, 2, 16, 1, type});
        check_attention((Case){60, 150, 6, 3, 32, 1, type});
        check_attention((Case){400, 2, 8, 2, 80, 1, type});  // threads for one token
    }
}

// Positions stored again, and in any order of panels, give what was stored last (after a rewind).
static void test_kv_order(void) {
    enum { N = 37, HEADS = 2, WIDTH = 6 };
    KvLayer straight = kv_new(N, HEADS, WIDTH, KV_F32), again = kv_new(N, HEADS, WIDTH, KV_F32);
    float *k = random_floats(N * HEADS * WIDTH, 0), *v = random_floats(N * HEADS * WIDTH, 0);
    float *junk = random_floats(HEADS * WIDTH, 0);
    const Kernel *kernel = kernel_find(NULL);
    for (int p = 0; p < N; p++) kv_store(kernel, &straight, p, k + p * HEADS * WIDTH, v + p * HEADS * WIDTH);
    for (int p = 0; p < 20; p++) {
        kv_store(kernel, &again, p, p < 13 ? k + p * HEADS * WIDTH : junk, p < 13 ? v + p * HEADS * WIDTH : junk);
    }
    for (int p = 13; p < N; p++) kv_store(kernel, &again, p, k + p * HEADS * WIDTH, v + p * HEADS * WIDTH);
    const float *keys = straight.k, *values = straight.v;
    CHECK(memcmp(straight.k, again.k, (size_t)kv_bytes(&straight)) == 0, "stored again after a rewind");
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
    free(straight.k);
    free(again.k);
    free(k);
    free(v);
    free(junk);
}

// ---- int8 ----

// Every position stored and every query answered by this kernel.
static void attend_int8(const Kernel *kernel, int n_threads, float *q, const float *k, const float *v, int n_pos, int n_heads,
                        int head_dim) {
    int ld = n_heads * head_dim;
    uint64_t v_bytes, k_bytes = int8_kv_bytes(n_pos, n_heads, head_dim, &v_bytes);
    size_t scratch_bytes = (size_t)attention_int8_bytes(n_pos, head_dim) * (size_t)n_threads;
    Int8Kv kv = {aligned_alloc(64, (size_t)k_bytes), aligned_alloc(64, (size_t)v_bytes), n_pos, n_heads, head_dim};
    uint8_t *scratch = aligned_alloc(64, (scratch_bytes + 63) / 64 * 64);
    memset(kv.k, 0xff, (size_t)k_bytes);
    memset(kv.v, 0xff, (size_t)v_bytes);
    memset(scratch, 0xff, scratch_bytes);
    for (int p = 0; p < n_pos; p += 64) int8_kv_store(kernel, &kv, p, n_pos - p < 64 ? n_pos - p : 64, k + p * ld, v + p * ld, (size_t)ld);
    attention_int8(kernel, n_threads, q, (size_t)ld, n_pos, &kv, scratch);
    free(kv.k);
    free(kv.v);
    free(scratch);
}

// Root of the mean squared error, in units of the values'. Queries and keys, uniform numbers up to m, are rounded to m / 127:
// each is off by 0.3 / 127 m on average, so a score s = q k / sqrt(head_dim) by 0.0039 m^2 = 0.009 where m = 2.1, and its weight
// by 0.9 %. Rounding the weights to 1/127 of the largest adds at most 0.3 / 127 for each position, rounding the values as much.
static double error_int8(const float *got, const float *q, const float *k, const float *v, int n_pos, int n_heads, int head_dim) {
    double want[MOST], error = 0, square = 0;
    int ld = n_heads * head_dim;
    for (int i = 0; i < n_pos * ld; i++) square += (double)v[i] * v[i];
    for (int t = 0; t < n_pos; t++) {
        for (int h = 0; h < ld; h += head_dim) {
            attend_plainly(want, q + t * ld + h, k + h, v + h, n_pos, ld, head_dim);
            for (int d = 0; d < head_dim; d++) error += (want[d] - got[t * ld + h + d]) * (want[d] - got[t * ld + h + d]);
        }
    }
    return sqrt(error / square);
}

static void check_int8(int n_pos, int n_heads, int head_dim) {
    size_t n = (size_t)(n_pos * n_heads * head_dim), bytes = n * sizeof(float);
    float *q = random_floats(n, 0), *k = random_floats(n, 0), *v = random_floats(n, 0), *want = malloc(bytes), *got = malloc(bytes);
    memcpy(want, q, bytes);
    attend_int8(kernel_find("c"), 1, want, k, v, n_pos, n_heads, head_dim);
    for (int i = 0; smol_kernel(i); i++) {
        memcpy(got, q, bytes);
        attend_int8(kernel_find(smol_kernel(i)), 1 + i * 2, got, k, v, n_pos, n_heads, head_dim);
        CHECK(memcmp(got, want, bytes) == 0, "int8, kernel %s, %d positions, %d heads of %d", smol_kernel(i), n_pos, n_heads, head_dim);
    }
    double error = error_int8(want, q, k, v, n_pos, n_heads, head_dim);
    CHECK(error < 0.01, "int8, %d positions, %d heads of %d: off by %g", n_pos, n_heads, head_dim, error);
    free(q);
    free(k);
    free(v);
    free(want);
    free(got);
}

static void test_int8(void) {
    static const int widths[] = {1, 2, 3, 4, 6, 12, 15, 16, 17, 31, 32, 33, 64, 72, 128, 129, 200};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_int8(1 + random_below(20), 2, widths[i]);
        check_int8(60 + random_below(10), 3, widths[i]);
    }
    check_int8(256, 2, 64);
}

int main(void) {
    test_attention();
    test_kv_order();
    test_int8();
    return test_end("test_attention");
}
