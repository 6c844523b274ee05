// kernels_avx512.c: the products for x86-64 with AVX-512 and VNNI.
//
//     one register of weights:   row 0: k k+1 k+2 k+3 | row 1: k k+1 k+2 k+3 | ... | row 15        16 rows x 4 columns, u8
//     one register of x:         the token's k k+1 k+2 k+3, sixteen times over                     broadcast, s8
//     vpdpbusd:                  sum of row r += w[r][k] x[k] + ... + w[r][k+3] x[k+3]             64 products at once
//
//     token 0   [ sums of rows 0..15 ][ rows 16..31 ]     A tile is two panels by up to eight tokens: 16 registers of sums,
//     token 1   [ sums of rows 0..15 ][ rows 16..31 ]     2 of weights, 1 of x. Each weight that is loaded meets eight
//      ...                                                tokens, each x that is broadcast meets 32 rows.
//     token 7   [ sums of rows 0..15 ][ rows 16..31 ]
//
// Weights are stored as u8 = q + 128, as the instruction wants its first factor unsigned. The sums start at -128 times the
// sum of the block's x, which takes the 128 out again.

#include "internal.h"

#ifdef __x86_64__

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))
#define INLINE TARGET static inline __attribute__((always_inline))

#define OWN_ROUNDING
#include "vector.h"

// ---- int8 ----

