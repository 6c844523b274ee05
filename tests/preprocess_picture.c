// preprocess_picture.c: a picture's tiles as raw floats to stdout; its size, rows, columns, tiles, arena bytes and the
// seconds that loading took to stderr. tests/test_image.py compares the tiles with the reference.
//
//     preprocess_picture FILE LONGEST_EDGE TILE SPLIT

#include "../smol.h"
#include "test.h"

#include <time.h>

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    SmolConfig c = {.longest_edge = atoi(argv[2]), .tile_size = atoi(argv[3]), .rescale_factor = 1 / 255.0};
    for (int i = 0; i < 3; i++) c.image_mean[i] = c.image_std[i] = 0.5f;
    SmolPicture p;
    SmolTiling t;
    SmolTiles tiles;
    SmolErr err = {0};
    size_t n;
    unsigned char *bytes = read_file(argv[1], &n);
    if (!bytes) return 2;
    if (smol_picture_probe(&p, bytes, n, &err) || smol_picture_tiling(&c, p.width, p.height, atoi(argv[4]), &t, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    SmolArena arena = {.size = smol_picture_bytes(&c, &p, &t)};
    arena.base = aligned_alloc(64, arena.size);
    size_t n_pixels = 3 * (size_t)c.tile_size * (size_t)c.tile_size;
    float *pixels = malloc(n_pixels * sizeof *pixels);
    clock_t start = clock();
    if (!arena.base || !pixels || smol_picture_load(&c, &p, &t, &arena, &tiles, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    for (int i = 0; i < t.n_tiles; i++) {
        smol_tile_pixels(&c, &tiles, i, pixels);
        if (fwrite(pixels, sizeof *pixels, n_pixels, stdout) != n_pixels) return 2;
    }
    fprintf(stderr, "%d x %d: %d %d %d, %zu bytes, %.3f s\n", p.width, p.height, t.rows, t.cols, t.n_tiles, arena.size,
            seconds);
    free(bytes);
    free(arena.base);
    free(pixels);
    return 0;
}
