// image.c: from the bytes of a picture to the tiles that the vision encoder looks at.
//
//     file -> RGB -> longest edge = L -> both edges = multiples of T -> rows x cols tiles of T x T
//                                                                  `-> T x T: the whole picture, the last tile
//
// L is SmolConfig.longest_edge (2048 or 1536), T is tile_size (512 or 384). The result equals that of transformers'
// SmolVLMImageProcessor (5.23, PIL backend, Pillow 12.1) to the bit. Each arrow that changes the size is a resize with
// 8-bit results, and two or three of them follow each other; merging them would be faster, and different.
//
// PNG, JPEG and BMP are decoded in files of their own. PNM is simple enough to be decoded here. Other formats are named in
// the error, with a command that converts them.

#include "internal.h"

#include <string.h>

// ---- PNM: P1 to P6 ----
//
// "P6 width height maxval", one whitespace, then the samples: as text in P1 to P3, as bytes in P4 to P6. Black and
// white (one bit, 1 is black, no maxval), gray, RGB. In text, # starts a comment that runs to the end of the line, even
// in the middle of a number. What follows the last sample is ignored. Numbers have digits only, no sign.

typedef struct {
    const uint8_t *at, *end;
    int kind, channels, width, height, maxval;  // kind: 1 to 6
} Pnm;

static int is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// The next byte of text that is not in a comment; -1 at the end.
static int pnm_char(Pnm *p) {
    while (p->at < p->end && *p->at == '#') {
        while (p->at < p->end && *p->at != '\n' && *p->at != '\r') p->at++;
        if (p->at < p->end) p->at++;
    }
    return p->at < p->end ? *p->at++ : -1;
}

// The next number of the text, and one whitespace behind it; -1 when there is none. At most ten digits, as in Pillow.
static int64_t pnm_number(Pnm *p) {
    int c = pnm_char(p), digits = 0;
    while (is_space(c)) c = pnm_char(p);
    int64_t v = 0;
    for (; c >= '0' && c <= '9' && digits < 10; c = pnm_char(p), digits++) v = 10 * v + (c - '0');
    return digits && (c < 0 || is_space(c)) ? v : -1;
}

// Reads the header, and checks that the file can hold all samples: no room is made for a picture that is not there.
static int pnm_open(Pnm *p, const uint8_t *bytes, size_t n, SmolErr *err) {
    int kind = n > 1 ? bytes[1] - '0' : 0, bitmap = kind == 1 || kind == 4;
    *p = (Pnm){.at = bytes + (n > 1 ? 2 : n), .end = bytes + n, .kind = kind, .channels = kind % 3 ? 1 : 3};
    int64_t w = pnm_number(p), h = pnm_number(p), maxval = bitmap ? 1 : pnm_number(p);
    if (w < 0 || h < 0 || maxval < 0) return fail(err, SMOL_E_FORMAT, "PNM: the header is broken or cut off");
    if (w > INT32_MAX || h > INT32_MAX) return fail(err, SMOL_E_LIMIT, "PNM: width or height is too large");
    if (maxval < 1 || maxval > 65535) return fail(err, SMOL_E_FORMAT, "PNM: maxval is not within 1 to 65535");
    p->width = (int)w, p->height = (int)h, p->maxval = (int)maxval;

    uint64_t row = (uint64_t)w * (uint64_t)p->channels, left = (uint64_t)(p->end - p->at);
    if (kind == 4) row = (row + 7) / 8;
    if (kind > 4 && maxval > 255) row *= 2;
    if (kind == 2 || kind == 3) row *= 2, left++;  // a digit and a space each; the last may do without the space
    if (row && (uint64_t)h > left / row) {
        return fail(err, SMOL_E_FORMAT, "PNM: cut off: %d x %d pixels are not in %z bytes", p->width, p->height, n);
    }
    return 0;
}

// Sample x of a row, or -1.
static int64_t pnm_sample(Pnm *p, int x) {
    if (p->kind == 1) {
        int c = pnm_char(p);
        while (is_space(c)) c = pnm_char(p);
        return c == '0' || c == '1' ? '1' - c : -1;
    }
    if (p->kind < 4) return pnm_number(p);
    if (p->kind == 4) {
        int shift = 7 - x % 8;
        int64_t v = ~(*p->at >> shift) & 1;
        if (shift == 0 || x == p->width - 1) p->at++;
        return v;
    }
    int64_t v = *p->at++;
    return p->maxval < 256 ? v : v << 8 | *p->at++;
}