// Four columns of x, sixteen times over.
INLINE __m512i four_of(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

// sum += products of four columns. As an instruction of its own, because gcc copies the sums around its builtin.
INLINE __m512i dot4(__m512i sum, __m512i w, __m512i x) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

INLINE void dot(__m512i *low, __m512i *high, __m512i w_low, __m512i w_high, __m512i x) {
    *low = dot4(*low, w_low, x);
    *high = dot4(*high, w_high, x);
}

// Sixteen numbers of half precision: scales, or keys and values.
INLINE __m512 widened(const void *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }

// fmaf(w_scale * x_scale, sum, y)
INLINE __m512 scaled(__m512 w_scale, float x_scale, __m512i sum, __m512 y) {
    return _mm512_fmadd_ps(_mm512_mul_ps(w_scale, _mm512_set1_ps(x_scale)), _mm512_cvtepi32_ps(sum), y);
}

// y = from + this block's products, for both panels
INLINE void finish(float *y, const float *from, __m512 w_low, __m512 w_high, float x_scale, __m512i low, __m512i high) {
    _mm512_store_ps(y, scaled(w_low, x_scale, low, _mm512_load_ps(from)));
    _mm512_store_ps(y + LANES, scaled(w_high, x_scale, high, _mm512_load_ps(from + LANES)));
}

// Two panels that meet a group of tokens, block after block. Where there is only one it is taken twice.
typedef struct {
    const uint8_t *low, *high;              // quants of the two panels
    const uint8_t *scale_low, *scale_high;  // their scales
    int n_blocks, block;
    const float *start;  // NULL: with what y has
    const uint8_t *next_low, *next_high;  // what comes after these weights, and is fetched meanwhile
    size_t next_bytes;                    // of a block there
} Pair;

// Each group of tokens fetches two lines of a block, so that eight of them fetch all 16 of a block of Q8.
INLINE void fetch(const uint8_t *block, size_t bytes, size_t group) {
    const char *lines = (const char *)block + group % TOKENS * 128;
    if (group % TOKENS * 128 >= bytes) return;
    _mm_prefetch(lines, _MM_HINT_T1);
    _mm_prefetch(lines + 64, _MM_HINT_T1);
}

TARGET static void multiply_tile(float *y, size_t ldy, const Pair *w, size_t group, const int8_t *x, const float *x_scale,
                                 const int32_t *x_offset) {
    const uint8_t *low = w->low, *high = w->high;
    const float *from = w->start ? w->start : y;
    size_t ld = w->start ? 0 : ldy;
    for (int b = 0; b < w->n_blocks; b++, x_scale += TOKENS, x_offset += TOKENS) {
        __m512i l0 = _mm512_set1_epi32(x_offset[0]), h0 = l0;
        __m512i l1 = _mm512_set1_epi32(x_offset[1]), h1 = l1;
        __m512i l2 = _mm512_set1_epi32(x_offset[2]), h2 = l2;
        __m512i l3 = _mm512_set1_epi32(x_offset[3]), h3 = l3;
        __m512i l4 = _mm512_set1_epi32(x_offset[4]), h4 = l4;
        __m512i l5 = _mm512_set1_epi32(x_offset[5]), h5 = l5;
        __m512i l6 = _mm512_set1_epi32(x_offset[6]), h6 = l6;
        __m512i l7 = _mm512_set1_epi32(x_offset[7]), h7 = l7;
        fetch(w->next_low + (size_t)b * w->next_bytes, w->next_bytes, group);
        fetch(w->next_high + (size_t)b * w->next_bytes, w->next_bytes, group);
        for (const int8_t *end = x + (size_t)w->block * TOKENS; x < end; low += 64, high += 64, x += 4 * TOKENS) {
            __m512i w_low = _mm512_loadu_si512(low), w_high = _mm512_loadu_si512(high);
            dot(&l0, &h0, w_low, w_high, four_of(x + 0));
            dot(&l1, &h1, w_low, w_high, four_of(x + 4));
            dot(&l2, &h2, w_low, w_high, four_of(x + 8));
            dot(&l3, &h3, w_low, w_high, four_of(x + 12));
            dot(&l4, &h4, w_low, w_high, four_of(x + 16));
            dot(&l5, &h5, w_low, w_high, four_of(x + 20));
            dot(&l6, &h6, w_low, w_high, four_of(x + 24));
            dot(&l7, &h7, w_low, w_high, four_of(x + 28));
        }
        __m512 w_low = widened(w->scale_low + 32 * b), w_high = widened(w->scale_high + 32 * b);
        finish(y, from, w_low, w_high, x_scale[0], l0, h0);
        finish(y + ldy, from + ld, w_low, w_high, x_scale[1], l1, h1);
        finish(y + 2 * ldy, from + 2 * ld, w_low, w_high, x_scale[2], l2, h2);
        finish(y + 3 * ldy, from + 3 * ld, w_low, w_high, x_scale[3], l3, h3);
        finish(y + 4 * ldy, from + 4 * ld, w_low, w_high, x_scale[4], l4, h4);
        finish(y + 5 * ldy, from + 5 * ld, w_low, w_high, x_scale[5], l5, h5);
        finish(y + 6 * ldy, from + 6 * ld, w_low, w_high, x_scale[6], l6, h6);
        finish(y + 7 * ldy, from + 7 * ld, w_low, w_high, x_scale[7], l7, h7);
        from = y, ld = ldy;
    }
}

// All tokens of x, a group at a time.
TARGET static void multiply_pair(float *y, size_t ldy, const Pair *w, const Int8Rows *x, int n_tok) {
    size_t n_groups = (size_t)(n_tok + TOKENS - 1) / TOKENS;
    for (size_t i = 0; i < n_groups; i++, y += TOKENS * ldy) {
        multiply_tile(y, ldy, w, i, x->q + i * x->q_bytes, x->scale + i * x->n_scales, x->offset + i * x->n_scales);
    }
}

// ---- one token ----

// Memory is what limits, so the weights go by once, in order: the panels of a thread are one long stream, scales and all. It is
// fetched ahead, into the second-level cache: the first has too few places for lines that are on their way. Q4 looks further,
// because unpacking fills the window in which the processor finds loads by itself. Distances in bytes, measured on Zen 4.
enum { AHEAD_Q8 = 3072, AHEAD_Q4 = 6144 };

INLINE __m512i stream(const uint8_t *weights, size_t ahead) {
    _mm_prefetch((const char *)weights + ahead, _MM_HINT_T1);
    return _mm512_loadu_si512(weights);
}

// Returns where the quants of a panel begin.
INLINE const uint8_t *skip_scales(const uint8_t *panel, const Strip *w, size_t ahead) {
    const uint8_t *quants = strip_quants(&(Strip){panel, 0, 1, w->block, w->n_blocks, NULL});
    for (; panel < quants; panel += 64) _mm_prefetch((const char *)panel + ahead, _MM_HINT_T1);
    return quants;
}

TARGET static void one_token_q8(float *y, const uint8_t *panel, const Strip *w, const Int8Rows *x) {
    const uint8_t *quants = skip_scales(panel, w, AHEAD_Q8);
    const int8_t *q = x->q;
    __m512 out = _mm512_loadu_ps(y);
    for (int b = 0; b < w->n_blocks; b++) {
        __m512i s0 = _mm512_set1_epi32(x->offset[b]), s1 = _mm512_setzero_si512();  // chains that do not wait for each other
        for (int k = 0; k < Q8_BLOCK; k += 8, quants += 128, q += 8) {
            s0 = dot4(s0, stream(quants, AHEAD_Q8), four_of(q));
            s1 = dot4(s1, stream(quants + 64, AHEAD_Q8), four_of(q + 4));
        }
        out = scaled(widened(panel + 32 * b), x->scale[b], _mm512_add_epi32(s0, s1), out);
    }
    _mm512_storeu_ps(y, out);
}

TARGET static void strip_q8(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    const uint8_t *second = w->panel + (w->n_panels == 2 ? w->panel_bytes : 0);
    const uint8_t *low = strip_quants(w), *high = low + (second - w->panel);
    Pair pair = {low, high, w->panel, second, w->n_blocks, w->block, w->start,
                 low + 2 * w->panel_bytes, high + 2 * w->panel_bytes, (size_t)w->block * LANES};
    if (x->group == 1) {
        start_rows(y, ldy, w->start, 1);
        for (int p = 0; p < w->n_panels; p++) one_token_q8(y + p * LANES, w->panel + (size_t)p * w->panel_bytes, w, x);
    } else {
        multiply_pair(y, ldy, &pair, x, n_tok);
    }
}

// ---- Q4 ----

enum { CHUNK = 16 };  // blocks that are unpacked at a time, at most: two panels of them fill half of the first-level cache

// The levels + 128, four times over.
INLINE __m512i level_table(void) {
    __m128i levels = _mm_loadu_si128((const __m128i *)(const void *)q4_levels);
    return _mm512_xor_si512(_mm512_broadcast_i32x4(levels), _mm512_set1_epi8(-128));
}

// One load of nibbles gives columns k .. k + 3 (low) and k + 4 .. k + 7 (high) of 16 rows.
INLINE __m512i low_levels(__m512i table, __m512i nibbles) {
    return _mm512_shuffle_epi8(table, _mm512_and_si512(nibbles, _mm512_set1_epi8(15)));
}

INLINE __m512i high_levels(__m512i table, __m512i nibbles) { return low_levels(table, _mm512_srli_epi16(nibbles, 4)); }

TARGET static void unpack(uint8_t *out, const uint8_t *nibbles, int n_blocks) {
    __m512i table = level_table();
    for (int i = 0; i < n_blocks * 4; i++, nibbles += 64, out += 128) {
        __m512i pair = _mm512_loadu_si512(nibbles);
        _mm512_store_si512(out, low_levels(table, pair));
        _mm512_store_si512(out + 64, high_levels(table, pair));
    }
}

TARGET static void one_token_q4(float *y, const uint8_t *panel, const Strip *w, const Int8Rows *x) {
    const uint8_t *nibbles = skip_scales(panel, w, AHEAD_Q4);
    const int8_t *q = x->q;
    __m512i table = level_table();
    __m512 out = _mm512_loadu_ps(y);
    for (int b = 0; b < w->n_blocks; b++, nibbles += 256, q += Q4_BLOCK) {
        __m512i n0 = stream(nibbles, AHEAD_Q4), n1 = stream(nibbles + 64, AHEAD_Q4);
        __m512i n2 = stream(nibbles + 128, AHEAD_Q4), n3 = stream(nibbles + 192, AHEAD_Q4);
        __m512i s0 = _mm512_set1_epi32(x->offset[b]), s1 = _mm512_setzero_si512(), s2 = s1, s3 = s1;
        s0 = dot4(s0, low_levels(table, n0), four_of(q));
        s1 = dot4(s1, high_levels(table, n0), four_of(q + 4));
        s2 = dot4(s2, low_levels(table, n1), four_of(q + 8));
        s3 = dot4(s3, high_levels(table, n1), four_of(q + 12));
        s0 = dot4(s0, low_levels(table, n2), four_of(q + 16));
        s1 = dot4(s1, high_levels(table, n2), four_of(q + 20));
        s2 = dot4(s2, low_levels(table, n3), four_of(q + 24));
        s3 = dot4(s3, high_levels(table, n3), four_of(q + 28));
        __m512i sum = _mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3));
        out = scaled(widened(panel + 32 * b), x->scale[b], sum, out);
    }
    _mm512_storeu_ps(y, out);
}

