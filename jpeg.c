// jpeg.c: JPEG to 8-bit RGB (ITU-T T.81), in three steps: entropy-coded bits to coefficients, coefficients to sample
// planes (inverse DCT), planes to RGB (upsampling and colour).
//
// Sequential and progressive Huffman coding, 8 bits, 1, 3 or 4 components. T.81 leaves the arithmetic open; this file
// takes that of libjpeg-turbo's defaults (the accurate integer DCT, triangle upsampling, 16-bit fixed-point colours),
// so that the pixels equal Pillow 12.1's ImageOps.exif_transpose and convert("RGB"). As there, damaged entropy data are
// not an error: decoding goes on at the next restart marker; a file that breaks off is one. Refused: arithmetic coding,
// 12 bits, lossless and hierarchical files. Ignored: colour profiles, thumbnails. Not done: libjpeg's smoothing of
// progressive files whose last scans are missing.

#include "internal.h"

#include <string.h>

// ---- the frame ----

enum { SOF0 = 0xc0, SOF2 = 0xc2, DHT = 0xc4, RST0 = 0xd0, SOI = 0xd8, EOI = 0xd9, SOS = 0xda, DQT = 0xdb, DNL = 0xdc,
       DRI = 0xdd, APP0 = 0xe0, APP1, APP14 = 0xee, COM = 0xfe };

typedef struct {
    int id, h, v, table;     // sampling factors; number of the quantisation table
    int width, height;       // in samples: the picture's size times h / max_h, v / max_v, rounded up
    int blocks_x, blocks_y;  // that cover width x height
    int stride, rows;        // in blocks, padded to whole MCUs
    uint8_t *plane;          // (8 * rows, 8 * stride)
    int16_t *coefs;          // (rows, stride, 64), progressive only
    uint16_t quant[64];      // in natural order, as it was when the component's first scan began
    int has_quant;
    int dc_table, ac_table;  // of the current scan
    int dc;                  // prediction
} Component;

typedef struct {
    int width, height, progressive;
    int orientation;  // 1 .. 8, see exif.c
    int max_h, max_v, mcus_x, mcus_y;
    int n;
    Component comp[4];
} Frame;

static int get_u16be(const uint8_t *p) { return p[0] << 8 | p[1]; }

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The code of the next marker at or after *at, which moves behind it; -1 at the end of the file. Skips other bytes.
static int next_marker(const uint8_t *bytes, size_t n, size_t *at) {
    for (size_t i = *at; i + 1 < n; i++) {
        if (bytes[i] != 0xff || bytes[i + 1] == 0 || bytes[i + 1] == 0xff) continue;
        *at = i + 2;
        return bytes[i + 1];
    }
    *at = n;
    return -1;
}

// The segment that begins at *at with its length: *data and *n_data, without the length. *at moves behind it. A length
// below 2 is impossible, and matters only where the segment is read: then *n_data is below 0.
static int read_segment(const uint8_t *bytes, size_t n, size_t *at, const uint8_t **data, int *n_data, SmolErr *err) {
    if (n - *at < 2) return fail(err, SMOL_E_FORMAT, "JPEG: the file ends within a marker");
    int length = get_u16be(bytes + *at);
    if ((size_t)length > n - *at) return fail(err, SMOL_E_FORMAT, "JPEG: the file ends within a marker segment");
    *data = bytes + *at + 2;
    *n_data = length - 2;
    *at += length < 2 ? 2 : (size_t)length;
    return 0;
}

static const char *unsupported(int marker) {
    switch (marker) {
    case 0xc0: case 0xc1: case 0xc2: return NULL;
    case 0xc3: case 0xcb: return "lossless coding";
    case 0xc9: case 0xca: return "arithmetic coding";
    default: return "hierarchical coding";
    }
}

// Sizes in samples, blocks and MCUs (T.81, A.1.1 and A.2.4).
static int measure_frame(Frame *f, SmolErr *err) {
    f->max_h = f->max_v = 1;
    for (int i = 0; i < f->n; i++) {
        if (f->comp[i].h > f->max_h) f->max_h = f->comp[i].h;
        if (f->comp[i].v > f->max_v) f->max_v = f->comp[i].v;
    }
    f->mcus_x = ceil_div(f->width, 8 * f->max_h);
    f->mcus_y = ceil_div(f->height, 8 * f->max_v);
    for (int i = 0; i < f->n; i++) {
        Component *c = &f->comp[i];
        if (f->max_h % c->h || f->max_v % c->v)
            return fail(err, SMOL_E_FORMAT, "JPEG: component %d has %d x %d samples for %d x %d", i, c->h, c->v,
                        f->max_h, f->max_v);
        c->width = ceil_div(f->width * c->h, f->max_h);
        c->height = ceil_div(f->height * c->v, f->max_v);
        c->blocks_x = ceil_div(c->width, 8);
        c->blocks_y = ceil_div(c->height, 8);
        c->stride = f->mcus_x * c->h;
        c->rows = f->mcus_y * c->v;
    }
    return 0;
}

