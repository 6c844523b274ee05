// chat.c: questions and commands, a line each, until /quit or the end of the input.

#define _DEFAULT_SOURCE

#include "session.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- questions ----

// Once, before the end of the context comes: when an eighth of it is left, or less than the next answer may take.
static void warn_of_end(Session *s, long n_used) {
    int context = s->limits.context, least = context / 8 > s->opt.n_tokens ? context / 8 : s->opt.n_tokens;
    long left = context - n_used;
    if (s->warned || left >= least) return;
    s->warned = 1;
    fprintf(stderr, "%ld of the context's %d tokens are left: /drop forgets the oldest question, /reset the conversation\n", left,
            context);
}

static void answered(Session *s, Answer *a) {
    size_t n = a->text.n;
    while (n && (a->text.bytes[n - 1] == ' ' || a->text.bytes[n - 1] == '\n')) n--;
    add_message(s, "assistant", a->text.bytes, n);
    free(a->text.bytes);
    free(a->ids);
    free(a->likely);
    s->last = *a;
    if (!strcmp(a->finish, "context")) {
        fputs("the context is full, so the answer is cut off: /drop forgets the oldest question, /reset the conversation\n", stderr);
    } else {
        warn_of_end(s, smol_position(s->engine));
    }
}

static int ask(Session *s, const Buffer *line) {
    SmolErr err;
    Answer a;
    const char *culprit = NULL;
    add_question(s, line->bytes, line->n);
    int full = session_tokenize(s, &err), bad = full;
    if (!bad) bad = full = check_context(s, s->limits.context, &err);
    if (!bad) {
        warn_of_end(s, s->n_ids);
        bad = session_answer(s, &a, &err, &culprit);
    }
    if (!bad) {
        session_report(s, &a);
        answered(s, &a);
        return 0;
    }
    complain(culprit, err.text);
    if (s->messages[s->n_messages - 1].n_pictures) complain(NULL, "its pictures go with it: add them again, or start with fewer");
    drop_question(s);
    if (full && s->n_messages && strcmp(s->messages[s->n_messages - 1].role, "system") != 0)
        complain(NULL, "/drop forgets the oldest question and its answer, /reset the conversation");
    return 1;
}

// ---- commands: each returns 0, or 1 after a complaint ----

static int complaint(const char *name, const SmolErr *err) {
    complain(name, err->text);
    return 1;
}

static int add_picture_said(Session *s, const char *name) {
    SmolErr err;
    if (add_picture(s, name, &err)) return complaint(name, &err);
    s->picture_names[s->n_pictures - 1] = strcpy(need(NULL, strlen(name) + 1, "name"), name);
    if (!s->opt.max_tiles) {  // else it has been said
        fprintf(stderr, "%s: ", name);
        print_cost("", &s->tilings[s->n_pictures - 1], "\n");
    }
    return 0;
}

static int add_video_said(Session *s, const char *name) {
    SmolErr err;
    if (add_video(s, name, &err)) return complaint(name, &err);
    const Video *v = &s->videos[s->n_videos - 1];
    int n = v->video.n_frames;
    fprintf(stderr, "%s: %d of %d frames, %d tokens\n", name, n, v->n_total, n * s->model.config.image_seq_len);
    return 0;
}

static int change_system(Session *s, const char *text) {
    SmolErr err;
    if (set_system(s, text, strlen(text), &err)) return complaint(NULL, &err);
    fputs(*text ? "the system prompt is set\n" : "there is no system prompt\n", stderr);
    return 0;
}

static int drop(Session *s, const char *none) {
    SmolErr err;
    (void)none;
    if (drop_oldest(s, &err)) return complaint(NULL, &err);
    fputs("the oldest question is forgotten\n", stderr);
    return 0;
}

static int reset(Session *s, const char *none) {
    (void)none;
    session_reset(s);
    fputs("the conversation is forgotten\n", stderr);
    return 0;
}

static int save(Session *s, const char *name) {
    SmolErr err;
    if (session_save(s, name, &err)) return complaint(name, &err);
    fprintf(stderr, "%s: %d messages, %d tokens\n", name, s->n_messages, smol_position(s->engine));
    return 0;
}

static int load(Session *s, const char *name) {
    SmolErr err;
    if (session_load(s, name, &err)) return complaint(name, &err);
    fprintf(stderr, "%s: %d messages, %d tokens\n", name, s->n_messages, smol_position(s->engine));
    return 0;
}

