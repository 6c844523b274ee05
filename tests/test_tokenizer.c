// test_tokenizer.c: tokenizer.c, pretokenizer.c and template.c against three small tokenizers, and ids made by the libraries
// that they are of: `tokenizers` (tests/make_tokenizer.py) and mistral-common (tests/make_mistral.py).
//
//     test_tokenizer [FOLDER]     FOLDER holds their .bin and .tsv and chats.tsv, tests/golden if left out

#include "../internal.h"
#include "test.h"

#include <math.h>

enum { MAX_SPANS = 8, MAX_MESSAGES = 64 };

static uint8_t *section;
static size_t n_section;
static int vocab_size;

static SmolModel open_model(void) {
    SmolErr err = {0};
    SmolModel m = {.config = {.template_kind = 1, .image_seq_len = 3}};
    CHECK(vocab_open(&m.vocab, section, n_section, vocab_size, &err) == 0, "%s", err.text);
    return m;
}

// Ids in a buffer and scratch memory of exactly the sizes that smol.h promises, so that ASan sees a byte too much.
static long tokenize(const SmolModel *m, const SmolPrompt *p, int32_t **ids, SmolErr *err) {
    size_t bytes = smol_tokenize_bytes(m, p->n_text);
    SmolArena scratch = {.base = malloc(bytes ? bytes : 1), .size = bytes};
    *ids = malloc((p->n_text + 1) * sizeof **ids);
    long n = smol_tokenize(m, p, *ids, &scratch, err);
    CHECK(scratch.used == 0, "scratch is not given back");
    free(scratch.base);
    return n;
}

// The text of a prompt in exact buffers: the first pass counts, the second fills. Returns the error of the second.
static int render(const SmolModel *m, const SmolMessage *messages, int n, int special, SmolPrompt *p, SmolErr *err) {
    for (int pass = 0; pass < 2; pass++) {
        int code = n > 0 ? smol_prompt_chat(m, messages, n, p, err) : smol_prompt_raw(m, messages, special, p, err);
        if (pass || code) return code;
        *p = (SmolPrompt){.text = malloc(p->n_text ? p->n_text : 1), .text_cap = p->n_text,
                          .user = malloc(p->n_user ? p->n_user * sizeof *p->user : 1), .user_cap = p->n_user};
    }
    return 0;
}

static void drop(SmolPrompt *p) {
    free(p->text);
    free(p->user);
    *p = (SmolPrompt){0};
}

// ---- ids ----

// The bytes of the ids are the text again; SentencePiece puts a space before it and takes U+2581 for one.
static void check_inverse(const SmolModel *m, const uint8_t *text, size_t n_text, const int32_t *ids, long n_ids, int number) {
    size_t n = n_ids > 0 && m->vocab.pretokenizer == WORDS_SENTENCEPIECE, length, at = 0;
    char *expected = malloc(n_text + 2), *joined = malloc(n_text + 2);
    expected[0] = ' ';
    for (size_t i = 0; i < n_text; i += length) {
        length = m->vocab.pretokenizer == WORDS_SENTENCEPIECE ? sentencepiece_space(text + i, n_text - i) : 0;
        expected[n++] = length ? ' ' : (char)text[i];
        if (!length) length = 1;
    }
    for (long i = 0; i < n_ids; i++) {
        const char *bytes = smol_token_text(m, ids[i], &length);
        if (at + length <= n) memcpy(joined + at, bytes, length);
        at += length;
    }
    CHECK(at == n && memcmp(joined, expected, n) == 0, "line %d: %zu bytes come back, not %zu", number, at, n);
    free(expected);
    free(joined);
}

// One line of tokenizer.tsv: text in hexadecimal, ids, user spans begin-end.
static void check_line(const SmolModel *m, char *line, int number) {
    char *ids_text = strchr(line, '\t') + 1, *spans_text = strchr(ids_text, '\t') + 1;
    size_t n_text = (size_t)(ids_text - 1 - line) / 2;
    uint8_t *text = malloc(n_text + 1);
    for (size_t i = 0; i < n_text; i++) sscanf(line + 2 * i, "%2hhx", &text[i]);
    SmolSpan spans[MAX_SPANS];
    SmolPrompt p = {.text = (char *)text, .n_text = n_text, .user = spans};
    for (char *s = spans_text; *s && p.n_user < MAX_SPANS; s += strspn(s, " ")) {
        spans[p.n_user].begin = strtoul(s, &s, 10);
        spans[p.n_user++].end = strtoul(s + 1, &s, 10);
    }
    SmolErr err = {0};
    int32_t *ids;
    long n = tokenize(m, &p, &ids, &err), same = 0, expected = 0;
    for (char *s = ids_text; *s != '\t'; expected++, s += strspn(s, " ")) {
        long id = strtol(s, &s, 10);
        same += expected < n && ids[expected] == id;
    }
    CHECK(n == expected && same == expected, "line %d: %ld ids, %ld of %ld right; %s", number, n, same, expected,
          err.text);
    if (m->vocab.pretokenizer != WORDS_SMOLLM) check_inverse(m, text, n_text, ids, n, number);
    free(ids);
    free(text);
}

