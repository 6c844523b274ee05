// test_fuzz.c: what the fuzzers found, once more and without clang: every file of tests/fuzz/corpus goes to its fuzzer,
// which ends the program where something is wrong. Run from the repository root.

#define _DEFAULT_SOURCE

#include "test.h"

#include <dirent.h>

#define LLVMFuzzerTestOneInput fuzz_png
#include "fuzz/fuzz_png.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_jpeg
#include "fuzz/fuzz_jpeg.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_bmp
#include "fuzz/fuzz_bmp.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_pnm
#include "fuzz/fuzz_pnm.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_tokenizer
#include "fuzz/fuzz_tokenizer.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_model
#include "fuzz/fuzz_model.c"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput fuzz_json
#include "fuzz/fuzz_json.c"

static void replay(const char *name, int (*fuzz)(const uint8_t *data, size_t n)) {
    char path[1024];
    int n_files = 0;
    snprintf(path, sizeof path, "tests/fuzz/corpus/%s", name);
    DIR *folder = opendir(path);
    for (struct dirent *entry = folder ? readdir(folder) : NULL; entry; entry = readdir(folder)) {
        size_t n;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "tests/fuzz/corpus/%s/%s", name, entry->d_name);
        uint8_t *bytes = read_file(path, &n), *exact = bytes ? realloc(bytes, n ? n : 1) : NULL;
        CHECK(exact && fuzz(exact, n) == 0, "%s", path);
        free(exact);
        n_files++;
    }
    if (folder) closedir(folder);
    CHECK(n_files > 0, "there is nothing in tests/fuzz/corpus/%s", name);
}

int main(void) {
    LLVMFuzzerInitialize(NULL, NULL);
    replay("png", fuzz_png);
    replay("jpeg", fuzz_jpeg);
    replay("bmp", fuzz_bmp);
    replay("pnm", fuzz_pnm);
    replay("tokenizer", fuzz_tokenizer);
    replay("model", fuzz_model);
    replay("json", fuzz_json);
    return test_end("test_fuzz");
}
