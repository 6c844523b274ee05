// test_hostile.c: a model file that is cut off, changed, absurd or damaged gives an error line or a model that works, and
// never a read outside the file: every copy has its exact size, so that the address sanitizer would see it. With weights of
// each type.

#include "quantised.h"
#include "try_model.h"

#include <math.h>

static struct {
    unsigned char *bytes;
    size_t n;
    SmolModel model;
    const char *name;
} whole;  // the unchanged file

static size_t directory_of(const unsigned char *file) { return (size_t)get_u64(file + 48); }

static unsigned char *copy_of(size_t n) {
    unsigned char *copy = malloc(n ? n : 1);
    if (!copy) exit(2);
    return memcpy(copy, whole.bytes, n);
}

// ---- cuts ----

static void test_cuts(void) {
    size_t begin = directory_of(whole.bytes), end = begin + (size_t)whole.model.n_tensors * 160;
    for (size_t n = 0; n < whole.n; n += n < 512 || (n >= begin && n < end) ? 1 : 64) {
        SmolErr err;
        unsigned char *cut = copy_of(n);
        CHECK(try_model(cut, n, 0, &err) && err.code, "%s cut off at byte %zu", whole.name, n);
        if (n >= 16) {  // the same with a header that agrees with the length
            put_u64(cut + 8, n);
            CHECK(try_model(cut, n, 0, &err) && err.code, "%s cut off at byte %zu, with its length", whole.name, n);
        }
        free(cut);
    }
}

// ---- changed bytes ----

// Changes one byte in each of these ways; a model that opens is run, but not after every change of the large sections.
static void flip(unsigned char *copy, size_t at, int run) {
    const unsigned char old = whole.bytes[at], values[] = {old ^ 0xff, old ^ 1, old ^ 0x80, 0};
    SmolErr err;
    for (size_t k = 0; k < sizeof values; k++) {
        copy[at] = values[k];
        CHECK(try_model(copy, whole.n, run, &err), "%s: byte %zu is %d in place of %d: %.256s", whole.name, at, copy[at], old,
              err.text);
    }
    copy[at] = old;
}

// Of the tokenizer each step-th byte: test_tokenizer.c damages all of it. Names and digests in the directory are flipped for
// one type of weights, as they are the same for all.
static void test_flips(size_t step) {
    SmolErr err;
    unsigned char *copy = copy_of(whole.n);
    size_t directory = directory_of(whole.bytes), tokenizer = (size_t)get_u64(whole.bytes + 16);
    for (size_t i = 0; i < 512; i++) flip(copy, i, 1);
    for (size_t i = 0; i < (size_t)whole.model.n_tensors * 160; i++) {
        int is_type_or_place = i % 160 >= 96 && i % 160 < 128;
        if (is_type_or_place || whole.model.config.weight_type == WEIGHTS_F32) flip(copy, directory + i, i % 16 == 0);
    }
    for (size_t i = 0; i < (size_t)get_u64(whole.bytes + 24); i += step) flip(copy, tokenizer + i, i % 64 == 0);
    CHECK(try_model(copy, whole.n, 1, &err) && err.code == 0, "the copy is whole again: %s", err.text);
    free(copy);
}

// ---- absurd configurations ----

typedef struct {
    int offset;
    const char *name;
} Field;

static const Field counts[] = {
    {60, "weight_type"}, {64, "family"}, {68, "template"}, {72, "dim"}, {76, "hidden_dim"}, {80, "n_layers"}, {84, "n_heads"},
    {88, "n_kv_heads"}, {92, "head_dim"}, {96, "vocab_size"}, {100, "max_positions"}, {112, "tied"}, {116, "act"},
    {120, "image_size"}, {124, "patch_size"}, {128, "v_dim"}, {132, "v_hidden_dim"}, {136, "v_layers"}, {140, "v_heads"},
    {148, "v_act"}, {152, "scale_factor"}, {156, "tile_size"}, {160, "longest_edge"}, {164, "image_seq_len"},
    {168, "do_image_splitting"}, {172, "resample"}, {232, "image_token_id"}, {236, "n_eos"}, {240, "eos_id"},
};

// Not checked: an engine does nothing with them, or only when a video is asked for.
static const Field unused[] = {{208, "video_max_frames"}, {212, "video_size"}, {224, "bos_id"}, {228, "pad_id"}};

static const Field floats[] = {{104, "rms_norm_eps"}, {144, "v_eps"}, {184, "image_mean"}, {188, "image_mean"},
                               {192, "image_mean"},
                               {196, "image_std"}, {200, "image_std"}, {204, "image_std"}};

static const Field unused_floats[] = {{108, "rope_theta"}, {216, "video_fps, half of it"}, {220, "video_fps, the other"}};