// T.81, B.2.2.
static int read_sof(Frame *f, int marker, const uint8_t *data, int n, SmolErr *err) {
    if (unsupported(marker))
        return fail(err, SMOL_E_FORMAT, "JPEG: %s is not supported; convert with: djpeg | cjpeg", unsupported(marker));
    if (n < 6) return fail(err, SMOL_E_FORMAT, "JPEG: the frame header has %d bytes", n);
    f->progressive = marker == SOF2;
    f->height = get_u16be(data + 1);
    f->width = get_u16be(data + 3);
    f->n = data[5];
    if (data[0] != 8) return fail(err, SMOL_E_FORMAT, "JPEG: %d bits per sample are not supported, only 8", data[0]);
    if (f->width == 0 || f->height == 0)
        return fail(err, SMOL_E_FORMAT, "JPEG: a picture of %d x %d pixels is empty", f->width, f->height);
    if ((int64_t)f->width * f->height > 1 << 28)
        return fail(err, SMOL_E_LIMIT, "JPEG: %d x %d pixels are more than 2^28", f->width, f->height);
    if (f->n != 1 && f->n != 3 && f->n != 4) return fail(err, SMOL_E_FORMAT, "JPEG: a picture of %d components", f->n);
    if (n != 6 + 3 * f->n) return fail(err, SMOL_E_FORMAT, "JPEG: the frame header has %d bytes", n);
    for (int i = 0; i < f->n; i++) {
        const uint8_t *p = data + 6 + 3 * i;
        f->comp[i] = (Component){.id = p[0], .h = p[1] >> 4, .v = p[1] & 15, .table = p[2]};
        if (f->comp[i].h < 1 || f->comp[i].h > 4 || f->comp[i].v < 1 || f->comp[i].v > 4)
            return fail(err, SMOL_E_FORMAT, "JPEG: component %d is sampled %d x %d", i, f->comp[i].h, f->comp[i].v);
    }
    return measure_frame(f, err);
}

// Frame headers of every kind; DHT, JPG and DAC lie among them.
static int is_sof(int marker) { return (marker & 0xf0) == SOF0 && (marker % 4 != 0 || marker == SOF0); }

static int is_rst(int marker) { return (marker & 0xf8) == RST0; }

// All that a plan of memory needs: the frame header, and the orientation, which may come behind it: in the first Exif
// segment, or else in the last one of XMP.
static int find_frame(Frame *f, const uint8_t *bytes, size_t n, SmolErr *err) {
    memset(f, 0, sizeof *f);
    if (n < 3 || memcmp(bytes, "\xff\xd8\xff", 3) != 0) return fail(err, SMOL_E_FORMAT, "JPEG: no JPEG signature");
    static const char xap[] = "http://ns.adobe.com/xap/1.0/";  // with the zero at its end
    int has_exif = 0, exif = 0, xmp = 0;
    for (size_t at = 2;;) {
        int marker = next_marker(bytes, n, &at), n_data = 0;
        const uint8_t *data = NULL;
        if (marker == SOS && f->n) {
            f->orientation = exif ? exif : xmp ? xmp : 1;
            return 0;
        }
        if (marker < 0 || marker == EOI || marker == SOS)
            return fail(err, SMOL_E_FORMAT, "JPEG: there is no %s", f->n ? "scan" : "frame header");
        if (is_rst(marker)) continue;
        if (read_segment(bytes, n, &at, &data, &n_data, err) != 0) return err->code;
        if (is_sof(marker) && f->n) return fail(err, SMOL_E_FORMAT, "JPEG: a second frame header");
        if (is_sof(marker) && read_sof(f, marker, data, n_data, err) != 0) return err->code;
        if (marker == APP1 && !has_exif && n_data >= 6 && memcmp(data, "Exif\0", 6) == 0) {
            has_exif = 1;
            exif = exif_orientation(data, (size_t)n_data);
        } else if (marker == APP1 && n_data >= (int)sizeof xap && memcmp(data, xap, sizeof xap) == 0) {
            xmp = xmp_orientation(data + sizeof xap, (size_t)n_data - sizeof xap);
        }
    }
}

// ---- the decoder's state ----

enum {
    FAST_BITS = 9,     // Huffman codes up to this long take one look-up
    MAX_LENGTH = 16,   // bits of the longest code
    MAX_SCANS = 1000,  // some 10 are usual; a scan of a few bytes can cover a huge picture
};

typedef struct {
    uint16_t fast[1 << FAST_BITS];  // by the next bits: length << 8 | symbol, 0 for a longer code
    int limit[MAX_LENGTH + 2];      // of each length: one past the last code
    int offset[MAX_LENGTH + 1];     // code + offset[length] is the place among the symbols
    uint8_t symbol[256];
    int defined, usable, dc_usable;  // a code that does not fit is an error only when a scan asks for it
} Huffman;

typedef struct {
    const uint8_t *bytes;
    size_t n, at;  // the position in the file
    Frame frame;
    int n_frames;
    uint16_t quant[4][64];  // in natural order
    int has_quant[4];
    Huffman huffman[2][4];  // DC, AC
    int restart_interval;
    int jfif, adobe, transform;  // seen; and the transform that Adobe's marker names
    // the scan
    int n_scan;
    Component *scan[4];
    int first, last, high, low;  // progressive: Ss, Se, Ah, Al
    int eob_run;
    // its bits
    uint64_t bits;  // the lowest n_bits are still to come
    int n_bits, n_fake;  // how many zeros were added after the end of the segment
    int marker;  // that ended the segment, 0 while there is none
    int ended;   // the file ended instead
    int insufficient;  // zeros were used: nothing more is decoded before the next restart
} Jpeg;

// Position in the 8 x 8 block of the k-th coefficient of the zigzag (T.81, figure A.6). Damaged runs may pass the end
// by up to 16: they land on the last one.
static const uint8_t zigzag[64 + 16] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,
    6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31,
    39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

// ---- tables (T.81, B.2.4) ----

static int read_dqt(Jpeg *j, const uint8_t *data, int n, SmolErr *err) {
    while (n > 0) {
        int wide = data[0] >> 4 != 0, table = data[0] & 15, size = wide ? 129 : 65;
        if (table > 3) return fail(err, SMOL_E_FORMAT, "JPEG: quantisation table %d does not exist", table);
        if (n < size) return fail(err, SMOL_E_FORMAT, "JPEG: a quantisation table breaks off");
        for (int i = 0; i < 64; i++)
            j->quant[table][zigzag[i]] = (uint16_t)(wide ? get_u16be(data + 1 + 2 * i) : data[1 + i]);
        j->has_quant[table] = 1;
        data += size;
        n -= size;
    }
    return n == 0 ? 0 : fail(err, SMOL_E_FORMAT, "JPEG: a quantisation table of an impossible length");
}

