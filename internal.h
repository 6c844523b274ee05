// internal.h: what the engine's files share with each other and with nobody else.

#ifndef INTERNAL_H
#define INTERNAL_H

#include "smol.h"

#include <float.h>

// ---- what the compiler must be, or the bits would differ ----

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "smol.c reads a model file in place, which is little-endian: this machine is not"
#endif
#if FLT_EVAL_METHOD != 0 || defined __FAST_MATH__
#error "float must be computed as float, not wider: on 32-bit x86 compile with -msse2 -mfpmath=sse, never with -ffast-math"
#endif

// ---- support.c: errors, memory, bytes, UTF-8 ----

// Fills err and returns code. Knows %s %d %u %z (size_t) and %c; the core has no stdio.
int fail(SmolErr *err, int code, const char *format, ...);

// The same, into a buffer of cap bytes, always terminated.
void format_text(char *out, size_t cap, const char *format, ...);

// bytes for name, 64-byte aligned, or NULL with err filled (while counting: NULL, and no error).
void *arena_take(SmolArena *a, uint64_t bytes, const char *name, SmolErr *err);

// *r = a * b, or 0 when it does not fit.
int mul_fits(size_t a, size_t b, size_t *r);

// Reads the character at p[0 .. n - 1], n >= 1, and returns its length. Where the bytes are no UTF-8 it returns minus
// the length of the part that one U+FFFD stands for (Unicode 3.9: a maximal subpart, as in Python's errors="replace").
int utf8_decode(const uint8_t *p, size_t n, uint32_t *c);

static inline uint32_t get_u32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t get_u64(const uint8_t *p) { return get_u32(p) | (uint64_t)get_u32(p + 4) << 32; }

static inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

static inline float *row_of(float *x, int i, int ld) { return x + (size_t)i * (size_t)ld; }

// ---- image codecs: png.c, jpeg.c, bmp.c ----

// Reads width and height from a file that starts with the format's signature.
int png_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err);
int jpeg_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err);
int bmp_probe(const uint8_t *bytes, size_t n, int *width, int *height, SmolErr *err);

// Arena bytes that decoding a probed file of this size needs, beyond the pixels.
size_t png_bytes(const uint8_t *bytes, size_t n);
size_t jpeg_bytes(const uint8_t *bytes, size_t n);
size_t bmp_bytes(const uint8_t *bytes, size_t n);

// rgb: (height, width, 3), as Pillow's convert("RGB") gives it.
int png_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err);
int jpeg_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err);
int bmp_decode(const uint8_t *bytes, size_t n, uint8_t *rgb, SmolArena *scratch, SmolErr *err);

// ---- exif.c: how the camera was held ----

// 1 .. 8, of which 1 is upright and stands for what has no meaning; 0 when nothing is said.
int exif_orientation(const uint8_t *bytes, size_t n);
int xmp_orientation(const uint8_t *text, size_t n);

// Where a turned picture goes: pixel (x, y) of a file is at byte first + x * right + y * down.
typedef struct {
    ptrdiff_t first, right, down;
} Turn;

// width, height: as in the file; those of the turned picture are exchanged from orientation 5 on.
Turn turn_of(int orientation, int width, int height);

// ---- pretokenizer.c ----

enum { WORDS_SMOLLM = 1, WORDS_TEKKEN, WORDS_SENTENCEPIECE };  // FORMAT.md: pretokenizer

// The end of the word that begins at s[i], i < end, in text that was found to be UTF-8.
size_t word_end(int pretokenizer, const uint8_t *s, size_t i, size_t end);

// The length of the space at s[0 .. n - 1], or of U+2581, which is one to SentencePiece; 0 if neither is there.
size_t sentencepiece_space(const uint8_t *s, size_t n);

// ---- tokenizer.c ----

// Checks the tokenizer section and fills v.
int vocab_open(SmolVocab *v, const uint8_t *bytes, size_t n, int vocab_size, SmolErr *err);

// The bytes of a token, id < n_tokens.
const uint8_t *vocab_token(const SmolVocab *v, uint32_t id, size_t *n);

// The id of the added token with this text, or -1.
int32_t vocab_special(const SmolVocab *v, const char *text);

// ---- template.c ----

// Whether the vocabulary has the control tokens that the model's chat template writes.
int template_check(const SmolModel *m, SmolErr *err);

// ---- ops.c: vector operations under the numerics contract ----

double sin_exact(double x);  // |x| up to 1e6; error below 2e-16
double cos_exact(double x);
void rmsnorm(float *y, const float *x, const float *w, int n, float eps);
void layernorm(float *y, const float *x, const float *w, const float *b, int n, float eps);
void softmax(float *x, int n, float scale);
void gelu_tanh(float *x, int n);
void silu_multiply(float *gate, const float *up, int n);
void add(float *x, const float *y, int n);
void rope_angles(float *cos, float *sin, const float *inv_freq, int half, int position);
void rope(float *x, const float *cos, const float *sin, int half);

// ---- quant.c: the matrix product ----

#define LANES 16  // rows of a panel; rows of activations are padded to a multiple of it

