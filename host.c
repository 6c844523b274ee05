// host.c: what the command line needs from its surroundings: memory, files, time, a terminal, whole characters.

#define _DEFAULT_SOURCE
#define _FILE_OFFSET_BITS 64

#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// ---- the system: Windows, or one that knows POSIX. No other file asks which ----

#ifdef _WIN32

#define PSAPI_VERSION 2
#include <windows.h>

#include <direct.h>
#include <io.h>
#include <psapi.h>

static void (*when_interrupted)(int);

static void on_interrupt(int number) {
    signal(SIGINT, on_interrupt);  // which Windows forgets each time
    when_interrupted(number);
}

void host_prepare(void (*interrupted)(int)) {
    DWORD mode;
    HANDLE terminal = GetStdHandle(STD_ERROR_HANDLE);
    when_interrupted = interrupted;
    signal(SIGINT, on_interrupt);
    _setmode(STDIN_FILENO, _O_BINARY);
    _setmode(STDOUT_FILENO, _O_BINARY);
    SetConsoleCP(CP_UTF8);
    SetConsoleOutputCP(CP_UTF8);
    if (GetConsoleMode(terminal, &mode)) SetConsoleMode(terminal, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING);
}

static void *map_file(int fd, size_t n) {
    errno = 0;
    HANDLE mapping = CreateFileMappingA((HANDLE)_get_osfhandle(fd), NULL, PAGE_READONLY, 0, 0, NULL);
    void *map = mapping ? MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, n) : NULL;
    if (mapping) CloseHandle(mapping);
    return map;
}

static void *large_pages(size_t n) { return _aligned_malloc(n, 64); }

FILE *nameless_file(const char *path) {
    char folder[MAX_PATH + 1], name[MAX_PATH + 1];
    if (!path && GetTempPathA(sizeof folder, folder) && GetTempFileNameA(folder, "smo", 0, name)) path = name;
    return path ? fopen(path, "w+bTD") : NULL;  // D: deleted when it is closed
}

int replace_file(const char *from, const char *to) {
    if (MoveFileExA(from, to, MOVEFILE_REPLACE_EXISTING)) return 0;
    errno = EACCES;
    return -1;
}

int make_folder(const char *name) { return _mkdir(name); }

int terminal_begin(void) { return 0; }  // the console's own editing takes lines of any length

void terminal_end(void) {}

ptrdiff_t terminal_read(void *bytes, size_t n) { return read(STDIN_FILENO, bytes, (unsigned)n); }

double now_ms(void) {
    LARGE_INTEGER count, per_second;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&per_second);
    return (double)count.QuadPart * 1e3 / (double)per_second.QuadPart;
}

size_t peak_memory(void) {
    PROCESS_MEMORY_COUNTERS counters;
    return GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) ? counters.PeakWorkingSetSize : 0;
}

#else

#include <sys/mman.h>
#include <sys/resource.h>
#include <termios.h>

#define O_BINARY 0

// A closed pipe and a file too large are errors of the write that meets them.
void host_prepare(void (*interrupted)(int)) {
    struct sigaction action = {0};
    action.sa_handler = interrupted;
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

static void *map_file(int fd, size_t n) {
    void *map = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(map, n, MADV_HUGEPAGE);  // weights are read as fast as memory gives them: fewer addresses to look up, where Linux can
#endif
    return map;
}

// Memory of pages as large as the system has.
static void *large_pages(size_t n) {
    void *room = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(room, n, MADV_HUGEPAGE);
#endif
    return room;
}

FILE *nameless_file(const char *path) {
    FILE *f = path ? fopen(path, "w+b") : tmpfile();
    if (f && path) remove(path);
    return f;
}

int replace_file(const char *from, const char *to) { return rename(from, to); }

int make_folder(const char *name) { return mkdir(name, 0777); }

static struct termios terminal_before, terminal_keys;
static volatile sig_atomic_t terminal_changed;

// The shell may have changed it while this program was stopped.
static void on_continue(int number) {
    (void)number;
    int before = errno;
    if (terminal_changed) tcsetattr(STDIN_FILENO, TCSANOW, &terminal_keys);
    errno = before;
}

int terminal_begin(void) {
    struct sigaction action = {0};
    const char *kind = getenv("TERM");
    if (!kind || !*kind || !strcmp(kind, "dumb") || !isatty(STDERR_FILENO) || tcgetattr(STDIN_FILENO, &terminal_before)) return 0;
    terminal_keys = terminal_before;
    terminal_keys.c_lflag &= ~(tcflag_t)(ICANON | ECHO | IEXTEN);
    terminal_keys.c_cc[VMIN] = 1;
    terminal_keys.c_cc[VTIME] = 0;
    action.sa_handler = on_continue;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &terminal_keys)) return 0;
    terminal_changed = 1;
    sigaction(SIGCONT, &action, NULL);
    fputs("\033[?2004h", stderr);  // pastes between marks
    atexit(terminal_end);
    return 1;
}