// Codes of one length are consecutive numbers, from twice the end of the length before (T.81, C.2). All ones is none.
static void build_huffman(Huffman *h, const uint8_t *counts) {
    int code = 0, index = 0;
    h->usable = 1;
    memset(h->fast, 0, sizeof h->fast);
    for (int len = 1; len <= MAX_LENGTH; len++, code <<= 1) {
        h->offset[len] = index - code;
        for (int i = 0; i < counts[len - 1]; i++, code++, index++) {
            int first = code << (FAST_BITS - len > 0 ? FAST_BITS - len : 0);
            for (int k = 0; len <= FAST_BITS && k < 1 << (FAST_BITS - len) && first + k < 1 << FAST_BITS; k++)
                h->fast[first + k] = (uint16_t)(len << 8 | h->symbol[index]);
        }
        h->limit[len] = code;
        if (counts[len - 1] && code >= 1 << len) h->usable = 0;
    }
    h->dc_usable = h->usable;
    for (int i = 0; i < index; i++)
        if (h->symbol[i] > 15) h->dc_usable = 0;
}

static int read_dht(Jpeg *j, const uint8_t *data, int n, SmolErr *err) {
    while (n > 16) {
        int class = data[0] >> 4, table = data[0] & 15, n_symbols = 0;
        for (int i = 0; i < 16; i++) n_symbols += data[1 + i];
        if (class > 1 || table > 3) return fail(err, SMOL_E_FORMAT, "JPEG: Huffman table %d does not exist", data[0]);
        if (n_symbols > 256 || n_symbols > n - 17)
            return fail(err, SMOL_E_FORMAT, "JPEG: a Huffman table of %d symbols breaks off", n_symbols);
        Huffman *h = &j->huffman[class][table];
        memset(h, 0, sizeof *h);
        memcpy(h->symbol, data + 17, (size_t)n_symbols);
        build_huffman(h, data + 1);
        h->defined = 1;
        data += 17 + n_symbols;
        n -= 17 + n_symbols;
    }
    return n == 0 ? 0 : fail(err, SMOL_E_FORMAT, "JPEG: a Huffman table of an impossible length");
}

// Frames of Motion JPEG leave out the tables when they are those that T.81 proposes (K.3): 0 for brightness, 1 for
// colour. DC has the symbols 0 to 11; AC some frequent ones, then all others of size 1 to 10; both in ascending order.
static void add_standard_tables(Jpeg *j) {
    static const uint8_t counts[2][2][16] = {
        {{0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0}, {0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0}},
        {{0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125}, {0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119}}};
    static const uint8_t n_frequent[2] = {37, 43}, frequent[2][43] = {
        {0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61,
         0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52,
         0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72, 0x82},
        {0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61,
         0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33,
         0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1}};
    for (int i = 0; i < 4; i++) {
        int ac = i / 2, table = i % 2, n = ac ? n_frequent[table] : 0;
        Huffman *h = &j->huffman[ac][table];
        if (h->defined) continue;
        memcpy(h->symbol, frequent[table], (size_t)n);
        for (int symbol = 0; symbol < (ac ? 256 : 12); symbol++) {
            int size = symbol % 16, exists = !ac || (size >= 1 && size <= 10);
            if (exists && !memchr(h->symbol, symbol, (size_t)n)) h->symbol[n++] = (uint8_t)symbol;
        }
        build_huffman(h, counts[ac][table]);
        h->defined = 1;
    }
}

// ---- bits (T.81, F.2.2.5) ----

// Fills up to more than 56 bits: bytes up to a marker, with the zero after each 0xff left out, then zeros.
static void fill_bits(Jpeg *j) {
    while (j->n_bits <= 56) {
        unsigned byte = 0;
        if (j->marker || j->ended) {
            j->n_fake += 8;
        } else if (j->at == j->n) {
            j->ended = 1;
            continue;
        } else if ((byte = j->bytes[j->at++]) == 0xff) {
            while (j->at < j->n && j->bytes[j->at] == 0xff) j->at++;
            if (j->at == j->n) {
                j->ended = 1;
                continue;
            }
            if (j->bytes[j->at++] != 0) {
                j->marker = j->bytes[j->at - 1];
                continue;
            }
        }
        j->bits = j->bits << 8 | byte;
        j->n_bits += 8;
    }
}

static inline void need_bits(Jpeg *j, int n) {
    if (j->n_bits < n) fill_bits(j);
}

// 0 <= n <= 16; need_bits came before.
static inline int take_bits(Jpeg *j, int n) {
    j->n_bits -= n;
    return (int)(j->bits >> j->n_bits & ((1u << n) - 1));
}

static inline int take_bit(Jpeg *j) {
    need_bits(j, 1);
    return take_bits(j, 1);
}

// A coefficient of n bits: those that begin with 0 are negative (T.81, F.2.2.1).
static inline int take_value(Jpeg *j, int n) {
    int v = take_bits(j, n);
    return n && v < 1 << (n - 1) ? v - (1 << n) + 1 : v;
}

// The next symbol; bits that are no code count as 0, as in libjpeg. Leaves 15 bits for the value that follows.
static inline int take_symbol(Jpeg *j, const Huffman *h) {
    need_bits(j, 32);
    unsigned entry = h->fast[j->bits >> (j->n_bits - FAST_BITS) & ((1 << FAST_BITS) - 1)];
    if (entry) {
        j->n_bits -= (int)(entry >> 8);
        return (int)(entry & 255);
    }
    int code = take_bits(j, FAST_BITS), len = FAST_BITS;
    do {
        code = code << 1 | take_bits(j, 1);
        len++;
    } while (len <= MAX_LENGTH && code >= h->limit[len]);
    return len > MAX_LENGTH ? 0 : h->symbol[(code + h->offset[len]) & 255];
}

