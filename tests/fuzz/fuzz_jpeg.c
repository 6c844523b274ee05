// fuzz_jpeg.c: any bytes as a JPEG file.

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const Codec jpeg = {jpeg_probe, jpeg_bytes, jpeg_decode};
    fuzz_codec(&jpeg, data, n);
    return 0;
}
