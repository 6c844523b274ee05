// smol.h: the public interface of smol.c, and all that a port needs to include.
//
// The engine answers questions about pictures with SmolVLM2, and questions alone with Mistral Small and SmolLM2. It does
// no I/O and allocates nothing: the caller brings the bytes of a model file (mapped, read, or linked into flash) and one
// arena, sized beforehand by the same code that carves it up. Numbers follow one contract (see ops.c): the same input
// gives the same bits on every machine.
//
//     smol_open        check the bytes of a model file                      model.c
//     smol_picture_*   probe a picture, choose its tiles, cut them          image.c
//     smol_video_*     which frames of a video, and their one tile          image.c
//     smol_prompt_*    chat template, image tokens                          template.c
//     smol_tokenize    token ids, and the text of a token                   tokenizer.c
//     smol_plan/start  size and carve the arena                             engine.c
//     smol_encode_tile a tile's pixels to rows of features                  vision.c
//     smol_forward     token ids and features to logits                     decoder.c
//     smol_sample      logits to the next token                             sampling.c
//
// Build: all of the engine's .c files (the Makefile's ENGINE), -std=c11 -ffp-contract=off, and optionally -fopenmp.
//
// Functions that can fail return 0 or a negative SMOL_E_* code and leave one line in err->text.

#ifndef SMOL_H
#define SMOL_H

#include <stddef.h>
#include <stdint.h>

#define SMOL_VERSION "0.1"

