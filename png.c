// png.c: PNG to 8-bit RGB (PNG specification, third edition; zlib and deflate are RFC 1950 and 1951).
//
// Every colour type, depth, filter and Adam7 interlacing. The pixels equal Pillow 12.1's convert("RGB"), also where
// that is surprising: 16-bit grey saturates at 255 instead of being scaled, alpha and tRNS are dropped, colours past
// the end of the palette are black, and a zlib stream that ends early at the end of a row leaves the rest zero. As in
// Pillow the checksums of all chunks before the pixels count, those of the pixel chunks do not (Adler-32 covers
// them). The orientation of an eXIf chunk, or else of XMP, turns the picture (exif.c). Ignored: everything about colour
// and time, that is gamma, profiles and the later frames of an animation.

#include "internal.h"

#include <string.h>

// ---- Huffman codes of deflate (RFC 1951, 3.2.2) ----

enum {
    FAST_BITS = 10,      // codes up to this long take one look-up
    MAX_LENGTH = 15,     // bits of the longest code
    MAX_SYMBOLS = 288,   // of the literal/length alphabet
    HISTORY = 32768,     // how far back a match may reach
    WINDOW = 2 * HISTORY,
    MAX_MATCH = 258,
};

typedef struct {
    uint16_t fast[1 << FAST_BITS];  // by the next bits of the stream: symbol << 4 | length, 0 for a longer code
    uint16_t count[MAX_LENGTH + 1];  // number of codes of each length
    uint16_t symbol[MAX_SYMBOLS];    // all symbols, in the order of their codes
} Huffman;

static unsigned reverse_bits(unsigned code, int n) {
    unsigned r = 0;
    for (; n > 0; n--, code >>= 1) r = r << 1 | (code & 1);
    return r;
}

// Codes of one length are consecutive numbers, and start where those of the length before ended, doubled. Returns the
// share of the code space that is left over, in units of 2^-15; negative when the lengths claim too much.
static int huffman_build(Huffman *h, const uint8_t *lengths, int n) {
    memset(h, 0, sizeof *h);
    for (int i = 0; i < n; i++) h->count[lengths[i]]++;
    h->count[0] = 0;
    uint16_t offset[MAX_LENGTH + 2] = {0};
    unsigned next[MAX_LENGTH + 2] = {0};
    int left = 1 << MAX_LENGTH;
    for (int len = 1; len <= MAX_LENGTH; len++) {
        offset[len + 1] = (uint16_t)(offset[len] + h->count[len]);
        next[len + 1] = (next[len] + h->count[len]) << 1;
        left -= h->count[len] << (MAX_LENGTH - len);
    }
    if (left < 0) return left;
    for (int i = 0; i < n; i++) {
        int len = lengths[i];
        if (len == 0) continue;
        h->symbol[offset[len]++] = (uint16_t)i;
        unsigned code = reverse_bits(next[len]++, len);  // the stream brings a code's highest bit first
        for (; len <= FAST_BITS && code < 1u << FAST_BITS; code += 1u << len) h->fast[code] = (uint16_t)(i << 4 | len);
    }
    return left;
}

// ---- the stream of bits: the contents of the IDAT chunks, one after another ----

enum { HEADER, BLOCK, STORED, CODED, ENDED, SHORT, BROKEN };  // what comes next; the last three are final

typedef struct {
    const uint8_t *in, *chunk_end, *file_end;
    uint64_t bits;  // the next bit is the lowest
    int n_bits;     // negative: more bits were taken than there were
    int state, last_block;
    const char *error;       // for BROKEN: what is wrong
    unsigned stored;         // bytes left of a stored block
    size_t n_out, n_read;    // bytes of the window that are decoded, and handed out
    uint32_t adler_a, adler_b;
    Huffman literals, distances;
    uint8_t window[WINDOW];  // slides: holds at least the last HISTORY bytes
} Inflate;

