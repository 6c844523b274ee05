// template.c: the text of a prompt: what a model's chat template makes of a conversation, pictures and videos included.
//
// Hugging Face keeps templates as small programs in a language of their own; here each that the models use is a function.
// What comes from outside is marked as the user's, so that smol_tokenize finds control tokens only in what stands here.

#include "internal.h"

#include <string.h>

static const char MARK[] = "<image>";  // in a message: here stands a picture
enum { MARK_BYTES = sizeof MARK - 1 };

// ---- writing ----

// Appends to a prompt; after the first error it only keeps that.
typedef struct {
    SmolPrompt *out;
    SmolErr *err;
    int code;
} Writer;

static Writer begin_prompt(SmolPrompt *out, SmolErr *err) {
    out->n_text = out->n_user = 0;
    return (Writer){out, err, 0};
}

static void put_bytes(Writer *w, const char *s, size_t n) {
    SmolPrompt *p = w->out;
    if (w->code) return;
    if (n > (p->text ? p->text_cap : SIZE_MAX) - p->n_text) {
        w->code = fail(w->err, SMOL_E_LIMIT, "the prompt does not fit in %z bytes", p->text_cap);
        return;
    }
    if (p->text) memcpy(p->text + p->n_text, s, n);
    p->n_text += n;
}

static void put(Writer *w, const char *s) { put_bytes(w, s, strlen(s)); }

// Text from outside. What is no UTF-8 becomes U+FFFD here, where the text may grow, so that smol_tokenize need not.
// user 1: it is marked as the user's.
static void put_text(Writer *w, const char *s, size_t n, int user) {
    SmolPrompt *p = w->out;
    size_t begin = p->n_text;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        int length = utf8_decode((const uint8_t *)s + i, n - i, &c);
        if (length > 0)
            put_bytes(w, s + i, (size_t)length);
        else
            put(w, "\xef\xbf\xbd");
        i += (size_t)(length > 0 ? length : -length);
    }
    if (w->code || !user || p->n_text == begin) return;
    if (p->user && p->n_user >= p->user_cap) {
        w->code = fail(w->err, SMOL_E_LIMIT, "the prompt has more than %z user texts", p->user_cap);
        return;
    }
    if (p->user) p->user[p->n_user] = (SmolSpan){begin, p->n_text};
    p->n_user++;
}

// ---- pictures and videos ----

static void put_tile(Writer *w, const SmolConfig *c, const char *name) {
    put(w, "<fake_token_around_image>");
    put(w, name);
    for (int i = 0; i < c->image_seq_len; i++) put(w, "<image>");
}

// What SmolVLMProcessor puts in the place of a picture. The tiles of a row end with a newline; the view of the whole
// picture comes last and alone is closed.
static void put_picture(Writer *w, const SmolConfig *c, const SmolTiling *t) {
    for (int row = 1; row <= t->rows; row++) {
        for (int col = 1; col <= t->cols; col++) {
            char name[48];
            format_text(name, sizeof name, "<row_%d_col_%d>", row, col);
            put_tile(w, c, name);
        }
        put(w, "\n");
    }
    if (t->rows > 0) put(w, "\n");
    put_tile(w, c, "<global-img>");
    put(w, "<fake_token_around_image>");
}

static void put_number(Writer *w, int n) {
    char digits[16];
    format_text(digits, sizeof digits, "%d", n);
    put(w, digits);
}

// At least two digits.
static void put_two_digits(Writer *w, int n) {
    if (n < 10) put(w, "0");
    put_number(w, n);
}