// A chunk of blocks becomes Q8 in the cache, and all tokens meet it before the next. Chunks are about equal, as each fetches as
// many blocks of the next as it has itself.
TARGET static void strip_q4(float *y, size_t ldy, const Strip *w, const Int8Rows *x, int n_tok) {
    _Alignas(64) uint8_t quants[2][CHUNK * LANES * Q4_BLOCK];
    const uint8_t *second = w->panel + (w->n_panels == 2 ? w->panel_bytes : 0);
    if (x->group == 1) {
        start_rows(y, ldy, w->start, 1);
        for (int p = 0; p < w->n_panels; p++) one_token_q4(y + p * LANES, w->panel + (size_t)p * w->panel_bytes, w, x);
        return;
    }
    const uint8_t *low = strip_quants(w), *high = low + (second - w->panel);
    size_t group = (size_t)x->group, bytes = LANES * Q4_BLOCK / 2;  // of a block's nibbles
    int n_chunks = (w->n_blocks + CHUNK - 1) / CHUNK;
    for (int i = 0; i < n_chunks; i++) {
        int b = share(w->n_blocks, i, n_chunks), end = share(w->n_blocks, i + 1, n_chunks), n = end - b;
        size_t at = (size_t)b * bytes, first = (size_t)b * group;
        size_t next = end < w->n_blocks ? (size_t)end * bytes : 2 * w->panel_bytes;
        unpack(quants[0], low + at, n);
        unpack(quants[1], high + at, n);
        Pair pair = {quants[0], quants[1], w->panel + 32 * b, second + 32 * b, n, Q4_BLOCK, b ? NULL : w->start,
                     low + next, high + next, bytes};
        Int8Rows from = {x->q + first * Q4_BLOCK, x->scale + first, x->offset + first, x->q_bytes, x->n_scales, x->group};
        multiply_pair(y, ldy, &pair, &from, n_tok);
    }
}