static uint32_t get_u32be(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// Moves on to the following chunk if that is an IDAT too. A chunk is length, name, data, CRC.
static int next_idat(Inflate *z) {
    while (z->in == z->chunk_end) {
        if ((size_t)(z->file_end - z->in) < 12 || memcmp(z->in + 8, "IDAT", 4) != 0) return 0;
        size_t length = get_u32be(z->in + 4), left = (size_t)(z->file_end - z->in) - 12;
        z->in += 12;
        z->chunk_end = z->in + (length < left ? length : left);
    }
    return 1;
}

// Leaves at least 56 bits unless the data end. Eight bytes at once may set bits above n_bits; the same bits come again.
static void refill(Inflate *z) {
    if (z->chunk_end - z->in >= 8) {
        z->bits |= get_u64(z->in) << z->n_bits;
        z->in += (63 - z->n_bits) >> 3;
        z->n_bits |= 56;
        return;
    }
    for (; z->n_bits < 56 && next_idat(z); z->n_bits += 8) z->bits |= (uint64_t)*z->in++ << z->n_bits;
}

static unsigned take_bits(Inflate *z, int n) {
    unsigned v = (unsigned)(z->bits & ((1u << n) - 1));
    z->bits >>= n;
    z->n_bits -= n;
    return v;
}

static int broken(Inflate *z, const char *error) {
    z->state = BROKEN;
    z->error = error;
    return 0;
}

// True when the data ended within what was just taken.
static int ran_out(Inflate *z) {
    if (z->n_bits < 0) z->state = SHORT;
    return z->n_bits < 0;
}

// The next symbol, or -1 for bits that are no code. The caller asks ran_out first.
static inline int take_symbol(Inflate *z, const Huffman *h) {
    unsigned entry = h->fast[z->bits & ((1 << FAST_BITS) - 1)];
    if (entry) {
        take_bits(z, (int)(entry & 15));
        return (int)(entry >> 4);
    }
    unsigned code = 0, first = 0, index = 0;  // the first code of this length, and its place among the symbols
    for (int len = 1; len <= MAX_LENGTH; len++) {
        code = code << 1 | (unsigned)(z->bits >> (len - 1) & 1);
        if (code - first < h->count[len]) {
            take_bits(z, len);
            return h->symbol[index + code - first];
        }
        index += h->count[len];
        first = (first + h->count[len]) << 1;
    }
    take_bits(z, MAX_LENGTH);
    return -1;
}

// ---- deflate blocks (RFC 1951, 3.2.3 to 3.2.7) ----

static int start_stored(Inflate *z) {
    take_bits(z, z->n_bits & 7);  // to a byte boundary
    unsigned length = take_bits(z, 16), complement = take_bits(z, 16);
    if (ran_out(z)) return 0;
    if (length != (complement ^ 0xffff)) return broken(z, "the length of a stored block does not match its check");
    z->stored = length;
    z->state = STORED;
    return 1;
}

static int start_fixed(Inflate *z) {
    uint8_t lengths[MAX_SYMBOLS];
    memset(lengths, 8, 144);
    memset(lengths + 144, 9, 112);
    memset(lengths + 256, 7, 24);
    memset(lengths + 280, 8, 8);
    huffman_build(&z->literals, lengths, MAX_SYMBOLS);
    memset(lengths, 5, 32);
    huffman_build(&z->distances, lengths, 32);
    z->state = CODED;
    return 1;
}

// The code lengths of both alphabets, run-length coded with a Huffman code of their own, which sits in z->literals.
static int read_lengths(Inflate *z, uint8_t *lengths, int n) {
    for (int i = 0; i < n;) {
        refill(z);
        int symbol = take_symbol(z, &z->literals), repeat = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol == 16) {
            if (i == 0) return broken(z, "the first code length repeats another");
            value = lengths[i - 1];
            repeat = 3 + (int)take_bits(z, 2);
        } else if (symbol > 16) {
            value = 0;
            repeat = symbol == 17 ? 3 + (int)take_bits(z, 3) : 11 + (int)take_bits(z, 7);
        }
        if (ran_out(z)) return 0;
        if (repeat > n - i) return broken(z, "too many code lengths");
        memset(lengths + i, value, (size_t)repeat);
        i += repeat;
    }
    return 1;
}

// As in zlib a code must fill its space, except that one with a single code of one bit (or none at all) need not.
static int build_complete(Huffman *h, const uint8_t *lengths, int n) {
    int left = huffman_build(h, lengths, n);
    return left == 0 || left == 1 << MAX_LENGTH || (left == 1 << (MAX_LENGTH - 1) && h->count[1] == 1);
}

