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

// Fills err and returns code. Knows %s %d %u and %z (size_t); the core has no stdio.
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

// Where part i of n things begins, when they are divided among n_parts; the next part begins where it ends.
static inline int share(int n, int i, int n_parts) { return (int)((int64_t)n * i / n_parts); }

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

// ---- ops.c: what is scalar or plain under the numerics contract ----

double sin_exact(double x);  // |x| up to 1e6; error below 2e-16
double cos_exact(double x);
void add(float *x, const float *y, int n);
void rope_angles(float *cos, float *sin, const float *inv_freq, int half, int position);
void rope(float *x, const float *cos, const float *sin, int half);

// ---- quant.c: the matrix product ----

#define LANES 16  // rows of a panel; rows of activations are padded to a multiple of it

enum { Q8_BLOCK = 64, Q4_BLOCK = 32 };  // columns that share a scale

extern const int8_t q4_levels[16];

// Activations rounded to int8 in blocks: x = scale q. Tokens lie in groups of TOKENS, as rows of weights lie in panels; a single
// token is a group of its own.
enum { TOKENS = 8 };

typedef struct {
    int8_t *q;        // (n_tok / group, columns / 4, group, 4)
    float *scale;     // (n_tok / group, blocks, group)
    int32_t *offset;  // the same: -128 times the sum of the block's q, which undoes the +128 of the weights
    size_t q_bytes, n_scales;  // from group to group
    int group;        // TOKENS, or 1: then blocks are those of the weight's type
} Int8Rows;

// Rows of the group that begins with row first, of n in all.
static inline int group_rows(int n, int first) { return n - first < TOKENS ? n - first : TOKENS; }

// One or two neighbouring panels of quantised weights (FORMAT.md): scales f16 (n_blocks, 16), then quants.
typedef struct {
    const uint8_t *panel;
    size_t panel_bytes;  // from panel to panel
    int n_panels;
    int block, n_blocks;
    const float *start;  // (2 * LANES), aligned to 64: what the outputs begin with, as the bias
} Strip;

// y[t][r] = start[r], then fmaf(w_scale[r][b] * x_scale[t][b], (float)isum, y[t][r]) for b = 0, 1, ... n_blocks - 1;  t < n_tok
// isum: the exact integer product of block b; r runs over the strip's rows. y is room for whole tiles, wherever a kernel finds
// it convenient to write: 2 * LANES columns, whole groups of x, ldy (a multiple of LANES) from row to row, aligned to 64 bytes.
typedef void StripProduct(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok);

// Neighbouring panels of floats: element k of row r of panel p is w[p * step + k * ldw + r].
typedef struct {
    const float *w;
    size_t ldw, step;
    int n_panels, n_k;
} StripF32;

// y[t][p * LANES + r] = fmaf(w[p][k][r], x[t][k], y[t][p * LANES + r])   for k = 0, 1, ... n_k - 1;  t < n_tok
typedef void StripProductF32(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok);

// The same panels in half precision.
typedef struct {
    const uint16_t *w;
    size_t ldw, step;
    int n_panels, n_k;
    size_t ahead;  // elements to the next strip, which is fetched meanwhile
} StripF16;

typedef void StripProductF16(float *y, size_t ldy, const StripF16 *w, const float *x, size_t ldx, int n_tok);

// The operations of vector.h, which every kernel file compiles for its instruction set.
typedef struct {
    void (*rmsnorm)(float *y, const float *x, const float *w, int n, float eps);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, int n, float eps);
    void (*softmax)(float *x, int n, float scale);
    void (*gelu_tanh)(float *x, int n);
    void (*silu_multiply)(float *gate, const float *up, int n);
    void (*quantise)(const Int8Rows *to, int first, int n_rows, const float *x, size_t ldx, int n, int block);
    void (*softmax_block)(const Int8Rows *to, int first, int n_rows, int b, const float *x, int n, float factor);
    void (*softmax_scales)(const Int8Rows *to, int first, int n_rows, int n_blocks, float factor, float *inverse);
    void (*pack_q8)(uint16_t *scales, uint8_t *quants, const float *x, int n);
    void (*widen)(float *y, const uint16_t *x, int n);
    void (*narrow)(uint16_t *y, const float *x, int n);
    void (*widen8)(float *y, const int8_t *x, int n);
    float (*narrow8)(int8_t *y, const float *x, int n);  // x = scale y; returns the scale
    void (*put_rows)(float *y, size_t ldy, const float *tile, size_t ld, int n_rows, int n, int adds);
} VectorOps;