// 1 .. 999 in English, as num2words writes it: "twenty-one", "one hundred and one".
static void put_words(Writer *w, int n) {
    static const char *const small[] = {
        "", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
        "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
    static const char *const tens[] = {
        "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"};
    if (n >= 100) {
        put(w, small[n / 100]);
        put(w, n % 100 ? " hundred and " : " hundred");
        n %= 100;
    }
    if (n >= 20) {
        put(w, tens[n / 10]);
        if (n % 10) put(w, "-");
        n %= 10;
    }
    put(w, small[n]);
}

// As Python writes a timedelta: "0:01:40", "1 day, 0:00:00".
static void put_duration(Writer *w, int64_t seconds) {
    int days = (int)(seconds / 86400), left = (int)(seconds % 86400);
    if (days > 0) {
        put_number(w, days);
        put(w, days == 1 ? " day, " : " days, ");
    }
    put_number(w, left / 3600);
    put(w, ":");
    put_two_digits(w, left / 60 % 60);
    put(w, ":");
    put_two_digits(w, left % 60);
}

// What SmolVLMProcessor puts in the place of a video. Minutes are not wrapped at 60.
static void put_video(Writer *w, const SmolConfig *c, const SmolVideo *v) {
    const SmolTiling one_tile = {0};
    const double most = 1e11;  // so that minutes and days fit in an int
    int good = v->n_frames >= 1 && v->n_frames <= 999 && v->duration >= 0 && v->duration < most;
    for (int i = 0; good && i < v->n_frames; i++) good = v->seconds[i] >= 0 && v->seconds[i] < most;
    if (!good) {
        w->code = fail(w->err, SMOL_E_LIMIT, "a video has 1 to 999 frames and less than 10^11 seconds");
        return;
    }
    put(w, "You are provided the following series of ");
    put_words(w, v->n_frames);
    put(w, " frames from a ");
    put_duration(w, (int64_t)v->duration);
    put(w, " [H:MM:SS] video.\n");
    for (int i = 0; i < v->n_frames; i++) {
        int64_t second = (int64_t)v->seconds[i];
        put(w, "\nFrame from ");
        put_two_digits(w, (int)(second / 60));
        put(w, ":");
        put_two_digits(w, (int)(second % 60));
        put(w, ":");
        put_picture(w, c, &one_tile);
    }
    put(w, "\n\n");
}

// ---- messages ----

// The next <image> mark of a text, or its end.
static size_t find_mark(const char *s, size_t i, size_t n) {
    while (i < n && (n - i < MARK_BYTES || memcmp(s + i, MARK, MARK_BYTES) != 0)) i++;
    return i;
}

// Marks count only in a message that has pictures; without any, <image> is text like other text.
static int count_marks(const SmolMessage *m) {
    int n = 0;
    if (m->n_pictures == 0) return 0;
    for (size_t i = 0; (i = find_mark(m->text, i, m->n_text)) < m->n_text; i += MARK_BYTES) n++;
    return n;
}

// Pictures or a video, and text. The pictures stand where the text marks their places, or before it.
static void put_content(Writer *w, const SmolConfig *c, const SmolMessage *m, int user) {
    int n_marks = count_marks(m);
    if ((m->video || m->n_pictures) && c->image_seq_len == 0) {
        w->code = fail(w->err, SMOL_E_LIMIT, "this model reads text only, no pictures");
        return;
    }
    if (m->video && m->n_pictures) {
        w->code = fail(w->err, SMOL_E_LIMIT, "a message has pictures or a video, not both");
        return;
    }
    if (m->video) put_video(w, c, m->video);
    if (n_marks && n_marks != m->n_pictures) {
        w->code = fail(w->err, SMOL_E_LIMIT,
                       "<image> marks: %d, pictures: %d; there must be as many marks as pictures, or none", n_marks, m->n_pictures);
        return;
    }
    for (int k = n_marks; k < m->n_pictures; k++) put_picture(w, c, &m->pictures[k]);
    size_t begin = 0;
    for (int k = 0; k < n_marks; k++) {
        size_t mark = find_mark(m->text, begin, m->n_text);
        put_text(w, m->text + begin, mark - begin, user);
        put_picture(w, c, &m->pictures[k]);
        begin = mark + MARK_BYTES;
    }
    if (begin < m->n_text) put_text(w, m->text + begin, m->n_text - begin, user);  // no text may be NULL
}

static int begins_with_picture(const SmolMessage *m) {
    return m->n_pictures > 0 && (count_marks(m) == 0 || find_mark(m->text, 0, m->n_text) == 0);
}

// ---- chat templates ----

enum { SYSTEM, USER, ASSISTANT, N_ROLES };

static const char *const role_names[N_ROLES] = {"system", "user", "assistant"};

static int role_of(const SmolMessage *m) {
    int r = 0;
    while (r < N_ROLES && strcmp(m->role, role_names[r]) != 0) r++;
    return r;
}

static void put_smolvlm(Writer *w, const SmolModel *m, const SmolMessage *messages, int n) {
    static const char *const names[N_ROLES] = {"System", "User", "Assistant"};
    put(w, "<|im_start|>");  // once, not per message
    for (int i = 0; i < n; i++) {
        put(w, names[role_of(&messages[i])]);  // NOLINT(clang-analyzer-core.CallAndMessage): all roles are known ones
        put(w, begins_with_picture(&messages[i]) ? ":" : ": ");
        put_content(w, &m->config, &messages[i], 1);
        put(w, "<end_of_utterance>\n");
    }
    put(w, "Assistant:");
}

static void put_chatml(Writer *w, const SmolModel *m, const SmolMessage *messages, int n) {
    for (int i = 0; i < n; i++) {
        put(w, "<|im_start|>");
        put(w, messages[i].role);
        put(w, "\n");
        put_content(w, &m->config, &messages[i], 1);
        put(w, "<|im_end|>\n");
    }
    put(w, "<|im_start|>assistant\n");
}

static void put_smollm2(Writer *w, const SmolModel *m, const SmolMessage *messages, int n) {
    if (n > 0 && role_of(&messages[0]) != SYSTEM) {
        put(w, "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n");
    }
    put_chatml(w, m, messages, n);
}

// In version 3 the system prompts stand in the last turn of the user.
static void put_system_v3(Writer *w, const SmolModel *m, const SmolMessage *messages, int n) {
    for (int i = 0; i < n; i++) {
        if (role_of(&messages[i]) != SYSTEM || messages[i].n_text == 0) continue;
        put_content(w, &m->config, &messages[i], 1);
        put(w, "\n\n");
    }
}

// Where the last turn of the user begins, -1 if there is none. Messages of one role in a row are one turn.
static int last_user_turn(const SmolMessage *messages, int n) {
    int i = n - 1;
    while (i >= 0 && role_of(&messages[i]) != USER) i--;
    while (i > 0 && role_of(&messages[i - 1]) == USER) i--;
    return i;
}

// What mistral-common writes; it strips the spaces at the end of an answer. The space that a rendered template of version
// 3 has after [INST] and before an answer is SentencePiece's own, and comes with tokenizing.
static void put_mistral(Writer *w, const SmolModel *m, const SmolMessage *messages, int n, int version) {
    static const char *const begin[N_ROLES] = {"[SYSTEM_PROMPT]", "[INST]", ""};
    static const char *const end[N_ROLES] = {"[/SYSTEM_PROMPT]", "[/INST]", "</s>"};
    int last_user = last_user_turn(messages, n);
    if (last_user < 0 && version == 3) {
        w->code = fail(w->err, SMOL_E_FORMAT, "this model's chat template needs a message of the user");
        return;
    }
    put(w, "<s>");
    for (int i = 0; i < n; i++) {
        SmolMessage message = messages[i];
        int r = role_of(&message), before = i > 0 ? role_of(&messages[i - 1]) : N_ROLES;
        int after = i + 1 < n ? role_of(&messages[i + 1]) : N_ROLES;
        if (r == SYSTEM && version == 3) continue;
        put(w, r == before && r != SYSTEM ? "\n\n" : begin[r]);  // NOLINT(clang-analyzer-core.CallAndMessage): see above
        if (i == last_user && version == 3) put_system_v3(w, m, messages, n);
        while (r == ASSISTANT && after != r && message.n_text > 0 && message.text[message.n_text - 1] == ' ') message.n_text--;
        put_content(w, &m->config, &message, 1);
        if (after != r || r == SYSTEM) put(w, end[r]);  // NOLINT(clang-analyzer-core.CallAndMessage)
    }
}

static void put_mistral_v3(Writer *w, const SmolModel *m, const SmolMessage *messages, int n) {
    put_mistral(w, m, messages, n, 3);
}

static void put_mistral_v7(Writer *w, const SmolModel *m, const SmolMessage *messages, int n) {
    put_mistral(w, m, messages, n, 7);
}

// By the number in the header, with the control tokens that each writes.
typedef struct {
    const char *name;
    void (*put)(Writer *w, const SmolModel *m, const SmolMessage *messages, int n);
    const char *control[7];
} Template;

static const Template templates[] = {
    {"none", NULL, {NULL}},
    {"SmolVLM", put_smolvlm, {"<|im_start|>", "<end_of_utterance>"}},
    {"ChatML", put_chatml, {"<|im_start|>", "<|im_end|>"}},
    {"SmolLM2", put_smollm2, {"<|im_start|>", "<|im_end|>"}},
    {"Mistral v3", put_mistral_v3, {"<s>", "[INST]", "[/INST]", "</s>"}},
    {"Mistral v7", put_mistral_v7, {"<s>", "[INST]", "[/INST]", "</s>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"}},
};

static const Template *template_of(const SmolModel *m) { return &templates[m->config.template_kind]; }

int template_check(const SmolModel *m, SmolErr *err) {
    const Template *t = template_of(m);
    for (int i = 0; t->control[i]; i++) {
        if (vocab_special(&m->vocab, t->control[i]) < 0) {
            return fail(err, SMOL_E_FORMAT, "tokenizer: the chat template %s needs the token %s, and there is none", t->name,
                        t->control[i]);
        }
    }
    return 0;
}

const char *smol_template_name(const SmolModel *m) { return template_of(m)->name; }

int smol_answer_space(const SmolModel *m) {
    return template_of(m)->put == put_smolvlm || m->vocab.pretokenizer == WORDS_SENTENCEPIECE;
}

int smol_prompt_chat(const SmolModel *m, const SmolMessage *messages, int n_messages, SmolPrompt *out, SmolErr *err) {
    const Template *t = template_of(m);
    if (!t->put) return fail(err, SMOL_E_FORMAT, "this model has no chat template that smol.c knows: use --raw");
    for (int i = 0; i < n_messages; i++) {
        if (role_of(&messages[i]) == N_ROLES)
            return fail(err, SMOL_E_FORMAT, "unknown role %s: use system, user or assistant", messages[i].role);
    }
    Writer w = begin_prompt(out, err);
    t->put(&w, m, messages, n_messages);
    return w.code;
}

int smol_prompt_raw(const SmolModel *m, const SmolMessage *message, int special, SmolPrompt *out, SmolErr *err) {
    Writer w = begin_prompt(out, err);
    if (!special && m->vocab.first_token > 0) {
        size_t n;
        const uint8_t *first = vocab_token(&m->vocab, m->vocab.first_token - 1, &n);
        put_bytes(&w, (const char *)first, n);
    }
    put_content(&w, &m->config, message, !special);
    return w.code;
}
