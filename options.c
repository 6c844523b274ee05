// options.c: the command line, checked in full before anything else happens.

#define _DEFAULT_SOURCE

#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "smol " SMOL_VERSION ": answers questions about pictures, on this machine and offline.\n"
    "\n"
    "usage: run MODEL [options] [PROMPT]\n"
    "\n"
    "  run models/demo/demo.smol -i models/demo/pictures/06_display.png \"Read the meter.\"\n"
    "  run smolvlm2-256m.smol -i cat.jpg               no PROMPT: a chat; /image FILE adds a picture\n"
    "  ffmpeg -i in.mp4 -pix_fmt yuv420p -f yuv4mpegpipe - | run smolvlm2-256m.smol -v - \"What happens?\"\n"
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
    "      --seed N          for temperatures above 0 (0)\n"
    "machine\n"
    "  -c, --context N       tokens that prompt and answer may take together (as needed; chat: 4096)\n"
    "  -j, --threads N       (all processors)\n"
    "      --kernel NAME     use this kernel; --kernels lists those that this machine can run\n"
    "output\n"
    "  -V, --timings         timings and memory on standard error, after the answer\n"
    "      --json            one JSON object for each answer instead of streamed text\n"
    "      --tokenize        print the prompt's token ids and stop\n"
    "      --trace FILE      every stage's tensors as a safetensors file\n"
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

typedef struct {
    const char *name, *letter;
    int *flag;          // set to 1, or
    const char **text;  // takes a value, or
    int *number, min;   // takes an integer of at least min, or
    float *real, most;  // takes a number of 0 to most
} Option;

// Takes the option's value; returns 0, or 2 after a message.
static int take_value(const Option *o, const char *name, const char *value) {
    char message[160];
    if (o->text) *o->text = value;
    if (o->number && !parse_int(value, o->min, INT32_MAX, o->number)) {
        snprintf(message, sizeof message, "%s wants a whole number of at least %d, not \"%.40s\"", name, o->min, value);
        return usage_error(message, "");
    }
    if (o->real && !parse_float(value, 0, o->most, o->real)) {
        snprintf(message, sizeof message, "%s wants a number from 0 to %g, not \"%.40s\"", name, (double)o->most, value);
        return usage_error(message, "");
    }
    return 0;
}

static int add_image(Options *o, const char *name) {
    if (o->n_images == MAX_IMAGES) return usage_error("too many pictures, the most is ", "64");
    for (int i = 0; i < o->n_images; i++) {
        if (!strcmp(name, "-") && !strcmp(o->images[i], "-")) return usage_error("standard input can be only one picture", "");
    }
    o->images[o->n_images++] = name;
    return 0;
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

static int check_together(const Options *o) {
    int alone = o->info || o->verify;
    if (!o->model) return usage_error("no MODEL given", "");
    if (o->special && !o->raw) return usage_error("--special goes with --raw", "");
    if (o->system && o->raw) return usage_error("--raw has no template, so it takes no --system", "");
    if (o->info + o->verify + o->plan + o->tokenize > 1) {
        return usage_error("--info, --verify, --plan and --tokenize: one at a time", "");
    }
    if (o->json && (alone || o->plan)) return usage_error("--info, --verify and --plan have no JSON", "");
    if (o->trace && (o->plan || o->tokenize)) return usage_error("--plan and --tokenize stop before there is a trace", "");
    if (alone && (o->prompt || o->n_images || o->video)) {
        return usage_error("--info and --verify take no prompt and no picture or video", "");
    }
    if (!alone && !o->prompt && (o->raw || o->tokenize || o->trace || o->plan)) {
        return usage_error("--raw, --tokenize, --trace and --plan want a PROMPT", "");
    }
    for (int i = 0; i < o->n_images; i++) {
        if (!o->prompt && !strcmp(o->images[i], "-")) {
            return usage_error("a chat reads questions from standard input, so it cannot be a picture", "");
        }
    }
    return check_video(o) ? 2 : -1;
}

int options_parse(Options *o, int argc, char **argv) {
    const char *image = NULL, *video = NULL, *seed = NULL, *fps = NULL;
    *o = (Options){.n_tokens = 256, .top_p = 1, .threads = (int)sysconf(_SC_NPROCESSORS_ONLN)};
    if (o->threads < 1) o->threads = 1;
    const Option options[] = {
        {"--image", "-i", .text = &image},
        {"--video", "-v", .text = &video},
        {"--fps", NULL, .text = &fps},
        {"--max-frames", NULL, .number = &o->max_frames, .min = 1},
        {"--system", "-s", .text = &o->system},
        {"--no-tiling", NULL, .flag = &o->no_tiling},
        {"--max-tiles", NULL, .number = &o->max_tiles, .min = 1},
        {"--raw", NULL, .flag = &o->raw},
        {"--special", NULL, .flag = &o->special},
        {"--tokens", "-n", .number = &o->n_tokens, .min = 1},
        {"--temperature", "-t", .real = &o->temperature, .most = 100},
        {"--top-p", NULL, .real = &o->top_p, .most = 1},
        {"--top-k", NULL, .number = &o->top_k, .min = 0},
        {"--seed", NULL, .text = &seed},
        {"--context", "-c", .number = &o->context, .min = 1},
        {"--threads", "-j", .number = &o->threads, .min = 1},
        {"--kernel", NULL, .text = &o->kernel},
        {"--kernels", NULL, .flag = &o->list_kernels},
        {"--timings", "-V", .flag = &o->timings},
        {"--json", NULL, .flag = &o->json},
        {"--tokenize", NULL, .flag = &o->tokenize},
        {"--trace", NULL, .text = &o->trace},
        {"--plan", NULL, .flag = &o->plan},
        {"--info", NULL, .flag = &o->info},
        {"--verify", NULL, .flag = &o->verify},
    };
    const size_t n_options = sizeof options / sizeof *options;

    int only_words = 0;  // after --
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!only_words && !strcmp(arg, "--")) {
            only_words = 1;
            continue;
        }
        if (only_words || arg[0] != '-' || !arg[1]) {
            if (o->model && o->prompt) return usage_error("more than one PROMPT (put quotes around it): ", arg);
            if (o->model) o->prompt = arg;
            else o->model = arg;
            continue;
        }
        if (!strcmp(arg, "-h") || !strcmp(arg, "--help")) return fputs(help, stdout) < 0;
        if (!strcmp(arg, "--version")) return puts("smol " SMOL_VERSION) < 0;
        const Option *found = NULL;
        for (size_t k = 0; k < n_options; k++) {
            if (!strcmp(arg, options[k].name) || (options[k].letter && !strcmp(arg, options[k].letter))) found = &options[k];
        }
        if (!found) return usage_error("unknown option ", arg);
        if (found->flag) {
            *found->flag = 1;
            continue;
        }
        if (i + 1 == argc) return usage_error("a value is missing after ", arg);
        if (take_value(found, arg, argv[++i])) return 2;
        if (found->text == &image && add_image(o, image)) return 2;
        if (found->text == &video && o->video) return usage_error("a question has one video, not also ", video);
        if (found->text == &video) o->video = video;
    }
    if (fps && !parse_rate(fps, &o->fps)) {
        return usage_error("--fps wants a number from 0.001 to 1000000, not ", *fps ? fps : "\"\"");
    }
    if (seed && !parse_seed(seed, &o->seed)) return usage_error("--seed wants a whole number of at least 0, not ", *seed ? seed : "\"\"");
    return o->list_kernels ? -1 : check_together(o);
}
