// options.c: the command line, checked in full before anything else happens.

#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static const char help[] =
    "smol " SMOL_VERSION ": answers questions about pictures, on this machine and offline.\n"
    "\n"
    "usage: run MODEL [options] [PROMPT]\n"
    "\n"
    "  run models/demo/demo.smol -i models/demo/pictures/06_display.png \"Read the meter.\"\n"
    "  run smolvlm2-256m.smol -i cat.jpg               no PROMPT: a chat, in which /help lists the commands\n"
    "  ffmpeg -i in.mp4 -vf scale=out_color_matrix=bt601 -pix_fmt yuv420p -f yuv4mpegpipe - | run model.smol -v - \"What happens?\"\n"
    "\n"
    "input\n"
    "  -i, --image FILE      picture (PNG, JPEG, BMP, PNM), repeatable, in order; - reads standard input\n"
    "  -v, --video FILE      video: a folder of pictures in order of name, or a Y4M or PPM stream, - too\n"
    "      --fps F           frames a second, where the video does not say it as Y4M does (24)\n"
    "      --max-frames N    at most N frames, spread over the video (as many as the model was made for)\n"
    "  -s, --system TEXT     system prompt\n"
    "      --no-tiling       only the view of the whole picture: faster, less detail\n"
    "      --max-tiles N     at most N tiles for each picture: the largest size that needs no more\n"
    "      --raw             no chat template: the prompt as it is\n"
    "      --special         with --raw: control tokens such as <|im_start|> are recognised in the prompt\n"
    "answer\n"
    "  -n, --tokens N        at most N new tokens (256)\n"
    "  -t, --temperature F   0: always the most probable token (0)\n"
    "      --top-p F         sample from the most probable tokens that reach F together (1: off)\n"
    "      --top-k N         sample from the N most probable tokens (0: off)\n"
    "      --min-p F         sample from those at least F times as probable as the first (0: off)\n"
    "      --repeat-penalty F  what prompt and answer have said comes again less likely, as in transformers (1: off)\n"
    "      --seed N          for temperatures above 0 (0)\n"
    "      --stop TEXT       the answer ends before this text, repeatable\n"
    "      --no-loop-check   let an answer go on of which the last 128 tokens and 8 rounds are a cycle of at most 64\n"
    "      --choices A,B,C   no sampling: how probable each of these answers is, the end of the answer included\n"
    "machine\n"
    "  -c, --context N       tokens that prompt and answer may take together (as needed; chat: 4096)\n"
    "  -j, --threads N       (all processors that it may use)\n"
    "      --kv-int8         the KV cache in 8 bits: half the memory of a long context, at a small loss\n"
    "      --kernel NAME     use this kernel; --kernels lists those that this machine can run\n"
    "      --in-memory       the model is copied into memory, not mapped: starts later, and may write a third faster\n"
    "output\n"
    "  -V, --timings         timings and memory on standard error, after the answer\n"
    "      --logprobs N      each token's log-probability and its N best alternatives; before temperature and penalty\n"
    "      --json            one JSON object for each answer instead of streamed text\n"
    "      --tokenize        print the prompt's token ids and stop\n"
    "      --score FILE      how well the model predicts a text: perplexity in windows of 512 tokens (-c), as JSON, and stop\n"
    "      --record FILE     the answer and all that it depends on, as JSON\n"
    "      --replay FILE     answer as this record says: \"equal\", or where it first differs, and exit status 1\n"
    "      --trace FILE      every stage's tensors as a safetensors file\n"
    "      --dump-tiles DIR  every tile as a PNG in this folder, and how they lie in the picture\n"
    "      --plan            print every buffer and the total, and stop\n"
    "      --info            print the model's configuration, tensors and provenance, and stop\n"
    "      --verify          check every tensor against its SHA-256, and stop\n"
    "  -h, --help            this text;  --version\n"
    "\n"
    "Exit status: 0; 1 for a failure; 2 for wrong usage; 130 when interrupted.\n";