static int stats(Session *s, const char *none) {
    int used = smol_position(s->engine), context = s->limits.context;
    (void)none;
    if (s->last.finish) report_timings(&s->last, smol_kernel_name(s->engine), s->opt.threads);
    fprintf(stderr, "context %d of %d tokens, %d left | messages %d, pictures %d, videos %d\n", used, context, context - used,
            s->n_messages, s->n_pictures, s->n_videos);
    fprintf(stderr, "memory: engine %.1f MB, largest picture %.1f MB, model %.1f MB mapped, peak %.1f MB\n",
            (double)s->engine_bytes / 1e6, (double)s->picture_bytes / 1e6, (double)s->model.n_bytes / 1e6,
            (double)peak_memory() / 1e6);
    return 0;
}

static int help(Session *s, const char *none);

typedef struct {
    const char *name, *argument;  // NULL: none; one in brackets may be missing
    const char *what;
    int (*run)(Session *s, const char *argument);
} Command;

static const Command commands[] = {
    {"/image", "FILE", "a picture for the next question", add_picture_said},
    {"/video", "FILE", "a video for the next question", add_video_said},
    {"/system", "[TEXT]", "the system prompt; none without TEXT", change_system},
    {"/drop", NULL, "forget the oldest question and its answer", drop},
    {"/reset", NULL, "forget the conversation, but not the system prompt", reset},
    {"/save", "FILE", "keep the conversation, and what it took to read it", save},
    {"/load", "FILE", "go on with a kept one, instead of this", load},
    {"/stats", NULL, "time of the last answer, context and memory", stats},
    {"/help", NULL, "this list", help},
    {"/quit", NULL, "the end, as Ctrl-D; Ctrl-C ends an answer", NULL},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int help(Session *s, const char *none) {
    (void)s, (void)none;
    for (int i = 0; i < N_COMMANDS; i++) {
        const char *argument = commands[i].argument ? commands[i].argument : "";
        fprintf(stderr, "%-7s %-7s %s\n", commands[i].name, argument, commands[i].what);
    }
    fputs("All else is a question. One that begins with / needs a space before it.\n", stderr);
    return 0;
}

static int unknown(const char *name, size_t n) {
    Buffer line = {0};
    buffer_add(&line, name, n < 40 ? n : 40);
    buffer_add(&line, " is no command; there are", 25);
    for (int i = 0; i < N_COMMANDS; i++) {
        buffer_add(&line, " ", 1);
        buffer_add(&line, commands[i].name, strlen(commands[i].name));
    }
    complain(NULL, line.bytes);
    free(line.bytes);
    return 1;
}

// A line that begins with a slash. *end becomes 1 after /quit.
static int command(Session *s, Buffer *line, int *end) {
    while (strchr(" \t", line->bytes[line->n - 1])) line->bytes[--line->n] = 0;  // no part of a file's name
    size_t n = strcspn(line->bytes, " \t");
    const char *argument = line->bytes + n + strspn(line->bytes + n, " \t");
    int i = 0;
    while (i < N_COMMANDS && (strlen(commands[i].name) != n || memcmp(line->bytes, commands[i].name, n) != 0)) i++;
    if (i == N_COMMANDS) return unknown(line->bytes, n);
    const Command *c = &commands[i];
    if (!*argument != !c->argument && !(c->argument && *c->argument == '[')) {
        SmolErr err;
        snprintf(err.text, sizeof err.text, "it is %s%s%s", c->name, c->argument ? " " : " alone", c->argument ? c->argument : "");
        return complaint(NULL, &err);
    }
    *end = !c->run;
    return c->run ? c->run(s, argument) : 0;
}

// ---- the chat ----

// What failed was told when it did; to a script, the status says it again.
int chat(Session *s) {
    SmolErr err;
    Buffer line = {0};
    int terminal = isatty(STDIN_FILENO), failed = 0, end = 0;
    add_inputs(s);
    if (session_plan(s, &err) || session_start(s, &err)) die(NULL, err.text);
    int editing = terminal && terminal_begin();
    if (terminal) fputs("/help lists the commands; Ctrl-C stops an answer, Ctrl-D or /quit ends\n", stderr);
    while (!end) {
        waiting = 1;
        interrupted = 0;
        prompted = terminal;
        if (terminal) fputs("> ", stderr);
        int more = editing ? edit_line(&line) : read_line(&line);
        waiting = 0;
        if (!more) {
            terminal_end();
            if (terminal) fputc('\n', stderr);
            break;
        }
        int is_command = line.bytes[0] == '/' && !memchr(line.bytes, '\n', line.n);
        if (is_command) failed |= command(s, &line, &end);
        else if (line.n) failed |= ask(s, &line);
    }
    return failed && !terminal;
}