// Beyond every bound: refused with a line that names the field. Within them: refused, or a model that works.
static void test_counts(unsigned char *copy) {
    static const uint32_t beyond[] = {0x7fffffff, 0x80000000, 0xfffffffe, 1u << 21, 1u << 30};
    static const uint32_t within[] = {0, 1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 255, 1 << 10, 1 << 12, 1 << 16, 1 << 18, 1 << 20,
                                      0xffffffff};
    SmolErr err;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        unsigned char *at = copy + counts[i].offset;
        for (size_t k = 0; k < sizeof beyond / sizeof *beyond; k++) {
            put_u32(at, beyond[k]);
            CHECK(try_model(copy, whole.n, 1, &err) && err.code == SMOL_E_FORMAT && strstr(err.text, counts[i].name),
                  "%s is %u: %.256s", counts[i].name, (unsigned)beyond[k], err.text);
        }
        for (size_t k = 0; k < sizeof within / sizeof *within; k++) {
            put_u32(at, within[k]);
            CHECK(try_model(copy, whole.n, 1, &err), "%s is %u: %.256s", counts[i].name, (unsigned)within[k], err.text);
        }
        memcpy(at, whole.bytes + counts[i].offset, 4);
    }
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) {
        for (size_t k = 0; k < sizeof beyond / sizeof *beyond; k++) {
            put_u32(copy + unused[i].offset, beyond[k]);
            CHECK(try_model(copy, whole.n, 1, &err) && err.code == 0, "%s: %.256s", unused[i].name, err.text);
        }
        memcpy(copy + unused[i].offset, whole.bytes + unused[i].offset, 4);
    }
}

static const float absurd[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f};

static void test_floats(unsigned char *copy) {
    SmolErr err;
    for (size_t k = 0; k < sizeof absurd / sizeof *absurd; k++) {
        for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
            memcpy(copy + floats[i].offset, &absurd[k], 4);
            CHECK(try_model(copy, whole.n, 1, &err) && err.code == SMOL_E_FORMAT && strstr(err.text, floats[i].name),
                  "%s is %g: %.256s", floats[i].name, (double)absurd[k], err.text);
            memcpy(copy + floats[i].offset, whole.bytes + floats[i].offset, 4);
        }
        for (size_t i = 0; i < sizeof unused_floats / sizeof *unused_floats; i++) {
            memcpy(copy + unused_floats[i].offset, &absurd[k], 4);
            CHECK(try_model(copy, whole.n, 1, &err) && err.code == 0, "%s: %.256s", unused_floats[i].name, err.text);
            memcpy(copy + unused_floats[i].offset, whole.bytes + unused_floats[i].offset, 4);
        }
        double wide = (double)absurd[k];
        memcpy(copy + 176, &wide, 8);
        CHECK(try_model(copy, whole.n, 1, &err) && err.code == SMOL_E_FORMAT && strstr(err.text, "rescale_factor"), "%.256s",
              err.text);
        memcpy(copy + 176, whole.bytes + 176, 8);
    }
}

static void test_frequencies(unsigned char *copy) {
    SmolErr err;
    SmolTensor t;
    smol_tensor(&whole.model, model_places(&whole.model.config).inv_freq, &t);
    size_t at = (size_t)((const unsigned char *)t.data - whole.bytes);
    for (int j = 0; j < t.n_cols; j++, at += 4) {
        for (size_t k = 0; k < sizeof absurd / sizeof *absurd; k++) {
            memcpy(copy + at, &absurd[k], 4);
            CHECK(try_model(copy, whole.n, 1, &err) && err.code == SMOL_E_FORMAT && strstr(err.text, "rope.inv_freq"),
                  "%.256s", err.text);
        }
        memcpy(copy + at, whole.bytes + at, 4);
    }
}

// ---- damaged weights ----

// A tensor of NaN, or with nothing but infinite scales: an error in place of an answer.
static void test_strange_weights(unsigned char *copy) {
    SmolErr err;
    for (int i = 0; i < whole.model.n_tensors; i++) {
        SmolTensor t;
        smol_tensor(&whole.model, i, &t);
        size_t at = (size_t)((const unsigned char *)t.data - whole.bytes);
        memset(copy + at, 0xff, t.bytes);  // NaN
        CHECK(try_model(copy, whole.n, 1, &err) && err.code == SMOL_E_FORMAT, "%s: %s is NaN: %.256s", whole.name, t.name,
              err.code ? err.text : "it answers");
        for (size_t k = 0; k + 3 < t.bytes; k += 4) memcpy(copy + at + k, "\x00\x7c\x80\x7f", 4);  // infinite as f16 and as f32
        CHECK(try_model(copy, whole.n, 1, &err) && err.code == SMOL_E_FORMAT, "%s: %s is infinite: %.256s", whole.name, t.name,
              err.code ? err.text : "it answers");
        memcpy(copy + at, t.data, t.bytes);
    }
}