static void test_reference(const SmolModel *m, const char *path) {
    size_t n;
    char *tsv = (char *)read_file(path, &n);
    CHECK(tsv != NULL, "%s cannot be read", path);
    if (!tsv) return;
    tsv[n] = 0;
    int number = 0;
    for (char *line = tsv, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = 0;
        check_line(m, line, ++number);
    }
    CHECK(number >= 300, "only %d lines", number);
    free(tsv);
}

// The text of the ids is the text again, but for control tokens and for bytes that the vocabulary lacks.
static void test_token_text(const SmolModel *m) {
    char text[] = "<note> The picture: gr\xc3\xbc\xc3\x9f" "e \xf0\x9f\x9a\x80<image>\n\n42\x7f", joined[sizeof text];
    SmolPrompt p = {.text = text, .n_text = sizeof text - 1};
    SmolErr err = {0};
    int32_t *ids;
    long count = tokenize(m, &p, &ids, &err);
    size_t length = 0, n;
    for (long i = 0; i < count; i++) {
        const char *bytes = smol_token_text(m, ids[i], &n);
        memcpy(joined + length, bytes, n);
        length += n;
    }
    const char *expected = "<note> The picture: gr\xc3\xbc\xc3\x9f" "e \xf0\x9f\x9a\x80\n\n42";
    CHECK(length == strlen(expected) && memcmp(joined, expected, length) == 0, "%.*s", (int)length, joined);
    free(ids);
    const int32_t outside[] = {-1, vocab_size, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 4; i++) {
        smol_token_text(m, outside[i], &n);
        CHECK(n == 0, "id %d has text", outside[i]);
    }
}

// ---- prompts ----

static int prompt_is(const SmolPrompt *p, const char *expected) {
    return p->n_text == strlen(expected) && memcmp(p->text, expected, p->n_text) == 0;
}

// The strings of Hugging Face's template and of SmolVLMProcessor, 3 image tokens a tile.
static void test_chat(const SmolModel *m) {
    const SmolTiling whole = {0}, split[] = {{.rows = 1, .cols = 2}, {0}};
    SmolMessage messages[] = {
        {"system", "You are terse.", 14, NULL, 0, NULL},
        {"user", "Describe.", 9, &whole, 1, NULL},
        {"assistant", "A cat.", 6, NULL, 0, NULL},
        {"user", "", 0, split, 2, NULL},
    };
    const char *expected =
        "<|im_start|>System: You are terse.<end_of_utterance>\n"
        "User:<fake_token_around_image><global-img><image><image><image><fake_token_around_image>Describe."
        "<end_of_utterance>\nAssistant: A cat.<end_of_utterance>\n"
        "User:<fake_token_around_image><row_1_col_1><image><image><image>"
        "<fake_token_around_image><row_1_col_2><image><image><image>\n\n"
        "<fake_token_around_image><global-img><image><image><image><fake_token_around_image>"
        "<fake_token_around_image><global-img><image><image><image><fake_token_around_image>"
        "<end_of_utterance>\nAssistant:";
    SmolErr err = {0};
    SmolPrompt p = {0};
    CHECK(render(m, messages, 4, 0, &p, &err) == 0, "%s", err.text);
    CHECK(prompt_is(&p, expected), "%.*s", (int)p.n_text, p.text);
    CHECK(p.n_user == 3, "%zu user spans", p.n_user);  // the empty text is none
    CHECK(p.n_user == 3 && memcmp(p.text + p.user[1].begin, "Describe.", p.user[1].end - p.user[1].begin) == 0,
          "the second span is %zu to %zu", p.user[1].begin, p.user[1].end);
    drop(&p);

    messages[0].role = "root<image>";
    CHECK(smol_prompt_chat(m, messages, 4, &p, &err) == SMOL_E_FORMAT, "any role is taken");
    SmolModel other = *m;
    other.config.template_kind = 0;
    CHECK(smol_prompt_chat(&other, messages + 1, 1, &p, &err) == SMOL_E_FORMAT, "a template is made up");
    CHECK(strstr(err.text, "--raw") != NULL, "%s", err.text);
}