static int usage_error(const char *what, const char *detail) {
    fprintf(stderr, "smol: %s%s (run --help shows what there is)\n", what, detail);
    return 2;
}

// ---- numbers, in full: "12x", "", " 5", "0x10", "1e99" and numbers out of range are errors ----

// Before strtol and strtof, which would also take spaces, signs, hexadecimal, "inf" and "nan".
static int has_only(const char *text, const char *characters) {
    return *text != '-' && *text != '+' && text[strspn(text, characters)] == 0;
}

static int parse_int(const char *text, long min, long max, int *out) {
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (end == text || errno || v < min || v > max || !has_only(text, "0123456789")) return 0;
    *out = (int)v;
    return 1;
}

static int parse_float(const char *text, float min, float max, float *out) {
    char *end;
    errno = 0;
    float v = strtof(text, &end);
    if (end == text || *end || errno || v < min || v > max || !has_only(text, "0123456789.eE+-")) return 0;
    *out = v;
    return 1;
}

// In double, so that 29.97 is the reference's 29.97.
static int parse_rate(const char *text, double *out) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || *end || errno || !(v >= 1e-3 && v <= 1e6) || !has_only(text, "0123456789.eE+-")) return 0;
    *out = v;
    return 1;
}

static int parse_seed(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (end == text || errno || !has_only(text, "0123456789")) return 0;
    *out = v;
    return 1;
}

// ---- options ----

typedef enum { FLAG, TEXT, COUNT, REAL, IMAGE, VIDEO, STOP, RATE, SEED } Kind;

typedef struct {
    const char *name, *letter;
    Kind kind;
    int is_recorded;   // the answer depends on it
    size_t field;      // of Options
    int least;         // COUNT and REAL: the smallest number allowed
    float most;        // REAL: the largest
} Option;

static const Option options[] = {
    {"--image", "-i", IMAGE, 0, 0, 0, 0},
    {"--video", "-v", VIDEO, 0, 0, 0, 0},
    {"--fps", NULL, RATE, 1, 0, 0, 0},
    {"--max-frames", NULL, COUNT, 1, offsetof(Options, max_frames), 1, 0},
    {"--system", "-s", TEXT, 1, offsetof(Options, system), 0, 0},
    {"--no-tiling", NULL, FLAG, 1, offsetof(Options, no_tiling), 0, 0},
    {"--max-tiles", NULL, COUNT, 1, offsetof(Options, max_tiles), 1, 0},
    {"--raw", NULL, FLAG, 1, offsetof(Options, raw), 0, 0},
    {"--special", NULL, FLAG, 1, offsetof(Options, special), 0, 0},
    {"--tokens", "-n", COUNT, 1, offsetof(Options, n_tokens), 1, 0},
    {"--temperature", "-t", REAL, 1, offsetof(Options, temperature), 0, 100},
    {"--top-p", NULL, REAL, 1, offsetof(Options, top_p), 0, 1},
    {"--top-k", NULL, COUNT, 1, offsetof(Options, top_k), 0, 0},
    {"--min-p", NULL, REAL, 1, offsetof(Options, min_p), 0, 1},
    {"--repeat-penalty", NULL, REAL, 1, offsetof(Options, repeat_penalty), 1, 100},
    {"--seed", NULL, SEED, 1, 0, 0, 0},
    {"--stop", NULL, STOP, 1, 0, 0, 0},
    {"--no-loop-check", NULL, FLAG, 1, offsetof(Options, no_loop_check), 0, 0},
    {"--choices", NULL, TEXT, 1, offsetof(Options, choice_list), 0, 0},
    {"--logprobs", NULL, COUNT, 0, offsetof(Options, logprobs), 1, 0},
    {"--context", "-c", COUNT, 1, offsetof(Options, context), 1, 0},
    {"--kv-int8", NULL, FLAG, 1, offsetof(Options, kv_int8), 0, 0},
    {"--threads", "-j", COUNT, 0, offsetof(Options, threads), 1, 0},
    {"--kernel", NULL, TEXT, 0, offsetof(Options, kernel), 0, 0},
    {"--kernels", NULL, FLAG, 0, offsetof(Options, list_kernels), 0, 0},
    {"--in-memory", NULL, FLAG, 0, offsetof(Options, in_memory), 0, 0},
    {"--timings", "-V", FLAG, 0, offsetof(Options, timings), 0, 0},
    {"--json", NULL, FLAG, 0, offsetof(Options, json), 0, 0},
    {"--tokenize", NULL, FLAG, 0, offsetof(Options, tokenize), 0, 0},
    {"--score", NULL, TEXT, 0, offsetof(Options, score), 0, 0},
    {"--trace", NULL, TEXT, 0, offsetof(Options, trace), 0, 0},
    {"--dump-tiles", NULL, TEXT, 0, offsetof(Options, dump_tiles), 0, 0},
    {"--record", NULL, TEXT, 0, offsetof(Options, record), 0, 0},
    {"--replay", NULL, TEXT, 0, offsetof(Options, replay), 0, 0},
    {"--plan", NULL, FLAG, 0, offsetof(Options, plan), 0, 0},
    {"--info", NULL, FLAG, 0, offsetof(Options, info), 0, 0},
    {"--verify", NULL, FLAG, 0, offsetof(Options, verify), 0, 0},
};