// ---- rounding to int8: as in vector.h, 16 columns in a register ----

INLINE __mmask16 first_lanes(int n) { return (__mmask16)(n >= 16 ? 0xffff : n > 0 ? (1 << n) - 1 : 0); }

// What is beyond n is 0.
INLINE __m512 load16(const float *x, int n) { return n >= 16 ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(first_lanes(n), x); }

// As in round_even, but only the low byte of each lane is the integer.
INLINE __m512i rounded(__m512 x) { return _mm512_castps_si512(_mm512_add_ps(x, _mm512_set1_ps(12582912.0f))); }

// The low bytes of four registers: columns 0..15 of row 0, of row 1, ...
INLINE __m512i four_rows(const __m512i v[4]) {
    __m512i bytes = _mm512_castsi128_si512(_mm512_cvtepi32_epi8(v[0]));
    bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(v[1]), 1);
    bytes = _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(v[2]), 2);
    return _mm512_inserti32x4(bytes, _mm512_cvtepi32_epi8(v[3]), 3);
}

// 16 columns of a group, of which n are there, to their places: four of row 0, of row 1, ... row 7, the next four of row 0, ...
// Returns sums: those of columns 0..3 and 8..11 of each row, then those of the others.
INLINE __m512i put_group(int8_t *q, const __m512i v[TOKENS], int n, __m512i sums) {
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    __m512i low = four_rows(v), high = four_rows(v + 4), one = _mm512_set1_epi8(1);
    __m512i k0 = _mm512_permutex2var_epi32(low, first, high);
    __m512i k8 = _mm512_permutex2var_epi32(low, _mm512_add_epi32(first, _mm512_set1_epi32(2)), high);
    _mm512_mask_storeu_epi32(q, first_lanes(n * 2), k0);
    _mm512_mask_storeu_epi32(q + 64, first_lanes(n * 2 - 16), k8);
    return dot4(dot4(sums, one, k0), one, k8);
}

