// test_image.c: image.c against Pillow and transformers, from the tables of make_image_golden.py. Run it in the
// repository's root, or give the path of tests/golden.

#include "../smol.h"
#include "test.h"

#include <math.h>

static const char *golden = "tests/golden";
static char line[4096];

static SmolConfig settings(int longest_edge, int tile, int image_seq_len) {
    SmolConfig c = {.longest_edge = longest_edge, .tile_size = tile, .image_seq_len = image_seq_len};
    c.rescale_factor = 1 / 255.0;
    for (int i = 0; i < 3; i++) c.image_mean[i] = c.image_std[i] = 0.5f;
    return c;
}

static FILE *open_table(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", golden, name);
    FILE *f = fopen(path, "r");
    CHECK(f, "%s", path);
    return f;
}

// The next row of a table into line; 0 at the end. Lines that begin with # are comments.
static int next_row(FILE *f) {
    while (fgets(line, sizeof line, f)) {
        if (line[0] != '#') return 1;
    }
    fclose(f);
    return 0;
}

static void sha256_text(char out[65], const void *bytes, size_t n) {
    SmolSha256 s;
    uint8_t digest[32];
    smol_sha256_init(&s);
    smol_sha256_add(&s, bytes, n);
    smol_sha256_end(&s, digest);
    hex(out, digest);
}

// Memory of exactly this size, so that the sanitizers see what lies beyond.
static SmolArena new_arena(size_t bytes) { return (SmolArena){.base = aligned_alloc(64, bytes), .size = bytes}; }

static int has(const char *text, const char *part) { return strstr(text, part) != NULL; }

// ---- sizes ----

static void test_tiling(void) {
    FILE *f = open_table("tiling.tsv");
    int n = 0;
    while (f && next_row(f)) {
        int v[13], at = 0, used;
        for (int i = 0; i < 13; i++, at += used) sscanf(line + at, "%d%n", &v[i], &used);
        SmolConfig c = settings(v[0], v[1], v[2]);
        SmolTiling t;
        SmolErr err;
        int code = smol_picture_tiling(&c, v[3], v[4], 1, &t, &err);
        CHECK(!code && t.resized_w == v[5] && t.resized_h == v[6] && t.cut_w == v[7] && t.cut_h == v[8], "%s", line);
        CHECK(t.rows == v[9] && t.cols == v[10] && t.n_tiles == v[11] && t.n_tokens == v[12], "%s", line);
        code = smol_picture_tiling(&c, v[3], v[4], 0, &t, &err);
        CHECK(!code && t.resized_w == v[5] && t.resized_h == v[6] && t.rows == 0 && t.cols == 0 && t.n_tiles == 1 &&
                  t.n_tokens == v[2],
              "not split: %s", line);
        n++;
    }
    CHECK(n >= 1200, "%d rows", n);
}

static void test_refused_sizes(void) {
    static const struct {
        int width, height, code;
        const char *text;
    } cases[] = {{0, 0, SMOL_E_FORMAT, "0 x 0"},
                 {0, 5, SMOL_E_FORMAT, "0 x 5"},
                 {5, 0, SMOL_E_FORMAT, "5 x 0"},
                 {-1, 5, SMOL_E_FORMAT, "-1 x 5"},
                 {16385, 16384, SMOL_E_LIMIT, "16385 x 16384"},
                 {1, (1 << 28) + 1, SMOL_E_LIMIT, "1 x 268435457"},
                 {INT32_MAX, INT32_MAX, SMOL_E_LIMIT, "2147483647 x 2147483647"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SmolConfig c = settings(2048, 512, 64);
        SmolTiling t;
        SmolErr err = {0};
        int code = smol_picture_tiling(&c, cases[i].width, cases[i].height, 1, &t, &err);
        CHECK(code == cases[i].code && err.code == code && has(err.text, cases[i].text), "%d: %s", code, err.text);
    }
    static const char *const large[] = {"P6 1 4294967295 255\n", "P6 4294967295 1 255\n"};
    for (int i = 0; i < 2; i++) {
        SmolPicture p;
        SmolErr err = {0};
        int code = smol_picture_probe(&p, large[i], strlen(large[i]), &err);
        CHECK(code == SMOL_E_LIMIT && has(err.text, "PNM: width or height is too large"), "%d: %s", code, err.text);
    }
    // Above 4096 the reference reduces once more.
    SmolConfig c = settings(8192, 512, 64);
    SmolTiling wide, high;
    SmolErr err = {0};
    CHECK(!smol_picture_tiling(&c, 200, 100, 1, &wide, &err) && wide.resized_w == 4096 && wide.resized_h == 2048, "%d x %d",
          wide.resized_w, wide.resized_h);
    CHECK(!smol_picture_tiling(&c, 100, 200, 1, &high, &err) && high.resized_w == 2048 && high.resized_h == 4096, "%d x %d",
          high.resized_w, high.resized_h);
}

// ---- pixels ----

// A P6 file of the picture u8[y][x][c] = (7x + 13y + 29c + 5 ((x y) mod 17)) & 255.
static unsigned char *make_ppm(int width, int height, size_t *n) {
    unsigned char *bytes = malloc(32 + 3 * (size_t)width * (size_t)height), *at = bytes;
    at += sprintf((char *)bytes, "P6 %d %d 255\n", width, height);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            int z = 7 * x + 13 * y + 5 * (int)((int64_t)x * y % 17);
            for (int c = 0; c < 3; c++) *at++ = (unsigned char)((z + 29 * c) & 255);
        }
    }
    *n = (size_t)(at - bytes);
    return bytes;
}

