// fuzz_png.c: any bytes as a PNG file, as they are and with the chunks' checksums put right: chance does not find
// those.

#include "fuzz.h"

// Of the polynomial 0xedb88320, bit by bit (PNG, annex D).
static uint32_t checksum(const uint8_t *p, size_t n) {
    uint32_t crc = 0xffffffff;
    for (; n; n--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

static uint32_t get_u32be(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void repair(uint8_t *png, size_t n) {
    for (size_t at = 8; at + 12 <= n;) {
        size_t length = get_u32be(png + at);
        if (length > n - at - 12) return;
        uint32_t crc = checksum(png + at + 4, length + 4);
        for (int i = 0; i < 4; i++) png[at + 8 + length + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += length + 12;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const Codec png = {png_probe, png_bytes, png_decode};
    fuzz_codec(&png, data, n);
    uint8_t *copy = malloc(n + 1);
    memcpy(copy, data, n);
    repair(copy, n);
    uint8_t *exact = realloc(copy, n ? n : 1);  // so that a read past the end shows
    fuzz_codec(&png, exact, n);
    free(exact);
    return 0;
}