INLINE void put_offsets(int32_t *offset, __m512i sums) {
    __m256i both = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    _mm256_storeu_si256((__m256i *)(void *)offset, _mm256_mullo_epi32(both, _mm256_set1_epi32(-128)));
}

INLINE __m512i magnitudes(const float *x, int n) {
    __m512i most = _mm512_setzero_si512();
    for (int i = 0; i < n; i += 16) {
        __m512i bits = _mm512_castps_si512(load16(x + i, n - i));
        most = _mm512_max_epi32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    return most;
}

INLINE __m512i quantised16(__m512 x, __m512 inverse) {
    __m512 v = _mm512_max_ps(_mm512_mul_ps(x, inverse), _mm512_set1_ps(-127));  // in this order: -127 for NaN
    return rounded(_mm512_min_ps(v, _mm512_set1_ps(127)));
}

// A block of a group; rows: where those begin.
INLINE void round_group(int8_t *q, float *scale, int32_t *offset, const float *const rows[TOKENS], int n, int block) {
    __m512i v[TOKENS], sums = _mm512_setzero_si512();
    float inverse[TOKENS];
    for (int r = 0; r < TOKENS; r++) {
        float most = float_of((uint32_t)_mm512_reduce_max_epi32(magnitudes(rows[r], n)));
        scale[r] = scale_of(most);
        inverse[r] = inverse_scale(most);
    }
    for (int i = 0; i < block; i += 16, q += 16 * TOKENS) {
        for (int r = 0; r < TOKENS; r++) v[r] = quantised16(load16(rows[r] + i, n - i), _mm512_set1_ps(inverse[r]));
        sums = put_group(q, v, block - i, sums);
    }
    put_offsets(offset, sums);
}

// A block of one token, whose columns lie together.
INLINE void round_alone(int8_t *q, float *scale, int32_t *offset, const float *x, int n, int block) {
    float most = float_of((uint32_t)_mm512_reduce_max_epi32(magnitudes(x, n)));
    __m512i inverse = _mm512_castps_si512(_mm512_set1_ps(inverse_scale(most))), sums = _mm512_setzero_si512();
    for (int i = 0; i < block; i += 16) {
        __m512i v = quantised16(load16(x + i, n - i), _mm512_castsi512_ps(inverse));
        _mm512_mask_cvtepi32_storeu_epi8(q + i, first_lanes(block - i), v);
        sums = _mm512_add_epi32(sums, _mm512_srai_epi32(_mm512_slli_epi32(v, 24), 24));
    }
    *scale = scale_of(most);
    *offset = -128 * _mm512_reduce_add_epi32(sums);
}

// A block of columns, n of them there; sizes that the compiler knows, as a rule.
INLINE void round_columns(const Int8Rows *to, int first, const float *const rows[TOKENS], int b, int n, int block) {
    size_t at = scale_place(to, first, b);
    int8_t *q = q_place(to, first) + b * block * to->group;
    if (to->group == 1) {
        round_alone(q, to->scale + at, to->offset + at, rows[0], n, block);
    } else {
        round_group(q, to->scale + at, to->offset + at, rows, n, block);
    }
}

TARGET static void quantise(const Int8Rows *to, int first, int n_rows, const float *x, size_t ldx, int n, int block) {
    const float *rows[TOKENS];
    for (int i = 0; i < n; i += block) {
        for (int r = 0; r < TOKENS; r++) rows[r] = x + (size_t)(r < n_rows ? r : 0) * ldx + i;
        if (n - i >= Q8_BLOCK && block == Q8_BLOCK) {
            round_columns(to, first, rows, i / block, Q8_BLOCK, Q8_BLOCK);
        } else if (n - i >= Q4_BLOCK && block == Q4_BLOCK) {
            round_columns(to, first, rows, i / block, Q4_BLOCK, Q4_BLOCK);
        } else {
            round_columns(to, first, rows, i / block, n - i < block ? n - i : block, block);
        }
    }
}

// The largest of up to 64, as in greatest().
INLINE float peak_of(const float *x, int n) {
    __m512i most = _mm512_set1_epi32(INT32_MIN);
    for (int i = 0; i < n; i += 16) {
        __m512i bits = _mm512_castps_si512(load16(x + i, n - i));
        __m512i rank = _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(0x7fffffff)));
        most = n - i >= 16 ? _mm512_max_epi32(most, rank) : _mm512_mask_max_epi32(most, first_lanes(n - i), most, rank);
    }
    return of_rank(_mm512_reduce_max_epi32(most));
}