// v/maxval of top, rounded half to even as Python's round() does. Gray above 8 bits is Pillow's mode "I": scaled to 16
// bits, and on the way to RGB not scaled back but clamped, so that all but the darkest 1/256 turns white.
static uint8_t pnm_to_8_bits(const Pnm *p, int v) {
    int top = p->channels == 1 && p->maxval > 255 ? 65535 : 255;
    double exact = (double)v / p->maxval * top;
    int i = (int)exact;
    double rest = exact - i;
    if (rest > 0.5 || (rest == 0.5 && i % 2)) i++;
    return (uint8_t)(i < 255 ? i : 255);
}

// rgb: (height, width, 3)
static int pnm_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolErr *err) {
    Pnm p;
    int code = pnm_open(&p, bytes, n, err);
    if (code) return code;
    if (p.kind == 6 && p.maxval == 255) {
        memcpy(rgb, p.at, (size_t)p.width * (size_t)p.height * 3);
        return 0;
    }
    for (int y = 0; y < p.height; y++) {
        for (int x = 0; x < p.width * p.channels; x++) {
            int64_t v = pnm_sample(&p, x);
            if (v < 0 || (v > p.maxval && p.kind < 4)) {  // in binary, Pillow clamps it instead
                return fail(err, SMOL_E_FORMAT, "PNM: a sample of row %d is missing, broken or above maxval", y);
            }
            uint8_t u = pnm_to_8_bits(&p, (int)v);
            for (int i = 0; i < 3; i += p.channels) *rgb++ = u;
        }
    }
    return 0;
}

// ---- formats ----

// What is known but not read: n bytes of magic at an offset, and the command that makes a PNG of it.
static const struct {
    size_t offset, n;
    const char *magic, *name, *command;
} others[] = {
    {8, 4, "WEBP", "WebP", "dwebp in.webp -o out.png"},
    {4, 7, "ftypavi", "AVIF", "avifdec in.avif out.png"},
    {4, 6, "ftyphe", "HEIC", "heif-convert in.heic out.png"},
    {4, 8, "ftypmif1", "HEIF", "heif-convert in.heif out.png"},
    {4, 8, "ftypmsf1", "HEIF", "heif-convert in.heif out.png"},
    {0, 4, "GIF8", "GIF", "convert 'in.gif[0]' out.png"},
    {0, 4, "II*\0", "TIFF", "convert 'in.tif[0]' out.png"},
    {0, 4, "MM\0*", "TIFF", "convert 'in.tif[0]' out.png"},
    {0, 4, "%PDF", "PDF", "pdftoppm -png -singlefile in.pdf out"},
    {0, 4, "<svg", "SVG", "rsvg-convert in.svg -o out.png"},
    {0, 5, "<?xml", "SVG", "rsvg-convert in.svg -o out.png"},
};

static int recognise(const uint8_t *bytes, size_t n, SmolErr *err) {
    if (n == 0) return fail(err, SMOL_E_FORMAT, "the file is empty");
    if (n > 2 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' && is_space(bytes[2])) return SMOL_PNM;
    if (n >= 8 && !memcmp(bytes, "\x89PNG\r\n\x1a\n", 8)) return SMOL_PNG;
    if (n >= 3 && !memcmp(bytes, "\xff\xd8\xff", 3)) return SMOL_JPEG;
    if (n >= 2 && !memcmp(bytes, "BM", 2)) return SMOL_BMP;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (n < others[i].offset + others[i].n) continue;
        if (memcmp(bytes + others[i].offset, others[i].magic, others[i].n) != 0) continue;
        return fail(err, SMOL_E_FORMAT, "%s is not read; convert it first: %s", others[i].name, others[i].command);
    }
    return fail(err, SMOL_E_FORMAT, "not a picture this program reads (PNG, JPEG, BMP, PNM)");
}