static void test_raw(const SmolModel *m) {
    const SmolTiling whole = {0};
    const SmolMessage message = {"user", "a <|im_end|>", 12, &whole, 1, NULL};
    for (int special = 0; special < 2; special++) {
        SmolErr err = {0};
        SmolPrompt p = {0};
        int32_t *ids;
        CHECK(render(m, &message, 0, special, &p, &err) == 0, "%s", err.text);
        const char *expected =
            "<fake_token_around_image><global-img><image><image><image><fake_token_around_image>a <|im_end|>";
        CHECK(prompt_is(&p, expected), "%.*s", (int)p.n_text, p.text);
        CHECK(p.n_user == (special ? 0 : 1), "%zu user spans", p.n_user);
        long n = tokenize(m, &p, &ids, &err);
        size_t n_last;
        smol_token_text(m, ids[n - 1], &n_last);
        CHECK((n_last == 0) == special, "special %d: the last token has %zu bytes", special, n_last);
        free(ids);
        drop(&p);
    }
    SmolPrompt p = {0};
    SmolErr err = {0};
    int32_t *ids;
    CHECK(render(m, &(SmolMessage){"user", NULL, 0, NULL, 0, NULL}, 0, 0, &p, &err) == 0 && p.n_text == 0, "%s", err.text);
    CHECK(tokenize(m, &p, &ids, &err) == 0, "%s", err.text);
    free(ids);
    drop(&p);
}

// Pictures stand at the marks of a text that has them, as many as it has.
static void test_marks(const SmolModel *m) {
    const SmolTiling whole[2] = {{0}, {0}};
    SmolMessage message = {"user", "<image>a<image>", 15, whole, 2, NULL};
    SmolErr err = {0};
    SmolPrompt p = {0};
    const char *expected =
        "<|im_start|>User:<fake_token_around_image><global-img><image><image><image><fake_token_around_image>a"
        "<fake_token_around_image><global-img><image><image><image><fake_token_around_image><end_of_utterance>\nAssistant:";
    CHECK(render(m, &message, 1, 0, &p, &err) == 0, "%s", err.text);
    CHECK(prompt_is(&p, expected), "%.*s", (int)p.n_text, p.text);
    drop(&p);
    message.n_pictures = 1;
    CHECK(smol_prompt_chat(m, &message, 1, &p, &err) == SMOL_E_LIMIT, "two marks for one picture");
    CHECK(strstr(err.text, "marks: 2, pictures: 1") != NULL, "%s", err.text);
    message.n_pictures = 0;
    CHECK(smol_prompt_chat(m, &message, 1, &p, &err) == 0, "without pictures <image> is text: %s", err.text);
}

// The sentences of SmolVLMProcessor; the numbers' words and Python's timedelta.
static void test_video(const SmolModel *m) {
    static const double seconds[999] = {0, 59.99, 6000.5};
    SmolVideo video = {3, seconds, 90061.9};
    SmolMessage message = {.role = "user", .text = "What?", .n_text = 5, .video = &video};
    SmolErr err = {0};
    SmolPrompt p = {0};
#define FRAME "<fake_token_around_image><global-img><image><image><image><fake_token_around_image>"
    const char *expected =
        "<|im_start|>User: You are provided the following series of three frames from a 1 day, 1:01:01 [H:MM:SS] video.\n"
        "\nFrame from 00:00:" FRAME "\nFrame from 00:59:" FRAME "\nFrame from 100:00:" FRAME
        "\n\nWhat?<end_of_utterance>\nAssistant:";
#undef FRAME
    CHECK(render(m, &message, 1, 0, &p, &err) == 0, "%s", err.text);
    CHECK(prompt_is(&p, expected), "%.*s", (int)p.n_text, p.text);
    drop(&p);
    static const struct { int n; const char *words; } numbers[] = {
        {1, "one"}, {10, "ten"}, {19, "nineteen"}, {20, "twenty"}, {64, "sixty-four"}, {100, "one hundred"},
        {101, "one hundred and one"}, {340, "three hundred and forty"}, {999, "nine hundred and ninety-nine"},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char words[96];
        int n = snprintf(words, sizeof words, " following series of %s frames from a 0:00:07 [H", numbers[i].words);
        video = (SmolVideo){numbers[i].n, seconds, 7};
        CHECK(render(m, &message, 1, 0, &p, &err) == 0, "%s", err.text);
        CHECK(memcmp(p.text + 38, words, (size_t)n) == 0, "%d: %.99s", numbers[i].n, p.text);
        drop(&p);
    }
    const SmolTiling whole = {0};
    message.pictures = &whole, message.n_pictures = 1;
    CHECK(smol_prompt_chat(m, &message, 1, &p, &err) == SMOL_E_LIMIT, "pictures and a video");
    message.n_pictures = 0;
    const double wrong[] = {-1, 1e11, 1e300, (double)NAN};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        video = (SmolVideo){1, &wrong[i], 1};
        CHECK(smol_prompt_chat(m, &message, 1, &p, &err) == SMOL_E_LIMIT, "a frame at %g seconds", wrong[i]);
        video = (SmolVideo){1, seconds, wrong[i]};
        CHECK(smol_prompt_chat(m, &message, 1, &p, &err) == SMOL_E_LIMIT, "a video of %g seconds", wrong[i]);
    }
    for (int n = 0; n <= 1000; n += 1000) {
        video = (SmolVideo){n, seconds, 1};
        CHECK(smol_prompt_chat(m, &message, 1, &p, &err) == SMOL_E_LIMIT, "%d frames", n);
    }
}