// exp2_127() of 16 lanes, of which only the low byte counts.
INLINE __m512i exp2_127_of(__m512 t) {
    const __m512 shift = _mm512_set1_ps(12582912.0f);
    t = _mm512_max_ps(t, _mm512_set1_ps(-16));
    __m512 n = _mm512_add_ps(t, shift), f = _mm512_sub_ps(t, _mm512_sub_ps(n, shift));
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.05517167f), f, _mm512_set1_ps(0.24261113f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69326097f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99992806f));
    __m512i power = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
    return rounded(_mm512_mul_ps(_mm512_set1_ps(127), _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), power))));
}

// A block of scores of a group.  x (TOKENS, Q8_BLOCK), n columns of it
INLINE void exp_group(int8_t *q, float *scale, int32_t *offset, const float *x, int n, float factor) {
    __m512i v[TOKENS], sums = _mm512_setzero_si512();
    __m512 binary = _mm512_set1_ps(factor * 1.44269504f);
    for (int r = 0; r < TOKENS; r++) scale[r] = peak_of(x + r * Q8_BLOCK, n);
    for (int i = 0; i < Q8_BLOCK; i += 16, q += 16 * TOKENS) {
        for (int r = 0; r < TOKENS; r++) {
            __m512 below = _mm512_sub_ps(load16(x + r * Q8_BLOCK + i, n - i), _mm512_set1_ps(scale[r]));
            v[r] = exp2_127_of(_mm512_mul_ps(below, binary));
            if (n - i < 16) v[r] = _mm512_maskz_mov_epi32(first_lanes(n - i), v[r]);
        }
        sums = put_group(q, v, 16, sums);
    }
    put_offsets(offset, sums);
}