void terminal_end(void) {
    static const char no_marks[] = "\033[?2004l";
    if (!terminal_changed) return;
    terminal_changed = 0;
    ssize_t ignored = write(STDERR_FILENO, no_marks, sizeof no_marks - 1);
    (void)ignored;
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
}

ptrdiff_t terminal_read(void *bytes, size_t n) {
    ssize_t got;
    do got = read(STDIN_FILENO, bytes, n);
    while (got < 0 && errno == EINTR);
    return got;
}

double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

// Linux counts the memory of the program that started this one into ru_maxrss, but not into VmHWM.
size_t peak_memory(void) {
    struct rusage usage;
    char line[128];
    size_t kilobytes = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmHWM: %zu", &kilobytes) == 1) break;  // NOLINT(cert-err34-c): the kernel writes a number
    }
    if (f) fclose(f);
    if (kilobytes) return kilobytes * 1024;
    if (getrusage(RUSAGE_SELF, &usage)) return 0;
#ifdef __APPLE__
    return (size_t)usage.ru_maxrss;
#else
    return (size_t)usage.ru_maxrss * 1024;
#endif
}

#endif

// ---- failures and memory ----

static int progress_shown;  // a line that the next one replaces stands on the terminal

void progress(const char *text) {
    if (!isatty(STDERR_FILENO) || (!text && !progress_shown)) return;
    fprintf(stderr, "\r\033[K%s", text ? text : "");
    progress_shown = text != NULL;
}

void complain(const char *name, const char *message) {
    progress(NULL);
    fprintf(stderr, "smol: %s%s%s\n", name ? name : "", name ? ": " : "", message);
}

_Noreturn void die(const char *name, const char *message) {
    complain(name, message);
    exit(1);
}

void *need(void *old, size_t bytes, const char *what) {
    void *p = realloc(old, bytes ? bytes : 1);
    char message[160];
    if (p) return p;
    snprintf(message, sizeof message, "not enough memory: %zu bytes for the %s (a smaller -c or --no-tiling needs less)", bytes, what);
    die(NULL, message);
}

void *aligned_64(void *p) { return (uint8_t *)p + (64 - (uintptr_t)p % 64) % 64; }

void buffer_add(Buffer *b, const char *bytes, size_t n) {
    if (b->n + n + 1 > b->cap) {
        b->cap = 2 * (b->n + n) + 64;
        b->bytes = need(b->bytes, b->cap, "text");
    }
    memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
    b->bytes[b->n] = 0;
}

void buffer_print(Buffer *b, const char *format, ...) {
    char text[1000];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    buffer_add(b, text, (size_t)n);
}

// ---- files ----

static const uint8_t *no_file(SmolErr *err, const char *why) {
    snprintf(err->text, sizeof err->text, "%s", why);
    return NULL;
}

// A model is read fastest from a multiple of 64, and must be at one of 16, which not every realloc gives.
static const uint8_t *aligned(Buffer *b) {
    char *copy = need(NULL, b->n + 64, "file");
    copy = memcpy(aligned_64(copy), b->bytes, b->n);
    free(b->bytes);
    return (const uint8_t *)copy;
}

static const uint8_t *read_all(int fd, size_t *n, SmolErr *err) {
    Buffer all = {0};
    char block[1 << 16];
    ssize_t got;
    buffer_add(&all, "", 0);
    while ((got = read(fd, block, sizeof block)) > 0) buffer_add(&all, block, (size_t)got);
    *n = all.n;
    if (got == 0) return aligned(&all);
    no_file(err, strerror(errno));
    free(all.bytes);
    return NULL;
}

// Where files cannot be mapped they are read.
static const uint8_t *map_or_read(int fd, uintmax_t size, size_t *n, SmolErr *err) {
    if (size > PTRDIFF_MAX) {
        snprintf(err->text, sizeof err->text, "%ju bytes are more than this %d-bit program can address", size,
                 (int)(8 * sizeof(void *)));
        return NULL;
    }
    *n = (size_t)size;
    const uint8_t *map = map_file(fd, *n);
    if (map) return map;
    if (errno == ENOMEM) return no_file(err, "cannot be mapped into memory: there is not enough room for its addresses");
    return read_all(fd, n, err);
}