// SHA-256 of all tiles' floats in little-endian order, loaded with exactly the memory that was asked for.
static void tiles_sha256(char out[65], const SmolConfig *c, int split, const unsigned char *bytes, size_t n) {
    SmolPicture p;
    SmolTiling t;
    SmolTiles tiles;
    SmolErr err = {0};
    SmolSha256 s;
    uint8_t digest[32];
    int code = smol_picture_probe(&p, bytes, n, &err);
    if (!code) code = smol_picture_tiling(c, p.width, p.height, split, &t, &err);
    CHECK(!code, "%s", err.text);
    SmolArena arena = new_arena(code ? 64 : smol_picture_bytes(c, &p, &t));
    size_t n_pixels = 3 * (size_t)c->tile_size * (size_t)c->tile_size;
    float *pixels = malloc(n_pixels * sizeof *pixels);
    if (!code) code = smol_picture_load(c, &p, &t, &arena, &tiles, &err);
    CHECK(!code && arena.used <= arena.size, "%s", err.text);
    smol_sha256_init(&s);
    for (int i = 0; !code && i < t.n_tiles; i++) {
        smol_tile_pixels(c, &tiles, i, pixels);
        for (size_t j = 0; j < n_pixels; j++) {  // in place: byte by byte, whatever this machine's order
            uint32_t u;
            memcpy(&u, &pixels[j], 4);
            uint8_t le[4] = {(uint8_t)u, (uint8_t)(u >> 8), (uint8_t)(u >> 16), (uint8_t)(u >> 24)};
            memcpy(&pixels[j], le, 4);
        }
        smol_sha256_add(&s, pixels, n_pixels * 4);
    }
    smol_sha256_end(&s, digest);
    hex(out, digest);
    free(arena.base);
    free(pixels);
}

static void test_tiles(void) {
    FILE *f = open_table("tiles.tsv");
    int n = 0;
    while (f && next_row(f)) {
        int longest_edge, tile, split, width, height;
        char expected[65], sha[65];
        if (sscanf(line, "%d%d%d%d%d%64s", &longest_edge, &tile, &split, &width, &height, expected) != 6) break;
        size_t n_bytes;
        unsigned char *bytes = make_ppm(width, height, &n_bytes);
        SmolConfig c = settings(longest_edge, tile, 1);
        tiles_sha256(sha, &c, split, bytes, n_bytes);
        CHECK(!strcmp(sha, expected), "%s", line);
        free(bytes);
        n++;
    }
    CHECK(n >= 90, "%d rows", n);
}

// Mean, deviation and factor of another processor, against the definition.
static void test_normalisation(void) {
    enum { T = 16 };
    SmolConfig c = settings(T, T, 1);
    uint8_t rgb[T * T * 3];
    float pixels[3 * T * T];
    c.rescale_factor = 0.00392156862745098;
    const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f};
    const float deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};
    memcpy(c.image_mean, mean, sizeof mean);
    memcpy(c.image_std, deviation, sizeof deviation);
    for (int i = 0; i < T * T * 3; i++) rgb[i] = (uint8_t)(i / 3 + 85 * (i % 3));
    SmolTiles tiles = {.tiling = {.n_tiles = 1}, .global = rgb};
    smol_tile_pixels(&c, &tiles, 0, pixels);
    int n_different = 0;
    for (int channel = 0; channel < 3; channel++) {
        for (int i = 0; i < T * T; i++) {
            float x = (float)((double)rgb[3 * i + channel] * c.rescale_factor);
            x = x - mean[channel];
            x = x / deviation[channel];
            n_different += memcmp(&x, &pixels[channel * T * T + i], sizeof x) != 0;
        }
    }
    CHECK(n_different == 0, "%d of %d", n_different, 3 * T * T);
}

