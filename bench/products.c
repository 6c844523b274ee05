// products.c: the encoder's matrix products alone, to compare them with the machine's peak. The one part of the benchmark that
// looks inside the engine: smol.h has no product, and a clock in vision.c would be there for all who read it.

#include "products.h"
#include "../cli.h"
#include "../internal.h"

#include <stdlib.h>

typedef struct {
    SmolEngine *e;
    float *x, *y;  // rows as wide as any product needs
    void *int8;    // room for the rows of x in int8
    double macs;
} Work;

// The products of n_weights neighbouring weights with n rows of x, as vision.c calls them. A bias follows its weight.
static void products(Work *w, int weight, int n_weights, int has_bias, int n) {
    Product p[3];
    for (int i = 0; i < n_weights; i++) {
        int at = weight + i * 2;
        Matrix m = engine_matrix(w->e, at, -1);
        p[i] = engine_product(w->e, w->y, round_up(m.n_rows, LANES), at, has_bias ? at + 1 : -1);
        w->macs += (double)m.n_rows * m.n_cols * n;
    }
    Input in = input_of(w->x, round_up(p->w.n_cols, LANES), p->w.n_cols, w->int8, n);
    multiply(&w->e->workers, &in, p, n_weights, n);
}

static int block(int first, int n) { return n - first < VISION_BLOCK ? n - first : VISION_BLOCK; }

static void tile_products(Work *w, const SmolConfig *c, int n_patch) {
    for (int p = 0; p < n_patch; p += VISION_BLOCK) products(w, w->e->at.patch_w, 1, 1, block(p, n_patch));
    for (int i = 0; i < c->v_layers; i++) {
        int layer = w->e->at.vision_layers + i * N_VISION_LAYER;
        for (int p = 0; p < n_patch; p += VISION_BLOCK) {
            int n = block(p, n_patch);
            products(w, layer + VQ_W, 3, 1, n);
            products(w, layer + VO_W, 1, 1, n);
            products(w, layer + FC1_W, 1, 1, n);
            products(w, layer + FC2_W, 1, 1, n);
        }
    }
    products(w, w->e->at.connector, 1, 0, c->image_seq_len);
}

double products_run(SmolEngine *e, double *tile) {
    const SmolConfig *c = &e->model->config;
    int grid = c->image_size / c->patch_size, n_patch = grid * grid;
    int shuffled = c->v_dim * c->scale_factor * c->scale_factor, patch = 3 * c->patch_size * c->patch_size;
    int n_rows = c->image_seq_len > VISION_BLOCK ? c->image_seq_len : VISION_BLOCK;
    int width = c->v_hidden_dim + shuffled + patch + c->dim + LANES;  // more than the widest row
    size_t n = (size_t)n_rows * (size_t)width;
    Work w = {e, need(NULL, n * sizeof *w.x, "products"), need(NULL, n * sizeof *w.y, "products"), NULL, 0};
    void *room = need(NULL, int8_bytes(n_rows, width) + 64, "products");
    w.int8 = (uint8_t *)room + (64 - (uintptr_t)room % 64) % 64;
    for (size_t i = 0; i < n; i++) w.x[i] = (float)(i % 251) / 125 - 1;
    tile_products(&w, c, n_patch);
    free(w.x), free(w.y), free(room);
    *tile = w.macs + 2.0 * n_patch * n_patch * c->v_dim * c->v_layers;
    return w.macs;
}
