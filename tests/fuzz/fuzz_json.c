// fuzz_json.c: any bytes as JSON. What is read hangs together, and a string that is written again is the same string.

#include "../../cli.h"
#include "fuzz.h"

static void again(const Json *j, size_t i) {
    Json copy;
    Buffer b = {0};
    SmolErr err = {0};
    char *text = json_text(j, i);
    json_add_string(&b, text, strlen(text));
    JsonValue *room = fuzz_memory((b.n / 2 + JSON_DEPTH) * sizeof *room);
    EXPECT(json_read(&copy, b.bytes, b.n, room, &err) == 0 && copy.n_values == 1 && room[0].kind == JSON_STRING);
    char *same = json_text(&copy, 0);
    EXPECT(strcmp(text, same) == 0 && is_utf8(text, strlen(text)));
    free(room);
    free(text);
    free(same);
    free(b.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    Json j;
    SmolErr err = {0};
    JsonValue *values = malloc((n / 2 + JSON_DEPTH) * sizeof *values);  // not a byte more, so that ASan sees one
    char *text = malloc(n ? n : 1);
    if (!values || !text) exit(2);
    memcpy(text, data, n);
    int code = json_read(&j, text, n, values, &err);
    if (code != 0) expect_line(code, &err);
    for (size_t i = 0; code == 0 && i < j.n_values; i++) {
        const JsonValue *v = &values[i];
        EXPECT(v->begin <= n && v->n <= n - v->begin && v->end > i && v->end <= j.n_values);
        size_t k = i + 1;
        int n_children = 0;
        for (; k < v->end; k = values[k].end) n_children++;
        EXPECT(k == v->end && n_children == v->n_children && (v->kind != JSON_OBJECT || n_children % 2 == 0));
        EXPECT(json_member(&j, i, "a") < v->end);
        if (v->kind == JSON_STRING) again(&j, i);
    }
    free(values);
    free(text);
    return 0;
}
