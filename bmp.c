// bmp.c: BMP to 8-bit RGB (Windows' BITMAPINFOHEADER, its versions 2 to 5, and the BITMAPCOREHEADER of OS/2).
//
// 1, 4 and 8 bits with a palette, 16, 24 and 32 bits, run-length coding of 4 and 8 bits; rows from the bottom up or
// from the top down. The pixels equal Pillow 12.1's convert("RGB"), also where that is surprising:
//
//   - alpha is dropped; colours past the end of the palette are black;
//   - a palette that is just the grays 0, 1, 2, ... makes rows of 8 bits per pixel, and one of black and white, in
//     this order, rows of 1 bit, whatever the header says; where it says otherwise that is noise, or an error;
//   - run-length codes: a jump has two bytes of no meaning before its two distances, an odd number of 4-bit pixels
//     loses its last one, an empty row after a full one is none, and codes that end before the last pixel are an error.
//
// Refused, too: 2 bits, OS/2's Huffman and 24-bit codes, JPEG and PNG within BMP, unusual bit fields.

#include "internal.h"

#include <string.h>

// ---- header ----

enum { RAW, RLE8, RLE4, BITFIELDS };  // compression

typedef struct {
    int width, height, top_down;
    int bits;                  // per pixel, as the header says; rows of the file are that wide, rounded up to 4 bytes
    int gray;                  // a palette of 0, 1, 2, ... or of black and white
    int depth;                 // bits per pixel, as rows are read: the same, but for a gray palette
    uint32_t compression;
    uint32_t mask[3];          // 16 bits and more: where red, green and blue are in a pixel
    uint8_t colours[256 * 3];  // 8 bits and fewer: the palette
    uint64_t pixels;           // where they begin in the file
} Bmp;

static uint32_t get_u16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }

static uint64_t stride_of(const Bmp *b) { return ((uint64_t)b->width * (unsigned)b->bits + 31) / 32 * 4; }

static uint64_t row_bytes(const Bmp *b) { return ((uint64_t)b->width * (unsigned)b->depth + 7) / 8; }

// The core header has 16 bits for each; in the others a negative height means from the top down.
static int read_size(Bmp *b, const uint8_t *bytes, int core, SmolErr *err) {
    uint32_t width = core ? get_u16(bytes + 18) : get_u32(bytes + 18);
    uint32_t height = core ? get_u16(bytes + 20) : get_u32(bytes + 22);
    b->top_down = !core && height >> 24 == 0xff;  // -1 to -2^24; what is below is taken for a huge height
    if (b->top_down) height = 0 - height;
    if (width == 0 || height == 0)
        return fail(err, SMOL_E_FORMAT, "BMP: a picture of %u x %u pixels is empty", width, height);
    if ((uint64_t)width * height > 1u << 28)
        return fail(err, SMOL_E_LIMIT, "BMP: %u x %u pixels are more than 2^28", width, height);
    b->width = (int)width;
    b->height = (int)height;
    return 0;
}

// Bit fields: masks for red, green and blue behind the 40 bytes of the first header, or in the longer ones at the same
// place; from 56 bytes on there is one for alpha, too. It matters for 32 bits only, as do no masks at all: the default.
static int read_masks(Bmp *b, const uint8_t *bytes, size_t n, uint32_t size, SmolErr *err) {
    static const struct {
        int bits;
        uint32_t mask[4];
    } known[] = {
        {16, {0x7c00, 0x3e0, 0x1f, 0}},  // the defaults of 16 bits,
        {24, {0xff0000, 0xff00, 0xff, 0}},
        {32, {0xff0000, 0xff00, 0xff, 0}},  // and of 24 and 32
        {32, {0xff0000, 0xff00, 0xff, 0xff000000}},
        {32, {0xff, 0xff00, 0xff0000, 0xff000000}},
        {32, {0xff000000, 0xff0000, 0xff00, 0}},
        {32, {0xff000000, 0xff0000, 0xff00, 0xff}},
        {32, {0xff000000, 0xff00, 0xff, 0}},
        {32, {0xff000000, 0xff00, 0xff, 0xff0000}},
        {16, {0xf800, 0x7e0, 0x1f, 0}},
    };
    uint32_t mask[4] = {0};
    memcpy(b->mask, known[b->bits == 16 ? 0 : 1].mask, sizeof b->mask);
    if (b->compression != BITFIELDS) return 0;
    if (n < 66) return fail(err, SMOL_E_FORMAT, "BMP: the file ends within the header");
    for (int k = 0; k < (size < 56 ? 3 : 4); k++) mask[k] = get_u32(bytes + 54 + 4 * k);
    if (b->bits == 32 && !(mask[0] | mask[1] | mask[2] | mask[3])) return 0;
    memcpy(b->mask, mask, sizeof b->mask);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        size_t n_masks = b->bits == 32 ? 4 : 3;
        if (known[i].bits == b->bits && memcmp(known[i].mask, mask, n_masks * sizeof *mask) == 0) return 0;
    }
    return fail(err, SMOL_E_FORMAT, "BMP: %d bits with bit fields of this layout are not supported", b->bits);
}

