// version.c: what the program was built from. The Makefile gives the hash; who builds without it does not know it.

#include "cli.h"

#ifndef SOURCE_SHA256
#define SOURCE_SHA256 "unknown"
#endif

const char source_sha256[] = SOURCE_SHA256;