static const Option *find_option(const char *word) {
    for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
        const Option *o = &options[k];
        if (!strcmp(word, o->name) || (o->letter && !strcmp(word, o->letter))) return o;
    }
    return NULL;
}

static int add_image(Options *o, const char *name) {
    if (o->n_images == MAX_IMAGES) return usage_error("too many pictures, the most is ", "64");
    for (int i = 0; i < o->n_images; i++) {
        if (!strcmp(name, "-") && !strcmp(o->images[i], "-")) return usage_error("standard input can be only one picture", "");
    }
    o->images[o->n_images++] = name;
    return 0;
}

// One that begins or ends within a character would cut it in two.
static int add_stop(Options *o, const char *text) {
    if (o->n_stops == MAX_STOPS) return usage_error("too many texts to stop at, the most is ", "16");
    if (!*text || !is_utf8(text, strlen(text))) return usage_error("--stop wants a text in UTF-8", "");
    o->stops[o->n_stops++] = text;
    return 0;
}

static int bad_number(const char *name, const char *wanted, const char *value) {
    char message[160];
    snprintf(message, sizeof message, "%s wants %s, not \"%.40s\"", name, wanted, value);
    return usage_error(message, "");
}

// 0 for what is no number or out of range.
static int take_number(Options *all, const Option *o, const char *value) {
    void *field = (char *)all + o->field;
    if (o->kind == RATE) return parse_rate(value, &all->fps);
    if (o->kind == SEED) return parse_seed(value, &all->seed);
    if (o->kind == REAL) return parse_float(value, (float)o->least, o->most, field);
    return o->kind == COUNT && parse_int(value, o->least, INT32_MAX, field);
}

// Takes the value that stands behind an option's name on the command line. Returns 0, or 2 after a message.
static int take_value(Options *all, const Option *o, const char *name, const char *value) {
    char wanted[64] = "a whole number of at least 0";
    switch (o->kind) {
    case TEXT: *(const char **)((char *)all + o->field) = value; return 0;
    case IMAGE: return add_image(all, value);
    case STOP: return add_stop(all, value);
    case VIDEO:
        if (all->video) return usage_error("a question has one video, not also ", value);
        all->video = value;
        return 0;
    case RATE: snprintf(wanted, sizeof wanted, "a number from 0.001 to 1000000"); break;
    case REAL: snprintf(wanted, sizeof wanted, "a number from %d to %g", o->least, (double)o->most); break;
    default: snprintf(wanted, sizeof wanted, "a whole number of at least %d", o->least);
    }
    return take_number(all, o, value) ? 0 : bad_number(name, wanted, value);
}