// 2^28 pixels: 768 MB of RGB, and 3 width height still fits in 32 bits.
static int check_size(int width, int height, SmolErr *err) {
    if (width < 1 || height < 1) return fail(err, SMOL_E_FORMAT, "a picture of %d x %d pixels", width, height);
    if (height > (1 << 28) / width) {
        return fail(err, SMOL_E_LIMIT, "a picture of %d x %d pixels is more than 2^28 pixels", width, height);
    }
    return 0;
}

int smol_picture_probe(SmolPicture *p, const void *bytes, size_t n_bytes, SmolErr *err) {
    Pnm pnm;
    int code = recognise(bytes, n_bytes, err);
    if (code < 0) return code;
    *p = (SmolPicture){bytes, n_bytes, code, 0, 0};
    switch (p->format) {
    case SMOL_PNM:
        code = pnm_open(&pnm, bytes, n_bytes, err);
        p->width = pnm.width, p->height = pnm.height;
        break;
    case SMOL_PNG: code = png_probe(bytes, n_bytes, &p->width, &p->height, err); break;
    case SMOL_JPEG: code = jpeg_probe(bytes, n_bytes, &p->width, &p->height, err); break;
    default: code = bmp_probe(bytes, n_bytes, &p->width, &p->height, err);
    }
    return code ? code : check_size(p->width, p->height, err);
}

// ---- sizes ----

static int at_least_1(int n) { return n > 1 ? n : 1; }

// In doubles, and truncated, as the reference does: 2048 x 93 stays 2048 x 92 for L = 2048, where integers would give
// 93 and, made even, 94. No aspect ratio is too extreme for either: the short edge is at least 1.
int smol_picture_tiling(const SmolConfig *c, int width, int height, int split, SmolTiling *t, SmolErr *err) {
    int code = check_size(width, height, err);
    if (code) return code;
    if (!c->tile_size) return fail(err, SMOL_E_LIMIT, "this model reads text only, no pictures");

    // longest edge to L, the other one even
    int w = c->longest_edge, h = w, tile = c->tile_size, limit = 4096;
    double aspect = (double)width / height;
    if (width >= height) {
        h = (int)(w / aspect);
        h = at_least_1(h + h % 2);
    } else {
        w = (int)(h * aspect);
        w = at_least_1(w + w % 2);
    }
    aspect = (double)w / h;
    if (w >= h && w > limit) w = limit, h = at_least_1((int)(w / aspect));
    if (h > w && h > limit) h = limit, w = at_least_1((int)(h * aspect));
    t->resized_w = w, t->resized_h = h;

    // both edges to multiples of the tile
    aspect = (double)w / h;
    t->cut_w = t->cut_h = tile;
    if (split && w >= h) {
        t->cut_w = round_up(w, tile);
        t->cut_h = round_up((int)(t->cut_w / aspect), tile);
    } else if (split) {
        t->cut_h = round_up(h, tile);
        t->cut_w = round_up((int)(t->cut_h * aspect), tile);
    }
    int many = t->cut_w > tile || t->cut_h > tile;
    t->rows = many ? t->cut_h / tile : 0;
    t->cols = many ? t->cut_w / tile : 0;
    t->n_tiles = t->rows * t->cols + 1;
    t->n_tokens = t->n_tiles * c->image_seq_len;
    return 0;
}

// ---- videos ----

// round() of Python: half goes to even. For values up to 2^31.
static int round_half_even(double v) {
    int64_t i = (int64_t)v;
    double rest = v - (double)i;
    return (int)(rest > 0.5 || (rest == 0.5 && i % 2) ? i + 1 : i);
}