static int start_dynamic(Inflate *z) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[286 + 30] = {0};
    int n_literals = 257 + (int)take_bits(z, 5), n_distances = 1 + (int)take_bits(z, 5), n = 4 + (int)take_bits(z, 4);
    for (int i = 0; i < n; i++) {
        refill(z);
        lengths[order[i]] = (uint8_t)take_bits(z, 3);
    }
    if (ran_out(z)) return 0;
    if (n_literals > 286 || n_distances > 30) return broken(z, "too many symbols");
    if (huffman_build(&z->literals, lengths, 19) != 0) return broken(z, "the code of the code lengths is not complete");
    if (!read_lengths(z, lengths, n_literals + n_distances)) return 0;
    if (lengths[256] == 0) return broken(z, "a block has no code for its end");
    if (!build_complete(&z->literals, lengths, n_literals)) return broken(z, "the literal code is not complete");
    if (!build_complete(&z->distances, lengths + n_literals, n_distances))
        return broken(z, "the distance code is not complete");
    z->state = CODED;
    return 1;
}

static int start_block(Inflate *z) {
    refill(z);
    z->last_block = (int)take_bits(z, 1);
    unsigned type = take_bits(z, 2);
    if (ran_out(z)) return 0;
    return type == 0   ? start_stored(z)
           : type == 1 ? start_fixed(z)
           : type == 2 ? start_dynamic(z)
                       : broken(z, "a block of no known type");
}

static void copy_stored(Inflate *z) {
    for (; z->stored && z->n_out < WINDOW && z->n_bits > 0; z->stored--)
        z->window[z->n_out++] = (uint8_t)take_bits(z, 8);
    if (z->n_bits == 0) z->bits = 0;  // what refill set above n_bits is read from the chunk now
    while (z->stored && z->n_out < WINDOW) {
        if (!next_idat(z)) {
            z->state = SHORT;
            return;
        }
        size_t n = (size_t)(z->chunk_end - z->in), room = WINDOW - z->n_out;
        if (n > room) n = room;
        if (n > z->stored) n = z->stored;
        memcpy(z->window + z->n_out, z->in, n);
        z->in += n;
        z->n_out += n;
        z->stored -= (unsigned)n;
    }
    if (z->stored == 0) z->state = BLOCK;
}

// Copies a match of symbol 257 .. 285: extra bits of the length, then a distance and its extra bits.
static int copy_match(Inflate *z, int symbol) {
    static const uint8_t length_bits[31] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2,
                                            3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0, 0, 0};
    static const uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                             31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    if (symbol > 285) return broken(z, "a length has no meaning");
    size_t length = length_base[symbol - 257] + take_bits(z, length_bits[symbol - 257]);
    int code = take_symbol(z, &z->distances);
    if (ran_out(z)) return 0;
    if (code < 0 || code > 29) return broken(z, "a distance has no code");
    // Distances 1 2 3 4, then two codes for every power of two: (2 + lowest bit of the code) << extra bits, plus 1.
    int extra = code < 4 ? 0 : (code >> 1) - 1;
    size_t distance = (code < 4 ? (unsigned)code : (2u + (code & 1)) << extra) + take_bits(z, extra) + 1;
    if (ran_out(z)) return 0;
    if (distance > z->n_out) return broken(z, "a match begins before the data");
    uint8_t *to = z->window + z->n_out;
    const uint8_t *from = to - distance;
    z->n_out += length;
    if (distance >= length) memcpy(to, from, length);
    else while (length--) *to++ = *from++;  // overlapping on purpose: repeats the last bytes
    return 1;
}

// Decodes symbols while the longest match has room.
static void inflate_coded(Inflate *z) {
    while (z->n_out <= WINDOW - MAX_MATCH) {
        refill(z);  // 56 bits are enough for all of a match: 15 + 5 + 15 + 13
        int symbol = take_symbol(z, &z->literals);
        if (ran_out(z)) return;
        if (symbol < 0) {
            broken(z, "a literal has no code");
            return;
        }
        if (symbol < 256) {
            z->window[z->n_out++] = (uint8_t)symbol;
        } else if (symbol == 256) {
            z->state = BLOCK;
            return;
        } else if (!copy_match(z, symbol)) {
            return;
        }
    }
}

// ---- the zlib wrapper (RFC 1950) ----