#ifdef __cplusplus
extern "C" {
#endif

// ---- errors ----

enum {
    SMOL_E_FORMAT = -1,     // the bytes are not what they should be
    SMOL_E_MEMORY = -2,     // the arena is too small
    SMOL_E_LIMIT = -3,      // the input does not fit: context, vocabulary, picture size
    SMOL_E_CANCELLED = -4,  // the progress callback asked to stop
};

typedef struct {
    int code;
    char text[256];  // one line, no newline; the caller adds the file's name
} SmolErr;

// ---- memory ----

// A bump allocator over the caller's bytes, base aligned to 64. With base NULL it only counts, so that planning and carving are
// one function.
typedef struct {
    uint8_t *base;
    size_t size, used;
    void (*note)(void *user, const char *name, size_t bytes);  // hears of each buffer; may be NULL
    void *user;
} SmolArena;

// ---- SHA-256 (FIPS 180-4) ----

typedef struct {
    uint32_t h[8];
    uint64_t n;
    uint8_t block[64];
} SmolSha256;

void smol_sha256_init(SmolSha256 *s);
void smol_sha256_add(SmolSha256 *s, const void *bytes, size_t n);
void smol_sha256_end(SmolSha256 *s, uint8_t digest[32]);

// ---- the model file (FORMAT.md) ----

enum { SMOL_F32, SMOL_F32X16, SMOL_Q8, SMOL_Q4 };  // types of a tensor
enum { SMOL_SMOLVLM = 1, SMOL_LLAMA };             // families; the second has a text decoder and nothing else

typedef struct {
    int weight_type, family, template_kind;  // numbers of FORMAT.md's header
    // text decoder, as in Hugging Face's LlamaConfig and MistralConfig
    int dim, hidden_dim, n_layers, n_heads, n_kv_heads, head_dim, vocab_size, max_positions;
    float rms_norm_eps, rope_theta;
    int tied;
    // vision encoder (SmolVLMVisionConfig) and connector; from here to the tokens all 0 in a model that reads text only
    int image_size, patch_size, v_dim, v_hidden_dim, v_layers, v_heads;
    float v_eps;
    int scale_factor;
    // image processor
    int tile_size, longest_edge, image_seq_len, do_image_splitting;
    double rescale_factor;
    float image_mean[3], image_std[3];
    // video processor
    int video_max_frames, video_size;
    double video_fps;
    // tokens; -1 where there is none
    int bos_id, pad_id, image_token_id, n_eos, eos_id[4];
} SmolConfig;

typedef struct {
    char name[96];
    int type, n_rows, n_cols;
    const void *data;
    size_t bytes;
    const uint8_t *sha256;  // (32) as recorded in the file
} SmolTensor;

// The tables of byte-pair encoding, in place in the file.
typedef struct {
    const uint8_t *byte_id, *token_offset, *merges, *special, *chars, *bytes;
    uint32_t n_tokens, n_merges, n_special, n_chars, pretokenizer, first_token;
} SmolVocab;

// A checked view of a model file. Holds pointers into the caller's bytes, which must outlive it.
typedef struct {
    const uint8_t *bytes;
    size_t n_bytes;
    SmolConfig config;
    SmolVocab vocab;
    int n_tensors;
    const char *provenance;  // JSON text, not terminated
    size_t provenance_bytes;
    uint8_t sha256[32];  // of header, tokenizer, provenance and directory; the directory holds each tensor's own
} SmolModel;

// Checks everything but the tensors' values, which would mean to read all of a large file: smol_verify does. bytes must be aligned to 16, and are best aligned to 64.
int smol_open(SmolModel *m, const void *bytes, size_t n_bytes, SmolErr *err);

// The i-th tensor of the directory, 0 <= i < n_tensors.
void smol_tensor(const SmolModel *m, int i, SmolTensor *t);

// Compares the i-th tensor's bytes with its recorded SHA-256, and finds NaN and infinity among its floats and scales.
int smol_verify(const SmolModel *m, int i, SmolErr *err);

// ---- pictures ----

enum { SMOL_PNM = 1, SMOL_PNG, SMOL_JPEG, SMOL_BMP };

// What the first bytes of a picture say. Nothing is decoded.
typedef struct {
    const uint8_t *bytes;
    size_t n_bytes;
    int format, width, height;
} SmolPicture;

// The reference's plan for a picture of width x height (SmolVLMImageProcessor).
typedef struct {
    int resized_w, resized_h;  // longest edge set to the model's
    int cut_w, cut_h;          // then both edges made multiples of the tile
    int rows, cols;            // 0 x 0: one tile, not split
    int n_tiles;               // rows * cols + 1: the last one shows the whole picture
    int n_tokens;              // image placeholders in the prompt: n_tiles * image_seq_len
} SmolTiling;

// A picture cut into tiles, 8-bit RGB, in the arena it was loaded into.
typedef struct {
    SmolTiling tiling;
    const uint8_t *cut;     // (cut_h, cut_w, 3); NULL when not split
    const uint8_t *global;  // (tile_size, tile_size, 3)
} SmolTiles;

// Recognises PNM, PNG, JPEG and BMP, reads width and height. Other formats are named in the error.
int smol_picture_probe(SmolPicture *p, const void *bytes, size_t n_bytes, SmolErr *err);

// split 0: only the view of the whole picture.
int smol_picture_tiling(const SmolConfig *c, int width, int height, int split, SmolTiling *t, SmolErr *err);

// Arena bytes that smol_picture_load needs for this picture; SIZE_MAX if that is more than this machine can address.
size_t smol_picture_bytes(const SmolConfig *c, const SmolPicture *p, const SmolTiling *t);

// Decodes, resizes (Lanczos, bit for bit as Pillow 12.1) and cuts.
int smol_picture_load(const SmolConfig *c, const SmolPicture *p, const SmolTiling *t, SmolArena *arena, SmolTiles *out,
                      SmolErr *err);

// Normalised pixels of tile i, 0 <= i < n_tiles: out is (3, tile_size, tile_size).
void smol_tile_pixels(const SmolConfig *c, const SmolTiles *tiles, int i, float *out);

// ---- videos ----

// The frames that were taken from a video. Each is a picture of one tile. "P6 WIDTH HEIGHT 255\n" and the bytes of RGB
// pixels are a picture, too (SMOL_PNM), so that a camera's frames need no file.
typedef struct {
    int n_frames;           // 1 .. 999
    const double *seconds;  // (n_frames) when each was taken
    double duration;        // of the whole video, in seconds
} SmolVideo;

// Which of n_total frames, fps of them a second, the reference takes (SmolVLMVideoProcessor.sample_frames): at most
// max_frames, or with 0 the model's own number, which is also the most. frames has room for so many: rising numbers from 0.
// Returns how many or a negative code.
int smol_video_sample(const SmolConfig *c, int n_total, double fps, int max_frames, int *frames, SmolErr *err);

// Frames are never split, and their first resize is to another size than that of pictures.
int smol_video_tiling(const SmolConfig *c, int width, int height, SmolTiling *t, SmolErr *err);

// ---- prompts ----

// A prompt as text, before it becomes ids. Control tokens (<|im_start|>, <image>, ...) are recognised everywhere but in
// the spans that came from the user. Both arrays belong to the caller. A first call with both NULL only counts: n_text and
// n_user say how much room a second call needs, which sets them anew.
typedef struct {
    size_t begin, end;  // user text: bytes begin .. end - 1
} SmolSpan;

typedef struct {
    char *text;
    size_t n_text, text_cap;
    SmolSpan *user;
    size_t n_user, user_cap;
} SmolPrompt;

// One message of a conversation. Its pictures stand where its text has <image> marks, as many marks as pictures, or before the
// text if it has none, as on the model cards. In a message without pictures <image> is text. A video stands before the
// text. A message has pictures or a video: given both, the reference's processor loses the pictures.
typedef struct {
    const char *role;  // "system", "user" or "assistant"
    const char *text;
    size_t n_text;
    const SmolTiling *pictures;
    int n_pictures;
    const SmolVideo *video;  // NULL: none
} SmolMessage;

// Renders a conversation with the model's chat template, image markers expanded, ending with the assistant's cue. What is no
// UTF-8 in a message becomes U+FFFD.
int smol_prompt_chat(const SmolModel *m, const SmolMessage *messages, int n_messages, SmolPrompt *out, SmolErr *err);

// No template: the token that the model's texts begin with, if they do, the pictures' markers, then the text as it is.
// special 1: control tokens in the text are recognised, and none is put before it.
int smol_prompt_raw(const SmolModel *m, const SmolMessage *message, int special, SmolPrompt *out, SmolErr *err);

// The scratch bytes that smol_tokenize needs for n_text bytes, SIZE_MAX if that is too much.
size_t smol_tokenize_bytes(const SmolModel *m, size_t n_text);

// ids has room for n_text + 1; returns the number of ids or a negative code. The text must be UTF-8, as smol_prompt_* leave it.
long smol_tokenize(const SmolModel *m, const SmolPrompt *prompt, int32_t *ids, SmolArena *scratch, SmolErr *err);

// The bytes of one token (not terminated, possibly part of a character). Control tokens give n = 0.
const char *smol_token_text(const SmolModel *m, int32_t id, size_t *n);

// The same for people to read: control tokens give their names, such as <end_of_utterance>.
const char *smol_token_name(const SmolModel *m, int32_t id, size_t *n);

// Whether the space that an answer in a chat begins with belongs to the template, so that it is not shown.
int smol_answer_space(const SmolModel *m);

const char *smol_template_name(const SmolModel *m);  // "none" without one

// ---- engine ----

typedef struct {
    int context;         // positions of the KV cache
    int batch;           // prompt tokens that go through the decoder at once, and patches (up to 64) through the encoder's MLP:
                         // 128 is a good number, fewer need less memory
    int n_image_tokens;  // feature rows kept until they are consumed
    int n_threads;
    int vision;          // 0: text only, no encoder buffers
    int all_logits;      // 1: the trace gets the logits of every prompt position, not only the last
    int kv_int8;         // 1: keys and values in 8 bits, each head's with a scale; 0: f16, or f32 for a model of floats
    const char *kernel;  // NULL: the best this machine has
} SmolLimits;

// Hears of work done; stage is "layer" (of a tile) or "prompt", also for each token of an answer. A non-zero return cancels what
// is left to do: smol_encode_tile or smol_forward ends with SMOL_E_CANCELLED, the latter after a part of the tokens, so that
// smol_rewind is due.
typedef int (*SmolProgress)(void *user, const char *stage, int done, int total);

// Hears each stage's tensor as it is made, a tile or a batch of tokens at a time, under the reference's module name
// (inputs_embeds and logits are no modules): n_rows rows of n_cols floats, ld apart.
typedef void (*SmolTrace)(void *user, const char *name, const float *x, int n_rows, int n_cols, int ld);

typedef struct SmolEngine SmolEngine;

// Names of the kernels that this machine can run, best first; NULL when i is past the last.
const char *smol_kernel(int i);

// The bytes that smol_start takes from the arena. note (may be NULL) hears the name and size of each buffer.
int smol_plan(const SmolModel *m, const SmolLimits *limits, void (*note)(void *user, const char *name, size_t bytes),
              void *user, size_t *bytes, SmolErr *err);

// Carves the engine out of the arena, which must be aligned to 64. It belongs to the engine until the caller drops both.
int smol_start(SmolEngine **engine, const SmolModel *m, const SmolLimits *limits, void *arena, size_t bytes, SmolErr *err);

void smol_listen(SmolEngine *e, SmolProgress progress, SmolTrace trace, void *user);  // any may be NULL

const char *smol_kernel_name(const SmolEngine *e);

// Room for n_image_tokens rows of dim floats: the caller passes rows of it to smol_encode_tile, then to smol_forward.
float *smol_features(SmolEngine *e);

// SigLIP encoder, pixel shuffle, connector: pixels (3, tile_size, tile_size) to features (image_seq_len, dim).
int smol_encode_tile(SmolEngine *e, const float *pixels, float *features, SmolErr *err);

// Runs n_tok tokens (at least 1) at positions smol_position() .. through the decoder. Ids equal to image_token_id take
// the next row of features (n_features, dim) instead of their embedding; the numbers must match. With features NULL
// all ids take their embedding, as for a placeholder that the model itself said. logits: (vocab_size) of the last token, valid
// until the next call. NaN or infinity among them, as damaged weights bring about, ends with SMOL_E_FORMAT after the tokens
// are in the cache, so that smol_rewind is due.
int smol_forward(SmolEngine *e, const int32_t *ids, int n_tok, const float *features, int n_features, const float **logits,
                 SmolErr *err);

int smol_position(const SmolEngine *e);         // tokens in the KV cache
void smol_rewind(SmolEngine *e, int position);  // forget all from this position on

// The keys and values of a position, to keep them and to have them again, in this order, in another engine of the same
// model with the same kv_int8. smol_kv_add gives 0, or SMOL_E_LIMIT when the context is full.
size_t smol_kv_bytes(const SmolEngine *e);
void smol_kv_get(const SmolEngine *e, int position, void *out);
int smol_kv_add(SmolEngine *e, const void *bytes);

typedef struct {
    float temperature;     // 0: greedy, the lowest id wins a tie
    float top_p;           // 1: off
    int top_k;             // 0: off
    float min_p;           // 0: off
    uint64_t rng;          // state of the generator; set it to the seed
    float repeat_penalty;  // for the n_seen tokens that were there already
    const int32_t *seen;   // (n_seen) prompt and answer so far
    int n_seen;            // 0: no penalty
} SmolSampling;

// The next token. Penalty, temperature, top-k, top-p, min-p, in the order of transformers' generate().
int32_t smol_sample(SmolEngine *e, const float *logits, SmolSampling *s);

#ifdef __cplusplus
}
#endif

#endif