static int check_video(const Options *o) {
    if (o->video && o->n_images) return usage_error("a question has pictures or a video, not both", "");
    if (o->prompt && !o->video && (o->fps > 0 || o->max_frames)) {
        return usage_error("--fps and --max-frames go with --video", "");
    }
    if (o->video && !o->prompt && !strcmp(o->video, "-")) {
        return usage_error("a chat reads questions from standard input, so it cannot be a video", "");
    }
    return 0;
}

// A template has its own spaces around an answer. With --raw there is none, and every space counts.
static Span trimmed(const char *text, size_t n, int raw) {
    while (!raw && n && *text == ' ') text++, n--;
    while (!raw && n && text[n - 1] == ' ') n--;
    return (Span){text, n};
}

static int is_known(const Options *o, Span choice) {
    for (int i = 0; i < o->n_choices; i++) {
        if (o->choices[i].n == choice.n && !memcmp(o->choices[i].text, choice.text, choice.n)) return 1;
    }
    return 0;
}

const char *options_split_choices(Options *o) {
    const char *text = o->choice_list;
    if (!is_utf8(text, strlen(text))) return "--choices wants texts in UTF-8";
    for (const char *end = text; *end; text = end + 1) {
        end = text + strcspn(text, ",");
        Span choice = trimmed(text, (size_t)(end - text), o->raw);
        if (o->n_choices == MAX_CHOICES) return "too many choices, the most is 64";
        if (!choice.n) return "--choices has an empty one";
        if (is_known(o, choice)) return "--choices has one twice";
        o->choices[o->n_choices++] = choice;
    }
    return o->n_choices ? NULL : "--choices wants texts with commas between them";
}

static int check_choices(Options *o) {
    if (!o->choice_list) return 0;
    if (!o->prompt) return usage_error("--choices wants a PROMPT", "");
    if (o->logprobs) return usage_error("--choices has log-probabilities of its own, so it takes no --logprobs", "");
    const char *fault = options_split_choices(o);
    return fault ? usage_error(fault, "") : 0;
}

static int check_together(Options *o) {
    int alone = o->info || o->verify || o->score;
    if (!o->model) return usage_error("no MODEL given", "");
    if (o->special && !o->raw) return usage_error("--special goes with --raw", "");
    if (o->system && o->raw) return usage_error("--raw has no template, so it takes no --system", "");
    if (o->info + o->verify + o->plan + o->tokenize + (o->score != NULL) > 1) {
        return usage_error("--info, --verify, --plan, --tokenize and --score: one at a time", "");
    }
    if (o->json && (o->info || o->verify || o->plan)) return usage_error("--info, --verify and --plan have no JSON", "");
    if (o->trace && (o->plan || o->tokenize || o->score)) return usage_error("--plan, --tokenize and --score have no trace", "");
    if (o->dump_tiles && (alone || o->plan || o->tokenize)) return usage_error("--dump-tiles wants an answer or a chat", "");
    if (o->record && (alone || o->plan || o->tokenize || !o->prompt)) {
        return usage_error("--record wants a PROMPT and its answer", "");
    }
    if (o->dump_tiles && o->prompt && !o->n_images && !o->video) {
        return usage_error("--dump-tiles goes with --image or --video", "");
    }
    if (alone && (o->prompt || o->n_images || o->video)) {
        return usage_error("--info, --verify and --score take no prompt and no picture or video", "");
    }
    if (!alone && !o->prompt && (o->raw || o->tokenize || o->trace || o->plan)) {
        return usage_error("--raw, --tokenize, --trace and --plan want a PROMPT", "");
    }
    for (int i = 0; i < o->n_images; i++) {
        if (!o->prompt && !strcmp(o->images[i], "-")) {
            return usage_error("a chat reads questions from standard input, so it cannot be a picture", "");
        }
    }
    if (o->logprobs > MAX_LOGPROBS) return usage_error("--logprobs: too many alternatives, the most is ", "100");
    return check_choices(o) || check_video(o) ? 2 : -1;
}

