// products.h: the encoder's matrix products alone.

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "../smol.h"

// Runs every matrix product that a tile needs, shape for shape and in the encoder's own blocks, and nothing else. Returns the
// number of multiplications and additions; that of the whole tile, attention included, goes to *tile.
double products_run(SmolEngine *e, double *tile);

#endif
