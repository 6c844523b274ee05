// cli.h: what the files of the command line share: run.c, options.c, report.c, json.c, stop.c, score.c, trace.c, video.c,
// dump.c, png_write.c, host.c, version.c, and with session.h the rest. None of this is the engine.

#ifndef CLI_H
#define CLI_H

#include "smol.h"

#include <stdio.h>

enum { MAX_IMAGES = 64, MAX_VIDEOS = 16, MAX_STOPS = 16, MAX_CHOICES = 64, MAX_LOGPROBS = 100 };

// ---- options.c ----

typedef struct {
    const char *text;
    size_t n;
} Span;

typedef struct {
    const char *model, *prompt, *system, *trace, *kernel, *video, *score, *dump_tiles, *choice_list, *record, *replay;
    double fps;      // 0: as the video says
    int max_frames;  // 0: as the model says
    const char *images[MAX_IMAGES];
    int n_images;
    const char *stops[MAX_STOPS];
    int n_stops;
    Span choices[MAX_CHOICES];  // of choice_list
    int n_choices;
    int logprobs;  // alternatives to each token, 0: none
    int n_tokens, context, threads, max_tiles;  // max_tiles 0: no bound; context 0: as long as the prompt and the answer need
    float temperature, top_p, min_p, repeat_penalty;
    int top_k;
    uint64_t seed;
    int no_tiling, no_loop_check, raw, special, json, tokenize, info, verify, plan, list_kernels, timings, in_memory, kv_int8;
} Options;

// Fills o from the command line. Returns -1, or the exit status if there is nothing left to do.
int options_parse(Options *o, int argc, char **argv);

// Those that an answer depends on, but for --stop, with their values as on the command line or NULL; flags are true or false.
void options_tell(const Options *o, void (*tell)(void *user, const char *name, const char *value, int is_text), void *user);

// Takes such a value, or one of --stop; 0 for what is no such option and no such value. value NULL: as if it had not been given.
int options_take(Options *o, const char *name, const char *value, int is_text);

// The list of --choices to o->choices, the spaces around each removed. Returns NULL, or what is wrong with it.
const char *options_split_choices(Options *o);

// ---- version.c ----

extern const char source_sha256[];  // of the files that the program was made from, as the Makefile says, or "unknown"

// ---- host.c ----

// Whatever the system needs before all else. Ctrl-C calls interrupted.
void host_prepare(void (*interrupted)(int));

// Prints one line, "smol: NAME: MESSAGE" (no NAME if NULL); die exits with status 1 after it.
void complain(const char *name, const char *message);
_Noreturn void die(const char *name, const char *message);

// A line on the terminal that the next one replaces; NULL takes it away. Nothing if standard error is no terminal.
void progress(const char *text);

// realloc that does not return NULL.
void *need(void *old, size_t bytes, const char *what);

// The first multiple of 64 from p on, as arenas and models want it: ask for 63 bytes more.
void *aligned_64(void *p);

typedef struct {
    char *bytes;  // terminated
    size_t n, cap;
} Buffer;

void buffer_add(Buffer *b, const char *bytes, size_t n);
void buffer_print(Buffer *b, const char *format, ...);  // less than 1000 bytes

// A regular file is mapped where that can be; anything else, and standard input for "-", is read. NULL with err->text filled on failure.
const uint8_t *load_file(const char *name, size_t *n, SmolErr *err);

// Reads it in any case, into large pages, from which memory is read faster than from those in which the system keeps most files.
const uint8_t *load_copy(const char *name, size_t *n, SmolErr *err);

// An empty file that vanishes when it is closed, or with the program. It may need the name for a moment; NULL: any place.
FILE *nameless_file(const char *path);

// The file is there when it is whole, or the program ends. check_writable, beforehand, ends it where that cannot be.
void check_writable(const char *path);
void write_file(const char *path, const char *bytes, size_t n);

int replace_file(const char *from, const char *to);  // what was at to goes; 0, or -1 with errno set
int make_folder(const char *name);                   // the same

// Has the terminal hand over each key at once, as edit_line wants it; 0 where there is none that could. terminal_end, which a
// signal's handler may call, undoes it; so does the end of the program.
int terminal_begin(void);
void terminal_end(void);
ptrdiff_t terminal_read(void *bytes, size_t n);

// One line from standard input without its end, which may be CR LF; 0 at the end of input.
int read_line(Buffer *line);

// Holds the bytes of a character until it is complete, then adds it to out. What is no UTF-8 becomes U+FFFD.
typedef struct {
    char held[4];
    int n, wanted;
} Utf8;

void utf8_add(Utf8 *u, Buffer *out, char c);
void utf8_end(Utf8 *u, Buffer *out);

int is_utf8(const char *s, size_t n);

double now_ms(void);

// The most memory that this program has had, in bytes; the pages of a mapped file that it touched are part of it.
size_t peak_memory(void);

// ---- line.c ----

// A line typed or pasted after terminal_begin, echoed on standard error; 0 at the end of input.
int edit_line(Buffer *line);

// ---- video.c ----

// A video, and which of its frames are taken. They come one at a time.
typedef struct {
    char *name;
    SmolVideo video;
    SmolTiling tiling;       // of each frame
    size_t work_bytes;       // what a frame needs while it is loaded
    int *frames;             // (video.n_frames) their numbers, from 0
    double *seconds;         // (video.n_frames)
    uint8_t (*sha256)[32];   // (video.n_frames) of their bytes as picture files, once they are encoded
    int width, height, n_total;
    double fps;

    int kind;
    char **names;            // (n_total) of a folder, in order; NULL of a stream
    FILE *stream;
    uint64_t size, first;    // its bytes, and where the first frame begins
    int at;                  // the frame that comes next
    int across, down, full_range;  // Y4M: pixels that share a chroma sample, and whether black is 0
    uint8_t *bytes;          // (n_bytes) the frame last asked for
    size_t n_bytes;
} Video;