// ---- blocks: sequential (T.81, F.2.2) and progressive (G.1.2) ----

// Keeps to 32 bits whatever damaged differences add up to.
static int next_dc(Jpeg *j, Component *c) {
    int n = take_symbol(j, &j->huffman[0][c->dc_table]);
    c->dc = (int)((unsigned)c->dc + (unsigned)take_value(j, n));
    return c->dc;
}

// block: (64), zero before. Returns the highest zigzag position that was set.
static int decode_block(Jpeg *j, Component *c, int16_t *block) {
    const Huffman *ac = &j->huffman[1][c->ac_table];
    int last = 0;
    block[0] = (int16_t)next_dc(j, c);
    for (int k = 1; k < 64; k++) {
        int symbol = take_symbol(j, ac), run = symbol >> 4, n = symbol & 15;
        if (n == 0 && run < 15) break;
        k += run;
        if (n == 0) continue;
        block[zigzag[k]] = (int16_t)take_value(j, n);
        last = k;
    }
    return last;
}

static void decode_dc_first(Jpeg *j, Component *c, int16_t *block) {
    block[0] = (int16_t)((unsigned)next_dc(j, c) << j->low);
}

static void decode_dc_refine(Jpeg *j, int16_t *block) {
    if (take_bit(j)) block[0] = (int16_t)(block[0] | 1 << j->low);
}

// The symbol run * 16 for run < 15: this block and 2^run - 1 + (run more bits) others have nothing further.
static int take_eob_run(Jpeg *j, int run) {
    need_bits(j, 16);
    return (1 << run) + take_bits(j, run);
}

static void decode_ac_first(Jpeg *j, Component *c, int16_t *block) {
    if (j->eob_run > 0) {
        j->eob_run--;
        return;
    }
    for (int k = j->first; k <= j->last; k++) {
        int symbol = take_symbol(j, &j->huffman[1][c->ac_table]), run = symbol >> 4, n = symbol & 15;
        if (n == 0 && run < 15) {
            j->eob_run = take_eob_run(j, run) - 1;
            return;
        }
        k += run;
        if (n) block[zigzag[k]] = (int16_t)((unsigned)take_value(j, n) << j->low);
    }
}

// One more bit of a coefficient that is not zero: away from zero by one unit of this scan.
static void refine(Jpeg *j, int16_t *coef) {
    if (take_bit(j) && !(*coef & 1 << j->low)) *coef = (int16_t)(*coef + (*coef > 0 ? 1 : -1) * (1 << j->low));
}

static void decode_ac_refine(Jpeg *j, Component *c, int16_t *block) {
    int k = j->first;
    for (; j->eob_run == 0 && k <= j->last; k++) {
        int symbol = take_symbol(j, &j->huffman[1][c->ac_table]), run = symbol >> 4, value = 0;
        if (symbol & 15) {
            value = take_bits(j, 1) ? 1 << j->low : -(1 << j->low);
        } else if (run < 15) {
            j->eob_run = take_eob_run(j, run);
            break;
        }
        for (; k <= j->last; k++) {  // the run counts zeros only; the others on the way are refined
            int16_t *coef = &block[zigzag[k]];
            if (*coef) refine(j, coef);
            else if (run-- == 0) break;
        }
        if (value) block[zigzag[k]] = (int16_t)value;
    }
    if (j->eob_run == 0) return;
    for (; k <= j->last; k++)
        if (block[zigzag[k]]) refine(j, &block[zigzag[k]]);
    j->eob_run--;
}

// ---- inverse DCT ----

static inline int clamp16(int v) { return v < -32768 ? -32768 : v > 32767 ? 32767 : v; }

static inline uint8_t clamp8(int v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

// The 8-point inverse DCT, times 8^(1/2), of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) for eight columns at once: in and
// y are (8, 8). Cosines are integers of 13 bits, so y comes out times 2^13. All products are of 16 bits by 16 bits and no
// sum passes 32 bits, so that compilers make short vectors of it. The int16_t casts of sums matter for damaged files only:
// libjpeg-turbo's vector code adds these pairs in 16 bits.
static void idct_columns(const int16_t in[64], int32_t y[64]) {
    for (int i = 0; i < 8; i++) {
        const int16_t x1 = in[8 + i], x2 = in[16 + i], x3 = in[24 + i], x5 = in[40 + i], x6 = in[48 + i], x7 = in[56 + i];
        // Even part: x0 and x4 are a butterfly; x2 and x6 are turned by 6 pi / 16.
        const int16_t sum = (int16_t)(in[i] + in[32 + i]), difference = (int16_t)(in[i] - in[32 + i]);
        int32_t e2 = x2 * 10703 + x6 * 4433, e6 = x2 * 4433 - x6 * 10704;  // 2^(1/2) cos(2 pi / 16), cos(6 pi / 16)
        int32_t even0 = sum * 8192 + e2, even1 = difference * 8192 + e6;
        int32_t even2 = difference * 8192 - e6, even3 = sum * 8192 - e2;
        // Odd part: one turn that all share, and one for each pair.
        const int16_t a = (int16_t)(x3 + x7), b = (int16_t)(x1 + x5);
        int32_t shared_a = b * 9633 - a * 6436, shared_b = a * 9633 + b * 6437;
        int32_t odd0 = x1 * 4926 - x7 * 7373 + shared_b, odd3 = shared_a - x7 * 4927 - x1 * 7373;
        int32_t odd1 = x3 * 4177 - x5 * 20995 + shared_a, odd2 = shared_b - x5 * 4176 - x3 * 20995;
        y[i] = even0 + odd0, y[56 + i] = even0 - odd0;
        y[8 + i] = even1 + odd1, y[48 + i] = even1 - odd1;
        y[16 + i] = even2 + odd2, y[40 + i] = even2 - odd2;
        y[24 + i] = even3 + odd3, y[32 + i] = even3 - odd3;
    }
}

// Transposes (8, 8): one step writes the second half between the first, which moves the highest bit of a place's number to the
// end; after three of them rows are columns. Compilers have instructions for such a step, not for a transposition.
static void transpose(int16_t x[64]) {
    int16_t y[64];
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 32; i++) y[2 * i] = x[i], y[2 * i + 1] = x[32 + i];
        memcpy(x, y, sizeof y);
    }
}