// Every buffer that is too small is an error, and nothing is written past its end.
static void test_caps(const SmolModel *m) {
    const SmolTiling whole = {0};
    const SmolMessage messages[] = {{"user", "What?\xff", 6, &whole, 1, NULL}, {"assistant", "Yes", 3, NULL, 0, NULL}};
    SmolErr err = {0};
    SmolPrompt count = {0};
    CHECK(smol_prompt_chat(m, messages, 2, &count, &err) == 0, "%s", err.text);
    size_t n_text = count.n_text;
    smol_prompt_chat(m, messages, 2, &count, &err);
    CHECK(count.n_text == n_text, "a second count is %zu, not %zu", count.n_text, n_text);
    for (size_t cap = 0; cap <= count.n_text; cap++) {
        SmolPrompt p = {.text = malloc(cap ? cap : 1), .text_cap = cap};
        int code = smol_prompt_chat(m, messages, 2, &p, &err);
        CHECK(code == (cap == count.n_text ? 0 : SMOL_E_LIMIT), "text of %zu bytes: %d", cap, code);
        CHECK(p.n_text <= cap, "%zu bytes of %zu", p.n_text, cap);
        free(p.text);
    }
    for (size_t cap = 0; cap <= count.n_user; cap++) {
        SmolPrompt p = {.user = malloc(cap ? cap * sizeof(SmolSpan) : 1), .user_cap = cap};
        int code = smol_prompt_chat(m, messages, 2, &p, &err);
        CHECK(code == (cap == count.n_user ? 0 : SMOL_E_LIMIT), "%zu spans: %d", cap, code);
        free(p.user);
    }
}

// One U+FFFD for each maximal subpart of a character: tables 3-8 to 3-11 of the Unicode Standard, and Python.
static void test_invalid_utf8(const SmolModel *m) {
    static const char *const cases[][2] = {
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", "????????A"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", "????????A"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", "?????A??B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "????A"}, {"\xf5\x80\x80\x80", "????"},
        {"caf\xe9", "caf?"}, {"\xf0\x9f\x98", "?"}, {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}, {"\x80", "?"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[64] = "";
        for (const char *s = cases[i][1]; *s; s++) {
            const char one[2] = {*s, 0};
            strcat(expected, *s == '?' ? "\xef\xbf\xbd" : one);
        }
        size_t n = strlen(cases[i][0]);
        char *text = memcpy(malloc(n), cases[i][0], n);  // no zero after it
        SmolErr err = {0};
        SmolPrompt p = {0};
        render(m, &(SmolMessage){"user", text, n, NULL, 0, NULL}, 0, 0, &p, &err);
        CHECK(prompt_is(&p, expected), "case %zu: %.*s", i, (int)p.n_text, p.text);
        drop(&p);
        free(text);
    }
}

// ---- chats ----

// Reads "role hex role hex ..." up to the tab that ends it.
static int read_chat(char *line, SmolMessage *messages) {
    int n = 0;
    *strchr(line, '\t') = 0;
    for (char *role = strtok(line, " "); role && n < MAX_MESSAGES; role = strtok(NULL, " ")) {
        char *hex = strtok(NULL, " ");
        size_t length = strlen(hex) / 2;
        uint8_t *text = malloc(length + 1);
        for (size_t i = 0; i < length; i++) sscanf(hex + 2 * i, "%2hhx", &text[i]);
        messages[n++] = (SmolMessage){.role = role, .text = (char *)text, .n_text = length};
    }
    return n;
}

// One line of chats.tsv: section, template, messages, ids.
static void check_chat(SmolModel *m, char *line, int number) {
    SmolMessage messages[MAX_MESSAGES];
    char *turns = strchr(strchr(line, '\t') + 1, '\t') + 1, *ids_text = strchr(turns, '\t') + 1;
    m->config.template_kind = atoi(strchr(line, '\t'));
    int n_messages = read_chat(turns, messages);
    SmolErr err = {0};
    SmolPrompt p = {0};
    int32_t *ids;
    CHECK(template_check(m, &err) == 0 && render(m, messages, n_messages, 0, &p, &err) == 0, "chat %d: %s", number, err.text);
    long n = tokenize(m, &p, &ids, &err), same = 0, expected = 0;
    for (char *s = ids_text; *s; expected++, s += strspn(s, " ")) {
        long id = strtol(s, &s, 10);
        same += expected < n && ids[expected] == id;
    }
    CHECK(n == expected && same == expected, "chat %d: %ld ids, %ld of %ld right; %s", number, n, same, expected, err.text);
    for (int i = 0; i < n_messages; i++) free((void *)messages[i].text);
    free(ids);
    drop(&p);
}

static void test_chats(const SmolModel *m, const char *path, const char *name) {
    SmolModel copy = *m;
    size_t n;
    char *tsv = (char *)read_file(path, &n);
    CHECK(tsv != NULL, "%s cannot be read", path);
    if (!tsv) return;
    tsv[n] = 0;
    int number = 0, n_chats = 0;
    for (char *line = tsv, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = 0;
        number++;
        if (strncmp(line, name, strlen(name)) != 0 || line[strlen(name)] != '\t') continue;
        check_chat(&copy, line, number);
        n_chats++;
    }
    CHECK(n_chats >= 20, "%s: only %d chats", name, n_chats);
    free(tsv);
}

