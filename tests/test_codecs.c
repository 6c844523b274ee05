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

// ---- files made here, of what encoders do not write ----

typedef struct {
    uint8_t bytes[1 << 19];
    size_t n;
    uint32_t bits, n_bits;
} File;

static File made;

static void put(const void *bytes, size_t n) {
    memcpy(made.bytes + made.n, bytes, n);
    made.n += n;
}

static void put_bits(uint32_t v, int n) {  // of deflate: the lowest first
    for (; n > 0; n--, v >>= 1) {
        made.bits |= (v & 1) << made.n_bits++;
        if (made.n_bits < 8) continue;
        put(&(uint8_t){(uint8_t)made.bits}, 1);
        made.bits = made.n_bits = 0;
    }
}

static void check_made(const char *expected) {
    Decoded d = decode(made.bytes, made.n, 0);
    CHECK(expected ? d.code != 0 && strstr(d.err.text, expected) : d.code == 0, "\"%s\", not \"%s\"",
          d.code ? d.err.text : "decoded", expected ? expected : "decoded");
    free(d.rgb);
}

static void put_u32be(uint32_t v) {
    put((uint8_t[]){(uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v}, 4);
}

// Length and name before what lies from begin on, and its CRC after it.
static void begin_chunk(const char *name) {
    put_u32be(0);
    put(name, 4);
}

static void end_chunk(size_t begin) {
    uint32_t crc = 0xffffffff, n = (uint32_t)(made.n - begin - 8);
    for (size_t i = begin + 4; i < made.n; i++) {
        crc ^= made.bytes[i];
        for (int k = 0; k < 8; k++) crc = crc & 1 ? 0xedb88320 ^ crc >> 1 : crc >> 1;
    }
    size_t end = made.n;
    made.n = begin;
    put_u32be(n);
    made.n = end;
    put_u32be(~crc);
}

// A grey PNG up to where its compressed data begin; returns where that chunk does.
static size_t begin_png(uint32_t width, uint32_t height) {
    made.n = made.bits = made.n_bits = 0;
    put("\x89PNG\r\n\x1a\n", 8);
    begin_chunk("IHDR");
    put_u32be(width);
    put_u32be(height);
    put("\x08\0\0\0\0", 5);
    end_chunk(8);
    size_t at = made.n;
    begin_chunk("IDAT");
    return at;
}

static void end_png(size_t data) {
    end_chunk(data);
    size_t at = made.n;
    begin_chunk("IEND");
    end_chunk(at);
}

static void test_made_png(void) {
    // A wrong check, method 7, a window of 64 KB.
    static const uint8_t headers[][2] = {{0x78, 0x02}, {0x77, 0x09}, {0x88, 0x1c}};
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        size_t data = begin_png(1, 1);
        put(headers[i], 2);
        put("\x03\0\0\0\0\0\0\0\0", 9);
        end_png(data);
        check_made("not a zlib stream");
    }
    size_t data = begin_png(1, 1);
    put("\x78\x01", 2);
    put_bits(1 | 2 << 1, 3);  // the last block, with codes of its own: of the literals, 256 alone has one, of one bit
    put_bits(0, 5 + 5);
    put_bits(18 - 4, 4);
    for (int i = 0; i < 18; i++) put_bits(i == 2 || i == 17, 3);  // in the format's order: 18, a run of zeros, and 1
    put_bits(1 | 127 << 1, 8);
    put_bits(1 | 107 << 1, 8);
    put_bits(0, 2);
    put_bits(0xffff, 16);
    end_png(data);
    check_made("a literal has no code");
}

