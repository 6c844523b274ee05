// fuzz_pnm.c: any bytes as a picture, PNM or whatever they are recognised as, all the way to the pixels of its tiles.

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const SmolConfig config = {.tile_size = 24, .longest_edge = 72, .image_seq_len = 4,
                                      .rescale_factor = 1 / 255.0, .image_mean = {0.5, 0.5, 0.5},
                                      .image_std = {0.5, 0.5, 0.5}};
    static float pixels[3 * 24 * 24];
    SmolPicture picture;
    SmolTiling tiling;
    SmolTiles tiles;
    SmolErr err = {0};
    int code = smol_picture_probe(&picture, data, n, &err);
    if (code != 0) {
        expect_line(code, &err);
        return 0;
    }
    EXPECT(smol_picture_tiling(&config, picture.width, picture.height, (int)(n % 2), &tiling, &err) == 0);
    EXPECT(tiling.n_tiles == tiling.rows * tiling.cols + 1 && tiling.n_tiles <= 10);
    SmolArena arena = {.size = smol_picture_bytes(&config, &picture, &tiling)};
    if ((int64_t)picture.width * picture.height > 1 << 20 || arena.size > 1 << 26) return 0;
    arena.base = fuzz_memory(arena.size);
    code = smol_picture_load(&config, &picture, &tiling, &arena, &tiles, &err);
    if (code != 0) expect_line(code, &err);
    EXPECT(code != SMOL_E_MEMORY);
    for (int i = 0; i < tiling.n_tiles && code == 0; i++) smol_tile_pixels(&config, &tiles, i, pixels);
    free(arena.base);
    return 0;
}
