// test_support.c: error lines, and sizes that do not fit this machine.

#include "../internal.h"
#include "test.h"

static void test_lines(void) {
    SmolErr err;
    char small[8];
    CHECK(fail(&err, SMOL_E_LIMIT, "%s has %d of %u, %z bytes, %%", "it", -7, 8u, (size_t)9) == SMOL_E_LIMIT, "the code");
    CHECK(err.code == SMOL_E_LIMIT && !strcmp(err.text, "it has -7 of 8, 9 bytes, %"), "%s", err.text);
    fail(&err, SMOL_E_LIMIT, "%d %z", -2147483647 - 1, SIZE_MAX);
    CHECK(!strncmp(err.text, "-2147483648 ", 12) && strtoull(err.text + 12, NULL, 10) == SIZE_MAX, "%s", err.text);
    format_text(small, sizeof small, "%s", "a long line");
    CHECK(!strcmp(small, "a long "), "%s", small);
}

static void test_sizes(void) {
    SmolErr err;
    uint8_t bytes[128];
    size_t r;
    CHECK(mul_fits(0, SIZE_MAX, &r) && r == 0 && mul_fits(SIZE_MAX, 0, &r) && r == 0, "nothing fits");
    CHECK(mul_fits(SIZE_MAX, 1, &r) && r == SIZE_MAX && !mul_fits(SIZE_MAX, 2, &r) && !mul_fits(SIZE_MAX / 2 + 1, 2, &r),
          "products");
    SmolArena counting = {.used = 64}, real = {.base = bytes, .size = 128};
    CHECK(!arena_take(&counting, UINT64_MAX, "thing", &err) && err.code == SMOL_E_MEMORY && strstr(err.text, "thing"), "%s",
          err.text);
    err.code = 0;
    CHECK(!arena_take(&counting, (uint64_t)SIZE_MAX - 63, "thing", &err) && err.code == SMOL_E_MEMORY,
          "beyond the last address");
    CHECK(counting.used == 64, "nothing was taken");
    CHECK(arena_take(&real, 1, "one", &err) == bytes && arena_take(&real, 64, "more", &err) == bytes + 64 && real.used == 128,
          "all of it");
    CHECK(!arena_take(&real, 1, "last", &err) && strstr(err.text, "last needs 64 bytes, 0 of 128 are left"), "%s", err.text);
}

int main(void) {
    test_lines();
    test_sizes();
    return test_end("test_support");
}
