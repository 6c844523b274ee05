// fuzz_bmp.c: any bytes as a BMP file.

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const Codec bmp = {bmp_probe, bmp_bytes, bmp_decode};
    fuzz_codec(&bmp, data, n);
    return 0;
}