static void start_stream(Inflate *z) {
    refill(z);
    unsigned cmf = take_bits(z, 8), flags = take_bits(z, 8);
    if (ran_out(z)) return;
    if ((cmf << 8 | flags) % 31 != 0 || (cmf & 15) != 8 || cmf >> 4 > 7) broken(z, "not a zlib stream");
    else if (flags & 32) broken(z, "the zlib stream needs a preset dictionary");
    else z->state = BLOCK;
}

static void end_stream(Inflate *z) {
    refill(z);
    take_bits(z, z->n_bits & 7);
    uint32_t sum = 0;
    for (int i = 0; i < 4; i++) sum = sum << 8 | take_bits(z, 8);
    if (ran_out(z)) return;
    if (sum != (z->adler_b << 16 | z->adler_a)) broken(z, "the Adler-32 checksum does not match");
    else z->state = ENDED;
}

static void add_adler(Inflate *z, const uint8_t *p, size_t n) {
    while (n) {
        size_t k = n < 5552 ? n : 5552;  // the most bytes before b passes 2^32, from a = b = 65520
        n -= k;
        for (; k; k--) {
            z->adler_a += *p++;
            z->adler_b += z->adler_a;
        }
        z->adler_a %= 65521;
        z->adler_b %= 65521;
    }
}

// Decodes some bytes, or to a final state.
static void inflate_more(Inflate *z) {
    if (z->n_out > WINDOW - MAX_MATCH) {
        memmove(z->window, z->window + z->n_out - HISTORY, HISTORY);
        z->n_out = z->n_read = HISTORY;
    }
    size_t start = z->n_out;
    if (z->state == HEADER) start_stream(z);
    else if (z->state == BLOCK && z->last_block) end_stream(z);
    else if (z->state == BLOCK) start_block(z);
    else if (z->state == STORED) copy_stored(z);
    else if (z->state == CODED) inflate_coded(z);
    add_adler(z, z->window + start, z->n_out - start);
}

// True when out has its n bytes; if not, z->state says why, and *n_got how far it came.
static int inflate_read(Inflate *z, uint8_t *out, size_t n, size_t *n_got) {
    for (*n_got = 0; *n_got < n;) {
        size_t k = z->n_out - z->n_read;
        if (k == 0 && z->state >= ENDED) return 0;
        if (k == 0) inflate_more(z);
        if (k > n - *n_got) k = n - *n_got;
        memcpy(out + *n_got, z->window + z->n_read, k);
        z->n_read += k;
        *n_got += k;
    }
    return 1;
}

// ---- chunks (PNG, 5 and 11) ----

enum { GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGBA = 6 };

typedef struct {
    uint32_t width, height;  // at least 1, and no more than 2^28 pixels
    int depth, colour, interlaced;
    int bits;  // per pixel
    int exif, xmp, orientation;  // what either says, or 0; what holds
    Turn turn;
    const uint8_t *palette;  // (n_palette, 3)
    size_t n_palette;
    size_t idat;  // where the first IDAT chunk begins
} Png;