// ---- memory ----

static void test_memory(void) {
    static const int sizes[][4] = {{128, 64, 300, 200}, {128, 64, 20, 500}, {128, 64, 64, 64}, {64, 64, 200, 100},
                                   {256, 64, 90, 40},   {128, 64, 1, 1},    {128, 64, 128, 128}, {128, 64, 128, 70}};
    for (size_t i = 0; i < 2 * (sizeof sizes / sizeof *sizes); i++) {
        const int *v = sizes[i / 2];
        SmolConfig c = settings(v[0], v[1], 1);
        SmolPicture p;
        SmolTiling t;
        SmolTiles tiles;
        SmolErr err = {0};
        size_t n, before = 128;
        unsigned char *bytes = make_ppm(v[2], v[3], &n);
        int code = smol_picture_probe(&p, bytes, n, &err);
        if (!code) code = smol_picture_tiling(&c, p.width, p.height, (int)(i % 2), &t, &err);
        CHECK(!code, "%s", err.text);
        size_t need = smol_picture_bytes(&c, &p, &t);

        SmolArena arena = new_arena(need + before);
        arena.used = before;
        memset(arena.base, 0xa5, arena.size);
        CHECK(!smol_picture_load(&c, &p, &t, &arena, &tiles, &err), "%s", err.text);
        CHECK(arena.used > before && arena.used <= arena.size, "%zu of %zu", arena.used, arena.size);
        CHECK(tiles.global >= arena.base + before && tiles.global < arena.base + arena.used, "global outside");
        CHECK((tiles.cut != NULL) == (t.rows > 0), "cut");
        int untouched = 1;
        for (size_t j = 0; j < before; j++) untouched &= arena.base[j] == 0xa5;
        CHECK(untouched, "wrote before its memory");
        free(arena.base);

        for (size_t less = 64; less <= need; less += less < 1024 ? 64 : need / 7 / 64 * 64 + 64) {
            arena = new_arena(need + before - less);
            arena.used = before;
            code = smol_picture_load(&c, &p, &t, &arena, &tiles, &err);
            CHECK(code == SMOL_E_MEMORY && has(err.text, "out of memory"), "%zu less: %d %s", less, code, err.text);
            CHECK(arena.used == before, "memory kept after a failure");
            free(arena.base);
        }
        free(bytes);
    }
}

// ---- PNM ----

// Reads the picture's own pixels: with the longest edge as it is, an even short edge and tiles of one pixel nothing is
// resized. Returns 0 or a negative code.
static int own_pixels(char sha[65], int *width, int *height, const uint8_t *bytes, size_t n, SmolErr *err) {
    SmolPicture p;
    SmolTiling t;
    SmolTiles tiles;
    int code = smol_picture_probe(&p, bytes, n, err);
    if (code) return code;
    SmolConfig c = settings(p.width > p.height ? p.width : p.height, 1, 1);
    code = smol_picture_tiling(&c, p.width, p.height, 1, &t, err);
    if (code) return code;
    CHECK(t.cut_w == p.width && t.cut_h == p.height, "%d x %d", p.width, p.height);
    SmolArena arena = new_arena(smol_picture_bytes(&c, &p, &t));
    code = smol_picture_load(&c, &p, &t, &arena, &tiles, err);
    if (!code) sha256_text(sha, tiles.cut, 3 * (size_t)p.width * (size_t)p.height);
    *width = p.width, *height = p.height;
    free(arena.base);
    return code;
}

static void test_pnm(void) {
    FILE *f = open_table("pnm.tsv");
    int n = 0;
    while (f && next_row(f)) {
        static char name[100], text[2048], expected[65], sha[65];
        int width, height, w = 0, h = 0;
        SmolErr err = {0};
        if (sscanf(line, "%99[^\t]\t%2047s%d%d%64s", name, text, &width, &height, expected) != 5) break;
        size_t n_bytes = strlen(text) / 2;
        uint8_t *bytes = malloc(n_bytes);
        for (size_t i = 0; i < n_bytes; i++) {
            unsigned u;
            sscanf(text + 2 * i, "%2x", &u);
            bytes[i] = (uint8_t)u;
        }
        int code = own_pixels(sha, &w, &h, bytes, n_bytes, &err);
        if (!strcmp(expected, "error")) {
            CHECK(code < 0 && err.code == code && err.text[0] && !strchr(err.text, '\n'), "%s: no error", name);
        } else {
            CHECK(!code && w == width && h == height && !strcmp(sha, expected), "%s: %d %s", name, code, err.text);
        }
        free(bytes);
        n++;
    }
    CHECK(n >= 400, "%d rows", n);
}

