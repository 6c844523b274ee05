// fuzz_tokenizer.c: the first byte, modulo 5, says what the others are.
//
//     0  the text of a user in a chat           1  a raw prompt           2  the same with control tokens
//     3  a prompt as it is, half of it a user's, which need not be UTF-8
//     4  a tokenizer section, which then takes apart a fixed text; all others are as 3
//
// The tokenizers are those of the tests: the first byte / 5, modulo 3, says which. Run from the repository root.

#include "fuzz.h"

enum { N_MODELS = 3 };

static const struct { const char *path; int vocab_size, template_kind; } files[N_MODELS] = {
    {"tests/golden/tokenizer.bin", 700, 1}, {"tests/golden/tekken.bin", 700, 5}, {"tests/golden/sentencepiece.bin", 780, 4},
};

static SmolModel models[N_MODELS];

// Ids within exactly the memory that smol.h promises.
static void tokenize(const SmolModel *m, const SmolPrompt *prompt) {
    SmolErr err = {0};
    SmolArena scratch = {.size = smol_tokenize_bytes(m, prompt->n_text)};
    scratch.base = malloc(scratch.size ? scratch.size : 1);
    int32_t *ids = malloc((prompt->n_text + 1) * sizeof *ids);
    long n = smol_tokenize(m, prompt, ids, &scratch, &err);
    if (n < 0) expect_line((int)n, &err);
    EXPECT(n <= (long)prompt->n_text + 1 && scratch.used == 0);
    for (long i = 0; i < n; i++) {
        size_t length;
        const char *text = smol_token_text(m, ids[i], &length);
        EXPECT(ids[i] >= 0 && (uint32_t)ids[i] < m->vocab.n_tokens && (text || length == 0));
    }
    free(ids);
    free(scratch.base);
}

// Renders twice, first to count; what comes out must be fit for smol_tokenize.
static void render(const SmolModel *model, int kind, const char *text, size_t n) {
    SmolErr err = {0};
    SmolMessage message = {.role = "user", .text = text, .n_text = n};
    SmolPrompt prompt = {0};
    for (int pass = 0; pass < 2; pass++) {
        int code = kind == 0 ? smol_prompt_chat(model, &message, 1, &prompt, &err)
                             : smol_prompt_raw(model, &message, kind == 2, &prompt, &err);
        EXPECT(code == 0);
        if (pass) break;
        prompt = (SmolPrompt){.text = malloc(prompt.n_text + 1), .text_cap = prompt.n_text,
                              .user = malloc((prompt.n_user + 1) * sizeof(SmolSpan)), .user_cap = prompt.n_user};
    }
    tokenize(model, &prompt);
    free(prompt.text);
    free(prompt.user);
}

static void open_section(const uint8_t *bytes, size_t n) {
    static char text[] = "It's 12 o'clock <|im_start|>\n\n  na\xc3\xafve \xe5\x9b\xbe<image>";
    SmolPrompt prompt = {.text = text, .n_text = sizeof text - 1};
    SmolModel other = {0};
    SmolErr err = {0};
    uint8_t *copy = fuzz_memory(n);
    memcpy(copy, bytes, n);
    int code = vocab_open(&other.vocab, copy, n, n < 4 ? 700 : (int)(get_u32(copy) & 0xffff), &err);
    if (code != 0) expect_line(code, &err);
    else tokenize(&other, &prompt);
    free(copy);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    SmolErr err;
    static uint8_t sections[N_MODELS][1 << 16];
    for (int i = 0; i < N_MODELS; i++) {
        FILE *f = fopen(files[i].path, "rb");
        EXPECT(f != NULL);
        size_t n = fread(sections[i], 1, sizeof sections[i], f);
        fclose(f);
        models[i].config.template_kind = files[i].template_kind;
        models[i].config.image_seq_len = 3;
        EXPECT(vocab_open(&models[i].vocab, sections[i], n, files[i].vocab_size, &err) == 0);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0) return 0;
    int kind = data[0] % 5;
    const SmolModel *model = &models[data[0] / 5 % N_MODELS];
    if (kind != 4 && n > 1000) n = 1000;  // longer texts are slow and show nothing new
    if (kind < 3) {
        render(model, kind, (const char *)data + 1, n - 1);
    } else if (kind == 4) {
        open_section(data + 1, n - 1);
    } else {
        char *text = malloc(n);
        memcpy(text, data + 1, n - 1);
        SmolSpan user = {0, (n - 1) / 2};
        tokenize(model, &(SmolPrompt){.text = text, .n_text = n - 1, .user = &user, .n_user = 1});
        free(text);
    }
    return 0;
}