static uint32_t crc32(const uint8_t *p, size_t n) {
    static const uint32_t table[16] = {  // of the polynomial 0xedb88320, for four bits at a time
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t crc = 0xffffffff;
    for (; n; n--, p++) {
        crc = crc >> 4 ^ table[(crc ^ *p) & 15];
        crc = crc >> 4 ^ table[(crc ^ *p >> 4) & 15];
    }
    return ~crc;
}

static int read_ihdr(Png *p, const uint8_t *data, size_t n, SmolErr *err) {
    // Depths that a colour type may have, as a set of bits: 1, 2, 4, 8, 16 are bits of their own already.
    static const uint8_t depths[7] = {1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16};
    static const uint8_t channels[7] = {1, 0, 3, 1, 2, 0, 4};
    if (n < 13) return fail(err, SMOL_E_FORMAT, "PNG: IHDR has %z of 13 bytes", n);
    p->width = get_u32be(data);
    p->height = get_u32be(data + 4);
    p->depth = data[8];
    p->colour = data[9];
    p->interlaced = data[12] != 0;
    if (p->width == 0 || p->height == 0)
        return fail(err, SMOL_E_FORMAT, "PNG: a picture of %u x %u pixels is empty", p->width, p->height);
    if ((uint64_t)p->width * p->height > 1u << 28)
        return fail(err, SMOL_E_LIMIT, "PNG: %u x %u pixels are more than 2^28", p->width, p->height);
    if (p->colour > 6 || (p->depth & (p->depth - 1)) != 0 || !(depths[p->colour] & p->depth))
        return fail(err, SMOL_E_FORMAT, "PNG: colour type %d with %d bits does not exist", p->colour, p->depth);
    if (data[11] != 0) return fail(err, SMOL_E_FORMAT, "PNG: filter method %d does not exist", data[11]);
    p->bits = p->depth * channels[p->colour];
    return 0;
}

static int is_name(const uint8_t *p) {
    for (int i = 0; i < 4; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_", p[i]) || p[i] == 0) return 0;
    return 1;
}

// XMP is an iTXt chunk: keyword, 0, compressed (which is not read) or not, method, language, 0, keyword again, 0, text.
// Of several chunks of a kind the last one counts.
static void read_orientation(Png *p, const uint8_t *name, const uint8_t *data, size_t n) {
    static const char keyword[] = "XML:com.adobe.xmp";  // with the zero at its end
    size_t at = sizeof keyword + 2;
    if (memcmp(name, "eXIf", 4) == 0) p->exif = exif_orientation(data, n);
    if (memcmp(name, "iTXt", 4) != 0 || n < at || memcmp(data, keyword, sizeof keyword) != 0) return;
    if (data[sizeof keyword] != 0) return;
    for (int zeros = 0; zeros < 2 && at < n; at++) zeros += data[at] == 0;
    p->xmp = xmp_orientation(data + at, n - at);
}

// The chunks from the first IDAT on, which may turn the picture, too. Like Pillow, refuses a file that breaks off
// within a later one. Not so within IDAT: all rows may be there already.
static int read_tail(Png *p, const uint8_t *bytes, size_t n, size_t at, SmolErr *err) {
    while (n - at >= 8 && is_name(bytes + at + 4) && memcmp(bytes + at + 4, "IEND", 4) != 0) {
        const uint8_t *name = bytes + at + 4;
        size_t length = get_u32be(bytes + at), left = n - at - 8;
        if (length > left && memcmp(name, "IDAT", 4) != 0)
            return fail(err, SMOL_E_FORMAT, "PNG: the file ends within a chunk after the pixels");
        if (length <= left) read_orientation(p, name, name + 4, length);
        if (left < 4 || length > left - 4) return 0;
        at += length + 12;
    }
    return 0;
}

// Reads all chunks but the pixels.
static int read_header(Png *p, const uint8_t *bytes, size_t n, SmolErr *err) {
    memset(p, 0, sizeof *p);
    if (n < 8 || memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) != 0) return fail(err, SMOL_E_FORMAT, "PNG: no PNG signature");
    for (size_t at = 8;;) {
        if (n - at < 8) return fail(err, SMOL_E_FORMAT, "PNG: the file ends before the pixels");
        size_t length = get_u32be(bytes + at);
        const uint8_t *name = bytes + at + 4, *data = name + 4;
        if (!is_name(name)) return fail(err, SMOL_E_FORMAT, "PNG: no chunk begins at byte %z", at);
        char text[5] = {(char)name[0], (char)name[1], (char)name[2], (char)name[3], 0};
        if (memcmp(name, "IDAT", 4) == 0) {
            p->idat = at;
            if (p->width == 0) return fail(err, SMOL_E_FORMAT, "PNG: pixels come before the header");
            if (read_tail(p, bytes, n, at, err) != 0) return err->code;
            p->orientation = p->exif ? p->exif : p->xmp ? p->xmp : 1;
            p->turn = turn_of(p->orientation, (int)p->width, (int)p->height);
            return 0;
        }
        if (memcmp(name, "IEND", 4) == 0) return fail(err, SMOL_E_FORMAT, "PNG: there are no pixels");
        if (n - at < 12 || length > n - at - 12)
            return fail(err, SMOL_E_FORMAT, "PNG: chunk %s needs %z bytes, %z are left", text, length, n - at - 8);
        if (get_u32be(data + length) != crc32(name, length + 4))
            return fail(err, SMOL_E_FORMAT, "PNG: the checksum of chunk %s does not match", text);
        read_orientation(p, name, data, length);
        if (memcmp(name, "IHDR", 4) == 0 && read_ihdr(p, data, length, err) != 0) return err->code;
        if (memcmp(name, "PLTE", 4) == 0 && p->width && p->colour == PALETTE) {
            p->palette = data;
            p->n_palette = length / 3;
            if (p->n_palette > 256) return fail(err, SMOL_E_FORMAT, "PNG: a palette of %z colours", p->n_palette);
        }
        at += length + 12;
    }
}

// ---- rows (PNG, 9.2: filters) ----

static uint8_t paeth(int left, int above, int corner) {
    int p = left + above - corner;
    int to_left = p > left ? p - left : left - p;
    int to_above = p > above ? p - above : above - p;
    int to_corner = p > corner ? p - corner : corner - p;
    if (to_left <= to_above && to_left <= to_corner) return (uint8_t)left;
    return (uint8_t)(to_above <= to_corner ? above : corner);
}

// Adds each byte's prediction from the bytes one pixel (unit bytes) to the left, above, and both.
static int unfilter(int filter, uint8_t *row, const uint8_t *above, size_t n, size_t unit) {
    size_t i = 0, head = n < unit ? n : unit;  // the first pixel has nothing to its left: zeros
    switch (filter) {
    case 0: break;
    case 1:
        for (i = head; i < n; i++) row[i] = (uint8_t)(row[i] + row[i - unit]);
        break;
    case 2:
        for (; i < n; i++) row[i] = (uint8_t)(row[i] + above[i]);
        break;
    case 3:
        for (; i < head; i++) row[i] = (uint8_t)(row[i] + above[i] / 2);
        for (; i < n; i++) row[i] = (uint8_t)(row[i] + (row[i - unit] + above[i]) / 2);
        break;
    case 4:
        for (; i < head; i++) row[i] = (uint8_t)(row[i] + above[i]);  // the prediction is always the byte above
        for (; i < n; i++) row[i] = (uint8_t)(row[i] + paeth(row[i - unit], above[i], above[i - unit]));
        break;
    default: return 0;
    }
    return 1;
}

// colours: (256, 3), what each sample of up to 8 bits that stands alone means: scaled to 255, or from the palette.
static void fill_colours(const Png *p, uint8_t *colours) {
    memset(colours, 0, 256 * 3);
    if (p->colour == PALETTE && p->n_palette) memcpy(colours, p->palette, p->n_palette * 3);
    int max = (1 << p->depth) - 1;
    for (int i = 0; p->colour == GREY && p->depth <= 8 && i <= max; i++)
        // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a depth is at least 1
        memset(colours + 3 * i, i * 255 / max, 3);
}

// Writes a row of n pixels to rgb, step bytes apart, which may be backwards.
static void put_row(const Png *p, const uint8_t *colours, const uint8_t *row, size_t n, uint8_t *rgb, ptrdiff_t step) {
    ptrdiff_t n_pixels = (ptrdiff_t)n;
    if (p->bits <= 8) {
        for (ptrdiff_t i = 0; i < n_pixels; i++) {
            size_t bit = (size_t)i * (size_t)p->depth;  // the leftmost pixel is in the highest bits
            int sample = row[bit / 8] >> (8 - p->depth - (int)(bit % 8)) & ((1 << p->depth) - 1);
            memcpy(rgb + i * step, colours + 3 * sample, 3);
        }
    } else if (p->colour == GREY) {
        for (ptrdiff_t i = 0; i < n_pixels; i++, row += 2) memset(rgb + i * step, row[0] ? 255 : row[1], 3);
    } else {
        size_t unit = (size_t)p->bits / 8, next = p->colour == GREY_ALPHA ? 0 : (size_t)p->depth / 8;
        for (ptrdiff_t i = 0; i < n_pixels; i++, row += unit) {
            uint8_t *to = rgb + i * step;
            to[0] = row[0];  // of 16 bits the high byte
            to[1] = row[next];
            to[2] = row[2 * next];
        }
    }
}

// ---- pictures ----

static uint64_t row_bytes(const Png *p, uint32_t width) { return ((uint64_t)width * (unsigned)p->bits + 7) / 8; }

// One filtered row from the stream, unfiltered. row and above: (1 + n), the filter's number first.
static int read_row(Inflate *z, uint8_t *row, const uint8_t *above, size_t n, size_t unit, SmolErr *err) {
    size_t got;
    if (inflate_read(z, row, n + 1, &got)) {
        if (unfilter(row[0], row + 1, above + 1, n, unit)) return 0;
        return fail(err, SMOL_E_FORMAT, "PNG: filter %d does not exist", row[0]);
    }
    if (z->state == BROKEN) return fail(err, SMOL_E_FORMAT, "PNG: damaged data: %s", z->error);
    if (z->state == SHORT || got > 0) return fail(err, SMOL_E_FORMAT, "PNG: the data end too early");
    memset(row, 0, n + 1);  // the stream ended well, at the end of a row: Pillow leaves the rest as it was, zero
    return 0;
}

// Every dx-th pixel from x0 on of every dy-th row from y0 on; the seven passes of Adam7 (PNG, 8.1), or all at once.
typedef struct {
    uint8_t x0, y0, dx, dy;
} Pass;

static int read_pass(const Png *p, const Pass *pass, Inflate *z, uint8_t *rows[2], const uint8_t *colours,
                     uint8_t *rgb, SmolErr *err) {
    if (p->width <= pass->x0 || p->height <= pass->y0) return 0;
    uint32_t width = (p->width - pass->x0 + pass->dx - 1) / pass->dx;
    size_t n = (size_t)row_bytes(p, width), unit = p->bits < 8 ? 1 : (size_t)p->bits / 8;
    memset(rows[1], 0, n + 1);  // above the first row are zeros
    for (uint32_t y = pass->y0, i = 0; y < p->height; y += pass->dy, i ^= 1) {
        if (read_row(z, rows[i], rows[i ^ 1], n, unit, err) != 0) {
            size_t used = strlen(err->text);
            format_text(err->text + used, sizeof err->text - used, ", in row %u of %u", y + 1, p->height);
            return err->code;
        }
        uint8_t *to = rgb + p->turn.first + (ptrdiff_t)y * p->turn.down + pass->x0 * p->turn.right;
        put_row(p, colours, rows[i] + 1, width, to, pass->dx * p->turn.right);
    }
    return 0;
}

int png_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err) {
    Png p;
    if (read_header(&p, bytes, n, err) != 0) return err->code;
    *width = (int)(p.orientation < 5 ? p.width : p.height);
    *height = (int)(p.orientation < 5 ? p.height : p.width);
    return 0;
}