TARGET static void softmax_block(const Int8Rows *to, int first, int n_rows, int b, const float *x, int n, float factor) {
    size_t at = scale_place(to, first, b);
    int8_t *q = q_place(to, first) + b * Q8_BLOCK * TOKENS;
    (void)n_rows;  // x has whole groups
    if (n == Q8_BLOCK) {
        exp_group(q, to->scale + at, to->offset + at, x, Q8_BLOCK, factor);
    } else {
        exp_group(q, to->scale + at, to->offset + at, x, n, factor);
    }
}

// ---- floats ----

// The outputs of one token: rows 0..15 and rows 16..31.
typedef struct {
    __m512 low, high;
} Outputs;

INLINE Outputs load(const float *y, size_t step) { return (Outputs){_mm512_loadu_ps(y), _mm512_loadu_ps(y + step)}; }

INLINE void store(float *y, size_t step, Outputs s) {
    _mm512_storeu_ps(y + step, s.high);  // first, for where both are one panel
    _mm512_storeu_ps(y, s.low);
}

INLINE Outputs fma_step(Outputs s, __m512 w_low, __m512 w_high, const float *x) {
    __m512 xk = _mm512_set1_ps(*x);
    return (Outputs){_mm512_fmadd_ps(w_low, xk, s.low), _mm512_fmadd_ps(w_high, xk, s.high)};
}

// Two panels, or one taken twice (step 0), by eight tokens.
TARGET static void eight_tokens(float *y, size_t ldy, size_t step, const float *low, const float *high, size_t ldw,
                                const float *x, size_t ldx, int n_k) {
    const float *x1 = x + ldx, *x2 = x1 + ldx, *x3 = x2 + ldx, *x4 = x3 + ldx, *x5 = x4 + ldx;
    const float *x6 = x5 + ldx, *x7 = x6 + ldx;
    Outputs s0 = load(y, step), s1 = load(y + ldy, step), s2 = load(y + 2 * ldy, step), s3 = load(y + 3 * ldy, step);
    Outputs s4 = load(y + 4 * ldy, step), s5 = load(y + 5 * ldy, step);
    Outputs s6 = load(y + 6 * ldy, step), s7 = load(y + 7 * ldy, step);
    for (int k = 0; k < n_k; k++, low += ldw, high += ldw) {
        __m512 w_low = _mm512_loadu_ps(low), w_high = _mm512_loadu_ps(high);
        s0 = fma_step(s0, w_low, w_high, x + k);
        s1 = fma_step(s1, w_low, w_high, x1 + k);
        s2 = fma_step(s2, w_low, w_high, x2 + k);
        s3 = fma_step(s3, w_low, w_high, x3 + k);
        s4 = fma_step(s4, w_low, w_high, x4 + k);
        s5 = fma_step(s5, w_low, w_high, x5 + k);
        s6 = fma_step(s6, w_low, w_high, x6 + k);
        s7 = fma_step(s7, w_low, w_high, x7 + k);
    }
    store(y, step, s0), store(y + ldy, step, s1), store(y + 2 * ldy, step, s2), store(y + 3 * ldy, step, s3);
    store(y + 4 * ldy, step, s4), store(y + 5 * ldy, step, s5), store(y + 6 * ldy, step, s6), store(y + 7 * ldy, step, s7);
}

// Four panels by one token: four chains, where one would wait for itself.
TARGET static void four_panels(float *y, const float *w, size_t step, size_t ldw, const float *x, int n_k) {
    Outputs s01 = load(y, LANES), s23 = load(y + 2 * LANES, LANES);
    for (int k = 0; k < n_k; k++, w += ldw) {
        s01 = fma_step(s01, _mm512_loadu_ps(w), _mm512_loadu_ps(w + step), x + k);
        s23 = fma_step(s23, _mm512_loadu_ps(w + 2 * step), _mm512_loadu_ps(w + 3 * step), x + k);
    }
    store(y, LANES, s01);
    store(y + 2 * LANES, LANES, s23);
}

