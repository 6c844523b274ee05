// choices.c: --choices: how probable each of several fixed answers is. Nothing is sampled: the prompt is read once, and every
// choice goes on from there with its own tokens.
//
//     logprob = sum over the choice's tokens of log softmax(logits)[token]      probability = softmax over the choices of logprob
//
// Its tokens are those that the chat template would give for this answer, up to and including the one that ends it: without
// that, "no" could not be less probable than "no idea". With --raw it is the model's end token that follows the text.

#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- a choice's tokens ----

// The conversation with the choice as its answer: to s->ids.
static int tokenize_answered(Session *s, const Span *choice, SmolErr *err) {
    SmolMessage *last = &s->messages[s->n_messages - 1], question = *last;
    Buffer text = {0};
    int code;
    if (s->opt.raw) {
        buffer_add(&text, question.text, question.n_text);
        buffer_add(&text, choice->text, choice->n);
        last->text = text.bytes;
        last->n_text = text.n;
        code = session_tokenize(s, err);
        *last = question;
        free(text.bytes);
        return code;
    }
    add_message(s, "assistant", choice->text, choice->n);
    code = session_tokenize(s, err);
    s->n_messages--;
    return code;
}

// How many of the n ids after the prompt are the choice's: up to the control token that ends an answer.
static long count_ids(const Session *s, const int32_t *ids, long n) {
    long count = 0;
    size_t n_text = 1;
    while (!s->opt.raw && count < n && n_text > 0) smol_token_text(&s->model, ids[count++], &n_text);
    return s->opt.raw ? n : count;
}

static int take_ids(Session *s, Choice *c, const int32_t *prompt, long n_prompt, SmolErr *err) {
    if (tokenize_answered(s, &c->text, err)) return -1;
    if (s->n_ids <= n_prompt || memcmp(s->ids, prompt, (size_t)n_prompt * sizeof *prompt) != 0) {
        snprintf(err->text, sizeof err->text, "the choice \"%.*s\" and the prompt meet within a token: "
                 "end the prompt with a word and begin the choices with a space", c->text.n < 80 ? (int)c->text.n : 80, c->text.text);
        return -1;
    }
    long n = count_ids(s, s->ids + n_prompt, s->n_ids - n_prompt);
    c->ids = need(NULL, (size_t)(n + 1) * sizeof *c->ids, "choices");
    memcpy(c->ids, s->ids + n_prompt, (size_t)n * sizeof *c->ids);
    if (s->opt.raw) c->ids[n++] = s->model.config.eos_id[0];
    c->n_ids = (int)n;
    return 0;
}

int choices_tokenize(Session *s, SmolErr *err) {
    int32_t *prompt = s->ids;
    long n_prompt = s->n_ids;
    int code = 0;
    s->ids = NULL;
    s->opt.n_tokens = 1;
    for (int i = 0; !code && i < s->opt.n_choices; i++) {
        Choice *c = &s->choices[i];
        c->text = s->opt.choices[i];
        code = take_ids(s, c, prompt, n_prompt, err);
        if (c->n_ids > s->opt.n_tokens) s->opt.n_tokens = c->n_ids;
    }
    free(s->ids);
    s->ids = prompt;
    s->n_ids = n_prompt;
    return code;
}

// ---- scores ----

static double logprob(const Session *s, const float *logits, int32_t id) {
    return (double)logits[id] - log_sum_exp(logits, s->model.config.vocab_size);
}

// Goes on from the prompt, whose logits have given the first token's share.
static int score_rest(Session *s, Choice *c, SmolSha256 *digest, SmolErr *err) {
    const float *logits;
    for (int k = 0; k + 1 < c->n_ids; k++) {
        if (smol_forward(s->engine, &c->ids[k], 1, NULL, 0, &logits, err)) return -1;
        smol_sha256_add(digest, logits, (size_t)s->model.config.vocab_size * sizeof *logits);
        c->logprob += logprob(s, logits, c->ids[k + 1]);
    }
    return 0;
}

static int more_probable_first(const void *a, const void *b) {
    const Choice *x = a, *y = b;
    if (x->logprob != y->logprob) return x->logprob > y->logprob ? -1 : 1;
    return x->text.text < y->text.text ? -1 : 1;  // as they were given
}

static void rank(Session *s) {
    Choice *c = s->choices;
    int n = s->opt.n_choices;
    double sum = 0;
    qsort(c, (size_t)n, sizeof *c, more_probable_first);
    for (int i = 0; i < n; i++) sum += exp(c[i].logprob - c[0].logprob);
    for (int i = 0; i < n; i++) c[i].probability = exp(c[i].logprob - c[0].logprob) / sum;
}

int choices_score(Session *s, Answer *a, const float *logits, SmolSha256 *digest, SmolErr *err) {
    int n = s->opt.n_choices, n_prompt = smol_position(s->engine);
    for (int i = 0; i < n; i++) s->choices[i].logprob = logprob(s, logits, s->choices[i].ids[0]);
    for (int i = 0; i < n && !interrupted; i++) {
        smol_rewind(s->engine, n_prompt);
        if (score_rest(s, &s->choices[i], digest, err)) return -1;
    }
    a->finish = interrupted ? "interrupted" : "choice";
    if (interrupted) return 0;
    rank(s);
    a->choices = s->choices;
    a->n_choices = n;
    buffer_add(&a->text, s->choices[0].text.text, s->choices[0].text.n);
    a->n_ids = s->choices[0].n_ids - 1;  // without the end's
    a->ids = s->choices[0].ids;
    return 0;
}
