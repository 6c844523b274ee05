// png_write.c: RGB pixels to a PNG file.
//
// Every row is filtered by the Paeth predictor, then the bytes go out as Huffman codes alone, one deflate block for a
// band of rows, without looking for repetitions: photos become as small as with most writers, flat drawings an eighth.
// The file is written under another name and renamed when it is whole.

#define _DEFAULT_SOURCE

#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_SYMBOLS = 257,       // bytes, and 256 for the end of the block
    LONGEST_CODE = 15,
    BAND_BYTES = 1 << 20,  // about as many go into a block
};

typedef struct {
    const char *path;
    char *tmp_path;
    FILE *file;
    int begun;  // there is a file under tmp_path
    uint32_t crc_table[256], adler_a, adler_b;
    size_t n_rows;  // of a band
    uint8_t *band;  // (n_rows, 3 width + 1) filtered, each row after a byte that names its filter
    uint8_t *out;   // the chunk's content, n_out bytes so far
    size_t n_out;
    uint32_t bits;  // that do not fill a byte yet
    int n_bits;
} PngWriter;

static void check(int ok, const PngWriter *w) {
    if (ok) return;
    int why = errno;
    if (w->file) fclose(w->file);
    if (w->begun) remove(w->tmp_path);
    die(w->path, strerror(why));
}

// ---- chunks ----

static void make_crc_table(uint32_t table[256]) {
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t c = n;
        for (int k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
        table[n] = c;
    }
}

static void put_u32(uint8_t out[4], uint32_t v) {
    for (int i = 0; i < 4; i++) out[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void write_chunk(PngWriter *w, const char *name, const void *content, size_t n) {
    uint8_t head[8], tail[4];
    const uint8_t *bytes = content;
    uint32_t crc = 0xffffffff;
    put_u32(head, (uint32_t)n);
    memcpy(head + 4, name, 4);
    for (int i = 4; i < 8; i++) crc = w->crc_table[(crc ^ head[i]) & 255] ^ crc >> 8;
    for (size_t i = 0; i < n; i++) crc = w->crc_table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
    put_u32(tail, ~crc);
    check(fwrite(head, 1, 8, w->file) == 8 && fwrite(content, 1, n, w->file) == n && fwrite(tail, 1, 4, w->file) == 4, w);
}

// ---- filter ----

static uint8_t paeth(int left, int up, int corner) {
    int estimate = left + up - corner;
    int to_left = abs(estimate - left), to_up = abs(estimate - up), to_corner = abs(estimate - corner);
    return (uint8_t)(to_left <= to_up && to_left <= to_corner ? left : to_up <= to_corner ? up : corner);
}

// row and the one above it (NULL: none), n bytes each, to n + 1 bytes
static void filter_row(const uint8_t *row, const uint8_t *above, size_t n, uint8_t *out) {
    *out++ = 4;
    for (size_t i = 0; i < n; i++) {
        int left = i < 3 ? 0 : row[i - 3], up = above ? above[i] : 0, corner = i < 3 || !above ? 0 : above[i - 3];
        out[i] = (uint8_t)(row[i] - paeth(left, up, corner));
    }
}

static void add_adler(PngWriter *w, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        w->adler_a += bytes[i];
        if (w->adler_a >= 65521) w->adler_a -= 65521;
        w->adler_b += w->adler_a;
        if (w->adler_b >= 65521) w->adler_b -= 65521;
    }
}

// ---- Huffman codes ----

// Lengths of the codes for symbols of these frequencies, 0 for those that do not occur. Merges the two rarest trees until one
// is left; parents come after their children, so that depths are read off backwards. Returns the longest.
static int tree_lengths(const uint32_t frequency[N_SYMBOLS], uint8_t length[N_SYMBOLS]) {
    uint32_t weight[2 * N_SYMBOLS];
    int parent[2 * N_SYMBOLS] = {0}, depth[2 * N_SYMBOLS] = {0}, n = N_SYMBOLS, longest = 0;
    for (int i = 0; i < N_SYMBOLS; i++) weight[i] = frequency[i];
    for (;;) {
        int a = -1, b = -1;  // the rarest and the next
        for (int i = 0; i < n; i++) {
            if (!weight[i]) continue;
            if (a < 0 || weight[i] < weight[a]) b = a, a = i;
            else if (b < 0 || weight[i] < weight[b]) b = i;
        }
        if (b < 0) break;
        weight[n] = weight[a] + weight[b];
        weight[a] = weight[b] = 0;
        parent[a] = parent[b] = n++;
    }
    for (int i = n - 2; i >= 0; i--) depth[i] = parent[i] ? depth[parent[i]] + 1 : 0;
    for (int i = 0; i < N_SYMBOLS; i++) {
        length[i] = (uint8_t)depth[i];
        if (depth[i] > longest) longest = depth[i];
    }
    return longest;
}

// Frequencies are brought nearer to each other until no code is too long.
static void code_lengths(uint32_t frequency[N_SYMBOLS], uint8_t length[N_SYMBOLS]) {
    while (tree_lengths(frequency, length) > LONGEST_CODE) {
        for (int i = 0; i < N_SYMBOLS; i++) frequency[i] = (frequency[i] + 1) / 2;
    }
}

// Codes of one length follow each other in the order of symbols, shorter ones first (RFC 1951, 3.2.2). They are sent from their
// highest bit on, so they are kept reversed.
static void make_codes(const uint8_t length[N_SYMBOLS], uint16_t code[N_SYMBOLS]) {
    unsigned next = 0;
    for (int n = 1; n <= LONGEST_CODE; n++, next <<= 1) {
        for (int i = 0; i < N_SYMBOLS; i++) {
            if (length[i] != n) continue;
            code[i] = 0;
            for (int k = 0; k < n; k++) code[i] |= (uint16_t)((next >> k & 1) << (n - 1 - k));
            next++;
        }
    }
}

// ---- deflate ----

// The low n bits, lowest first.
static void put_bits(PngWriter *w, uint32_t bits, int n) {
    w->bits |= bits << w->n_bits;
    for (w->n_bits += n; w->n_bits >= 8; w->n_bits -= 8, w->bits >>= 8) w->out[w->n_out++] = (uint8_t)w->bits;
}

// One block with codes of its own. The lengths of codes are sent in codes, too: of four bits each, the length itself.
static void put_block(PngWriter *w, const uint8_t *bytes, size_t n, int is_last) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint32_t frequency[N_SYMBOLS] = {[256] = 1};
    uint8_t length[N_SYMBOLS];
    uint16_t code[N_SYMBOLS];
    for (size_t i = 0; i < n; i++) frequency[bytes[i]]++;
    code_lengths(frequency, length);
    make_codes(length, code);

    put_bits(w, (uint32_t)is_last | 2 << 1, 3);
    put_bits(w, N_SYMBOLS - 257, 5);
    put_bits(w, 0, 5);  // one code for distances, of length 0: there are none
    put_bits(w, 19 - 4, 4);
    for (int i = 0; i < 19; i++) put_bits(w, order[i] < 16 ? 4 : 0, 3);
    for (int i = 0; i <= N_SYMBOLS; i++) {
        uint32_t l = i < N_SYMBOLS ? length[i] : 0;
        put_bits(w, (l & 1) << 3 | (l & 2) << 1 | (l & 4) >> 1 | l >> 3, 4);
    }
    for (size_t i = 0; i < n; i++) put_bits(w, code[bytes[i]], length[bytes[i]]);
    put_bits(w, code[256], length[256]);
}