// block, quant: (8, 8); out: 8 rows, stride bytes apart. Columns first, kept times 4, then rows; 128 is the level
// shift. last is the highest position that is set.
static void idct_block(const int16_t *block, const uint16_t *quant, int last, uint8_t *out, size_t stride) {
    if (last == 0) {  // a flat block: what the passes below come to
        int v = clamp8((((int16_t)((unsigned)(block[0] * quant[0]) * 4) + 16) >> 5) + 128);
        for (int i = 0; i < 8; i++) memset(out + (size_t)i * stride, v, 8);
        return;
    }
    int16_t x[64];
    int32_t y[64];
    int below = 0;
    for (int i = 8; i < 64; i++) below |= block[i];
    for (int i = 0; i < 64; i++) x[i] = (int16_t)(block[i] * quant[i]);
    if (below) {
        idct_columns(x, y);
        for (int i = 0; i < 64; i++) x[i] = (int16_t)clamp16((y[i] + (1 << 10)) >> 11);
    } else {  // only the first row: all columns are flat, and in damaged files they wrap round
        for (int i = 63; i >= 0; i--) x[i] = (int16_t)(x[i % 8] * 4);
    }
    transpose(x);
    idct_columns(x, y);
    for (int i = 0; i < 64; i++) x[i] = (int16_t)((y[i] + (1 << 17)) >> 18);
    transpose(x);
    for (int k = 0; k < 8; k++, out += stride) {
        for (int i = 0; i < 8; i++) out[i] = clamp8(x[8 * k + i] + 128);
    }
}

static void idct_component(Component *c) {
    size_t stride = 8 * (size_t)c->stride;
    for (int y = 0; y < c->blocks_y; y++)
        for (int x = 0; x < c->blocks_x; x++) {
            const int16_t *block = c->coefs + ((size_t)y * (size_t)c->stride + (size_t)x) * 64;
            int ac = 0;
            for (int k = 1; k < 64; k++) ac |= block[k];
            idct_block(block, c->quant, ac != 0, c->plane + 8 * ((size_t)y * stride + (size_t)x), stride);
        }
}

// ---- scans ----

// T.81, B.2.3.
static int read_sos(Jpeg *j, const uint8_t *data, int n, SmolErr *err) {
    Frame *f = &j->frame;
    j->n_scan = n > 0 ? data[0] : 0;
    if (j->n_scan < 1 || j->n_scan > 4 || n != 4 + 2 * j->n_scan)
        return fail(err, SMOL_E_FORMAT, "JPEG: a scan header of %d bytes for %d components", n, j->n_scan);
    int n_blocks = 0;
    for (int i = 0; i < j->n_scan; i++) {
        const uint8_t *p = data + 1 + 2 * i;
        int k = 0;
        while (k < f->n && f->comp[k].id != p[0]) k++;
        if (k == f->n) return fail(err, SMOL_E_FORMAT, "JPEG: a scan of component %d, which does not exist", p[0]);
        Component *c = j->scan[i] = &f->comp[k];
        for (int other = 0; other < i; other++)
            if (j->scan[other] == c) return fail(err, SMOL_E_FORMAT, "JPEG: a scan has component %d twice", p[0]);
        c->dc_table = p[1] >> 4;
        c->ac_table = p[1] & 15;
        c->dc = 0;
        n_blocks += c->h * c->v;
    }
    if (j->n_scan > 1 && n_blocks > 10)
        return fail(err, SMOL_E_FORMAT, "JPEG: %d blocks in an MCU, at most 10", n_blocks);
    const uint8_t *p = data + 1 + 2 * j->n_scan;
    j->first = p[0];
    j->last = p[1];
    j->high = p[2] >> 4;
    j->low = p[2] & 15;
    return 0;
}

// Checks that the scan's tables are there, and takes down the quantisation.
static int start_scan(Jpeg *j, SmolErr *err) {
    int progressive = j->frame.progressive;
    if (!progressive) add_standard_tables(j);
    if (progressive && (j->last > 63 || j->first > j->last || (j->first == 0 && j->last != 0) ||
                        (j->first > 0 && j->n_scan > 1) || (j->high && j->low != j->high - 1) || j->low > 13))
        return fail(err, SMOL_E_FORMAT, "JPEG: a progressive scan of coefficients %d to %d, bits %d to %d", j->first,
                    j->last, j->high, j->low);
    for (int i = 0; i < j->n_scan; i++) {
        Component *c = j->scan[i];
        int needs_dc = !progressive || (j->first == 0 && j->high == 0), needs_ac = !progressive || j->first > 0;
        if ((needs_dc && (c->dc_table > 3 || !j->huffman[0][c->dc_table].defined)) ||
            (needs_ac && (c->ac_table > 3 || !j->huffman[1][c->ac_table].defined)))
            return fail(err, SMOL_E_FORMAT, "JPEG: a scan without its Huffman table");
        if ((needs_dc && !j->huffman[0][c->dc_table].dc_usable) || (needs_ac && !j->huffman[1][c->ac_table].usable))
            return fail(err, SMOL_E_FORMAT, "JPEG: a Huffman table with impossible codes");
        if (c->has_quant) continue;
        if (c->table > 3 || !j->has_quant[c->table])
            return fail(err, SMOL_E_FORMAT, "JPEG: quantisation table %d is missing", c->table);
        memcpy(c->quant, j->quant[c->table], sizeof c->quant);
        c->has_quant = 1;
    }
    j->bits = 0;
    j->n_bits = j->n_fake = j->marker = j->insufficient = j->eob_run = 0;
    return 0;
}

