// board.h: what main.c asks of a board. startup.c answers for the two Arm boards that qemu emulates.

#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

void board_print(const char *text);
_Noreturn void board_exit(int status);
uint64_t board_ticks(void);       // core clocks since the start
size_t board_stack_used(void);    // the most so far, in bytes

int main(void);

#endif