// Those that this program may use; 1 where it was built without OpenMP.
static int n_processors(void) {
#ifdef _OPENMP
    return omp_get_num_procs();
#else
    return 1;
#endif
}

static int take_word(Options *o, const char *word) {
    if (o->model && o->prompt) return usage_error("more than one PROMPT (put quotes around it): ", word);
    if (o->model) o->prompt = word;
    else o->model = word;
    return 0;
}

// What is not the record's to say.
static int goes_with_replay(const Option *o) {
    static const char *const names[] = {"--replay", "--image", "--video", "--threads", "--kernel", "--timings", "--in-memory"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(o->name, names[i])) return 1;
    }
    return 0;
}

static int check_replay(const Options *o, const char *other) {
    if (!o->model) return usage_error("no MODEL given", "");
    if (o->prompt) return usage_error("--replay has the record's prompt, so it takes no other", "");
    if (other) return usage_error("--replay does as the record says, and does not go with ", other);
    return -1;
}

int options_parse(Options *o, int argc, char **argv) {
    *o = (Options){.n_tokens = 256, .top_p = 1, .repeat_penalty = 1, .threads = n_processors()};
    int only_words = 0, bad = 0;  // only words: after --
    const char *other = NULL;     // an option that does not go with --replay
    for (int i = 1; i < argc && !bad; i++) {
        const char *word = argv[i];
        const Option *option = find_option(word);
        if (option && !only_words && !goes_with_replay(option)) other = word;
        if (only_words || word[0] != '-' || !word[1]) {
            bad = take_word(o, word);
        } else if (!strcmp(word, "--")) {
            only_words = 1;
        } else if (!strcmp(word, "-h") || !strcmp(word, "--help")) {
            return fputs(help, stdout) < 0;
        } else if (!strcmp(word, "--version")) {
            return printf("smol " SMOL_VERSION ", source sha256 %s\n", source_sha256) < 0;
        } else if (!option) {
            bad = usage_error("unknown option ", word);
        } else if (option->kind == FLAG) {
            *(int *)((char *)o + option->field) = 1;
        } else if (i + 1 == argc) {
            bad = usage_error("a value is missing after ", word);
        } else {
            bad = take_value(o, option, word, argv[++i]);
        }
    }
    return bad ? bad : o->list_kernels ? -1 : o->replay ? check_replay(o, other) : check_together(o);
}

// ---- options in a record, by their names without the dashes ----

// NULL: not given.
static const char *recorded_value(const Options *all, const Option *o, char number[32]) {
    const void *field = (const char *)all + o->field;
    switch (o->kind) {
    case TEXT: return *(const char *const *)field;
    case FLAG: return *(const int *)field ? "true" : "false";
    case SEED: snprintf(number, 32, "%llu", (unsigned long long)all->seed); break;
    case REAL: snprintf(number, 32, "%.9g", (double)*(const float *)field); break;
    case RATE: snprintf(number, 32, "%.17g", all->fps); return all->fps > 0 ? number : NULL;
    default: snprintf(number, 32, "%d", *(const int *)field); return *(const int *)field < o->least ? NULL : number;
    }
    return number;
}

void options_tell(const Options *all, void (*tell)(void *user, const char *name, const char *value, int is_text), void *user) {
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const Option *o = &options[i];
        char number[32];
        if (o->is_recorded && o->kind != STOP) tell(user, o->name + 2, recorded_value(all, o, number), o->kind == TEXT);
    }
}

int options_take(Options *all, const char *name, const char *value, int is_text) {
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const Option *o = &options[i];
        if (!o->is_recorded || strcmp(o->name + 2, name) != 0) continue;
        if (!value) return 1;
        if (is_text != (o->kind == TEXT || o->kind == STOP)) return 0;
        if (is_text) return take_value(all, o, o->name, value) == 0;
        if (o->kind != FLAG) return take_number(all, o, value);
        *(int *)((char *)all + o->field) = !strcmp(value, "true");
        return !strcmp(value, "true") || !strcmp(value, "false");
    }
    return 0;
}