// Of a long video, the first and the last second are left out. Then n numbers evenly spread as numpy.linspace does it in
// doubles, truncated, each once.
int smol_video_sample(const SmolConfig *c, int n_total, double fps, int max_frames, int *frames, SmolErr *err) {
    int most = c->video_max_frames, first = 0, last = n_total - 1, n_frames = 0;
    if (most < 1 || c->video_size < 1 || !(c->video_fps > 0 && c->video_fps < 1e6)) {
        return fail(err, SMOL_E_FORMAT, "this model was not made for videos: its file says nothing about frames");
    }
    if (n_total < 1) return fail(err, SMOL_E_FORMAT, "a video without frames");
    if (!(fps >= 1e-3 && fps <= 1e6)) {
        return fail(err, SMOL_E_LIMIT, "the number of frames a second is not within 0.001 and 1000000");
    }
    if (max_frames > 0 && max_frames < most) most = max_frames;

    double duration = n_total / fps, wanted = c->video_fps * duration;
    int n = wanted < most ? round_half_even(wanted) : most;
    if (n < 1) n = 1;
    if (duration - 2 > most * c->video_fps) {
        int skipped_last = (int)(n_total - fps);
        if (skipped_last < last) last = skipped_last;
        first = (int)fps;
        if (first >= last) first = 0, last = n_total - 1;
    }
    double step = n > 1 ? (double)(last - first) / (n - 1) : 0;
    for (int i = 0; i < n; i++) {
        int frame = i > 0 && i == n - 1 ? last : (int)(i * step + first);
        if (n_frames == 0 || frame != frames[n_frames - 1]) frames[n_frames++] = frame;
    }
    return n_frames;
}

int smol_video_tiling(const SmolConfig *c, int width, int height, SmolTiling *t, SmolErr *err) {
    SmolConfig frame = *c;
    frame.longest_edge = c->video_size < 4096 ? c->video_size : 4096;
    return smol_picture_tiling(&frame, width, height, 0, t, err);
}

// ---- Lanczos windows ----
//
// From n_in samples to n_out: scale = n_in / n_out. Output i looks at the input around c = (i + 1/2) scale through
//
//     L(x) = sinc(x) sinc(x / 3)   for |x| < 3, else 0          sinc(x) = sin(pi x) / (pi x)
//
// stretched by max(scale, 1), so that shrinking averages: input k, a <= k < b, weighs L((k + 1/2 - c) / stretch),
// divided by the sum of all. At the borders the window is cut, not mirrored. The weights are rounded to 22 bits after
// the point, and from there on all is exact, in integers. This, the order of the operations in double, and (int) in
// place of floor are those of Pillow (precompute_coeffs of Resample.c). sin is our own: no C library's bits get in.

enum { WEIGHT_BITS = 22 };

// The window of one output: inputs first .. first + n - 1.
typedef struct {
    int first, n;
    const int32_t *weight;  // (n)
} Window;

static double sinc(double x) {
    x *= 3.14159265358979323846;
    return x == 0 ? 1 : sin_exact(x) / x;
}

