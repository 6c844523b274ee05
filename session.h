// session.h: what run.c, session.c, answer.c, choices.c, save.c, chat.c and record.c share: a conversation with a model, and the
// engine that holds it.

#ifndef SESSION_H
#define SESSION_H

#include "cli.h"

#include <signal.h>

typedef struct Record Record;

typedef struct {
    Options opt;
    SmolModel model;
    SmolEngine *engine;  // NULL until the first question
    SmolLimits limits;
    size_t engine_bytes, picture_bytes;  // the second: the largest of all pictures
    double load_ms;
    Trace *trace;
    Record *replay;  // what the answer is compared with; NULL: nothing

    SmolMessage *messages;  // the conversation so far
    int n_messages;
    SmolPicture pictures[MAX_IMAGES];  // of all messages, in order
    SmolTiling tilings[MAX_IMAGES];
    const char *picture_names[MAX_IMAGES];
    int n_pictures, n_asked;  // those of messages already rendered
    Video videos[MAX_VIDEOS];
    int n_videos, n_videos_asked;
    int n_encoded;  // messages whose pictures and videos are in the KV cache
    int warned;     // that little of the context is left
    Answer last;    // for /stats; its texts and ids are gone

    int32_t *ids;  // the prompt
    long n_ids;
    Choice choices[MAX_CHOICES];
    int32_t *cached;  // what the KV cache holds, smol_position() of them
    SmolSampling sampling;
    int frame, n_frames;  // of the video that is encoded
    char stage[40];       // "tile 3/13", for the progress line
    char stem[40];        // "picture_01", for the names of dumped tiles
} Session;

// ---- run.c: Ctrl-C, which is noticed between steps ----

extern volatile sig_atomic_t interrupted;
extern volatile sig_atomic_t waiting;      // for a question, or until there is an answer: there is nothing to end cleanly
extern volatile sig_atomic_t prompted;     // the terminal's cursor stands behind a prompt

// ---- session.c: the conversation, its prompt, its memory ----

void add_message(Session *s, const char *role, const char *text, size_t n);

// A question with the pictures or the video added since the last one; and its removal, theirs included.
void add_question(Session *s, const char *text, size_t n);
void drop_question(Session *s);

// Read and probed. Return 0, or -1 with err filled.
int add_picture(Session *s, const char *name, SmolErr *err);
int add_video(Session *s, const char *name, SmolErr *err);

// Changes to what has been said; the KV cache keeps what stays. Return 0, or -1 with err filled: a loaded conversation's
// pictures cannot be looked at again.
int set_system(Session *s, const char *text, size_t n, SmolErr *err);  // n 0: none
int drop_oldest(Session *s, SmolErr *err);                             // a question and its answer
void session_reset(Session *s);                                        // all but the system prompt
void session_clear(Session *s);                                        // that, too

void add_inputs(Session *s);  // what the command line names, for the first question
Video *video_of(Session *s, const SmolMessage *m);
void print_cost(const char *before, const SmolTiling *t, const char *after);
size_t pixel_bytes(const SmolConfig *c);

// The whole conversation to s->ids.
int session_tokenize(Session *s, SmolErr *err);

int wanted_context(const Session *s);

// Whether the prompt and one token more fit the context, or an error that says what would.
int check_context(Session *s, int context, SmolErr *err);

int session_plan(Session *s, SmolErr *err);
int session_start(Session *s, SmolErr *err);

// ---- answer.c ----

// Answers the conversation's last question. Returns 0, or -1 with err filled and the culprit named.
int session_answer(Session *s, Answer *a, SmolErr *err, const char **culprit);
void session_report(const Session *s, const Answer *a);
void flush_output(void);

// ---- choices.c ----

// Finds the tokens of each choice, and how many positions the longest may take, as opt.n_tokens.
int choices_tokenize(Session *s, SmolErr *err);

// After the prompt, whose last logits these are: fills the answer with the scores.
int choices_score(Session *s, Answer *a, const float *logits, SmolSha256 *digest, SmolErr *err);

// ---- record.c ----

void picture_digest(const SmolPicture *p, uint8_t sha256[32]);  // of its file's bytes

void record_write(const Session *s, const Answer *a);  // to the file that --record names

// Reads a record, which stays in s->replay, and sets the options as it says. This and what follows end the program where they
// find a fault or a difference.
void record_read(Session *s);
void record_check_model(const Session *s);
void record_check_pictures(const Session *s);
void record_check_frame(const Session *s, const Video *v, int i);  // which is about to be encoded
void record_compare(const Session *s, const Answer *a);

// ---- save.c ----

// The conversation, with the KV cache, to a file and from one. Return 0, or -1 with err filled and nothing changed.
int session_save(Session *s, const char *name, SmolErr *err);
int session_load(Session *s, const char *name, SmolErr *err);

// ---- chat.c ----

// Questions and commands from standard input until it ends. Returns the exit status.
int chat(Session *s);

#endif
