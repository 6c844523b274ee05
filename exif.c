// exif.c: how the camera was held. Exif, or else XMP, names an orientation from 1 to 8, and the picture is turned by it
// before anything else sees it: Pillow 12.1's ImageOps.exif_transpose, which transformers' load_image applies.
//
// Not read: XMP or Exif that is compressed in a PNG, the hexadecimal "Raw profile type exif" of old PNG files, and what
// an Exif segment of a JPEG continues in the next one. Damaged data say nothing; Pillow refuses some of them in PNG.

#include "internal.h"

#include <string.h>

// ---- Exif: a TIFF file without pictures (TIFF 6.0, section 2) ----

static uint64_t get_number(const uint8_t *p, int n, int big_endian) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++) v = v << 8 | p[big_endian ? i : n - 1 - i];
    return v;
}

// "II" or "MM" for the order of bytes, 42 (an asterisk), where the first directory is: the number of its entries, then
// for each tag, type, count, and the value, or where it is if it takes more than 4 bytes.
int exif_orientation(const uint8_t *bytes, size_t n) {
    static const uint8_t sizes[17] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};  // by type
    static const uint8_t whole[17] = {0, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1};  // a number without fraction
    static const char magic[5][4] = {"II*", "MM\0*", "II\0*", "MM*", "MM\0+"};  // the last three are wrong, but taken
    int orientation = 0, known = 0;
    for (; n >= 6 && memcmp(bytes, "Exif\0", 6) == 0; n -= 6) bytes += 6;
    for (int i = 0; i < 5 && n >= 8; i++) known |= memcmp(bytes, magic[i], 4) == 0;
    if (!known) return n > 0;  // not TIFF: upright, for Pillow looks no further
    int big = bytes[0] == 'M';
    uint64_t at = get_number(bytes + 4, 4, big);
    if (at > n - 2) return 0;
    uint64_t n_entries = get_number(bytes + at, 2, big);
    for (at += 2; n_entries > 0 && at + 12 <= n; n_entries--, at += 12) {
        const uint8_t *value = bytes + at + 8;
        uint64_t type = get_number(bytes + at + 2, 2, big), size = type < 17 ? sizes[type] : 0, where;
        size *= get_number(bytes + at + 4, 4, big);
        if (size > 4) {
            where = get_number(value, 4, big);
            if (where > n || size > n - where) break;  // Pillow reads no further either
            value = bytes + where;
        }
        if (size == 0 || get_number(bytes + at, 2, big) != 0x0112) continue;
        uint64_t v = whole[type] ? get_number(value, sizes[type], big) : 0;
        orientation = v >= 1 && v <= 8 ? (int)v : 1;
    }
    return orientation;
}

// ---- XMP: searched, not parsed ----

// The first tiff:Orientation="6" or <tiff:Orientation>6</tiff:Orientation>.
int xmp_orientation(const uint8_t *text, size_t n) {
    static const char name[] = "tiff:Orientation";
    size_t n_name = sizeof name - 1;
    for (size_t i = 0; n >= n_name + 2 && i <= n - n_name - 2; i++) {
        if (text[i] != 't' || memcmp(text + i, name, n_name) != 0) continue;
        const uint8_t *value = text + i + n_name, *end = text + n;
        if (value[0] == '>') value++;
        else if (value[0] == '=' && value[1] == '"') value += 2;
        else continue;
        if (value < end && *value >= '0' && *value <= '9') return *value >= '1' && *value <= '8' ? *value - '0' : 1;
    }
    return 0;
}

// ---- turning ----

// 5 to 8 exchange rows and columns. 2, 3, 7 and 8 run through the rows of the file backwards, 3, 4, 6 and 7 through its
// columns.
Turn turn_of(int orientation, int width, int height) {
    static const uint8_t back_x[9] = {0, 0, 1, 1, 0, 0, 0, 1, 1}, back_y[9] = {0, 0, 0, 1, 1, 0, 1, 1, 0};
    ptrdiff_t w = width, h = height;
    Turn t = {0, 3, 3 * w};
    if (orientation >= 5) t = (Turn){0, 3 * h, 3};
    if (back_x[orientation]) {
        t.first += (w - 1) * t.right;
        t.right = -t.right;
    }
    if (back_y[orientation]) {
        t.first += (h - 1) * t.down;
        t.down = -t.down;
    }
    return t;
}