// Goes on behind the restart marker number `expected`. When another marker stands there: one of the two before is
// skipped, one of the two after (or no restart marker at all) stays, so that this interval is left empty.
static void restart(Jpeg *j, int expected) {
    j->bits = 0;
    j->n_bits = j->n_fake = j->eob_run = 0;
    for (int i = 0; i < j->n_scan; i++) j->scan[i]->dc = 0;
    for (;; j->marker = 0) {
        if (j->marker == 0) j->marker = next_marker(j->bytes, j->n, &j->at);
        if (j->marker < 0) {
            j->ended = 1;
            j->marker = 0;
            return;
        }
        int ahead = (j->marker - RST0 - expected) & 7;
        if (j->marker < SOF0 || (is_rst(j->marker) && ahead >= 6)) continue;
        if (!is_rst(j->marker) || ahead == 1 || ahead == 2) return;
        j->marker = j->insufficient = 0;
        return;
    }
}

// True when a segment that ended too soon was the last of its scan: no restart will find another.
static int stays_empty(const Jpeg *j) {
    return j->restart_interval == 0 || (j->marker >= SOF0 && !is_rst(j->marker));
}

// The block of component c at column x, row y.
static void decode_at(Jpeg *j, Component *c, int x, int y) {
    size_t at = (size_t)y * (size_t)c->stride + (size_t)x, stride = 8 * (size_t)c->stride;
    if (!j->frame.progressive) {
        int16_t block[64] = {0};
        int last = decode_block(j, c, block);
        idct_block(block, c->quant, last, c->plane + 8 * ((size_t)y * stride + (size_t)x), stride);
        return;
    }
    int16_t *block = c->coefs + at * 64;
    if (j->first == 0 && j->high == 0) decode_dc_first(j, c, block);
    else if (j->first == 0) decode_dc_refine(j, block);
    else if (j->high == 0) decode_ac_first(j, c, block);
    else decode_ac_refine(j, c, block);
}

// A scan of one component has its blocks row by row; one of several has MCUs of h x v blocks each (T.81, A.2).
static void decode_mcu(Jpeg *j, int mcu_x, int mcu_y) {
    if (j->n_scan == 1) {
        decode_at(j, j->scan[0], mcu_x, mcu_y);
        return;
    }
    for (int i = 0; i < j->n_scan; i++) {
        Component *c = j->scan[i];
        for (int y = 0; y < c->v; y++)
            for (int x = 0; x < c->h; x++) decode_at(j, c, mcu_x * c->h + x, mcu_y * c->v + y);
    }
}

static int decode_scan(Jpeg *j, SmolErr *err) {
    int single = j->n_scan == 1;
    int mcus_x = single ? j->scan[0]->blocks_x : j->frame.mcus_x;
    int mcus_y = single ? j->scan[0]->blocks_y : j->frame.mcus_y;
    int to_go = j->restart_interval, n_restarts = 0;
    for (int y = 0; y < mcus_y; y++)
        for (int x = 0; x < mcus_x; x++) {
            if (j->restart_interval && to_go-- == 0) {
                restart(j, n_restarts++ & 7);
                to_go = j->restart_interval - 1;
            }
            if (!j->insufficient) decode_mcu(j, x, y);
            if (j->ended) return fail(err, SMOL_E_FORMAT, "JPEG: the file ends within MCU row %d of %d", y + 1, mcus_y);
            if (j->n_bits < j->n_fake) j->insufficient = 1;
            if (j->insufficient && stays_empty(j)) return 0;
        }
    return 0;
}

// ---- markers ----

// JFIF's and Adobe's marker decide what the components mean.
static void read_app(Jpeg *j, int marker, const uint8_t *data, int n) {
    if (marker == APP0 && n >= 14 && memcmp(data, "JFIF", 5) == 0) j->jfif = 1;
    if (marker == APP14 && n >= 12 && memcmp(data, "Adobe", 5) == 0) {
        j->adobe = 1;
        j->transform = data[11];
    }
}

enum { BROKEN_OFF = 1 };  // of read_marker: the file ends within the segment, and that may be

static int read_marker(Jpeg *j, int marker, int may_break_off, SmolErr *err) {
    const uint8_t *data = NULL;
    int n = 0;
    if (is_rst(marker)) return 0;
    if (marker < SOF0 || marker == 0xc8 || marker == 0xde || marker == 0xdf || (marker >= 0xf0 && marker != COM))
        return fail(err, SMOL_E_FORMAT, "JPEG: marker %d before byte %z is unknown", marker, j->at);
    if (marker == SOI) return fail(err, SMOL_E_FORMAT, "JPEG: a second picture begins within the first");
    if (is_sof(marker) && j->n_frames++) return fail(err, SMOL_E_FORMAT, "JPEG: a second frame header");
    if (read_segment(j->bytes, j->n, &j->at, &data, &n, err) != 0) return may_break_off ? BROKEN_OFF : err->code;
    if (marker == DQT) return read_dqt(j, data, n, err);
    if (marker == DHT) return read_dht(j, data, n, err);
    if (marker == SOS) return read_sos(j, data, n, err);
    if (marker == DRI && n != 2) return fail(err, SMOL_E_FORMAT, "JPEG: the restart interval has %d bytes", n);
    if (marker == DRI) j->restart_interval = get_u16be(data);
    read_app(j, marker, data, n);
    return 0;
}