// Stored blocks as long as they can be, across the window's end.
static void test_stored_png(void) {
    enum { SIDE = 600, RAW = SIDE * (SIDE + 1) };
    static uint8_t raw[RAW];
    uint32_t a = 1, b = 0;
    for (int i = 0; i < RAW; i++) {
        raw[i] = (uint8_t)(i % (SIDE + 1) ? i * 7 + i / 1000 : 0);
        a = (a + raw[i]) % 65521;
        b = (b + a) % 65521;
    }
    size_t data = begin_png(SIDE, SIDE);
    put("\x78\x01", 2);
    for (size_t at = 0, n; at < RAW; at += n) {
        n = RAW - at < 65535 ? RAW - at : 65535;
        put((uint8_t[]){at + n == RAW, (uint8_t)n, (uint8_t)(n >> 8), (uint8_t)~n, (uint8_t)(~n >> 8)}, 5);
        put(raw + at, n);
    }
    put_u32be(b << 16 | a);
    end_png(data);
    Decoded d = decode(made.bytes, made.n, 0);
    int good = d.code == 0;
    for (int i = 0; good && i < SIDE * SIDE; i++) good = d.rgb[3 * i] == raw[i / SIDE * (SIDE + 1) + 1 + i % SIDE];
    CHECK(good, "stored blocks: %s", d.err.text);
    free(d.rgb);
}

// A progressive grey JPEG of 8 x 8 pixels whose codes all are one bit long: DC differences of 0, and runs of 16 zeros.
static void begin_jpeg(void) {
    made.n = 0;
    put("\xff\xd8\xff\xc2\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0", 15);
    put("\xff\xdb\0\x43\0", 5);
    for (int i = 0; i < 64; i++) put("\x01", 1);
    for (int kind = 0; kind < 2; kind++) {
        put("\xff\xc4\0\x14", 4);
        put((uint8_t[18]){(uint8_t)(kind << 4), 1, [17] = kind ? 0xf0 : 0}, 18);
    }
}

static void put_scan(int first, int last, int bits) {
    put("\xff\xda\0\x08\x01\x01\0", 7);
    put((uint8_t[]){(uint8_t)first, (uint8_t)last, (uint8_t)bits, 0x0f}, 4);
}

static void test_made_jpeg(void) {
    static const struct { int first, last, bits; } wrong[] = {{0, 1, 0}, {5, 3, 0}, {1, 64, 0}, {0, 0, 0x20}, {0, 0, 0x0e}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        begin_jpeg();
        put_scan(wrong[i].first, wrong[i].last, wrong[i].bits);
        check_made("JPEG: a progressive scan of coefficients");
    }
    begin_jpeg();
    put_scan(0, 0, 0);
    put_scan(1, 63, 0);
    put("\xff\xd9", 2);
    check_made(NULL);
    begin_jpeg();
    for (int i = 0; i < 1001; i++) put_scan(0, 0, 0);
    put("\xff\xd9", 2);
    check_made("JPEG: more than 1000 scans");
    begin_jpeg();
    put("\xff\xdd\0\x05\0\0\0", 7);
    put_scan(0, 0, 0);
    check_made("JPEG: the restart interval has 3 bytes");
    begin_jpeg();
    put("\xff\xd9", 2);
    check_made("JPEG: there is no scan");
}

// Without a marker that tells, components named R, G and B are red, green and blue; any others are YCbCr.
static void test_component_names(void) {
    static const char *const names[] = {"RGB", "RGx", "RxB", "xGB", "\x01\x02\x03"};
    for (int i = 0; i < 5; i++) {
        const char *c = names[i];
        made.n = 0;
        put("\xff\xd8\xff\xdb\0\x43\0", 7);
        for (int k = 0; k < 64; k++) put("\xff", 1);
        put("\xff\xc0\0\x11\x08\0\x08\0\x08\x03", 10);
        for (int k = 0; k < 3; k++) put((uint8_t[]){(uint8_t)c[k], 0x11, 0}, 3);
        put("\xff\xda\0\x0c\x03", 5);
        for (int k = 0; k < 3; k++) put((uint8_t[]){(uint8_t)c[k], 0}, 2);
        put("\0\x3f\0\x5a\x28\xaf\xff\xd9", 8);  // DC differences 1, 0, 0 in the standard's codes: 255 / 8 above the middle
        Decoded d = decode(made.bytes, made.n, 0);
        CHECK(d.code == 0 && d.rgb[0] == 160 && d.rgb[1] == (i ? 160 : 128) && d.rgb[2] == d.rgb[1], "%s: %s", c, d.err.text);
        free(d.rgb);
    }
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
    test_made_png();
    test_stored_png();
    test_made_jpeg();
    test_component_names();
    return test_end("test_codecs");
}