// ---- formats ----

// Every picture of the decoders' table whose short edge is even, as a whole picture: the way from probing to tiles.
static void test_files(void) {
    FILE *f = open_table("pictures.tsv");
    int n_files = 0;
    while (f && next_row(f)) {
        static char name[200], path[1200], expected[65], sha[65];
        int width, height, w = 0, h = 0;
        size_t n;
        SmolErr err = {0};
        if (sscanf(line, "%199[^\t]\t%d%d%64s", name, &width, &height, expected) != 4) continue;
        if ((width < height ? width : height) % 2 || width > 4096 || height > 4096) continue;
        snprintf(path, sizeof path, "%s/pictures/%s", golden, name);
        uint8_t *bytes = read_file(path, &n);
        int code = bytes ? own_pixels(sha, &w, &h, bytes, n, &err) : -1;
        CHECK(!code && w == width && h == height && !strcmp(sha, expected), "%s: %d %s", name, code, err.text);
        free(bytes);
        n_files++;
    }
    CHECK(n_files > 100, "%d files", n_files);
}

// A file that is no longer what was probed: an error line.
static void test_changed_since(void) {
    static const char *const names[] = {"jpeg_16x16_444.jpg", "bmp_24.bmp", "png_truncated.png"};
    for (int i = 0; i < 4; i++) {
        char path[1200];
        SmolErr err = {0};
        SmolPicture p;
        SmolTiling t;
        SmolTiles tiles;
        size_t n = 0;
        SmolConfig c = settings(16, 8, 1);
        if (i < 3) snprintf(path, sizeof path, "%s/pictures/%s", golden, names[i]);
        uint8_t *bytes = i < 3 ? read_file(path, &n) : make_ppm(20, 10, &n);
        CHECK(bytes && !smol_picture_probe(&p, bytes, n, &err) && !smol_picture_tiling(&c, p.width, p.height, 1, &t, &err),
              "%s", err.text);
        for (size_t left = 0; left < 20 && left < n; left++) {
            p.bytes = memcpy(malloc(left ? left : 1), bytes, left);
            p.n_bytes = left;
            SmolArena arena = new_arena((smol_picture_bytes(&c, &p, &t) + 63) / 64 * 64);
            err.text[0] = 0;
            CHECK(smol_picture_load(&c, &p, &t, &arena, &tiles, &err) < 0 && err.text[0], "%zu bytes are left of picture %d",
                  left, i);
            free(arena.base);
            free((void *)(uintptr_t)p.bytes);
        }
        free(bytes);
    }
}

