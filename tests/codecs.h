// codecs.h: the functions of each picture format, chosen by the first byte of a file, as tests need them.

#ifndef CODECS_H
#define CODECS_H

#include "../internal.h"

typedef struct {
    int (*probe)(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err);
    size_t (*scratch)(const uint8_t *bytes, size_t n);
    int (*decode)(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err);
} Codec;

static inline const Codec *codec_of(const uint8_t *bytes, size_t n) {
    static const Codec png = {png_probe, png_bytes, png_decode}, jpeg = {jpeg_probe, jpeg_bytes, jpeg_decode},
                       bmp = {bmp_probe, bmp_bytes, bmp_decode};
    return n > 0 && bytes[0] == 0x89 ? &png : n > 0 && bytes[0] == 'B' ? &bmp : &jpeg;
}

#endif
