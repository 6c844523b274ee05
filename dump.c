// dump.c: --dump-tiles, what the model saw, as pictures to look at.
//
//     picture_01_row_02_col_03.png   a tile as the encoder gets it, before its pixels are normalised
//     picture_01_tiling.png          the original with the tiles drawn on it
//     picture_01_whole.png           the last tile: the view of the whole picture
//     video_01_frame_012_whole.png   the only tile of the twelfth frame that was taken
//
// Rows and columns count from 1, as in the prompt's markers.

#define _DEFAULT_SOURCE

#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void dump_open(const char *folder) {
    struct stat info;
    char message[160];
    if (make_folder(folder) == 0) return;
    int why = errno;
    if (why == EEXIST && stat(folder, &info) == 0) {
        if (S_ISDIR(info.st_mode)) return;
        die(folder, "is a file, and the tiles need a folder");
    }
    snprintf(message, sizeof message, "the folder cannot be made: %s", strerror(why));
    die(folder, message);
}

static void write_part(const char *folder, const char *stem, const char *part, const uint8_t *rgb, int width, int height,
                       size_t ld) {
    size_t n = strlen(folder) + strlen(stem) + strlen(part) + sizeof "/.png";
    char *path = need(NULL, n, "file name");
    snprintf(path, n, "%s/%s%s.png", folder, stem, part);
    write_png(path, rgb, width, height, ld);
    free(path);
}

void dump_tiles(const char *folder, const char *stem, const SmolTiles *tiles, int tile) {
    const SmolTiling *t = &tiles->tiling;
    size_t ld = 3 * (size_t)t->cut_w;
    char part[48];
    for (int i = 0; i < t->rows * t->cols; i++) {
        int row = i / t->cols, col = i % t->cols;
        snprintf(part, sizeof part, "_row_%02d_col_%02d", row + 1, col + 1);
        write_part(folder, stem, part, tiles->cut + (size_t)(row * tile) * ld + (size_t)(col * tile) * 3, tile, tile, ld);
    }
    write_part(folder, stem, "_whole", tiles->global, tile, tile, 3 * (size_t)tile);
}

// ---- the tiling, drawn ----

// Each resize maps the whole picture to the whole result, so that a tile is the same share of the original as of the cut
// picture, whatever the sizes between were.
TileBox tile_box(const SmolPicture *p, const SmolTiling *t, int i) {
    if (i >= t->rows * t->cols) return (TileBox){0, 0, 0, 0, p->width, p->height};
    int row = i / t->cols, col = i % t->cols;
    double width = (double)p->width / t->cols, height = (double)p->height / t->rows;
    return (TileBox){row + 1, col + 1, (double)col * p->width / t->cols, (double)row * p->height / t->rows, width, height};
}

typedef struct {
    uint8_t *rgb;  // (height, width, 3)
    int width, height;
} Canvas;

// Cut off at the canvas's edges.
static void fill(const Canvas *c, int x, int y, int width, int height, const uint8_t colour[3]) {
    int x_end = x + width < c->width ? x + width : c->width, y_end = y + height < c->height ? y + height : c->height;
    for (int v = y > 0 ? y : 0; v < y_end; v++) {
        uint8_t *row = c->rgb + (size_t)v * 3 * (size_t)c->width;
        for (int u = x > 0 ? x : 0; u < x_end; u++) memcpy(row + 3 * (size_t)u, colour, 3);
    }
}

static const uint8_t red[3] = {255, 0, 0}, black[3] = {0, 0, 0}, white[3] = {255, 255, 255};

// Five rows of three pixels, an octal digit each.
static int glyph(char c) {
    static const int digits[10] = {075557, 026227, 071747, 071717, 055711, 074717, 074757, 071122, 075757, 075717};
    return c >= '0' && c <= '9' ? digits[c - '0'] : c == 'x' ? 005250 : 000024;  // else a comma
}

// White on black, a pixel of the font being scale x scale pixels. Left out where it would be wider or higher than the room.
static void write_text(const Canvas *c, int x, int y, int scale, const char *text, int room_x, int room_y) {
    int width = (4 * (int)strlen(text) + 1) * scale;
    if (width > room_x || 7 * scale > room_y) return;
    fill(c, x, y, width, 7 * scale, black);
    for (x += scale, y += scale; *text; text++, x += 4 * scale) {
        for (int bit = 0; bit < 15; bit++) {
            if (glyph(*text) >> (14 - bit) & 1) fill(c, x + bit % 3 * scale, y + bit / 3 * scale, scale, scale, white);
        }
    }
}

static int nearest(double v) { return (int)(v + 0.5); }

// "row,column" and below it the tile's size in pixels of the original. Without tiles only the picture's size.
static void draw_label(const Canvas *c, const TileBox *b, int line) {
    char place[32], size[32];
    int scale = nearest((b->width < 2 * b->height ? b->width : 2 * b->height) / 128), at = 0;
    if (scale < 1) scale = 1;
    int x = nearest(b->x) + line, y = nearest(b->y) + line;
    int room_x = (int)b->width - 2 * line, room_y = (int)b->height - 2 * line;
    snprintf(place, sizeof place, "%d,%d", b->row, b->col);
    snprintf(size, sizeof size, "%dx%d", nearest(b->width), nearest(b->height));
    if (b->row) {
        write_text(c, x, y, scale, place, room_x, room_y);
        at = 7 * scale;
    }
    write_text(c, x, y + at, scale, size, room_x, room_y - at);
}

// Lines between tiles, one pixel in a thousand, none of them wider than a quarter of a tile.
static void draw_tiling(const Canvas *c, const SmolPicture *p, const SmolTiling *t) {
    int line = 1 + (p->width > p->height ? p->width : p->height) / 1000;
    for (int i = 0; i < t->rows * t->cols; i++) {
        TileBox b = tile_box(p, t, i);
        if (b.col > 1 && b.width >= 4 * line) fill(c, nearest(b.x) - line / 2, nearest(b.y), line, nearest(b.height) + 1, red);
        if (b.row > 1 && b.height >= 4 * line) fill(c, nearest(b.x), nearest(b.y) - line / 2, nearest(b.width) + 1, line, red);
    }
    for (int i = 0; i < (t->rows ? t->rows * t->cols : 1); i++) {
        TileBox b = tile_box(p, t, i);
        draw_label(c, &b, line);
    }
}

// A tiling that keeps the original's size leaves its pixels as they are.
int dump_tiling(const char *folder, const char *stem, const SmolPicture *p, const SmolTiling *t, SmolErr *err) {
    SmolConfig c = {.tile_size = 1};
    SmolTiling whole = {p->width, p->height, p->width, p->height, 1, 1, 2, 0};
    SmolTiles tiles;
    SmolArena arena = {.size = smol_picture_bytes(&c, p, &whole)};
    uint8_t *memory = need(NULL, arena.size < SIZE_MAX - 64 ? arena.size + 64 : SIZE_MAX, "picture");
    arena.base = aligned_64(memory);
    int code = smol_picture_load(&c, p, &whole, &arena, &tiles, err);
    if (!code) {
        Canvas canvas = {memory + (tiles.cut - memory), p->width, p->height};
        draw_tiling(&canvas, p, t);
        write_part(folder, stem, "_tiling", canvas.rgb, p->width, p->height, 3 * (size_t)p->width);
    }
    free(memory);
    return code;
}