// The product of one panel, the inner loop of everything:
//   y[t][r] = fmaf(w[k][r], x[t][k], y[t][r])   for k = 0, 1, ... n_k - 1;  r < LANES;  t < n_tok
// ld* is the distance between rows in floats.
typedef void PanelF32(float *y, size_t ldy, const float *w, size_t ldw, const float *x, size_t ldx, int n_k, int n_tok);

typedef struct {
    const char *name;
    int (*supported)(void);
    PanelF32 *panel_f32;
} Kernel;

extern const Kernel kernel_avx2;

// The named kernel, or the best one for NULL; NULL if this machine cannot run it.
const Kernel *kernel_find(const char *name);

// A weight matrix as stored, with its bias.
typedef struct {
    const float *data;  // (n_rows / 16, n_cols, 16) F32x16
    const float *bias;  // (n_rows), or NULL
    int n_rows, n_cols;
} Matrix;

// y = x W^T + bias.  x (n_tok, n_cols), y (n_tok, n_rows), with ldy at least n_rows rounded up to 16.
void matmul(const Kernel *kernel, int n_threads, float *y, int ldy, const float *x, int ldx, const Matrix *w, int n_tok);

// One row of a matrix: the embedding of a token.
void matrix_row(float *out, const Matrix *w, int row);

// ---- attention.c ----

// Keys and values of one layer, laid out so that both products of attention are panel products.
typedef struct {
    float *k;  // (n_kv_heads, n_pos / 16, head_dim, 16): 16 positions side by side
    float *v;  // (n_kv_heads, n_pos, head_dim rounded up to 16)
    int n_pos, n_kv_heads, head_dim;
} KvLayer;

uint64_t kv_floats(int n_pos, int n_kv_heads, int head_dim, uint64_t *v_floats);  // returns those of k

// Stores the heads of one position: k, v (n_kv_heads * head_dim).
void kv_store(const KvLayer *kv, int position, const float *k, const float *v);

// q (n_tok, n_heads * head_dim) becomes the attention's output, in place. Each token sees the first n_seen positions; with
// causal, token t sees the first n_seen + t. scratch: attention_floats() for each thread.
void attention(const Kernel *kernel, int n_threads, float *q, int ldq, int n_tok, int n_heads, const KvLayer *kv, int n_seen,
               int causal, float *scratch);
uint64_t attention_floats(int n_pos, int head_dim);

// ---- model.c ----

enum { LN1_W, LN1_B, VQ_W, VQ_B, VK_W, VK_B, VV_W, VV_B, VO_W, VO_B, LN2_W, LN2_B, FC1_W, FC1_B, FC2_W, FC2_B, N_VISION_LAYER };
enum { NORM1, WQ, WK, WV, WO, NORM2, W_GATE, W_UP, W_DOWN, N_TEXT_LAYER };

// Places of the tensors in the directory, which follow from the configuration; -1 for what the family does not have.
typedef struct {
    int patch_w, patch_b, pos_emb, vision_layers, post_ln_w, post_ln_b, connector;
    int tok_emb, text_layers, norm, lm_head, inv_freq, n_tensors;
} Places;

Places model_places(const SmolConfig *c);

// ---- engine.c ----

// Everything an engine owns. engine.c lays the buffers out.
struct SmolEngine {
    const SmolModel *model;
    const Kernel *kernel;
    Places at;
    SmolLimits limits;
    int position;  // tokens in the KV cache
    SmolProgress progress;
    SmolTrace trace;
    void *user;

    // kept from call to call
    KvLayer *kv;      // (n_layers)
    float *features;  // (n_image_tokens, dim)
    float *logits;    // (1 or batch, vocab_size rounded up to 16)
    int32_t *order;   // (vocab_size) sampling: ids by probability
    float *probs;     // (vocab_size)

    // decoder scratch, rows of batch tokens; widths rounded up to 16
    float *x, *xb, *q, *k, *v, *h, *h2;  // dim, dim, n_heads head_dim, kv_dim, kv_dim, hidden_dim, hidden_dim
    float *cos, *sin;                    // (batch, head_dim / 2)

    // encoder scratch, in the same bytes as the decoder's
    float *vx, *vq;                 // (n_patch, v_dim)
    KvLayer vkv;                    // keys and values of all patches
    // (VISION_BLOCK, widest of v_dim, 3 patch_size^2 and the shuffled row), (.., wider of v_dim and dim), (.., v_dim)
    float *block, *block2, *block3;
    float *vh;                      // (VISION_BLOCK, v_hidden_dim)

    float *scores, *vscores;  // attention scratch of the decoder and of the encoder, one part a thread
};

#define VISION_BLOCK 64  // patches that go through a layer's products at once

// Tensors by their place in the directory; bias -1: none.
Matrix engine_matrix(const SmolEngine *e, int weight, int bias);
const float *engine_vector(const SmolEngine *e, int i);
void engine_product(const SmolEngine *e, float *y, int ldy, const float *x, int ldx, int weight, int bias, int n_tok);

// Tells the listener, if there is one, of a stage's tensor; the layer's number is added to the name, -1: none.
void engine_trace(const SmolEngine *e, const char *name, int layer, const float *x, int n_rows, int n_cols, int ld);

#endif