// Counts the frames and chooses those to take. fps 0 and max_frames 0: not given. On failure err says why, and v is
// closed.
int video_open(Video *v, const char *name, const SmolConfig *c, double fps, int max_frames, SmolErr *err);

// Chooses again.
int video_choose(Video *v, const SmolConfig *c, int max_frames, SmolErr *err);

// A frame by its number, good until the next call. Adds the frame to the error, as video_blame does to any other.
int video_frame(Video *v, int frame, SmolPicture *p, SmolErr *err);
int video_blame(const Video *v, int frame, SmolErr *err);

void video_close(Video *v);

// ---- png_write.c ----

// rgb (height, width, 3), rows ld bytes apart. The file is there when it is whole, or the program ends.
void write_png(const char *path, const uint8_t *rgb, int width, int height, size_t ld);

// ---- dump.c ----

// Where tile i lies in the picture, in its pixels. The view of the whole has row 0 and column 0; the others count from 1.
typedef struct {
    int row, col;
    double x, y, width, height;
} TileBox;

TileBox tile_box(const SmolPicture *p, const SmolTiling *t, int i);

// Makes the folder if there is none. The others write into it; their files' names begin with the stem.
void dump_open(const char *folder);
int dump_tiling(const char *folder, const char *stem, const SmolPicture *p, const SmolTiling *t, SmolErr *err);
void dump_tiles(const char *folder, const char *stem, const SmolTiles *tiles, int tile);

// ---- choices.c ----

// A fixed answer. Once they are scored the most probable one is the first.
typedef struct {
    Span text;
    int32_t *ids;  // (n_ids) the last one ends the answer
    int n_ids;
    double logprob, probability;
} Choice;

// ---- answer.c ----

typedef struct {
    int32_t id;
    double logprob;
} Likely;

// An answer is a loop when its last tokens, so many at least, are one cycle of at most LOOP_PERIOD, so many times at least.
enum { LOOP_TOKENS = 128, LOOP_TIMES = 8, LOOP_PERIOD = 64 };

// One answer and what it took.
typedef struct {
    Buffer text;
    size_t shown;  // bytes of it
    int32_t *ids;
    int n_ids;
    Likely *likely;  // (n_ids, 1 + --logprobs) each token of the answer, and the best there were
    const Choice *choices;
    int n_choices;
    int runs[LOOP_PERIOD + 1];  // how many of the last tokens were each the same as the one so far before it
    const char *finish;  // stop, length, context, interrupted, choice, loop
    int n_prompt, n_reused, n_tiles;
    double load_ms, encode_ms, prompt_ms, decode_ms;
    uint8_t logits_sha256[32];
} Answer;

// ---- report.c ----

void report_info(const SmolModel *m, const char *name);
void report_plan(const SmolModel *m, const SmolLimits *limits, size_t picture_bytes);
void report_timings(const Answer *a, const char *kernel, int n_threads);
void report_json(const Options *o, const SmolModel *m, const Answer *a, const int32_t *prompt, const SmolPicture *pictures,
                 const SmolTiling *tilings, int n_pictures, const SmolVideo *video, size_t memory, const char *kernel);
void report_choices(const Answer *a);
void report_logprobs(const SmolModel *m, const Answer *a, int k);  // on standard error
void report_ids(const int32_t *ids, long n, int json);

void print_hex(FILE *f, const uint8_t digest[32]);

// ---- logprobs.c ----

// log(sum of exp(logits)): a logit less this is its token's log-probability.
double log_sum_exp(const float *logits, int n);

// Notes the answer's newest token and the k most probable of the n there were.
void logprobs_add(Answer *a, const float *logits, int n, int k, int32_t id);

// ---- json.c ----

enum { JSON_DEPTH = 16 };  // brackets within each other

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

typedef struct {
    JsonKind kind;
    int n_children;   // of an array its values; of an object its names and values, which take turns
    size_t begin, n;  // bytes in the text; of a string those between the quotes
    size_t end;       // the index of the first value behind this one and all that it holds
} JsonValue;

typedef struct {
    const char *text;
    JsonValue *values;  // in the order in which they begin: the first is the whole
    size_t n_values;
} Json;

// values has room for n / 2 + JSON_DEPTH. A negative code with err filled for anything that is not exactly one valid value.
int json_read(Json *j, const char *text, size_t n, JsonValue *values, SmolErr *err);

size_t json_member(const Json *j, size_t object, const char *name);  // the index of its value, 0: there is none
// A string's text without escapes, with U+FFFD for a zero; any other value as it stands. To be freed.
char *json_text(const Json *j, size_t i);

void json_add_string(Buffer *b, const char *s, size_t n);  // s is UTF-8

// ---- stop.c ----

// How much of the text, from a byte on, is no stop text and cannot become one; found: a whole one stands there.
size_t stop_before(const Options *o, const Buffer *text, size_t from, int *found);

// Called after each token: the length of the cycle that the answer goes round in, or 0.
int in_loop(Answer *a);

// ---- score.c ----

// Prints how well the model predicts the text of o->score, as one JSON object. Returns the exit status.
int score(const SmolModel *m, const Options *o);

// ---- trace.c ----

typedef struct Trace Trace;

Trace *trace_open(const char *path);
void trace_add(Trace *t, const char *name, const float *x, int n_rows, int n_cols, int ld);
void trace_close(Trace *t);  // writes the file under its final name

#endif
