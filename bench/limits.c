// limits.c: the machine's limits. A peak is a loop of nothing but the instruction in question, on 12 registers that do not wait
// for each other: more than latency times issue rate of the processors at hand. Assembly, since a compiler would see that
// nobody needs the sums. The bandwidth is that of reading a buffer that no cache holds.

#define _DEFAULT_SOURCE

#include "limits.h"
#include "../cli.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

// ---- peaks ----

#define LOOPS 1000000
#define CHAINS 12

typedef struct {
    const char *how;
    int macs;  // of one instruction
    int (*supported)(void);
    void (*loop)(long n);  // n times CHAINS instructions
} Peak;

#ifdef __x86_64__

// Registers 1 to 3 are read, 4 to 15 summed up; all zero, so that no number is slow.
#define SUM(op, r, i) op " %%" r "1, %%" r "2, %%" r #i "\n\t"
#define CLEAR(r, i) "vpxor %%x" r #i ", %%x" r #i ", %%x" r #i "\n\t"
#define EACH(x, ...) \
    x(__VA_ARGS__, 4) x(__VA_ARGS__, 5) x(__VA_ARGS__, 6) x(__VA_ARGS__, 7) x(__VA_ARGS__, 8) x(__VA_ARGS__, 9) \
    x(__VA_ARGS__, 10) x(__VA_ARGS__, 11) x(__VA_ARGS__, 12) x(__VA_ARGS__, 13) x(__VA_ARGS__, 14) x(__VA_ARGS__, 15)
#define LOOP(name, op, r) \
    static void name(long n) { \
        __asm__ volatile(CLEAR("mm", 1) CLEAR("mm", 2) EACH(CLEAR, "mm") "1:\n\t" EACH(SUM, op, r) "dec %0\n\tjnz 1b" \
                         : "+r"(n) \
                         : \
                         : "cc", "xmm1", "xmm2", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
                           "xmm13", "xmm14", "xmm15"); \
    }

LOOP(dot_zmm, "vpdpbusd", "zmm")
LOOP(dot_ymm, "vpdpbusd", "ymm")
LOOP(fma_zmm, "vfmadd231ps", "zmm")
LOOP(fma_ymm, "vfmadd231ps", "ymm")

static int has_vnni(void) { return __builtin_cpu_supports("avx512vnni"); }
static int has_vnni_vl(void) { return has_vnni() && __builtin_cpu_supports("avx512vl"); }
static int has_avx512(void) { return __builtin_cpu_supports("avx512f"); }
static int has_fma(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static const Peak int8_peaks[] = {{"vpdpbusd zmm", 64, has_vnni, dot_zmm}, {"vpdpbusd ymm", 32, has_vnni_vl, dot_ymm}, {0}};
static const Peak f32_peaks[] = {{"vfmadd231ps zmm", 16, has_avx512, fma_zmm}, {"vfmadd231ps ymm", 8, has_fma, fma_ymm}, {0}};

#elif defined __aarch64__

#include <sys/auxv.h>

#ifdef __clang__
#define TARGET __attribute__((target("dotprod,i8mm")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif
#define MATRIX(i) "smmla v" #i ".4s, v1.16b, v2.16b\n\t"
#define DOT(i) "sdot v" #i ".4s, v1.16b, v2.16b\n\t"
#define FMA(i) "fmla v" #i ".4s, v1.4s, v2.4s\n\t"
#define CLEAR(i) "movi v" #i ".4s, #0\n\t"
#define EACH(x) x(4) x(5) x(6) x(7) x(16) x(17) x(18) x(19) x(20) x(21) x(22) x(23)
#define LOOP(name, op) \
    TARGET static void name(long n) { \
        __asm__ volatile(CLEAR(1) CLEAR(2) EACH(CLEAR) "1:\n\t" EACH(op) \
                         "subs %0, %0, #1\n\tb.ne 1b" \
                         : "+r"(n) \
                         : \
                         : "cc", "v1", "v2", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23"); \
    }

LOOP(matrix_q, MATRIX)
LOOP(dot_q, DOT)
LOOP(fma_q, FMA)

static int has_i8mm(void) { return (getauxval(AT_HWCAP2) >> 13 & 1) != 0; }    // HWCAP2_I8MM
static int has_dotprod(void) { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }  // HWCAP_ASIMDDP
static int always(void) { return 1; }

static const Peak int8_peaks[] = {{"smmla", 32, has_i8mm, matrix_q}, {"sdot", 16, has_dotprod, dot_q}, {0}};
static const Peak f32_peaks[] = {{"fmla", 4, always, fma_q}, {0}};

#else

static const Peak int8_peaks[] = {{0}}, f32_peaks[] = {{0}};

#endif

enum { RUNS = 7 };

static double peak_rate(const Peak *p, int n_threads) {
    double best = 0;
    for (int run = 0; run < RUNS; run++) {
        double start = now_ms();
#pragma omp parallel num_threads(n_threads)
        p->loop(LOOPS);
        double rate = (double)p->macs * CHAINS * LOOPS * n_threads / (now_ms() - start) * 1e-6;
        if (rate > best) best = rate;
    }
    return best;
}

static Limit best_peak(const Peak *peaks, int n_threads) {
    Limit best = {0};
    for (const Peak *p = peaks; p->how; p++) {
        double rate = p->supported() ? peak_rate(p, n_threads) : 0;
        if (rate > best.rate) best = (Limit){p->how, rate};
    }
    return best;
}

// ---- reading ----

enum { LINE = 64 };

static volatile uint64_t unused;  // where sums go, so that they are computed

// Whole lines in order, which the processor foresees.
static void read_all(const uint8_t *bytes, size_t n) {
    uint64_t sum[LINE / 8] = {0}, line[LINE / 8];
    for (size_t i = 0; i < n; i += LINE) {
        memcpy(line, bytes + i, LINE);
        for (int j = 0; j < LINE / 8; j++) sum[j] ^= line[j];
    }
    for (int j = 0; j < LINE / 8; j++) unused = sum[j];
}

// The mean of all runs, not the best: what others leave of the memory is what a decoder gets, too.
static double read_rate(const uint8_t *bytes, size_t n, int n_threads) {
    size_t part = n / (size_t)n_threads / LINE * LINE;
    double start = now_ms();
    for (int run = 0; run < RUNS; run++) {
#pragma omp parallel for num_threads(n_threads) schedule(static, 1)
        for (int i = 0; i < n_threads; i++) read_all(bytes + (size_t)i * part, part);
    }
    return (double)part * n_threads * RUNS / (now_ms() - start) * 1e-6;
}

// In pages of megabytes if the system has them, as those of a mapped file are.
Limit limits_reading(int n_threads) {
    const size_t n = (size_t)1 << 30;
    uint8_t *bytes = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) return (Limit){0};
#ifdef MADV_HUGEPAGE
    madvise(bytes, n, MADV_HUGEPAGE);
#endif
    memset(bytes, 1, n);
    double rate = read_rate(bytes, n, n_threads);
    munmap(bytes, n);
    return (Limit){"reading", rate};
}

Limits limits_measure(int n_threads) {
    return (Limits){
        .int8 = best_peak(int8_peaks, n_threads),
        .f32 = best_peak(f32_peaks, n_threads),
        .read = limits_reading(n_threads),
    };
}