static double lanczos(double x) { return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

// An upper bound for a window's n: 6 stretch rounded up, one more for rounding errors, not more than there are inputs.
static int window_limit(int n_in, int n_out) {
    if (n_in == n_out) return 1;
    int64_t n = n_in > n_out ? (6 * (int64_t)n_in + n_out - 1) / n_out + 1 : 7;
    return (int)(n < n_in ? n : n_in);
}

// Fills weight and exact, each with room for window_limit. An axis that keeps its size passes through.
static Window window(int n_in, int n_out, int i, int32_t *weight, double *exact) {
    const double one = 1 << WEIGHT_BITS;
    if (n_in == n_out) {
        *weight = 1 << WEIGHT_BITS;
        return (Window){i, 1, weight};
    }
    double scale = (double)n_in / n_out, stretch = scale > 1 ? scale : 1, support = 3 * stretch, inverse = 1 / stretch;
    double c = (i + 0.5) * scale, sum = 0;
    int a = (int)(c - support + 0.5), b = (int)(c + support + 0.5);
    a = a > 0 ? a : 0;
    b = b < n_in ? b : n_in;
    for (int k = 0; k < b - a; k++) {
        exact[k] = lanczos((k + a - c + 0.5) * inverse);
        sum += exact[k];
    }
    for (int k = 0; k < b - a; k++) {
        double w = exact[k] / sum * one;
        weight[k] = (int32_t)(w < 0 ? w - 0.5 : w + 0.5);
    }
    return (Window){a, b - a, weight};
}

// ---- resize ----
//
// Columns first, then rows, each rounded and clamped to 8 bits. Rows of the input are filtered in pairs, once, into a
// ring with room for a window and one row more; an output row is made as soon as its window is in the ring. So the
// picture in between never exists as a whole, and is read while it is still in the cache.
//
// A picture can be resized in place: a buffer as large as the larger picture ends with the input and begins with the
// output. When row i is written, rows 0 .. b - 1 of the input have been read, and b >= (i + 1) h_in / h_out.
//     input larger: it begins with the buffer; what is overwritten has been read, since
//         (i + 1) w_out <= (i + 1) w_in h_in / h_out <= b w_in
//     output larger: it ends with the buffer; what is still to be read lies within what is still to be written, since
//         (h_in - b) w_in <= (h_out - i - 1) w_in h_in / h_out <= (h_out - i - 1) w_out

enum { STRIP = 64 };  // samples of a row that are summed at once, so that compilers make vectors of them

typedef struct {
    Window *columns;      // (w_out)
    int32_t *weights;     // (w_out, window_limit) of the columns
    int32_t *row_weight;  // (window_limit) of one row
    double *exact;        // (larger window_limit)
    uint64_t *pair;       // (w_in, 3) of two rows
    uint8_t *ring;        // (n_ring, ld), of which 3 w_out samples are used
    int n_ring, ld;
} Resizer;

// a * b * size, or what no arena has
static size_t product(int a, int b, size_t size) {
    size_t ab, abc;
    return mul_fits((size_t)a, (size_t)b, &ab) && mul_fits(ab, size, &abc) ? abc : SIZE_MAX;
}

static int resizer_carve(Resizer *z, int w_in, int h_in, int w_out, int h_out, SmolArena *arena, SmolErr *err) {
    int n_column = window_limit(w_in, w_out), n_row = window_limit(h_in, h_out);
    err->code = 0;
    z->n_ring = n_row + 1;
    z->ld = round_up(3 * w_out, STRIP);
    z->columns = arena_take(arena, product(w_out, 1, sizeof(Window)), "resize: windows", err);
    z->weights = arena_take(arena, product(w_out, n_column, sizeof(int32_t)), "resize: weights of columns", err);
    z->row_weight = arena_take(arena, product(n_row, 1, sizeof(int32_t)), "resize: weights of a row", err);
    z->exact = arena_take(arena, product(n_row > n_column ? n_row : n_column, 1, sizeof(double)), "resize: exact", err);
    z->pair = arena_take(arena, product(w_in, 3, sizeof(uint64_t)), "resize: a pair of rows", err);
    z->ring = arena_take(arena, product(z->n_ring, z->ld, 1), "resize: rows", err);
    return err->code;
}

// A sum of weight times sample, begun with one half, to 8 bits. It fits: a window's |weight| add up to less than 2.
static uint8_t to_sample(int32_t sum) {
    int32_t v = sum >> WEIGHT_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

// Columns are filtered two rows at a time, in one 64-bit product: pair = a + 2^32 b, so that
//     sum of weight * pair = (sum of weight * a) + 2^32 (sum of weight * b)    modulo 2^64, as unsigned numbers do.
// Both sums are exact, since either fits in 32 bits with its sign. Half the products are half the time.
static uint64_t weigh(int32_t weight, uint64_t pair) { return (uint64_t)(int64_t)weight * pair; }

static void to_sample_pair(uint8_t *a, uint8_t *b, uint64_t sum) {
    int32_t low = (int32_t)(uint32_t)sum;
    *a = to_sample(low);
    *b = to_sample((int32_t)(uint32_t)((sum - (uint64_t)(int64_t)low) >> 32));
}

// a and b (w_out, 3) from the pairs in (w_in, 3)
static void filter_columns(uint8_t *restrict a, uint8_t *restrict b, const uint64_t *restrict in, const Window *columns,
                           int w_out) {
    const uint64_t half = 1 << (WEIGHT_BITS - 1);
    for (int x = 0; x < w_out; x++) {
        const uint64_t *p = in + 3 * (size_t)columns[x].first;
        const int32_t *weight = columns[x].weight;
        uint64_t red = half | half << 32, green = red, blue = red;
        for (int k = 0; k < columns[x].n; k++, p += 3) {
            red += weigh(weight[k], p[0]);
            green += weigh(weight[k], p[1]);
            blue += weigh(weight[k], p[2]);
        }
        to_sample_pair(a++, b++, red);
        to_sample_pair(a++, b++, green);
        to_sample_pair(a++, b++, blue);
    }
}

// Filters row y of in (h_in, w_in, 3) and the one below it, if any, into the ring.
static void next_rows(Resizer *z, int y, const uint8_t *in, int w_in, int h_in, int w_out) {
    size_t n = 3 * (size_t)w_in, ld = (size_t)z->ld;
    const uint8_t *a = in + (size_t)y * n, *b = y + 1 < h_in ? a + n : a;
    for (size_t i = 0; i < n; i++) z->pair[i] = a[i] | (uint64_t)b[i] << 32;
    uint8_t *to_a = z->ring + (size_t)(y % z->n_ring) * ld, *to_b = z->ring + (size_t)((y + 1) % z->n_ring) * ld;
    filter_columns(to_a, to_b, z->pair, z->columns, w_out);
}

// out (n) from the rows of the window, each in its place in the ring
static void filter_rows(uint8_t *restrict out, int n, const Resizer *z, const Window *row) {
    int first = row->first % z->n_ring;
    for (int x = 0; x < n; x += STRIP) {
        int32_t sum[STRIP];
        uint8_t strip[STRIP];
        for (int j = 0; j < STRIP; j++) sum[j] = 1 << (WEIGHT_BITS - 1);
        for (int k = 0, slot = first; k < row->n; k++, slot = slot + 1 < z->n_ring ? slot + 1 : 0) {
            const uint8_t *restrict in = z->ring + (size_t)slot * (size_t)z->ld + x;
            int32_t weight = row->weight[k];
            for (int j = 0; j < STRIP; j++) sum[j] += weight * in[j];
        }
        for (int j = 0; j < STRIP; j++) strip[j] = to_sample(sum[j]);
        memcpy(out + x, strip, (size_t)(n - x < STRIP ? n - x : STRIP));
    }
}

// in (h_in, w_in, 3) to out (h_out, w_out, 3)
static int resize(uint8_t *out, int w_out, int h_out, const uint8_t *in, int w_in, int h_in, SmolArena scratch,
                  SmolErr *err) {
    Resizer z;
    int code = resizer_carve(&z, w_in, h_in, w_out, h_out, &scratch, err), limit = window_limit(w_in, w_out), next = 0;
    if (code) return code;
    for (int x = 0; x < w_out; x++) {
        z.columns[x] = window(w_in, w_out, x, z.weights + (size_t)x * (size_t)limit, z.exact);
    }
    memset(z.ring, 0, (size_t)z.n_ring * (size_t)z.ld);  // its rows' ends are summed up, too, and thrown away
    for (int y = 0; y < h_out; y++) {
        Window row = window(h_in, h_out, y, z.row_weight, z.exact);
        for (; next < row.first + row.n; next += 2) next_rows(&z, next, in, w_in, h_in, w_out);
        filter_rows(out + (size_t)y * 3 * (size_t)w_out, 3 * w_out, &z, &row);
    }
    return 0;
}

// ---- loading ----

// Where a picture lives while it is loaded.
typedef struct {
    uint8_t *work;     // (n_work) the picture in its current size, at one of the two ends
    uint8_t *global;   // (tile, tile, 3)
    uint8_t *scratch;  // (n_scratch) for the codec, then for each resize
    size_t n_work, n_scratch;
} Room;

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t resizer_bytes(int w_in, int h_in, int w_out, int h_out) {
    Resizer z;
    SmolErr err;
    SmolArena count = {0};
    return resizer_carve(&z, w_in, h_in, w_out, h_out, &count, &err) ? SIZE_MAX : count.used;
}

static int room_carve(Room *r, const SmolConfig *c, const SmolPicture *p, const SmolTiling *t, SmolArena *arena,
                      SmolErr *err) {
    int w = p->width, h = p->height, w2 = t->resized_w, h2 = t->resized_h, tile = c->tile_size;
    r->n_work = larger(product(w, h, 3), product(w2, h2, 3));
    r->n_scratch = p->format == SMOL_PNG    ? png_bytes(p->bytes, p->n_bytes)
                   : p->format == SMOL_JPEG ? jpeg_bytes(p->bytes, p->n_bytes)
                   : p->format == SMOL_BMP  ? bmp_bytes(p->bytes, p->n_bytes)
                                            : 0;
    r->n_scratch = larger(r->n_scratch, resizer_bytes(w, h, w2, h2));
    if (t->rows) {
        r->n_work = larger(r->n_work, product(t->cut_w, t->cut_h, 3));
        r->n_scratch = larger(r->n_scratch, resizer_bytes(w2, h2, t->cut_w, t->cut_h));
        w2 = t->cut_w, h2 = t->cut_h;
    }
    r->n_scratch = larger(r->n_scratch, resizer_bytes(w2, h2, tile, tile));
    err->code = 0;
    r->work = arena_take(arena, r->n_work, "picture", err);
    r->global = arena_take(arena, product(tile, tile, 3), "picture: whole", err);
    r->scratch = arena_take(arena, r->n_scratch, "picture: scratch", err);
    return err->code;
}

size_t smol_picture_bytes(const SmolConfig *c, const SmolPicture *p, const SmolTiling *t) {
    Room room;
    SmolErr err;
    SmolArena count = {0};
    return room_carve(&room, c, p, t, &count, &err) ? SIZE_MAX : count.used;
}

static int decode(const SmolPicture *p, uint8_t *rgb, SmolArena scratch, SmolErr *err) {
    switch (p->format) {
    case SMOL_PNG: return png_decode(p->bytes, p->n_bytes, rgb, &scratch, err);
    case SMOL_JPEG: return jpeg_decode(p->bytes, p->n_bytes, rgb, &scratch, err);
    case SMOL_BMP: return bmp_decode(p->bytes, p->n_bytes, rgb, &scratch, err);
    default: return pnm_decode(p->bytes, p->n_bytes, rgb, err);
    }
}

// Decodes to the end of the room, resizes to its start, moves to the end, resizes to the start. The last resize, to the
// view of the whole, has a place of its own.
static int fill(const Room *r, const SmolConfig *c, const SmolPicture *p, const SmolTiling *t, SmolErr *err) {
    SmolArena scratch = {.base = r->scratch, .size = r->n_scratch};
    int w = t->resized_w, h = t->resized_h, tile = c->tile_size;
    uint8_t *in = r->work + r->n_work - product(p->width, p->height, 3);
    int code = decode(p, in, scratch, err);
    if (!code) code = resize(r->work, w, h, in, p->width, p->height, scratch, err);
    if (!code && t->rows && (w != t->cut_w || h != t->cut_h)) {
        in = r->work + r->n_work - product(w, h, 3);
        memmove(in, r->work, product(w, h, 3));
        code = resize(r->work, t->cut_w, t->cut_h, in, w, h, scratch, err);
    }
    if (t->rows) w = t->cut_w, h = t->cut_h;
    return code ? code : resize(r->global, tile, tile, r->work, w, h, scratch, err);
}

int smol_picture_load(const SmolConfig *c, const SmolPicture *p, const SmolTiling *t, SmolArena *arena, SmolTiles *out,
                      SmolErr *err) {
    Room room;
    size_t start = arena->used;
    int code = room_carve(&room, c, p, t, arena, err);
    if (!code) code = fill(&room, c, p, t, err);
    arena->used = code ? start : (size_t)(room.scratch - arena->base);
    *out = (SmolTiles){*t, t->rows ? room.work : NULL, room.global};
    return code;
}

// ---- pixels ----

// A table of 256 per channel: u8 times rescale_factor in double, rounded to float; minus mean, divided by std in float.
void smol_tile_pixels(const SmolConfig *c, const SmolTiles *tiles, int i, float *out) {
    int tile = c->tile_size, cols = tiles->tiling.cols, ld = 3 * tile;
    const uint8_t *rgb = tiles->global;
    if (i < tiles->tiling.rows * cols) {
        ld = 3 * tiles->tiling.cut_w;
        rgb = tiles->cut + (size_t)(i / cols * tile) * (size_t)ld + (size_t)(i % cols * tile) * 3;
    }
    for (int channel = 0; channel < 3; channel++) {
        float value[256];
        for (int u = 0; u < 256; u++) {
            value[u] = ((float)(u * c->rescale_factor) - c->image_mean[channel]) / c->image_std[channel];
        }
        for (int y = 0; y < tile; y++) {
            const uint8_t *row = rgb + (size_t)y * (size_t)ld + channel;
            for (int x = 0; x < tile; x++) *out++ = value[row[3 * x]];
        }
    }
}