typedef struct {
    const char *name;
    int (*supported)(void);
    StripProductF32 *strip_f32;
    StripProduct *strip_q8, *strip_q4;
    const VectorOps *ops;
    StripProductF16 *strip_f16;  // NULL: widen first
} Kernel;

extern const Kernel kernel_avx2, kernel_avx512, kernel_i8mm, kernel_dotprod, kernel_neon;
StripProduct plain_strip_q8, plain_strip_q4;

// The named kernel, or the best one for NULL; NULL if this machine cannot run it.
const Kernel *kernel_find(const char *name);

// A weight matrix as stored, with its bias.
typedef struct {
    const void *data;   // panels, as FORMAT.md has them
    const float *bias;  // (n_rows), or NULL
    int type, n_rows, n_cols;
} Matrix;

// Bytes of one panel of 16 rows; of a Q8 panel with blocks of another length; and where the quants of a panel begin.
uint64_t panel_bytes(int type, int n_cols);
uint64_t q8_panel_bytes(int block, int n_blocks);
const uint8_t *strip_quants(const Strip *w);

// The input of products: rows of floats, and room for the same rows in int8, filled when weights ask for it.
typedef struct {
    const float *x;  // (n_tok, ldx)
    size_t ldx;
    int n_cols;
    Int8Rows int8;
    int block;  // that int8 holds; 0: nothing yet
} Input;

// Bytes of room for n_tok rows of int8 with their scales and offsets, and its division among the three.
uint64_t int8_bytes(int n_tok, int n_cols);
Int8Rows int8_rows(void *room, int n_tok, int n_cols);

// One product of an input: y = x W^T + bias, y (n_tok, ldy), ldy at least n_rows rounded up to 16; or y += x W^T + bias.
typedef struct {
    Matrix w;
    float *y;
    size_t ldy;
    int adds;
} Product;

// Who multiplies, and the room that each thread has for outputs while they are in its cache.
typedef struct {
    const Kernel *kernel;
    int n_threads;
    int rows;      // tokens of a tile, a multiple of TOKENS
    float *tiles;  // tile_floats(rows) for each thread
} Workers;

uint64_t tile_floats(int rows);

// All products of one input, shared out among the threads by panels.
void multiply(const Workers *w, Input *x, const Product *products, int n_products, int n_tok);

// The first half of an MLP: h = silu(x gate^T) (x up^T), or gelu(x gate^T + bias) where up is NULL. h becomes int8 at once, a
// block of columns after the other, for weights of next_type; or floats if those are, and h->x is the room for them. gate and up
// are of one type.
void multiply_activated(const Workers *w, Input *x, const Matrix *gate, const Matrix *up, Input *h, int next_type, int n_tok);

// One row of a matrix: the embedding of a token.
void matrix_row(float *out, const Matrix *w, int row);

// ---- attention.c: floats ----

typedef enum { KV_F32, KV_F16, KV_INT8 } KvType;

// Keys and values of one layer, laid out so that both products of attention are panel products.
typedef struct {
    KvType type;
    int n_pos, n_kv_heads, head_dim;
    void *k;                   // (n_kv_heads, n_pos / 16, head_dim, 16): 16 positions side by side
    void *v;                   // (n_kv_heads, n_pos, head_dim rounded up to 16)
    float *k_scale, *v_scale;  // of int8, (n_kv_heads, n_pos): one for each head of a position
} KvLayer;

uint64_t kv_bytes(const KvLayer *kv);         // of all four parts
void kv_place(KvLayer *kv, void *room);       // which lie there from now on
size_t kv_position_bytes(const KvLayer *kv);  // of one position, as kv_get gives them

// Stores the heads of one position: k, v (n_kv_heads * head_dim).
void kv_store(const Kernel *kernel, const KvLayer *kv, int position, const float *k, const float *v);

// The keys and values of one position as stored, (n_kv_heads, 2, head_dim) and each head's two scales behind it, out of the cache
// and into it.
void kv_get(const KvLayer *kv, int position, uint8_t *out);
void kv_put(const KvLayer *kv, int position, const uint8_t *bytes);

// q (n_tok, n_heads * head_dim) becomes the attention's output, in place. Each token sees the first n_seen positions; with
// causal, token t sees the first n_seen + t. scratch: attention_floats() for each thread.
void attention(const Kernel *kernel, int n_threads, float *q, int ldq, int n_tok, int n_heads, const KvLayer *kv, int n_seen,
               int causal, float *scratch);
uint64_t attention_floats(int n_pos, int n_heads, int n_kv_heads, int head_dim);

// ---- attention_int8.c: the encoder's, with quantised weights ----

typedef struct {
    uint8_t *k;  // (n_heads, n_pos / 16) Q8 panels of head_dim columns
    uint8_t *v;  // (n_heads, head_dim / 16) Q8 panels of n_pos columns
    int n_pos, n_heads, head_dim;
} Int8Kv;