// A template whose control tokens are not in the vocabulary would write them as text.
static void test_template_check(const SmolModel *m) {
    static const char *const names[] = {"none", "SmolVLM", "ChatML", "SmolLM2", "Mistral v3", "Mistral v7"};
    SmolModel copy = *m;
    for (int kind = 0; kind < 6; kind++) {
        SmolErr err = {0};
        copy.config.template_kind = kind;
        int code = template_check(&copy, &err);
        int has = kind == 0 || (m->vocab.pretokenizer == WORDS_SMOLLM) == (kind < 4);
        CHECK(code == (has ? 0 : SMOL_E_FORMAT) && (has || strstr(err.text, "and there is none")), "template %d: %d %s", kind,
              code, err.text);
        CHECK(strcmp(smol_template_name(&copy), names[kind]) == 0, "template %d is %s", kind, smol_template_name(&copy));
        int space = kind == 1 || m->vocab.pretokenizer == WORDS_SENTENCEPIECE;
        CHECK(smol_answer_space(&copy) == space, "template %d: an answer's space", kind);
    }
}

// A text without a template begins with the token that the model's texts begin with, unless it has control tokens of its own.
static void test_first_token(const SmolModel *m) {
    const SmolMessage message = {.role = "user", .text = "</s>a", .n_text = 5};
    for (int special = 0; special < 2; special++) {
        SmolErr err = {0};
        SmolPrompt p = {0};
        CHECK(render(m, &message, 0, special, &p, &err) == 0, "%s", err.text);
        CHECK(prompt_is(&p, special ? "</s>a" : "<s></s>a"), "%.*s", (int)p.n_text, p.text);
        drop(&p);
    }
    const SmolTiling whole = {0};
    const SmolMessage picture = {.role = "user", .pictures = &whole, .n_pictures = 1};
    SmolModel text_only = *m;
    text_only.config.image_seq_len = 0;
    SmolErr err = {0};
    CHECK(smol_prompt_raw(&text_only, &picture, 0, &(SmolPrompt){0}, &err) == SMOL_E_LIMIT, "a picture is taken");
    CHECK(strstr(err.text, "reads text only") != NULL, "%s", err.text);
}

// ---- what a caller can do wrong ----

static void test_misuse(const SmolModel *m) {
    char text[] = "one two", bad[] = "one \xff";
    int32_t ids[8];
    SmolErr err = {0};
    uint8_t memory[1024];
    SmolArena scratch = {.base = memory, .size = sizeof memory}, none = {0}, small = {.base = memory, .size = 8};
    SmolPrompt p = {.text = bad, .n_text = 5};
    CHECK(smol_tokenize(m, &p, ids, &scratch, &err) == SMOL_E_FORMAT, "takes what is no UTF-8");
    const SmolSpan wrong[][2] = {{{0, 9}, {9, 9}}, {{4, 6}, {0, 2}}, {{5, 4}, {6, 6}}, {{0, 4}, {3, 6}}};
    for (int i = 0; i < 4; i++) {
        SmolSpan spans[2] = {wrong[i][0], wrong[i][1]};
        p = (SmolPrompt){text, 7, 7, spans, 2, 2};
        CHECK(smol_tokenize(m, &p, ids, &scratch, &err) == SMOL_E_FORMAT, "spans %d are taken", i);
    }
    p = (SmolPrompt){text, 7, 7, NULL, 0, 0};
    CHECK(smol_tokenize(m, &p, ids, &none, &err) == SMOL_E_MEMORY, "no scratch, no error");
    CHECK(smol_tokenize(m, &p, ids, &small, &err) == SMOL_E_MEMORY, "little scratch, no error");
    CHECK(smol_tokenize(m, &(SmolPrompt){0}, ids, &scratch, &err) == 0, "%s", err.text);
    CHECK(smol_tokenize_bytes(m, SIZE_MAX) == SIZE_MAX, "a size that wraps");
    CHECK(smol_tokenize_bytes(m, (size_t)INT32_MAX + 1) == SIZE_MAX, "a place that does not fit an int32_t");
    CHECK(smol_tokenize(m, &p, ids, &scratch, &err) > 0, "%s", err.text);
}

// Half a megabyte of one letter takes n log n steps: a quadratic merge loop would take minutes.
static void test_long_word(const SmolModel *m) {
    size_t n = 1 << 19;
    char *text = malloc(n);
    memset(text, 'e', n);
    SmolPrompt p = {.text = text, .n_text = n};
    SmolErr err = {0};
    int32_t *ids;
    long count = tokenize(m, &p, &ids, &err);
    size_t sum = 0, length;
    for (long i = 0; i < count; i++) {
        smol_token_text(m, ids[i], &length);
        sum += length;
    }
    CHECK(sum == n, "%zu bytes come back", sum);
    free(ids);
    free(text);
}

