// decode_picture.c: a PNG, JPEG or BMP file in; "width height" and raw RGB out, or one error line and exit status 1.

#include "codecs.h"
#include "test.h"

int main(int argc, char **argv) {
    size_t n;
    unsigned char *file = argc == 2 ? read_file(argv[1], &n) : NULL;
    if (!file) return fprintf(stderr, "usage: decode_picture FILE\n"), 2;
    // A copy of its exact size: the sanitizers see a read past the end.
    unsigned char *bytes = malloc(n ? n : 1);
    memcpy(bytes, file, n);
    free(file);

    const Codec *codec = codec_of(bytes, n);
    int width = 0, height = 0;
    SmolErr err = {0};
    int code = codec->probe(bytes, n, &width, &height, &err);
    SmolArena scratch = {0};
    uint8_t *rgb = NULL;
    size_t n_rgb = (size_t)width * (size_t)height * 3;
    if (code == 0) {
        scratch.size = codec->scratch(bytes, n);
        scratch.base = aligned_alloc(64, (scratch.size + 63) & ~(size_t)63);
        rgb = malloc(n_rgb);
        if (!scratch.base || !rgb) return fprintf(stderr, "out of memory\n"), 1;
        code = codec->decode(bytes, n, rgb, &scratch, &err);
    }
    if (code == 0) {
        printf("%d %d\n", width, height);
        fwrite(rgb, 1, n_rgb, stdout);
    } else {
        fprintf(stderr, "%s\n", err.text);
    }
    free(bytes);
    free(rgb);
    free(scratch.base);
    return code != 0;
}