// ---- pictures ----

// rgb (height, width, 3), rows ld bytes apart
static void write_pixels(PngWriter *w, const uint8_t *rgb, int width, int height, size_t ld) {
    size_t n = 3 * (size_t)width, n_rows = (size_t)height;
    put_bits(w, 0x78 | 0x01 << 8, 16);  // zlib
    for (size_t y = 0; y < n_rows;) {
        size_t end = y + w->n_rows < n_rows ? y + w->n_rows : n_rows, used = 0;
        for (; y < end; y++, used += n + 1) filter_row(rgb + y * ld, y ? rgb + (y - 1) * ld : NULL, n, w->band + used);
        add_adler(w, w->band, used);
        put_block(w, w->band, used, end == n_rows);
        if (end == n_rows) {
            put_bits(w, 0, (8 - w->n_bits) % 8);
            put_u32(w->out + w->n_out, w->adler_b << 16 | w->adler_a);
            w->n_out += 4;
        }
        write_chunk(w, "IDAT", w->out, w->n_out);
        w->n_out = 0;
    }
}

// All memory is taken before there is a file: running out of it leaves none behind.
static void take_memory(PngWriter *w, int width) {
    size_t row = 3 * (size_t)width + 1, n_path = strlen(w->path) + sizeof ".tmp";
    w->n_rows = BAND_BYTES / row + 1;
    w->band = need(NULL, w->n_rows * row, "PNG");
    w->out = need(NULL, w->n_rows * row * LONGEST_CODE / 8 + 256, "PNG");  // a block's head takes 149 bytes
    w->tmp_path = need(NULL, n_path, "PNG");
    snprintf(w->tmp_path, n_path, "%s.tmp", w->path);
}

void write_png(const char *path, const uint8_t *rgb, int width, int height, size_t ld) {
    PngWriter w = {.path = path, .adler_a = 1};
    uint8_t header[13] = {[8] = 8, [9] = 2};  // 8 bits, RGB
    put_u32(header, (uint32_t)width);
    put_u32(header + 4, (uint32_t)height);
    make_crc_table(w.crc_table);
    take_memory(&w, width);
    w.file = fopen(w.tmp_path, "wb");
    check(w.file != NULL, &w);
    w.begun = 1;
    check(fwrite("\x89PNG\r\n\x1a\n", 1, 8, w.file) == 8, &w);
    write_chunk(&w, "IHDR", header, sizeof header);
    write_pixels(&w, rgb, width, height, ld);
    write_chunk(&w, "IEND", "", 0);
    FILE *file = w.file;
    w.file = NULL;
    check(fclose(file) == 0 && replace_file(w.tmp_path, path) == 0, &w);
    free(w.band);
    free(w.out);
    free(w.tmp_path);
}