// ---- damaged sections ----

// A damaged section is refused, or it works: on some text nothing is read or written out of bounds.
static int survives(const uint8_t *bytes, size_t n) {
    static char text[] =
        "<|im_start|>User: What is the picture? It's gr\xc3\xbc\xc3\x9f" "er  \n\n<row_1_col_2><image> 12";
    SmolErr err = {0};
    SmolModel m = {0};
    if (vocab_open(&m.vocab, bytes, n, vocab_size, &err)) {
        CHECK(err.code == SMOL_E_FORMAT && strncmp(err.text, "tokenizer: ", 11) == 0, "%s", err.text);
        return 0;
    }
    SmolPrompt p = {.text = text, .n_text = sizeof text - 1};
    int32_t *ids;
    long count = tokenize(&m, &p, &ids, &err);
    CHECK(count > 0, "%s", err.text);
    for (long i = 0; i < count; i++) {
        size_t length;
        smol_token_text(&m, ids[i], &length);
        if (ids[i] < 0 || ids[i] >= vocab_size) CHECK(0, "id %d", ids[i]);
    }
    free(ids);
    return 1;
}

static void put_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

// One number of a good section is changed, and a word of the error is known.
static void refused(const void *field, uint32_t value, const char *word) {
    uint8_t *copy = memcpy(malloc(n_section), section, n_section);
    size_t at = (size_t)((const uint8_t *)field - section);
    put_u32(copy + at, value);
    SmolVocab v;
    SmolErr err = {0};
    int code = vocab_open(&v, copy, n_section, vocab_size, &err);
    CHECK(code == SMOL_E_FORMAT && strstr(err.text, word), "byte %zu set to %u: %s, not %s", at, value, err.text, word);
    free(copy);
}

static void test_refused(const SmolVocab *v) {
    const uint8_t *merge = v->merges + 16, *special = v->special + 8;  // the second of each
    uint32_t last = get_u32(v->token_offset + 4 * vocab_size);
    refused(section + 12, 4, "pre-tokenizer");
    refused(section + 12, 0, "pre-tokenizer");
    refused(section + 20, 1, "n_chars");
    refused(section + 24, vocab_size + 1, "first_token");
    refused(section + 28, 1, "reserved");
    refused(section + 4, UINT32_MAX, "do not add up");
    refused(section + 16, last - 1, "do not add up");
    refused(section + 16, last + 1, "do not add up");
    refused(v->token_offset, 1, "begins at byte");
    refused(v->token_offset + 4 * 100, last, "ends before it begins");
    refused(v->token_offset + 4 * vocab_size, last - 1, "tokens take");
    refused(v->token_offset + 4 * vocab_size, UINT32_MAX, "tokens take");
    refused(v->byte_id + 4 * 'a', get_u32(v->byte_id + 4 * 'b'), "does not stand for");
    refused(v->byte_id + 4 * 'a', 0, "does not stand for");
    refused(v->byte_id + 4 * 'a', vocab_size, "does not stand for");
    for (int i = 0; i < 4; i++) refused(merge + 4 * i, 0x7fffffff, "out of range");
    refused(merge + 8, v->n_merges, "out of range");
    refused(merge + 12, get_u32(merge + 28), "bytes of its pair");
    int n_longer = 0;  // a result that begins with the bytes of the pair and goes on
    for (uint32_t i = 0; i < v->n_merges * v->n_merges; i++) {
        const uint8_t *a = v->merges + 16 * (i / v->n_merges), *b = v->merges + 16 * (i % v->n_merges);
        if (get_u32(a + 12) != get_u32(b) || n_longer++ > 3) continue;
        refused(a + 12, get_u32(b + 12), "bytes of its pair");
    }
    CHECK(n_longer > 0, "no token goes on from another");
    const uint8_t *end = v->merges + 16 * (v->n_merges - 1);  // another left token of the same length
    for (uint32_t id = get_u32(end) + 1, from = 4 * get_u32(end); id < v->n_tokens; id++) {
        uint32_t length = get_u32(v->token_offset + 4 * id + 4) - get_u32(v->token_offset + 4 * id);
        if (length != get_u32(v->token_offset + from + 4) - get_u32(v->token_offset + from)) continue;
        refused(end, id, "bytes of its pair");
        break;
    }
    refused(special, get_u32(special - 8), "out of order");
    refused(special, vocab_size, "out of range");
    refused(special + 4, 3, "out of range");
    uint8_t *longer = memcpy(malloc(n_section + 1), section, n_section);
    SmolVocab other;
    SmolErr err = {0};
    CHECK(vocab_open(&other, longer, n_section + 1, vocab_size, &err) == SMOL_E_FORMAT, "a byte more is taken");
    free(longer);
}

