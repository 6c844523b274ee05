// test_ops.c: the functions under the numerics contract. Elementary functions, norms and activations against high-precision
// values (tests/golden/ops.tsv, from make_ops_golden.py); SHA-256 against FIPS 180-4.

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
    test_sha256();
    return test_end("ops");
}