// n bytes, entries of unit bytes: blue, green, red, and a fourth but in the core header. The file may end within them.
static int read_palette(Bmp *b, const uint8_t *palette, size_t n, size_t n_colours, size_t unit, SmolErr *err) {
    if (n_colours > 65536) return fail(err, SMOL_E_FORMAT, "BMP: a palette of %z colours", n_colours);
    size_t n_here = n / unit < n_colours ? n / unit : n_colours;
    b->gray = n >= n_colours * unit - (unit - 3);
    for (size_t i = 0; i < n_colours && b->gray; i++) {
        const uint8_t *p = palette + i * unit;
        unsigned value = n_colours == 2 ? 255 * (unsigned)i : i & 255;
        b->gray = p[0] == value && p[1] == value && p[2] == value;
    }
    if (b->gray) b->depth = n_colours == 2 ? 1 : 8;
    if (!b->gray && n_here > 256) return fail(err, SMOL_E_FORMAT, "BMP: a palette of %z colours", n_colours);
    for (size_t i = 0; i < 256; i++)
        for (size_t k = 0; k < 3; k++)
            if (b->gray) b->colours[3 * i + k] = (uint8_t)(b->depth == 1 ? 255 * i : i);
            else b->colours[3 * i + k] = i < n_here ? palette[i * unit + 2 - k] : 0;
    return 0;
}

// What can be decoded, and is there: no room is made for a picture that the file cannot hold.
static int check_pixels(const Bmp *b, size_t n, SmolErr *err) {
    if (b->compression > BITFIELDS || (b->compression == BITFIELDS && b->bits <= 8))
        return fail(err, SMOL_E_FORMAT, "BMP: compression %u of %d bits is not supported", b->compression, b->bits);
    if (b->compression == RLE8 || b->compression == RLE4) {
        if (b->bits <= 8 && !(b->gray && b->depth == 1)) return 0;
        return fail(err, SMOL_E_FORMAT, "BMP: run-length coding of %s is not supported",
                    b->bits > 8 ? "more than 8 bits" : "black and white");
    }
    if (row_bytes(b) > stride_of(b))
        return fail(err, SMOL_E_FORMAT, "BMP: a palette of grays for %d bits is not supported", b->bits);
    uint64_t need = stride_of(b) * (uint64_t)(b->height - 1) + row_bytes(b);  // the last row may lack its padding
    if (b->pixels <= n && need <= n - b->pixels) return 0;
    return fail(err, SMOL_E_FORMAT, "BMP: cut off: %d x %d pixels are not in %z bytes", b->width, b->height, n);
}

// The file header has "BM", and at byte 10 the place of the pixels, or 0 when they follow. The next header begins at
// byte 14 with its size.
static int read_header(Bmp *b, const uint8_t *bytes, size_t n, SmolErr *err) {
    memset(b, 0, sizeof *b);
    if (n < 18 || memcmp(bytes, "BM", 2) != 0) return fail(err, SMOL_E_FORMAT, "BMP: the file ends within the header");
    uint32_t size = get_u32(bytes + 14);
    int core = size == 12;
    if (!core && size != 40 && size != 52 && size != 56 && size != 64 && size != 108 && size != 124)
        return fail(err, SMOL_E_FORMAT, "BMP: a header of %u bytes is unknown", size);
    if (size > n - 14) return fail(err, SMOL_E_FORMAT, "BMP: the file ends within the header");
    if (read_size(b, bytes, core, err) != 0) return err->code;
    b->bits = b->depth = (int)get_u16(bytes + (core ? 24 : 28));
    b->compression = core ? RAW : get_u32(bytes + 30);
    b->pixels = get_u32(bytes + 10);
    if (b->bits != 1 && b->bits != 4 && b->bits != 8 && b->bits != 16 && b->bits != 24 && b->bits != 32)
        return fail(err, SMOL_E_FORMAT, "BMP: %d bits per pixel are not supported", b->bits);

    uint64_t end = 14 + size;
    if (b->bits > 8) {
        if (read_masks(b, bytes, n, size, err) != 0) return err->code;
        if (size == 40 && b->compression == BITFIELDS) end += 12;
    } else {
        uint32_t n_colours = core ? 0 : get_u32(bytes + 46), unit = core ? 3 : 4;
        if (n_colours == 0) n_colours = 1u << b->bits;
        if (read_palette(b, bytes + end, n - (size_t)end, n_colours, unit, err) != 0) return err->code;
        if (b->pixels == end) b->pixels += 4 * n_colours;  // as Pillow has it: no palette looks like no pixels
        end += unit * n_colours;
    }
    if (b->pixels == 0) b->pixels = end < n ? end : n;
    return check_pixels(b, n, err);
}

// ---- rows ----

