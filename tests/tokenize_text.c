// tokenize_text.c: the tokenizer at the end of a pipe, for tests/test_tokenizer.py.
//
//     tokenize_text SECTION VOCAB_SIZE IMAGE_SEQ_LEN [TEMPLATE] < requests > answers
//
// One request a line, one answer a line. Texts are hexadecimal bytes, "-" when empty.
//     t TEXT [BEGIN END]...             ids of a text with user spans
//     c [ROLE TEXT [ROWSxCOLS]...;]...  the prompt of a chat: text, spans (begin end), "|", ids
//     r SPECIAL TEXT [ROWSxCOLS]...;    the same without a template
//     d [ID]...                         bytes of the tokens, joined
//     b TEXT TIMES                      a text repeated: number of ids, bytes of scratch, milliseconds
// A failed request answers "error CODE: line".

#include "../internal.h"
#include "test.h"

#include <time.h>

static SmolModel model;

static uint8_t *unhex(const char *s, size_t *n) {
    size_t length = strcmp(s, "-") == 0 ? 0 : strlen(s) / 2;
    uint8_t *bytes = malloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        const char two[3] = {s[2 * i], s[2 * i + 1], 0};
        bytes[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    *n = length;
    return bytes;
}

static void print_hex(const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) printf("%02x", (uint8_t)bytes[i]);
    if (n == 0) putchar('-');
}

// The ids of a prompt, malloced; the scratch memory is exactly what smol_tokenize_bytes says.
static int32_t *tokenize(const SmolPrompt *p, long *n, SmolErr *err) {
    size_t bytes = smol_tokenize_bytes(&model, p->n_text);
    SmolArena scratch = {.base = malloc(bytes + 1), .size = bytes};
    int32_t *ids = malloc((p->n_text + 1) * sizeof *ids);
    *n = smol_tokenize(&model, p, ids, &scratch, err);
    free(scratch.base);
    return ids;
}

static void print_ids(const SmolPrompt *p) {
    SmolErr err;
    long n;
    int32_t *ids = tokenize(p, &n, &err);
    if (n < 0) printf("error %ld: %s", n, err.text);
    for (long i = 0; i < n; i++) printf(i ? " %d" : "%d", ids[i]);
    putchar('\n');
    free(ids);
}

static void answer_text(char *text) {
    SmolSpan spans[64];
    SmolPrompt p = {.user = spans};
    uint8_t *bytes = unhex(text, &p.n_text);
    for (char *begin; (begin = strtok(NULL, " ")); p.n_user++) {
        if (p.n_user == 64) exit(2);
        spans[p.n_user] = (SmolSpan){strtoul(begin, NULL, 10), strtoul(strtok(NULL, " "), NULL, 10)};
    }
    p.text = (char *)bytes;
    print_ids(&p);
    free(bytes);
}

// Reads "TEXT [ROWSxCOLS]... ;" into a message.
static void read_message(SmolMessage *message, SmolTiling *pictures) {
    message->text = (char *)unhex(strtok(NULL, " "), &message->n_text);
    message->pictures = pictures;
    message->n_pictures = 0;
    message->video = NULL;
    for (char *s; (s = strtok(NULL, " ")) && *s != ';';) {
        SmolTiling *t = &pictures[message->n_pictures++];
        *t = (SmolTiling){0};
        if (sscanf(s, "%dx%d", &t->rows, &t->cols) != 2) exit(2);
    }
}

static void answer_prompt(int chat) {
    static SmolTiling pictures[64][64];
    SmolMessage messages[64];
    int n = 0, special = chat ? 0 : atoi(strtok(NULL, " "));
    for (char *role; n < 64 && (role = chat ? strtok(NULL, " ") : n ? NULL : "user"); n++) {
        messages[n].role = role;
        read_message(&messages[n], pictures[n]);
    }
    SmolErr err = {0};
    SmolPrompt p = {0};
    for (int pass = 0; pass < 2 && !err.code; pass++) {  // count, then fill
        if (chat) smol_prompt_chat(&model, messages, n, &p, &err);
        if (!chat) smol_prompt_raw(&model, messages, special, &p, &err);
        if (pass || err.code) break;
        p = (SmolPrompt){malloc(p.n_text + 1), 0, p.n_text, malloc(p.n_user * sizeof(SmolSpan) + 1), 0, p.n_user};
    }
    if (err.code) {
        printf("error %d: %s\n", err.code, err.text);
    } else {
        print_hex(p.text, p.n_text);
        for (size_t k = 0; k < p.n_user; k++) printf(" %zu %zu", p.user[k].begin, p.user[k].end);
        printf(" | ");
        print_ids(&p);
    }
    for (int i = 0; i < n; i++) free((void *)messages[i].text);
    free(p.text);
    free(p.user);
}

static void answer_bytes(void) {
    for (char *id; (id = strtok(NULL, " "));) {
        size_t n;
        const char *text = smol_token_text(&model, atoi(id), &n);
        if (n) print_hex(text, n);
    }
    putchar('\n');
}

static void answer_benchmark(char *text) {
    size_t n, times = strtoul(strtok(NULL, " "), NULL, 10);
    uint8_t *one = unhex(text, &n);
    SmolPrompt p = {.text = malloc(n * times + 1), .n_text = n * times};
    for (size_t i = 0; i < times; i++) memcpy(p.text + i * n, one, n);
    SmolErr err;
    long n_ids;
    clock_t start = clock();
    free(tokenize(&p, &n_ids, &err));
    printf("%ld %zu %ld\n", n_ids, smol_tokenize_bytes(&model, p.n_text),
           (long)((clock() - start) * 1000 / CLOCKS_PER_SEC));
    free(p.text);
    free(one);
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5) return 2;
    size_t n, cap = 1 << 20, length = 0;
    unsigned char *section = read_file(argv[1], &n);
    SmolErr err;
    if (!section || vocab_open(&model.vocab, section, n, atoi(argv[2]), &err)) {
        printf("error %d: %s\n", err.code, err.text);
        return 1;
    }
    model.config.template_kind = argc == 5 ? atoi(argv[4]) : 1;
    model.config.image_seq_len = atoi(argv[3]);
    char *input = malloc(cap);
    while ((length += fread(input + length, 1, cap - length - 1, stdin)) == cap - 1) input = realloc(input, cap *= 2);
    input[length] = 0;
    for (char *line = input, *end; *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end) *end++ = 0;
        char *kind = strtok(line, " ");
        switch (kind ? *kind : 0) {
        case 't': answer_text(strtok(NULL, " ")); break;
        case 'c': answer_prompt(1); break;
        case 'r': answer_prompt(0); break;
        case 'd': answer_bytes(); break;
        case 'b': answer_benchmark(strtok(NULL, " ")); break;
        default: return 2;
        }
    }
    free(input);
    free(section);
    return 0;
}
