// test_codecs.c: PNG, JPEG and BMP against what Pillow made of the same files (golden/pictures.tsv), and against
// damage. Run from the repository root.

#include "codecs.h"
#include "test.h"

typedef struct {
    int code, width, height;
    SmolErr err;
    uint8_t *rgb;
} Decoded;

// Decodes within exactly the scratch that was planned; missing: so many bytes fewer.
static Decoded decode(const uint8_t *bytes, size_t n, size_t missing) {
    Decoded d = {0};
    const Codec *codec = codec_of(bytes, n);
    d.code = codec->probe(bytes, n, &d.width, &d.height, &d.err);
    if (d.code != 0) return d;
    size_t n_rgb = (size_t)d.width * (size_t)d.height * 3, need = codec->scratch(bytes, n);
    if (n_rgb > 1 << 26 || need > 1 << 26) {  // damage made a picture that is only big
        d.code = fail(&d.err, SMOL_E_MEMORY, "too big for this test");
        return d;
    }
    SmolArena scratch = {.size = need > missing ? need - missing : 0};
    scratch.base = aligned_alloc(64, (scratch.size + 64) & ~(size_t)63);
    d.rgb = malloc(n_rgb);
    d.code = codec->decode(bytes, n, d.rgb, &scratch, &d.err);
    free(scratch.base);
    return d;
}

// The same, from a copy of exactly n bytes, so that a sanitizer sees every read past the end; only the code counts.
static int try_decode(const uint8_t *bytes, size_t n, size_t missing) {
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, bytes, n);
    Decoded d = decode(copy, n, missing);
    CHECK(d.code == 0 || (d.code == d.err.code && d.err.text[0] && !strchr(d.err.text, '\n')), "one error line");
    free(d.rgb);
    free(copy);
    return d.code;
}

static void check_golden(const char *name, const char *expected, const uint8_t *bytes, size_t n) {
    char got[128] = "error";
    Decoded d = decode(bytes, n, 0);
    if (d.code == 0) {
        uint8_t digest[32];
        char text[65];
        SmolSha256 sha;
        smol_sha256_init(&sha);
        smol_sha256_add(&sha, d.rgb, (size_t)d.width * (size_t)d.height * 3);
        smol_sha256_end(&sha, digest);
        hex(text, digest);
        snprintf(got, sizeof got, "%d\t%d\t%s", d.width, d.height, text);
    }
    CHECK(strcmp(got, expected) == 0, "%s: %s (%s), expected %s", name, got, d.err.text, expected);
    free(d.rgb);
}

// Every length of the file in turn, for the small ones.
static void check_truncation(const uint8_t *bytes, size_t n) {
    for (size_t k = 0; k < n && n < 3000; k++) try_decode(bytes, k, 0);
}

// Seeded damage: a few bytes changed, at places and to values drawn by a linear congruential generator.
static void check_damage(uint8_t *bytes, size_t n, int n_rounds) {
    static uint32_t seed = 1;
    uint8_t *copy = malloc(n + 1);
    for (int round = 0; round < n_rounds; round++) {
        memcpy(copy, bytes, n);
        for (int k = round % 4; k >= 0; k--) {
            seed = seed * 1664525 + 1013904223;
            size_t at = (seed >> 8) % (n ? n : 1);
            seed = seed * 1664525 + 1013904223;
            copy[at] = (seed & 0x10000) ? (uint8_t)(seed >> 24) : (uint8_t)(copy[at] ^ 1 << (seed >> 24 & 7));
        }
        try_decode(copy, n, 0);
    }
    free(copy);
}

// Less memory than planned is an error, never a write past the end.
static void check_memory(const uint8_t *bytes, size_t n) {
    if (try_decode(bytes, n, 0) != 0 || codec_of(bytes, n)->scratch(bytes, n) == 0) return;
    for (size_t missing = 256; missing < 100000; missing *= 3)
        CHECK(try_decode(bytes, n, missing) == SMOL_E_MEMORY, "%zu bytes fewer", missing);
}

// Messages that a user needs to understand.
static void check_message(const char *name, const char *expected) {
    char path[256];
    size_t n;
    snprintf(path, sizeof path, "tests/golden/pictures/%s", name);
    uint8_t *bytes = read_file(path, &n);
    if (!bytes) return;
    Decoded d = decode(bytes, n, 0);
    CHECK(d.code != 0 && strcmp(d.err.text, expected) == 0, "%s: \"%s\"", name, d.err.text);
    free(d.rgb);
    free(bytes);
}

int main(int argc, char **argv) {
    int n_rounds = argc > 1 ? atoi(argv[1]) : 100;  // more for a longer fuzz
    FILE *table = fopen("tests/golden/pictures.tsv", "r");
    CHECK(table != NULL, "run this from the repository root");
    char line[512];
    while (table && fgets(line, sizeof line, table)) {
        char path[600], *expected = strchr(line, '\t');
        line[strcspn(line, "\n")] = 0;
        if (!expected) continue;
        *expected++ = 0;
        snprintf(path, sizeof path, "tests/golden/pictures/%s", line);
        size_t n;
        uint8_t *bytes = read_file(path, &n);
        CHECK(bytes != NULL, "cannot read %s", path);
        if (!bytes) continue;
        check_golden(line, expected, bytes, n);
        check_truncation(bytes, n);
        check_damage(bytes, n, n_rounds);
        check_memory(bytes, n);
        free(bytes);
    }
    if (table) fclose(table);
    check_message("png_early_end_in_row.png", "PNG: the data end too early, in row 2 of 4");
    check_message("png_huge.png", "PNG: 2147483647 x 2147483647 pixels are more than 2^28");
    check_message("png_truncated.png", "PNG: the data end too early, in row 3 of 11");
    check_message("png_bad_adler.png", "PNG: damaged data: the Adler-32 checksum does not match");
    check_message("jpeg_truncated.jpg", "JPEG: the file ends within MCU row 2 of 3");
    check_message("jpeg_lossless.jpg", "JPEG: lossless coding is not supported; convert with: djpeg | cjpeg");
    check_message("bmp_cut_24.bmp", "BMP: cut off: 13 x 11 pixels are not in 492 bytes");
    check_message("bmp_rle8_early_end.bmp", "BMP: the run-length codes end early, in row 2 of 3");
    check_message("bmp_bits2.bmp", "BMP: 2 bits per pixel are not supported");
    check_message("jpeg_12bit.jpg", "JPEG: 12 bits per sample are not supported, only 8");
    return test_end("test_codecs");
}