// Row from of the merges is written over row to.
static void test_merge_order(const SmolVocab *v, size_t from, size_t to) {
    uint8_t *copy = memcpy(malloc(n_section), section, n_section);
    memcpy(copy + (v->merges - section) + 16 * to, v->merges + 16 * from, 16);
    SmolVocab other;
    SmolErr err = {0};
    vocab_open(&other, copy, n_section, vocab_size, &err);
    CHECK(strstr(err.text, "out of order") != NULL, "merge %zu twice: %s", from, err.text);
    free(copy);
}

// Added tokens without text, or with half a character, could stop the search for them or cut a character in two.
static void test_bad_special(void) {
    uint32_t tokens[3] = {0};
    uint8_t bytes[32 + 256 * 4 + 3 * 4 + 2 * 8 + 2] = {2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2};
    static const struct { const char *text; uint32_t split, second; int good; } cases[] = {
        {"<>", 1, 1, 1}, {"<>", 2, 1, 0}, {"<\xc3", 1, 1, 0}, {"\xa9>", 1, 1, 0}, {"<>", 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memset(bytes + 32, 0xff, 256 * 4);
        tokens[1] = cases[i].split, tokens[2] = 2;
        for (int k = 0; k < 3; k++) put_u32(bytes + 32 + 1024 + 4 * k, tokens[k]);
        put_u32(bytes + 32 + 1024 + 12 + 8, cases[i].second);
        memcpy(bytes + sizeof bytes - 2, cases[i].text, 2);
        SmolVocab v;
        SmolErr err = {0};
        int code = vocab_open(&v, bytes, sizeof bytes, 2, &err);
        CHECK(code == (cases[i].good ? 0 : SMOL_E_FORMAT), "added tokens %zu: %d %s", i, code, err.text);
    }
}

// Every byte of the section, or each of which step is the distance.
static void test_damage(size_t step) {
    int n_alive = 0;
    for (size_t n = 0; n < n_section; n += step) {
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, section, n);
        CHECK(!survives(cut, n), "%zu of %zu bytes are enough", n, n_section);
        free(cut);
    }
    uint8_t *copy = malloc(n_section);
    memcpy(copy, section, n_section);
    for (size_t i = 0; i < n_section; i += step) {
        for (int bit = 0; bit < 9; bit++) {
            uint8_t flip = (uint8_t)(bit == 8 ? 0xff : 1 << bit);
            copy[i] ^= flip;
            n_alive += survives(copy, n_section);
            copy[i] ^= flip;
        }
    }
    free(copy);
    printf("test_tokenizer: %d of %zu damaged sections still worked\n", n_alive, 9 * (n_section / step + 1));
    SmolVocab v;
    SmolErr err;
    CHECK(vocab_open(&v, section, n_section, vocab_size + 1, &err) == SMOL_E_FORMAT, "any vocab_size is taken");
    CHECK(vocab_open(&v, section, n_section, -1, &err) == SMOL_E_FORMAT, "vocab_size -1 is taken");
}

// The section NAME.bin, its texts and its chats.
static SmolModel open_section(const char *folder, const char *name, int size) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.bin", folder, name);
    section = read_file(path, &n_section);
    vocab_size = size;
    CHECK(section != NULL, "%s cannot be read", path);
    if (!section) exit(test_end("test_tokenizer"));
    SmolModel m = open_model();
    snprintf(path, sizeof path, "%s/%s.tsv", folder, name);
    test_reference(&m, path);
    snprintf(path, sizeof path, "%s/chats.tsv", folder);
    test_chats(&m, path, name);
    test_template_check(&m);
    return m;
}

// Every row of chars changed, so that it is out of order or another character than its token.
static void test_bad_chars(const SmolVocab *v) {
    for (uint32_t i = 0; i < v->n_chars; i++) {
        const uint8_t *row = v->chars + 8 * i;
        refused(row, get_u32(row) + 1, "character");
        refused(row + 4, 0, "character");
        refused(row + 4, UINT32_MAX, "character");
    }
    refused(v->special, get_u32(v->byte_id), "has no text");  // of one byte, and no special token may be so short
}

static void test_mistral(const char *folder) {
    SmolModel m = open_section(folder, "tekken", 700);
    CHECK(m.vocab.n_chars == 0 && m.vocab.pretokenizer == WORDS_TEKKEN, "pre-tokenizer %u", m.vocab.pretokenizer);
    test_first_token(&m);
    test_long_word(&m);
    test_damage(7);
    free(section);
    m = open_section(folder, "sentencepiece", 780);
    CHECK(m.vocab.n_chars > 100 && m.vocab.pretokenizer == WORDS_SENTENCEPIECE, "%u characters", m.vocab.n_chars);
    test_first_token(&m);
    test_bad_chars(&m.vocab);
    test_damage(7);
    free(section);
}

// ---- conversations that are uncommon ----