static void put_row(const Bmp *b, const uint8_t *row, uint8_t *rgb) {
    int byte[3], width = b->width;
    if (b->depth <= 8) {
        int in_byte = 8 / b->depth;  // the leftmost pixel is in the highest bits
        for (int x = 0; x < width; x++, rgb += 3) {
            int sample = row[x / in_byte] >> (8 - b->depth * (x % in_byte + 1)) & ((1 << b->depth) - 1);
            memcpy(rgb, b->colours + 3 * sample, 3);
        }
    } else if (b->depth == 16) {  // v / mask is the same at the top of the pixel as shifted down
        for (int x = 0; x < width; x++, row += 2, rgb += 3)
            for (int k = 0; k < 3; k++) rgb[k] = (uint8_t)((get_u16(row) & b->mask[k]) * 255 / b->mask[k]);
    } else {
        for (int k = 0; k < 3; k++) byte[k] = b->mask[k] > 0xff0000 ? 3 : b->mask[k] > 0xff00 ? 2 : b->mask[k] > 0xff;
        for (int x = 0; x < width; x++, row += b->depth / 8, rgb += 3)
            for (int k = 0; k < 3; k++) rgb[k] = row[byte[k]];
    }
}

// ---- run-length codes ----

typedef struct {
    const Bmp *bmp;
    uint8_t *rgb;
    uint64_t n, n_all;  // pixels so far, and of the whole picture, in the order of the file
} Runs;

// A pixel: all of a byte, or for RLE4 the half that comes first (0) or second (1). Past the end there is none.
static void put_pixel(Runs *r, int byte, int half) {
    const Bmp *b = r->bmp;
    uint64_t i = r->n++, width = (uint64_t)b->width, y = i / width;
    if (i >= r->n_all) return;
    if (!b->top_down) y = (uint64_t)b->height - 1 - y;
    int sample = b->compression == RLE8 ? byte : half == 0 ? byte >> 4 : byte & 15;
    memcpy(r->rgb + 3 * (y * width + i % width), b->colours + 3 * sample, 3);
}

// count pixels as they are; returns the bytes that they take.
static size_t put_plain(Runs *r, int count, const uint8_t *bytes, size_t n) {
    int per_byte = r->bmp->compression == RLE8 ? 1 : 2;
    size_t n_bytes = (size_t)(count / per_byte);
    for (size_t i = 0; i < n_bytes && i < n; i++)
        for (int half = 0; half < per_byte; half++) put_pixel(r, bytes[i], half);
    return n_bytes;
}

// Codes are pairs of bytes: how often, and which pixel; or 0, and what else to do. Returns 0 when they end before the
// picture does. x is where Pillow believes to be in the row: it limits repetitions, and nothing else.
static int decode_runs(Runs *r, const uint8_t *bytes, size_t n) {
    uint64_t width = (uint64_t)r->bmp->width, x = 0, at = r->bmp->pixels;
    while (r->n < r->n_all && at + 2 <= n) {
        unsigned count = bytes[at], byte = bytes[at + 1];
        at += 2;
        if (count > 0) {
            uint64_t room = x < width ? width - x : 0;
            if (count > room) count = (unsigned)room;
            for (unsigned i = 0; i < count; i++) put_pixel(r, (int)byte, (int)(i % 2));
            x += count;
        } else if (byte == 0) {  // on to the next row
            r->n += (width - r->n % width) % width;
            x = 0;
        } else if (byte == 1) {  // the end
            return 0;
        } else if (byte == 2) {  // jump: so many pixels to the right, so many rows on
            if (at + 4 > n) return 0;
            r->n += bytes[at + 2] + bytes[at + 3] * width;
            x = r->n % width;
            at += 4;
        } else {  // pixels as they are, up to an even place in the file
            at += put_plain(r, (int)byte, bytes + at, n - (size_t)at);
            at += at % 2;
            x += byte;
        }
    }
    return r->n >= r->n_all;
}

// ---- pictures ----

int bmp_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err) {
    Bmp b;
    if (read_header(&b, bytes, n, err) != 0) return err->code;
    *width = b.width;
    *height = b.height;
    return 0;
}

// Rows and codes become pixels where they stand.
size_t bmp_bytes(const uint8_t *bytes, size_t n) {
    (void)bytes, (void)n;
    return 0;
}

int bmp_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err) {
    (void)scratch;
    Bmp b;
    if (read_header(&b, bytes, n, err) != 0) return err->code;
    size_t n_pixels = (size_t)b.width * (size_t)b.height;
    if (b.compression == RLE8 || b.compression == RLE4) {
        Runs r = {&b, rgb, 0, n_pixels};
        for (size_t i = 0; i < n_pixels; i++) memcpy(rgb + 3 * i, b.colours, 3);  // what is jumped over has colour 0
        if (decode_runs(&r, bytes, n)) return 0;
        int row = (int)(r.n / (unsigned)b.width) + 1;
        return fail(err, SMOL_E_FORMAT, "BMP: the run-length codes end early, in row %d of %d", row, b.height);
    }
    for (int y = 0; y < b.height; y++) {
        size_t row = (size_t)(b.top_down ? y : b.height - 1 - y);
        put_row(&b, bytes + b.pixels + (uint64_t)y * stride_of(&b), rgb + row * (size_t)b.width * 3);
    }
    return 0;
}