size_t png_bytes(const uint8_t *bytes, size_t n) {
    Png p;
    SmolErr err;
    if (read_header(&p, bytes, n, &err) != 0) return 0;
    uint64_t need = sizeof(Inflate) + 2 * (row_bytes(&p, p.width) + 1) + 3 * 63;  // each is rounded up to 64
    return need > SIZE_MAX ? SIZE_MAX : (size_t)need;
}

int png_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err) {
    static const Pass whole = {0, 0, 1, 1};
    static const Pass adam7[7] = {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4},
                                  {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}};
    Png p;
    if (read_header(&p, bytes, n, err) != 0) return err->code;
    uint64_t n_row = row_bytes(&p, p.width) + 1;
    if (n_row > SIZE_MAX) return fail(err, SMOL_E_MEMORY, "PNG: a row is more than this machine can address");
    Inflate *z = arena_take(scratch, sizeof *z, "inflate", err);
    uint8_t *rows[2] = {arena_take(scratch, (size_t)n_row, "PNG row", err),
                        arena_take(scratch, (size_t)n_row, "PNG row", err)};
    if (!z || !rows[0] || !rows[1]) return err->code;
    memset(z, 0, offsetof(Inflate, literals));
    z->adler_a = 1;
    z->file_end = bytes + n;
    z->in = z->chunk_end = bytes + p.idat - 4;  // as if a chunk's CRC came before

    uint8_t colours[256 * 3];
    fill_colours(&p, colours);
    for (int i = 0; i < (p.interlaced ? 7 : 1); i++)
        if (read_pass(&p, p.interlaced ? &adam7[i] : &whole, z, rows, colours, rgb, err) != 0) return err->code;

    // zlib looks one step further than the last byte, so that a wrong checksum there counts; more bytes do not.
    while (z->n_read == z->n_out && z->state < ENDED) inflate_more(z);
    if (z->n_read == z->n_out && z->state == BROKEN) return fail(err, SMOL_E_FORMAT, "PNG: damaged data: %s", z->error);
    return 0;
}
