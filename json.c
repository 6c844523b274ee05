// json.c: JSON (RFC 8259), read strictly and without recursion, and the strings of it written.
//
// A text becomes a list of its values in the order in which they begin: a container, then what it holds, then what follows it.

#include "cli.h"

#include <string.h>

// ---- reading ----

typedef struct {
    const char *text;
    size_t n, at;
    Json *json;
    size_t open[JSON_DEPTH];  // the containers around what comes
    int depth;
    int is_fresh;  // nothing of the innermost has been read yet
    SmolErr *err;
} Reader;

static int bad(const Reader *r, const char *what) {
    int line = 1;
    for (size_t i = 0; i < r->at && i < r->n; i++) line += r->text[i] == '\n';
    snprintf(r->err->text, sizeof r->err->text, "JSON: line %d: %s", line, what);
    return r->err->code = SMOL_E_FORMAT;
}

// Zero at the end, which no valid text contains.
static char peek(const Reader *r) {
    if (r->at < r->n) return r->text[r->at];
    return 0;
}

static void skip_spaces(Reader *r) {
    while (r->at < r->n && strchr(" \t\r\n", r->text[r->at]) && r->text[r->at]) r->at++;
}

static JsonValue *add_value(Reader *r, JsonKind kind) {
    JsonValue *v = &r->json->values[r->json->n_values++];
    *v = (JsonValue){.kind = kind, .begin = r->at, .end = r->json->n_values};
    if (r->depth) r->json->values[r->open[r->depth - 1]].n_children++;
    r->is_fresh = 0;
    return v;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

// Four hexadecimal digits, -1 if they are none.
static long hex4(const char *s, size_t n) {
    long v = 0;
    for (size_t i = 0; i < 4; i++) {
        int digit = i < n ? hex_digit(s[i]) : -1;
        if (digit < 0) return -1;
        v = 16 * v + digit;
    }
    return v;
}

// The character after a backslash: its bytes in *used, counted from the backslash. -1 if it is none.
static long escaped(const char *s, size_t n, size_t *used) {
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char *name = n > 1 && s[1] ? strchr(names, s[1]) : NULL;
    *used = name ? 2 : 6;
    if (name) return meant[name - names];
    if (n < 6 || s[1] != 'u') return -1;
    long c = hex4(s + 2, n - 2);
    if (c < 0 || (c >= 0xdc00 && c < 0xe000)) return -1;
    if (c < 0xd800 || c >= 0xe000) return c;
    long low = n >= 12 && s[6] == '\\' && s[7] == 'u' ? hex4(s + 8, n - 8) : -1;
    *used = 12;
    return low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : -1;
}

static int read_string(Reader *r) {
    r->at++;
    JsonValue *v = add_value(r, JSON_STRING);
    for (;;) {
        char c = peek(r);
        size_t used = 1;
        if (c == '"') break;
        if ((unsigned char)c < 0x20) return bad(r, r->at < r->n ? "a control character in a string" : "a string has no end");
        if (c == '\\' && escaped(r->text + r->at, r->n - r->at, &used) < 0) return bad(r, "no character after a backslash");
        r->at += used;
    }
    v->n = r->at++ - v->begin;
    return is_utf8(r->text + v->begin, v->n) ? 0 : bad(r, "a string is not UTF-8");
}

// Steps over digits; whether there are any.
static int digits(Reader *r) {
    size_t begin = r->at;
    while (peek(r) >= '0' && peek(r) <= '9') r->at++;
    return r->at > begin;
}

static int read_number(Reader *r) {
    JsonValue *v = add_value(r, JSON_NUMBER);
    if (peek(r) == '-') r->at++;
    int good = 1;
    if (peek(r) == '0') r->at++;
    else good = digits(r);
    if (good && peek(r) == '.') r->at++, good = digits(r);
    if (good && (peek(r) == 'e' || peek(r) == 'E')) {
        r->at++;
        if (peek(r) == '+' || peek(r) == '-') r->at++;
        good = digits(r);
    }
    v->n = r->at - v->begin;
    return good ? 0 : bad(r, "not a number");
}

static int read_word(Reader *r) {
    static const char *const words[] = {"null", "false", "true"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (r->n - r->at < n || memcmp(r->text + r->at, words[i], n) != 0) continue;
        add_value(r, (JsonKind)(JSON_NULL + i))->n = n;
        r->at += n;
        return 0;
    }
    return bad(r, "a value is missing");
}

// A value; of a container only its beginning.
static int read_value(Reader *r) {
    skip_spaces(r);
    char c = peek(r);
    if (c == '"') return read_string(r);
    if (c == '-' || (c >= '0' && c <= '9')) return read_number(r);
    if (c != '[' && c != '{') return read_word(r);
    if (r->depth == JSON_DEPTH) return bad(r, "too many brackets within each other");
    add_value(r, c == '[' ? JSON_ARRAY : JSON_OBJECT);
    r->open[r->depth++] = r->json->n_values - 1;
    r->is_fresh = 1;
    r->at++;
    return 0;
}

static JsonKind innermost(const Reader *r) {
    return r->depth ? r->json->values[r->open[r->depth - 1]].kind : JSON_NULL;
}

static int read_name(Reader *r) {
    skip_spaces(r);
    if (peek(r) != '"') return bad(r, "the name of a member is missing");
    int code = read_string(r);
    skip_spaces(r);
    if (!code && peek(r) != ':') return bad(r, "a colon is missing");
    r->at++;
    return code;
}

// Steps over the brackets that end containers here.
static void close_containers(Reader *r) {
    skip_spaces(r);
    while (r->depth && peek(r) == (innermost(r) == JSON_ARRAY ? ']' : '}')) {
        JsonValue *v = &r->json->values[r->open[--r->depth]];
        v->end = r->json->n_values;
        v->n = ++r->at - v->begin;
        r->is_fresh = 0;
        skip_spaces(r);
    }
}

int json_read(Json *j, const char *text, size_t n, JsonValue *values, SmolErr *err) {
    *j = (Json){.text = text, .values = values};
    Reader r = {.text = text, .n = n, .json = j, .err = err};
    do {
        int code = innermost(&r) == JSON_OBJECT ? read_name(&r) : 0;
        if (!code) code = read_value(&r);
        if (code) return code;
        close_containers(&r);
        if (!r.depth || r.is_fresh) continue;
        if (peek(&r) != ',') return bad(&r, "a comma or a closing bracket is missing");
        r.at++;
    } while (r.depth);
    return r.at == n ? 0 : bad(&r, "something follows the end");
}

// ---- looking up ----

size_t json_member(const Json *j, size_t object, const char *name) {
    size_t n = strlen(name);
    const JsonValue *o = &j->values[object];
    if (o->kind != JSON_OBJECT) return 0;
    for (size_t i = object + 1; i < o->end; i = j->values[i + 1].end) {
        const JsonValue *v = &j->values[i];
        if (v->n == n && !memcmp(j->text + v->begin, name, n)) return i + 1;
    }
    return 0;
}

// A zero would end the text: it becomes U+FFFD, as what is no UTF-8 does.
static void add_utf8(Buffer *b, long c) {
    char s[4];
    size_t n = 0;
    if (!c) c = 0xfffd;
    if (c < 0x80) s[n++] = (char)c;
    else if (c < 0x800) s[n++] = (char)(0xc0 | c >> 6);
    else if (c < 0x10000) s[n++] = (char)(0xe0 | c >> 12);
    else s[n++] = (char)(0xf0 | c >> 18), s[n++] = (char)(0x80 | (c >> 12 & 0x3f));
    if (c >= 0x800) s[n++] = (char)(0x80 | (c >> 6 & 0x3f));
    if (c >= 0x80) s[n++] = (char)(0x80 | (c & 0x3f));
    buffer_add(b, s, n);
}

char *json_text(const Json *j, size_t i) {
    const JsonValue *v = &j->values[i];
    const char *s = j->text + v->begin;
    Buffer b = {0};
    size_t used;
    buffer_add(&b, "", 0);
    for (size_t k = 0; k < v->n; k += used) {
        used = 1;
        if (v->kind == JSON_STRING && s[k] == '\\') add_utf8(&b, escaped(s + k, v->n - k, &used));
        else buffer_add(&b, s + k, 1);
    }
    return b.bytes;
}

// ---- writing ----

void json_add_string(Buffer *b, const char *s, size_t n) {
    buffer_add(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        char code[8];
        int length = c == '"' || c == '\\' ? snprintf(code, sizeof code, "\\%c", c)
                     : c == '\n'           ? snprintf(code, sizeof code, "\\n")
                     : c < 0x20 || c == 0x7f ? snprintf(code, sizeof code, "\\u%04x", c)
                                           : snprintf(code, sizeof code, "%c", c);
        buffer_add(b, code, (size_t)length);
    }
    buffer_add(b, "\"", 1);
}
