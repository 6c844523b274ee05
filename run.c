// run.c: the command line. Maps the model, asks one question or begins a chat.

#define _DEFAULT_SOURCE

#include "session.h"

#include <string.h>
#include <unistd.h>

volatile sig_atomic_t interrupted;
volatile sig_atomic_t waiting = 1;  // for a question, or until there is an answer: there is nothing to end cleanly
volatile sig_atomic_t prompted;     // the terminal's cursor stands behind a prompt

// Ctrl-C is noticed between steps.
static void on_interrupt(int number) {
    (void)number;
    if (waiting) {
        terminal_end();
        ssize_t ignored = prompted ? write(STDERR_FILENO, "\n", 1) : 0;
        (void)ignored;
        _exit(130);
    }
    interrupted = 1;
}

// ---- one question ----

static int ask_once(Session *s) {
    SmolErr err;
    Answer a;
    const char *culprit = NULL;
    add_inputs(s);
    if (s->replay) record_check_pictures(s);
    add_question(s, s->opt.prompt, strlen(s->opt.prompt));
    if (session_tokenize(s, &err)) die(NULL, err.text);
    if (s->opt.tokenize) {
        report_ids(s->ids, s->n_ids, s->opt.json);
        putchar('\n');
        return 0;
    }
    if (s->opt.n_choices && choices_tokenize(s, &err)) die(NULL, err.text);
    if (check_context(s, wanted_context(s), &err) || session_plan(s, &err)) die(NULL, err.text);
    if (s->opt.plan) {
        report_plan(&s->model, &s->limits, s->picture_bytes);
        return 0;
    }
    waiting = 0;
    if (session_start(s, &err)) die(NULL, err.text);
    if (session_answer(s, &a, &err, &culprit)) die(culprit, err.text);
    int is_whole = strcmp(a.finish, "interrupted") != 0;
    if (s->replay && !is_whole) return 130;
    session_report(s, &a);
    if (s->trace) trace_close(s->trace);
    if (s->opt.record && is_whole) record_write(s, &a);
    return is_whole ? 0 : 130;
}

// ---- main ----

static int verify(const Session *s) {
    SmolErr err;
    int n_bad = 0;
    char line[96];
    for (int i = 0; i < s->model.n_tensors; i++) {
        snprintf(line, sizeof line, "tensor %d/%d", i + 1, s->model.n_tensors);
        progress(line);
        if (smol_verify(&s->model, i, &err) == 0) continue;
        complain(s->opt.model, err.text);
        n_bad++;
    }
    progress(NULL);
    printf("%s: %d of %d tensors have their recorded SHA-256 and finite values\n", s->opt.model, s->model.n_tensors - n_bad, s->model.n_tensors);
    return n_bad > 0;
}

static int list_kernels(void) {
    for (int i = 0; smol_kernel(i); i++) puts(smol_kernel(i));
    return 0;
}

// Who forgets MODEL has named something else first.
static _Noreturn void die_of_model(const char *name, const SmolErr *err) {
    char line[400];
    const char *end = strrchr(name, '.');
    int is_named_so = !strcmp(name, "-") || (end && !strcmp(end, ".smol"));
    snprintf(line, sizeof line, "%s%s", err->text,
             is_named_so ? "" : "; the first word is the MODEL, a .smol file: run MODEL [options] [PROMPT]");
    die(name, line);
}

static int work(Session *s) {
    SmolErr err;
    if (s->opt.replay) record_read(s);
    double begin = now_ms();
    size_t n;
    const uint8_t *bytes = s->opt.in_memory ? load_copy(s->opt.model, &n, &err) : load_file(s->opt.model, &n, &err);
    if (!bytes || smol_open(&s->model, bytes, n, &err)) die_of_model(s->opt.model, &err);
    s->load_ms = now_ms() - begin;
    if (s->replay) record_check_model(s);
    if (s->opt.info) return report_info(&s->model, s->opt.model), 0;
    if (s->opt.verify) return verify(s);
    if (s->opt.score) return score(&s->model, &s->opt);
    if (s->opt.system) add_message(s, "system", s->opt.system, strlen(s->opt.system));
    return s->opt.prompt ? ask_once(s) : chat(s);
}

int main(int argc, char **argv) {
    static Session s;
    host_prepare(on_interrupt);
    int status = options_parse(&s.opt, argc, argv);
    if (status < 0) status = s.opt.list_kernels ? list_kernels() : work(&s);
    flush_output();
    return status;
}
