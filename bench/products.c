// products.c: the encoder's matrix products alone, to compare them with the machine's peak. The one part of the benchmark that
// looks inside the engine: smol.h has no product, and a clock in vision.c would be there for all who read it.

#include "products.h"
#include "../cli.h"
#include "../internal.h"

#include <stdlib.h>

// The product of one weight with n rows of x, as vision.c calls it.
static double product(SmolEngine *e, float *y, const float *x, int weight, int bias, int n) {
    Matrix w = engine_matrix(e, weight, bias);
    engine_product(e, y, round_up(w.n_rows, LANES), x, round_up(w.n_cols, LANES), weight, bias, n);
    return (double)w.n_rows * w.n_cols * n;
}

static double layer_products(SmolEngine *e, float *y, const float *x, int layer, int n) {
    static const int pairs[][2] = {{VQ_W, VQ_B}, {VK_W, VK_B}, {VV_W, VV_B}, {VO_W, VO_B}, {FC1_W, FC1_B}, {FC2_W, FC2_B}};
    double macs = 0;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        macs += product(e, y, x, layer + pairs[i][0], layer + pairs[i][1], n);
    }
    return macs;
}

static int block(int first, int n) { return n - first < VISION_BLOCK ? n - first : VISION_BLOCK; }

double products_run(SmolEngine *e, double *tile) {
    const SmolConfig *c = &e->model->config;
    int grid = c->image_size / c->patch_size, n_patch = grid * grid;
    int shuffled = c->v_dim * c->scale_factor * c->scale_factor, patch = 3 * c->patch_size * c->patch_size;
    size_t n = VISION_BLOCK * (size_t)(c->v_hidden_dim + shuffled + patch + c->dim + LANES);  // more than the widest row
    float *x = need(NULL, n * sizeof *x, "products"), *y = need(NULL, n * sizeof *y, "products");
    double macs = 0;
    for (size_t i = 0; i < n; i++) x[i] = (float)(i % 251) / 125 - 1;

    for (int p = 0; p < n_patch; p += VISION_BLOCK) macs += product(e, y, x, e->at.patch_w, e->at.patch_b, block(p, n_patch));
    for (int i = 0; i < c->v_layers; i++) {
        int layer = e->at.vision_layers + i * N_VISION_LAYER;
        for (int p = 0; p < n_patch; p += VISION_BLOCK) macs += layer_products(e, y, x, layer, block(p, n_patch));
    }
    for (int p = 0; p < c->image_seq_len; p += VISION_BLOCK) {
        macs += product(e, y, x, e->at.connector, -1, block(p, c->image_seq_len));
    }
    free(x);
    free(y);
    *tile = macs + 2.0 * n_patch * n_patch * c->v_dim * c->v_layers;
    return macs;
}