static void test_formats(void) {
    static const struct {
        size_t n;
        const char *bytes, *text;
    } cases[] = {
        {0, "", "empty"},
        {1, "x", "not a picture"},
        {12, "RIFF\x10\0\0\0WEBP", "WebP is not read; convert it first: dwebp"},
        {12, "RIFF\x10\0\0\0WAVE", "not a picture"},
        {12, "\0\0\0\x18" "ftypheic", "HEIC is not read; convert it first: heif-convert"},
        {12, "\0\0\0\x18" "ftypmif1", "HEIF"},
        {12, "\0\0\0\x18" "ftypavif", "AVIF is not read; convert it first: avifdec"},
        {12, "\0\0\0\x18" "ftypmp42", "not a picture"},
        {6, "GIF89a", "GIF is not read; convert it first: convert"},
        {4, "II*\0", "TIFF"},
        {4, "MM\0*", "TIFF is not read; convert it first: convert"},
        {6, "BM6\0\0\0", "BMP: the file ends within the header"},
        {8, "%PDF-1.7", "PDF is not read; convert it first: pdftoppm"},
        {5, "<svg ", "SVG is not read; convert it first: rsvg-convert"},
        {7, "\x89PNG\r\n\x1a", "not a picture"},
        {2, "\xff\xd8", "not a picture"},
        {2, "P6", "not a picture"},
        {3, "P7\n", "not a picture this program reads (PNG, JPEG, BMP, PNM)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SmolPicture p;
        SmolErr err = {0};
        uint8_t *bytes = malloc(cases[i].n ? cases[i].n : 1);  // the sanitizers see a read past the end
        memcpy(bytes, cases[i].bytes, cases[i].n);
        int code = smol_picture_probe(&p, bytes, cases[i].n, &err);
        CHECK(code == SMOL_E_FORMAT && has(err.text, cases[i].text), "%d: %s", code, err.text);
        free(bytes);
    }
}

// ---- videos ----

// First, second and last frame, and their number, as the reference takes them; tests/test_video.py has many more.
static void test_video_frames(void) {
    static const struct { int n_total; double fps; int max_frames, n, first, second, last; } cases[] = {
        {240, 24, 0, 10, 0, 26, 239}, {1980, 30, 0, 64, 0, 31, 1979}, {2010, 30, 0, 64, 30, 60, 1980},
        {10, 30, 0, 1, 0, 0, 0}, {1, 0.1, 0, 1, 0, 0, 0}, {3, 1, 0, 3, 0, 1, 2}, {2000, 1, 2, 2, 1, 1999, 1999},
        {240, 24, 1000, 10, 0, 26, 239}, {INT32_MAX, 1e-3, 1, 1, 0, 0, 0},
    };
    SmolConfig c = {.video_max_frames = 64, .video_size = 512, .video_fps = 1};
    SmolErr err;
    int frames[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int n = smol_video_sample(&c, cases[i].n_total, cases[i].fps, cases[i].max_frames, frames, &err);
        CHECK(n == cases[i].n && frames[0] == cases[i].first && frames[n - 1] == cases[i].last,
              "%d at %g: %d frames, %d to %d", cases[i].n_total, cases[i].fps, n, frames[0], frames[n - 1]);
        CHECK(n == 1 || frames[1] == cases[i].second, "%d at %g: %d", cases[i].n_total, cases[i].fps, frames[1]);
    }
    // round() takes half to even; a video so short that its first and last second are all of it is not cut.
    static const struct { int n_total, n, last; } halves[] = {{1, 1, 0}, {3, 2, 2}, {5, 2, 4}, {7, 4, 6}};
    c.video_fps = 0.5;
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        int n = smol_video_sample(&c, halves[i].n_total, 1, 0, frames, &err);
        CHECK(n == halves[i].n && frames[n - 1] == halves[i].last, "%d frames: %d, to %d", halves[i].n_total, n, frames[n - 1]);
    }
    c.video_fps = 0.3;
    CHECK(smol_video_sample(&c, 9, 1, 0, frames, &err) == 3, "2.7 frames are three");
    c.video_fps = 0.01;
    CHECK(smol_video_sample(&c, 3, 1.4, 1, frames, &err) == 1 && frames[0] == 0, "frame %d of three", frames[0]);
    const double no_rates[] = {0, -1, 1e6, (double)NAN};
    for (int i = 0; i < 4; i++) {
        c.video_fps = no_rates[i];
        CHECK(smol_video_sample(&c, 9, 24, 0, frames, &err) == SMOL_E_FORMAT, "%g frames a second of the model", no_rates[i]);
    }
    c.video_fps = 1;
    c.video_size = 0;
    CHECK(smol_video_sample(&c, 9, 24, 0, frames, &err) == SMOL_E_FORMAT, "no size of frames");
    c.video_size = 512;
    CHECK(smol_video_sample(&c, 0, 24, 0, frames, &err) == SMOL_E_FORMAT, "no frames");
    CHECK(smol_video_sample(&c, 9, 0, 0, frames, &err) == SMOL_E_LIMIT, "no frame a second");
    CHECK(smol_video_sample(&c, 9, 1e7, 0, frames, &err) == SMOL_E_LIMIT, "too many frames a second");
    c.video_max_frames = 0;
    CHECK(smol_video_sample(&c, 9, 24, 0, frames, &err) == SMOL_E_FORMAT, "a model without videos");
}

static void test_video_tiling(void) {
    SmolConfig c = settings(2048, 512, 64);
    SmolTiling t;
    SmolErr err;
    c.video_size = 384;
    CHECK(smol_video_tiling(&c, 640, 480, &t, &err) == 0, "%s", err.text);
    CHECK(t.resized_w == 384 && t.resized_h == 288 && t.n_tiles == 1 && t.n_tokens == 64, "%d x %d", t.resized_w, t.resized_h);
    CHECK(smol_video_tiling(&c, 0, 480, &t, &err) == SMOL_E_FORMAT, "no width");
}

int main(int argc, char **argv) {
    if (argc > 1) golden = argv[1];
    test_tiling();
    test_refused_sizes();
    test_formats();
    test_files();
    test_changed_since();
    test_pnm();
    test_normalisation();
    test_memory();
    test_tiles();
    test_video_frames();
    test_video_tiling();
    return test_end("image");
}