TARGET static void one_panel(float *y, const float *w, size_t ldw, const float *x, int n_k) {
    __m512 s = _mm512_loadu_ps(y);
    for (int k = 0; k < n_k; k++, w += ldw) s = _mm512_fmadd_ps(_mm512_loadu_ps(w), _mm512_set1_ps(x[k]), s);
    _mm512_storeu_ps(y, s);
}

static void strip_f32(float *y, size_t ldy, const StripF32 *w, const float *x, size_t ldx, int n_tok) {
    int t = 0;
    for (; t + 8 <= n_tok; t += 8, y += 8 * ldy, x += 8 * ldx) {
        for (int p = 0; p < w->n_panels; p += 2) {
            const float *low = w->w + (size_t)p * w->step;
            size_t both = p + 1 < w->n_panels;
            eight_tokens(y + p * LANES, ldy, both * LANES, low, low + both * w->step, w->ldw, x, ldx, w->n_k);
        }
    }
    for (; t < n_tok; t++, y += ldy, x += ldx) {
        int p = 0;
        for (; p + 4 <= w->n_panels; p += 4) four_panels(y + p * LANES, w->w + (size_t)p * w->step, w->step, w->ldw, x, w->n_k);
        for (; p < w->n_panels; p++) one_panel(y + p * LANES, w->w + (size_t)p * w->step, w->ldw, x, w->n_k);
    }
}

// ---- half precision ----

enum { ROWS = 3, PANELS = 4 };  // whose sums fit in registers; how many there are is a constant wherever this is inlined

INLINE void rows_f16(float *y, size_t ldy, const StripF16 *w, int panel, const float *x, size_t ldx, int n_rows, int n_panels) {
    const uint16_t *from = w->w + (size_t)panel * w->step;
    __m512 sums[ROWS][PANELS], wide[PANELS];
    y += panel * LANES;
    for (int r = 0; r < n_rows; r++) {
        for (int p = 0; p < n_panels; p++) sums[r][p] = _mm512_loadu_ps(y + (size_t)r * ldy + p * LANES);
    }
    for (int k = 0; k < w->n_k; k++, x++, from += w->ldw) {
        for (int p = 0; p < n_panels; p++) {
            _mm_prefetch((const char *)(from + (size_t)p * w->step + w->ahead), _MM_HINT_T1);
            wide[p] = widened(from + (size_t)p * w->step);
        }
        for (int r = 0; r < n_rows; r++) {
            for (int p = 0; p < n_panels; p++) {
                sums[r][p] = _mm512_fmadd_ps(wide[p], _mm512_set1_ps(x[(size_t)r * ldx]), sums[r][p]);
            }
        }
    }
    for (int r = 0; r < n_rows; r++) {
        for (int p = 0; p < n_panels; p++) _mm512_storeu_ps(y + (size_t)r * ldy + p * LANES, sums[r][p]);
    }
}

TARGET static void strip_f16(float *y, size_t ldy, const StripF16 *w, const float *x, size_t ldx, int n_tok) {
    for (int t = 0, n; t < n_tok; t += n, y += (size_t)n * ldy, x += (size_t)n * ldx) {
        n = n_tok - t < ROWS ? 1 : ROWS;
        int p = 0;
        for (; p + PANELS <= w->n_panels; p += PANELS) {
            if (n == ROWS) rows_f16(y, ldy, w, p, x, ldx, ROWS, PANELS);
            else rows_f16(y, ldy, w, p, x, ldx, 1, PANELS);
        }
        for (; p < w->n_panels; p++) {
            if (n == ROWS) rows_f16(y, ldy, w, p, x, ldx, ROWS, 1);
            else rows_f16(y, ldy, w, p, x, ldx, 1, 1);
        }
    }
}

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

const Kernel kernel_avx512 = {"avx512", supported, strip_f32, strip_q8, strip_q4, &vector_ops, strip_f16};

#endif