static const uint8_t *copy_of(int fd, uintmax_t size, size_t *n, SmolErr *err) {
    uint8_t *copy = size > PTRDIFF_MAX ? NULL : large_pages((size_t)size);
    ssize_t got = 1;
    if (!copy) return no_file(err, "does not fit into memory");
    for (*n = 0; *n < size && got > 0; *n += (size_t)got) {
        size_t left = (size_t)size - *n;
        got = read(fd, copy + *n, left < 1 << 30 ? (unsigned)left : 1u << 30);
        if (got < 0) return no_file(err, strerror(errno));
    }
    return copy;
}

static const uint8_t *load(const char *name, int copied, size_t *n, SmolErr *err) {
    if (!strcmp(name, "-")) return read_all(STDIN_FILENO, n, err);
    int fd = open(name, O_RDONLY | O_BINARY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info)) return no_file(err, strerror(errno));
    const uint8_t *bytes;
    if (S_ISDIR(info.st_mode)) bytes = no_file(err, "is a folder, not a file");
    else if (S_ISREG(info.st_mode) && info.st_size > 0) bytes = (copied ? copy_of : map_or_read)(fd, (uintmax_t)info.st_size, n, err);
    else bytes = read_all(fd, n, err);
    close(fd);
    return bytes;
}

const uint8_t *load_file(const char *name, size_t *n, SmolErr *err) { return load(name, 0, n, err); }

const uint8_t *load_copy(const char *name, size_t *n, SmolErr *err) { return load(name, 1, n, err); }

// Opens what is to become a file, under a name of its own. Neither a device nor a folder is to be replaced.
static FILE *begin_file(const char *path, char **unfinished) {
    size_t n_path = strlen(path) + sizeof ".tmp";
    struct stat info;
    *unfinished = need(NULL, n_path, "file name");
    snprintf(*unfinished, n_path, "%s.tmp", path);
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) die(path, "is no regular file, and would be replaced");
    FILE *f = fopen(*unfinished, "wb");
    if (!f) die(path, strerror(errno));
    return f;
}

void check_writable(const char *path) {
    char *unfinished;
    fclose(begin_file(path, &unfinished));
    remove(unfinished);
    free(unfinished);
}

void write_file(const char *path, const char *bytes, size_t n) {
    char *unfinished;
    FILE *f = begin_file(path, &unfinished);
    int good = fwrite(bytes, 1, n, f) == n, why = errno;
    if (fclose(f) && good) good = 0, why = errno;
    if (good && replace_file(unfinished, path)) good = 0, why = errno;
    if (!good) {
        remove(unfinished);
        die(path, strerror(why));
    }
    free(unfinished);
}

int read_line(Buffer *line) {
    int c;
    line->n = 0;
    buffer_add(line, "", 0);
    while ((c = getchar()) != EOF && c != '\n') {
        char byte = (char)c;
        buffer_add(line, &byte, 1);
    }
    if (c == EOF && ferror(stdin)) die("standard input", strerror(errno));
    if (line->n && line->bytes[line->n - 1] == '\r') line->bytes[--line->n] = 0;
    return c != EOF || line->n > 0;
}

// ---- text as whole characters ----

static int utf8_length(unsigned char first) {
    return first < 0x80 ? 1 : first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3 : first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

// Whether the second byte keeps the character from being overlong, a surrogate or above U+10FFFF (RFC 3629).
static int second_byte_fits(unsigned char first, unsigned char second) {
    if (first == 0xe0) return second >= 0xa0;
    if (first == 0xed) return second < 0xa0;
    if (first == 0xf0) return second >= 0x90;
    if (first == 0xf4) return second < 0x90;
    return 1;
}

void utf8_end(Utf8 *u, Buffer *out) {
    if (u->n) buffer_add(out, "\xef\xbf\xbd", 3);
    u->n = 0;
}

void utf8_add(Utf8 *u, Buffer *out, char c) {
    unsigned char byte = (unsigned char)c;
    int continues = u->n && (byte & 0xc0) == 0x80 && (u->n > 1 || second_byte_fits((unsigned char)u->held[0], byte));
    if (!continues) {
        utf8_end(u, out);
        u->wanted = utf8_length(byte);
        if (!u->wanted) {
            buffer_add(out, "\xef\xbf\xbd", 3);
            return;
        }
    }
    u->held[u->n++] = c;
    if (u->n == u->wanted) {
        buffer_add(out, u->held, (size_t)u->n);
        u->n = 0;
    }
}

// Character by character: a valid one has all its bytes.
int is_utf8(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        int length = utf8_length((unsigned char)s[i]);
        if (length == 0 || (size_t)length > n - i) return 0;
        if (length > 1 && !second_byte_fits((unsigned char)s[i], (unsigned char)s[i + 1])) return 0;
        for (int k = 1; k < length; k++) {
            if (((unsigned char)s[i + (size_t)k] & 0xc0) != 0x80) return 0;
        }
        i += (size_t)length;
    }
    return 1;
}
