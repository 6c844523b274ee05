// chat.c: questions and commands, a line each, until /quit or the end of the input.

#define _DEFAULT_SOURCE

#include "session.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- chat ----

static int chat_question(Session *s, const Buffer *line) {
    SmolErr err;
    Answer a;
    const char *culprit = NULL;
    add_question(s, line->bytes, line->n);
    if (session_tokenize(s, &err) || check_context(s, s->limits.context, &err) || session_answer(s, &a, &err, &culprit)) {
        complain(culprit, err.text);
        if (s->messages[s->n_messages - 1].n_pictures) complain(NULL, "its pictures go with it: add them again, or start with fewer");
        drop_question(s);
        return 1;
    }
    session_report(s, &a);
    size_t n = a.text.n;
    while (n && (a.text.bytes[n - 1] == ' ' || a.text.bytes[n - 1] == '\n')) n--;
    add_message(s, "assistant", a.text.bytes, n);
    free(a.text.bytes);
    free(a.ids);
    free(a.likely);
    return 0;
}

static int chat_picture(Session *s, const char *name) {
    SmolErr err;
    if (add_picture(s, name, &err)) {
        complain(name, err.text);
        return 1;
    }
    s->picture_names[s->n_pictures - 1] = strcpy(need(NULL, strlen(name) + 1, "name"), name);
    if (!s->opt.max_tiles) {  // else it has been said
        fprintf(stderr, "%s: ", name);
        print_cost("", &s->tilings[s->n_pictures - 1], "\n");
    }
    return 0;
}

static int chat_video(Session *s, const char *name) {
    SmolErr err;
    if (add_video(s, name, &err)) {
        complain(name, err.text);
        return 1;
    }
    const Video *v = &s->videos[s->n_videos - 1];
    int n = v->video.n_frames;
    fprintf(stderr, "%s: %d of %d frames, %d tokens\n", name, n, v->n_total, n * s->model.config.image_seq_len);
    return 0;
}

// Spaces at the end are not part of a file's name.
static void trim_command(Buffer *line) {
    if (line->bytes[0] != '/') return;
    while (strchr(" \t", line->bytes[line->n - 1])) line->bytes[--line->n] = 0;
}

// A command or a question. Returns 0, or 1 after a complaint.
static int chat_line(Session *s, const Buffer *line) {
    if (line->bytes[0] != '/') return line->n ? chat_question(s, line) : 0;
    const char *name = line->bytes + strcspn(line->bytes, " ");
    name += strspn(name, " \t");
    if (!strncmp(line->bytes, "/image ", 7)) return chat_picture(s, name);
    if (!strncmp(line->bytes, "/video ", 7)) return chat_video(s, name);
    complain(NULL, "there are /image FILE, /video FILE and /quit");
    return 1;
}

// What failed was told when it did; to a script, the status says it again.
int chat(Session *s) {
    SmolErr err;
    Buffer line = {0};
    int terminal = isatty(STDIN_FILENO), failed = 0;
    add_inputs(s);
    if (session_plan(s, &err) || session_start(s, &err)) die(NULL, err.text);
    const char *help = "/image FILE, /video FILE: part of the question; /quit or Ctrl-D ends, Ctrl-C stops an answer\n";
    if (terminal) fputs(help, stderr);
    for (;;) {
        waiting = 1;
        interrupted = 0;
        prompted = terminal;
        if (terminal) fputs("> ", stderr);
        int more = read_line(&line);
        waiting = 0;
        if (!more && terminal) fputc('\n', stderr);
        trim_command(&line);
        if (!more || !strcmp(line.bytes, "/quit")) break;
        failed |= chat_line(s, &line);
    }
    return failed && !terminal;
}