// All scans into planes; find_frame saw that the frame header and a scan are there. When the first scan holds all there is, the file may break off behind it; what follows must
// still be markers, and no other scan.
static int decode_scans(Jpeg *j, SmolErr *err) {
    for (int n_scans = 0, complete = 0;;) {
        int marker = j->marker ? j->marker : next_marker(j->bytes, j->n, &j->at);
        j->marker = 0;
        if (marker == EOI) break;
        int code = marker < 0 ? fail(err, SMOL_E_FORMAT, "JPEG: the file ends early, after %d scans", n_scans)
                              : read_marker(j, marker, complete, err);
        if (code == BROKEN_OFF || (complete && marker < 0)) break;
        if (code != 0) return code;
        if (marker != SOS) continue;
        if (complete) return fail(err, SMOL_E_FORMAT, "JPEG: a scan comes after the last one");
        if (n_scans == MAX_SCANS) return fail(err, SMOL_E_LIMIT, "JPEG: more than %d scans", MAX_SCANS);
        if (start_scan(j, err) != 0 || decode_scan(j, err) != 0) return err->code;
        complete = n_scans++ == 0 && !j->frame.progressive && j->n_scan == j->frame.n;
    }
    for (int i = 0; i < j->frame.n && j->frame.progressive; i++) idct_component(&j->frame.comp[i]);
    return 0;
}

// ---- upsampling ----

enum { STRIP = 64 };  // samples of a row that are treated together

// Doubles a row of n > 2: each new sample is 3/4 of the nearer old one and 1/4 of the next. Of two new samples one is
// rounded down at a half and one up, so that the picture does not drift.
static void double_row(const uint8_t *in, int n, uint8_t *out) {
    out[0] = in[0];
    out[1] = (uint8_t)((3 * in[0] + in[1] + 2) >> 2);
    for (int i = 1; i < n - 1; i++) {
        out[2 * i] = (uint8_t)((3 * in[i] + in[i - 1] + 1) >> 2);
        out[2 * i + 1] = (uint8_t)((3 * in[i] + in[i + 1] + 2) >> 2);
    }
    out[2 * n - 2] = (uint8_t)((3 * in[n - 1] + in[n - 2] + 1) >> 2);
    out[2 * n - 1] = in[n - 1];
}

static inline uint16_t near_far(const uint8_t *near, const uint8_t *far, int i) { return (uint16_t)(3 * near[i] + far[i]); }

// The same in both directions: weights 9, 3, 3, 1 of 16. Beyond its ends a row goes on with its last sample.
static void double_rows(const uint8_t *near, const uint8_t *far, int n, uint8_t *out) {
    for (int x = 0; x < n; x += STRIP, out += 2 * STRIP) {
        uint16_t sum[STRIP + 2];  // of column x - 1 on
        int m = n - x < STRIP ? n - x : STRIP;
        for (int i = 0; i < m; i++) sum[i + 1] = near_far(near, far, x + i);
        sum[0] = x ? near_far(near, far, x - 1) : sum[1];
        sum[m + 1] = x + m < n ? near_far(near, far, x + m) : sum[m];
        for (int i = 0; i < m; i++) {
            out[2 * i] = (uint8_t)((3 * sum[i + 1] + sum[i] + 8) >> 4);
            out[2 * i + 1] = (uint8_t)((3 * sum[i + 1] + sum[i + 2] + 7) >> 4);
        }
    }
}

// Row y of the picture from component c: in its plane, or made in buffer (frame width + 4).
static const uint8_t *upsampled_row(const Frame *f, const Component *c, int y, uint8_t *buffer) {
    int across = f->max_h / c->h, down = f->max_v / c->v, row = y / down;
    size_t stride = 8 * (size_t)c->stride;
    const uint8_t *near = c->plane + (size_t)row * stride, *far = near;
    if (down == 2 && y % 2 == 0 && row > 0) far = near - stride;
    if (down == 2 && y % 2 == 1 && row < c->height - 1) far = near + stride;
    if (across == 1 && down == 2) {
        int round = y % 2 == 0 ? 1 : 2;
        for (int i = 0; i < c->width; i++) buffer[i] = (uint8_t)((near_far(near, far, i) + round) >> 2);
    } else if (across == 1) {
        return near;
    } else if (across == 2 && down == 1 && c->width > 2) {
        double_row(near, c->width, buffer);
    } else if (across == 2 && down == 2 && c->width > 2) {
        double_rows(near, far, c->width, buffer);
    } else {
        for (int i = 0; i < c->width; i++) memset(buffer + i * across, near[i], (size_t)across);
    }
    return buffer;
}

// ---- colour ----

// n <= STRIP samples. Factors times 2^16, shifts round down also below zero; whole numbers are split off, so that a factor
// has 16 bits.
static void ycc_strip(const uint8_t *restrict y, const uint8_t *restrict cb, const uint8_t *restrict cr, int n,
                      uint8_t rgb[restrict 3][STRIP]) {
    for (int i = 0; i < n; i++) {
        const int16_t b = (int16_t)(cb[i] - 128), r = (int16_t)(cr[i] - 128);
        int16_t red = (int16_t)(y[i] + r + ((26345 * r + 32768) >> 16));                 // 1.402
        int16_t green = (int16_t)(y[i] - r + ((18734 * r - 22554 * b + 32768) >> 16));   // 0.344136, 0.714136
        int16_t blue = (int16_t)(y[i] + 2 * b + ((-14942 * b + 32768) >> 16));           // 1.772
        rgb[0][i] = clamp8(red);
        rgb[1][i] = clamp8(green);
        rgb[2][i] = clamp8(blue);
    }
}

