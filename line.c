// line.c: a line typed or pasted into a terminal that hands over every key at once. The terminal's own editing, which this
// stands for, would cut a line after 4095 bytes. Pastes come between ESC [200~ and ESC [201~ (bracketed paste), so that one of
// several lines is one question.

#define _DEFAULT_SOURCE

#include "cli.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { END = 4, BACKSPACE = 8, NEWLINE = 10, DELETE_ALL = 21, DELETE_WORD = 23, ESCAPE = 27, DELETE = 127 };

static void echo(const char *bytes, size_t n) { fwrite(bytes, 1, n, stderr); }

// The next byte, or -1 at the end.
static int next_byte(void) {
    static unsigned char held[4096];
    static size_t n, at;
    if (at == n) {
        fflush(stderr);
        ptrdiff_t got = terminal_read(held, sizeof held);
        if (got < 0) die("standard input", strerror(errno));
        at = 0;
        n = got > 0 ? (size_t)got : 0;
        if (!n) return -1;
    }
    return held[at++];
}

// The number of ESC [ NUMBER ~, or 0 for other sequences, which keys without a meaning here send.
static int escape_sequence(void) {
    int c = next_byte(), number = 0;
    if (c == 'O') next_byte();
    if (c != '[') return 0;
    while ((c = next_byte()) >= 0 && c < 0x40) {
        if (c >= '0' && c <= '9' && number < 1000) number = 10 * number + c - '0';
    }
    return c == '~' ? number : 0;
}

// Takes the last character away, on the screen too: two columns of it where East Asian signs and emoji have two.
static void delete_last(Buffer *line) {
    if (!line->n) return;
    while (line->n > 1 && ((unsigned char)line->bytes[line->n - 1] & 0xc0) == 0x80) line->n--;
    unsigned char first = (unsigned char)line->bytes[--line->n];
    line->bytes[line->n] = 0;
    if (first == NEWLINE || first == '\t') {
        const char *begin = strrchr(line->bytes, NEWLINE);
        fputs("\r\033[K", stderr);
        fputs(begin ? begin + 1 : line->bytes, stderr);
    } else {
        fputs((first >= 0xe3 && first != 0xee) ? "\b\b  \b\b" : "\b \b", stderr);
    }
}

static void delete_word(Buffer *line) {
    while (line->n && line->bytes[line->n - 1] == ' ') delete_last(line);
    while (line->n && !strchr(" \t\n", line->bytes[line->n - 1])) delete_last(line);
}

static void add(Buffer *line, int c) {
    char byte = (char)c;
    buffer_add(line, &byte, 1);
    echo(&byte, 1);
}

int edit_line(Buffer *line) {
    int c, pasting = 0;
    line->n = 0;
    buffer_add(line, "", 0);
    while ((c = next_byte()) >= 0 && (pasting || c != NEWLINE)) {
        if (c == ESCAPE) {
            int number = escape_sequence();
            pasting = number == 200 || (pasting && number != 201);
        } else if (c >= ' ' && c != DELETE) {
            add(line, c);
        } else if (c == '\t' || c == NEWLINE || (pasting && c == '\r')) {
            add(line, c == '\r' ? NEWLINE : c);
        } else if (pasting) {
            continue;
        } else if (c == DELETE || c == BACKSPACE) {
            delete_last(line);
        } else if (c == DELETE_WORD) {
            delete_word(line);
        } else if (c == DELETE_ALL) {
            while (line->n) delete_last(line);
        } else if (c == END && !line->n) {
            return 0;
        }
    }
    if (c < 0 && !line->n) return 0;
    echo("\n", 1);
    while (line->n && line->bytes[line->n - 1] == NEWLINE) line->bytes[--line->n] = 0;
    return 1;
}