uint64_t int8_kv_bytes(int n_pos, int n_heads, int head_dim, uint64_t *v_bytes);  // returns those of k

// Stores n <= 64 positions from first on, a multiple of 64.  k, v (n, ld)
void int8_kv_store(const Kernel *kernel, const Int8Kv *kv, int first, int n, const float *k, const float *v, size_t ld);

// q (n_tok, n_heads * head_dim) becomes the attention's output, in place. scratch: attention_int8_bytes() for each thread.
void attention_int8(const Kernel *kernel, int n_threads, float *q, size_t ldq, int n_tok, const Int8Kv *kv, uint8_t *scratch);
uint64_t attention_int8_bytes(int n_pos, int head_dim);

// ---- model.c ----

enum { WEIGHTS_F32, WEIGHTS_Q8, WEIGHTS_Q4 };  // weight_type of the header

enum { LN1_W, LN1_B, VQ_W, VQ_B, VK_W, VK_B, VV_W, VV_B, VO_W, VO_B, LN2_W, LN2_B, FC1_W, FC1_B, FC2_W, FC2_B, N_VISION_LAYER };
enum { NORM1, WQ, WK, WV, WO, NORM2, W_GATE, W_UP, W_DOWN, N_TEXT_LAYER };

// Places of the tensors in the directory, which follow from the configuration; -1 for what the family does not have.
typedef struct {
    int patch_w, patch_b, pos_emb, vision_layers, post_ln_w, post_ln_b, connector;
    int tok_emb, text_layers, norm, lm_head, inv_freq, n_tensors;
} Places;

Places model_places(const SmolConfig *c);

// ---- engine.c ----

#define MOST_ROWS 128   // tokens of a tile: weights of 4 bits are unpacked once for all of them
#define VISION_BLOCK 64  // patches that go through a layer's products at once: a block of the values in attention_int8.c

// How many of them go through the MLP at once, whose rows are the widest: a small batch asks for little memory.
static inline int mlp_rows(const SmolLimits *l) { return l->batch < VISION_BLOCK ? l->batch : VISION_BLOCK; }

// What one thread of the encoder works in.
typedef struct {
    float *in;      // (VISION_BLOCK, wider of v_dim and 3 patch_size^2)
    float *a, *b;   // (VISION_BLOCK, v_dim)
    float *h;       // (MLP rows, v_hidden_dim), where floats are wanted
    void *int8;     // room for (VISION_BLOCK, wider of v_dim and 3 patch_size^2) in int8
    void *int8_h;   // room for (MLP rows, v_hidden_dim) in int8
    Workers alone;  // the thread itself
} VisionRoom;

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
    VisionRoom *rooms;  // (n_threads)
    float *features;  // (n_image_tokens, dim)
    float *logits;    // (1 or batch, vocab_size rounded up to 16)
    Workers workers;  // all threads
    int32_t *order;   // (vocab_size) sampling: ids by probability
    float *probs;     // (vocab_size)

    // decoder scratch, rows of batch tokens; widths rounded up to 16
    float *x, *xb, *q, *k, *v, *h;  // dim, dim, n_heads head_dim, kv_dim, kv_dim, hidden_dim (where floats are wanted)
    float *cos, *sin;               // (batch, head_dim / 2)
    void *int8, *int8_h;            // room for (batch, wider of dim and n_heads head_dim) in int8, (batch, hidden_dim)

    // encoder scratch, in the same bytes as the decoder's
    float *vx, *vq;      // (n_patch, v_dim)
    KvLayer vkv;         // keys and values of all patches, of an f32 model
    Int8Kv vkv8;         // the same, when the weights are quantised
    void *shuffled;      // room for (image_seq_len, v_dim scale_factor^2) in int8, in the bytes of the keys and values
    float *vy;           // (image_seq_len, dim)

    void *scores, *vscores;  // attention scratch of the decoder and of the encoder, one part a thread
};

// The input of a product: n_tok rows of floats, with room for them in int8.
Input input_of(const float *x, int ldx, int n_cols, void *int8, int n_tok);

// Tensors by their place in the directory; bias -1: none.
Matrix engine_matrix(const SmolEngine *e, int weight, int bias);
const float *engine_vector(const SmolEngine *e, int i);
Product engine_product(const SmolEngine *e, float *y, int ldy, int weight, int bias);

// Tells the listener, if there is one, of a stage's tensor; the layer's number is added to the name, -1: none.
void engine_trace(const SmolEngine *e, const char *name, int layer, const float *x, int n_rows, int n_cols, int ld);

#endif