// YCbCr of JFIF (ITU-R BT.601, full range).
static void ycc_to_rgb(const uint8_t *const in[3], int n, uint8_t *rgb) {
    uint8_t strip[3][STRIP];
    for (int x = 0; x < n; x += STRIP) {
        int m = n - x < STRIP ? n - x : STRIP;
        ycc_strip(in[0] + x, in[1] + x, in[2] + x, m, strip);
        for (int i = 0; i < m; i++, rgb += 3) {
            for (int k = 0; k < 3; k++) rgb[k] = strip[k][i];
        }
    }
}

// Adobe stores inks inverted, 255 for none: each colour c is k - (255 - c) k / 255, rounded as Pillow does. ycck: the
// inks, inverted once more, were turned to YCbCr as if they were red, green and blue.
static void cmyk_to_rgb(const uint8_t *const in[4], int ycck, int n, uint8_t *rgb) {
    if (ycck) ycc_to_rgb(in, n, rgb);
    for (int i = 0; i < n; i++, rgb += 3) {
        int k = in[3][i];
        for (int channel = 0; channel < 3; channel++) {
            int ink = ycck ? rgb[channel] : 255 - in[channel][i], product = ink * k + 128;
            rgb[channel] = (uint8_t)(k - ((product + (product >> 8)) >> 8));
        }
    }
}

// What the components mean; the markers decide, then their names.
static int is_ycc(const Jpeg *j) {
    const Component *c = j->frame.comp;
    if (j->frame.n == 4) return j->adobe && j->transform != 0;
    if (j->jfif) return 1;
    if (j->adobe) return j->transform != 0;
    return !(c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B');
}

static void convert_row(const Jpeg *j, const uint8_t *const in[4], uint8_t *rgb) {
    int n = j->frame.width, ycc = is_ycc(j);
    if (j->frame.n == 4) {
        cmyk_to_rgb(in, ycc, n, rgb);
    } else if (j->frame.n == 3 && ycc) {
        ycc_to_rgb(in, n, rgb);
    } else {
        for (int i = 0; i < n; i++)
            for (int k = 0; k < 3; k++)  // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a frame has a component
                rgb[3 * i + k] = in[j->frame.n == 3 ? k : 0][i];
    }
}

// ---- pictures ----

static uint64_t plane_bytes(const Component *c) { return (uint64_t)c->stride * (uint64_t)c->rows * 64; }

int jpeg_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err) {
    Frame f;
    if (find_frame(&f, bytes, n, err) != 0) return err->code;
    *width = f.orientation >= 5 ? f.height : f.width;
    *height = f.orientation >= 5 ? f.width : f.height;
    return 0;
}

size_t jpeg_bytes(const uint8_t *bytes, size_t n) {
    Frame f;
    SmolErr err;
    if (find_frame(&f, bytes, n, &err) != 0) return 0;
    uint64_t need = sizeof(Jpeg) + 63 + (f.orientation > 1 ? 3 * (uint64_t)f.width + 63 : 0);
    for (int i = 0; i < f.n; i++)  // planes, coefficients of two bytes, rows; each is rounded up to 64
        need += plane_bytes(&f.comp[i]) * (f.progressive ? 3 : 1) + (uint64_t)f.width + 4 + 63;
    return need > SIZE_MAX ? SIZE_MAX : (size_t)need;
}

// Carves all memory: the decoder, for each component its plane, grey at first, and coefficients, zero at first.
static Jpeg *start(const uint8_t *bytes, size_t n, SmolArena *scratch, uint8_t *rows[4], SmolErr *err) {
    Jpeg *j = arena_take(scratch, sizeof *j, "JPEG decoder", err);
    if (!j) return NULL;
    memset(j, 0, sizeof *j);
    j->bytes = bytes;
    j->n = n;
    j->at = 2;
    if (find_frame(&j->frame, bytes, n, err) != 0) return NULL;
    for (int i = 0; i < j->frame.n; i++) {
        Component *c = &j->frame.comp[i];
        uint64_t size = plane_bytes(c);
        if (size > SIZE_MAX / 2) {
            fail(err, SMOL_E_MEMORY, "JPEG: the picture is more than this machine can address");
            return NULL;
        }
        c->plane = arena_take(scratch, (size_t)size, "JPEG plane", err);
        rows[i] = arena_take(scratch, (size_t)j->frame.width + 4, "JPEG row", err);
        if (!c->plane || !rows[i]) return NULL;
        memset(c->plane, 128, (size_t)size);
        if (!j->frame.progressive) continue;
        c->coefs = arena_take(scratch, 2 * (size_t)size, "JPEG coefficients", err);
        if (!c->coefs) return NULL;
        memset(c->coefs, 0, 2 * (size_t)size);
    }
    return j;
}

int jpeg_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err) {
    uint8_t *rows[4];
    Jpeg *j = start(bytes, n, scratch, rows, err);
    if (!j) return err->code;
    size_t n_row = (size_t)j->frame.width * 3;
    int is_turned = j->frame.orientation > 1;
    Turn turn = turn_of(j->frame.orientation, j->frame.width, j->frame.height);
    uint8_t *row = is_turned ? arena_take(scratch, n_row, "JPEG row", err) : rgb;
    if (!row || decode_scans(j, err) != 0) return err->code;
    for (int y = 0; y < j->frame.height; y++) {
        const uint8_t *in[4];
        for (int i = 0; i < j->frame.n; i++)  // NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage): start set as many
            in[i] = upsampled_row(&j->frame, &j->frame.comp[i], y, rows[i]);
        uint8_t *to = rgb + turn.first + y * turn.down;
        convert_row(j, in, is_turned ? row : to);
        for (int x = 0; x < j->frame.width && is_turned; x++) memcpy(to + x * turn.right, row + 3 * x, 3);
    }
    return 0;
}