static void check_uncommon(const SmolModel *m, int kind, const SmolMessage *messages, int n, const char *expected) {
    SmolModel other = *m;
    char text[512];
    SmolSpan user[8];
    SmolErr err = {0};
    SmolPrompt p = {.text = text, .text_cap = sizeof text, .user = user, .user_cap = 8};
    other.config.template_kind = kind;
    int code = smol_prompt_chat(&other, messages, n, &p, &err);
    if (code) CHECK(strstr(expected, err.text), "template %d: %s", kind, err.text);
    else CHECK(prompt_is(&p, expected), "template %d: %.*s", kind, (int)p.n_text, p.text);
}

static void test_uncommon_chats(const SmolModel *m) {
    static const SmolMessage none = {"system", "", 0, NULL, 0, NULL}, terse = {"system", "Terse.", 6, NULL, 0, NULL},
                             hi = {"user", "Hi", 2, NULL, 0, NULL}, ho = {"user", "Ho", 2, NULL, 0, NULL},
                             blank = {"assistant", "  ", 2, NULL, 0, NULL}, answer = {"assistant", "x ", 2, NULL, 0, NULL};
    static const SmolTiling whole = {0};
    const SmolMessage answers[] = {hi, answer, answer}, systems[] = {terse, terse, hi};
    const SmolMessage later[] = {{"user", "a<image>", 8, &whole, 1, NULL}};
    const SmolMessage two[] = {hi, ho}, system_only[] = {terse}, empty_system[] = {none, terse, hi}, spaces[] = {hi, blank, ho};
    check_uncommon(m, 3, NULL, 0, "<|im_start|>assistant\n");
    check_uncommon(m, 3, system_only, 1, "<|im_start|>system\nTerse.<|im_end|>\n<|im_start|>assistant\n");
    check_uncommon(m, 4, two, 2, "<s>[INST]Hi\n\nHo[/INST]");
    check_uncommon(m, 4, system_only, 1, "this model's chat template needs a message of the user");
    check_uncommon(m, 5, system_only, 1, "<s>[SYSTEM_PROMPT]Terse.[/SYSTEM_PROMPT]");
    check_uncommon(m, 4, empty_system, 3, "<s>[INST]Terse.\n\nHi[/INST]");
    check_uncommon(m, 5, answers, 3, "<s>[INST]Hi[/INST]x \n\nx</s>");
    check_uncommon(m, 5, systems, 3,
                   "<s>[SYSTEM_PROMPT]Terse.[/SYSTEM_PROMPT][SYSTEM_PROMPT]Terse.[/SYSTEM_PROMPT][INST]Hi[/INST]");
    check_uncommon(m, 1, later, 1, "<|im_start|>User: a<fake_token_around_image><global-img><image><image><image>"
                                   "<fake_token_around_image><end_of_utterance>\nAssistant:");
    check_uncommon(m, 4, spaces, 3, "<s>[INST]Hi[/INST]</s>[INST]Ho[/INST]");
}

static int contains(const SmolPrompt *p, const char *part) {
    size_t n = strlen(part), at = 0;
    while (at + n <= p->n_text && memcmp(p->text + at, part, n) != 0) at++;
    return at + n <= p->n_text;
}

static void test_days(const SmolModel *m) {
    static const struct { double seconds; const char *text; } cases[] = {
        {86400, " 1 day, 0:00:00 "}, {200000, " 2 days, 7:33:20 "}};
    static const double second = 0;
    for (int i = 0; i < 2; i++) {
        SmolVideo video = {1, &second, cases[i].seconds};
        SmolMessage message = {.role = "user", .text = "?", .n_text = 1, .video = &video};
        SmolErr err = {0};
        SmolPrompt p = {0};
        CHECK(render(m, &message, 1, 0, &p, &err) == 0 && contains(&p, cases[i].text), "%.*s", (int)p.n_text, p.text);
        drop(&p);
    }
}

static void test_too_much(const SmolModel *m) {
    SmolErr err = {0};
    char text[] = "hi";
    int32_t ids[3];
    SmolArena scratch = {0};
    SmolPrompt p = {.text = text, .n_text = 2, .n_user = 1};
    CHECK(smol_tokenize_bytes(m, INT32_MAX) == SIZE_MAX, "a prompt of 2 GB");
    CHECK(smol_tokenize(m, &p, ids, &scratch, &err) == SMOL_E_LIMIT, "a user's text that is nowhere: %s", err.text);
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "tests/golden";
    SmolModel m = open_section(folder, "tokenizer", 700);
    test_token_text(&m);
    test_chat(&m);
    test_raw(&m);
    test_marks(&m);
    test_video(&m);
    test_uncommon_chats(&m);
    test_days(&m);
    test_too_much(&m);
    test_caps(&m);
    test_invalid_utf8(&m);
    test_misuse(&m);
    test_long_word(&m);
    test_refused(&m.vocab);
    test_merge_order(&m.vocab, 0, 1);
    test_merge_order(&m.vocab, 0, m.vocab.n_merges - 1);
    test_bad_special();
    test_damage(1);
    free(section);
    test_mistral(folder);
    return test_end("test_tokenizer");
}
