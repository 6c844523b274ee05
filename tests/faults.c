// faults.c: a library for LD_PRELOAD under which the program's FAULT_AT-th call for memory fails, libc's own calls included.
// When it does, the file FAULT_HIT appears. Counted from where the program prepares for Ctrl-C, as the loader's memory is
// not meant.

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

extern void *__libc_malloc(size_t n), *__libc_calloc(size_t n, size_t size), *__libc_realloc(void *old, size_t n);

static long left = -1;  // calls until one fails; below 0: none will

static int fails(void) {
    if (left < 0 || left-- > 0) return 0;
    const char *hit = getenv("FAULT_HIT");
    if (hit) close(open(hit, O_CREAT | O_WRONLY, 0666));
    errno = ENOMEM;
    return 1;
}

int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
    static int begun;
    int (*real)(int, const struct sigaction *, struct sigaction *);
    *(void **)&real = dlsym(RTLD_NEXT, "sigaction");
    if (!begun++ && getenv("FAULT_AT")) left = atol(getenv("FAULT_AT")) - 1;
    return real(number, action, old);
}

void *malloc(size_t n) { return fails() ? NULL : __libc_malloc(n); }

void *calloc(size_t n, size_t size) { return fails() ? NULL : __libc_calloc(n, size); }

void *realloc(void *old, size_t n) { return fails() ? NULL : __libc_realloc(old, n); }