// --verify names the tensor of any byte of data that has changed.
static void test_verify(unsigned char *copy) {
    SmolModel m;
    SmolErr err;
    CHECK(smol_open(&m, copy, whole.n, &err) == 0, "%s", err.text);
    for (int i = 0; i < m.n_tensors; i++) {
        SmolTensor t;
        smol_tensor(&m, i, &t);
        unsigned char *data = copy + ((const unsigned char *)t.data - copy);
        CHECK(smol_verify(&m, i, &err) == 0, "%s: %s", whole.name, err.text);
        size_t step = 1 + t.bytes / 64;
        for (size_t at = 0; at < t.bytes; at += at + step < t.bytes || at == t.bytes - 1 ? step : t.bytes - 1 - at) {
            data[at] ^= (unsigned char)(1 << at % 8);
            err = blank_error();
            int code = smol_verify(&m, i, &err);
            CHECK(is_good_error(&err, code) && strstr(err.text, t.name), "%s: byte %zu of %s has a flipped bit", whole.name,
                  at, t.name);
            data[at] ^= (unsigned char)(1 << at % 8);
        }
    }
}

// Puts a value that is not finite in a tensor, with a digest that is right for it.
static void check_value(unsigned char *copy, SmolModel *m, int i, size_t at, const unsigned char *value, size_t n) {
    SmolTensor t;
    SmolSha256 s;
    SmolErr err = blank_error();
    unsigned char old[4], old_digest[32];
    smol_tensor(m, i, &t);
    unsigned char *place = copy + ((const unsigned char *)t.data - copy) + at, *digest = copy + (t.sha256 - copy);
    memcpy(old, place, n);
    memcpy(old_digest, digest, 32);
    memcpy(place, value, n);
    smol_sha256_init(&s);
    smol_sha256_add(&s, place - at, t.bytes);
    smol_sha256_end(&s, digest);
    int code = smol_verify(m, i, &err);
    CHECK(is_good_error(&err, code) && strstr(err.text, t.name) && strstr(err.text, "NaN"), "%s at byte %zu", t.name, at);
    memcpy(place, old, n);
    memcpy(digest, old_digest, 32);
}

// The first and the last float of each tensor; or the first and the last scale of its last panel.
static void test_not_finite(unsigned char *copy) {
    static const unsigned char f32[][4] = {{0, 0, 0xc0, 0x7f}, {0, 0, 0x80, 0xff}}, f16[][2] = {{1, 0x7c}, {0, 0xfc}};
    SmolModel m;
    SmolErr err;
    CHECK(smol_open(&m, copy, whole.n, &err) == 0, "%s", err.text);
    for (int i = 0; i < m.n_tensors; i++) {
        SmolTensor t;
        smol_tensor(&m, i, &t);
        int is_f32 = t.type == SMOL_F32 || t.type == SMOL_F32X16, block = t.type == SMOL_Q8 ? Q8_BLOCK : Q4_BLOCK;
        size_t first = is_f32 ? 0 : t.bytes - (size_t)panel_bytes(t.type, t.n_cols);
        size_t last = is_f32 ? t.bytes - 4 : first + (size_t)((t.n_cols + block - 1) / block) * 32 - 2;
        for (int k = 0; k < 2; k++) {
            check_value(copy, &m, i, first, is_f32 ? f32[k] : f16[k], is_f32 ? 4 : 2);
            check_value(copy, &m, i, last, is_f32 ? f32[k] : f16[k], is_f32 ? 4 : 2);
        }
    }
}

// ---- all of it, with one type of weights ----

static void test_type(const char *name, unsigned char *bytes, size_t n, size_t step) {
    SmolErr err;
    whole.bytes = bytes;
    whole.n = n;
    whole.name = name;
    CHECK(smol_open(&whole.model, bytes, n, &err) == 0 && try_model(bytes, n, 1, &err) && err.code == 0, "%s: %s", name,
          err.text);
    unsigned char *copy = copy_of(n);
    test_cuts();
    test_flips(step);
    test_counts(copy);
    test_floats(copy);
    test_frequencies(copy);
    test_strange_weights(copy);
    test_verify(copy);
    test_not_finite(copy);
    CHECK(!memcmp(copy, bytes, n), "the copy is as it was");
    free(copy);
}

int main(void) {
    SmolErr err;
    SmolModel m;
    size_t n = 0, n_q8, n_q4;
    unsigned char *f32 = read_file("tests/golden/tiny.smol", &n);
    CHECK(f32 && smol_open(&m, f32, n, &err) == 0, "tests/golden/tiny.smol");
    if (!n_failed) {
        unsigned char *q8 = quantised_copy(&m, SMOL_Q8, &n_q8), *q4 = quantised_copy(&m, SMOL_Q4, &n_q4);
        test_type("f32", f32, n, 7);
        test_type("q8", q8, n_q8, 101);  // the tokenizer is the same
        test_type("q4", q4, n_q4, 101);
        free(q8);
        free(q4);
    }
    free(f32);
    return test_end("test_hostile");
}
