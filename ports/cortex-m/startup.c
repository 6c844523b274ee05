// startup.c: from reset to main on a Cortex-M with an FPU, printing over semihosting, and a clock.
//
// Semihosting hands a request to the debugger, here qemu: bkpt 0xab with a number in r0 and its argument in r1 (Arm's document
// "Semihosting for AArch32 and AArch64"). A port to a real board replaces board_print by its UART.

#include "board.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, STOPPED_APPLICATION_EXIT = 0x20026 };
static const uint32_t STACK_PAINT = 0x5a5a5a5a;

extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_begin[], stack_end[];  // sections.ld

// ---- semihosting ----

static void ask_host(uint32_t number, const void *argument) {
    register uint32_t r0 __asm__("r0") = number;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void board_print(const char *text) { ask_host(SYS_WRITE0, text); }

_Noreturn void board_exit(int status) {
    const uint32_t reason[2] = {STOPPED_APPLICATION_EXIT, (uint32_t)status};
    ask_host(SYS_EXIT_EXTENDED, reason);
    for (;;) {}
}

// ---- clock: SysTick counts core clocks down from 2^24 - 1; its interrupt counts the rounds ----

static volatile uint32_t rounds;

static void on_tick(void) { rounds++; }

static void start_clock(void) {
    REGISTER(0xe000e014) = 0xffffff;  // reload value
    REGISTER(0xe000e018) = 0;         // current value
    REGISTER(0xe000e010) = 7;         // on, with interrupt, from the core's clock
}

uint64_t board_ticks(void) {
    uint32_t before, value;
    do {
        before = rounds;
        value = REGISTER(0xe000e018);
    } while (before != rounds);
    return ((uint64_t)before << 24) + (-value & 0xffffff);  // a round begins at 0
}

// ---- stack ----

size_t board_stack_used(void) {
    const uint32_t *p = stack_begin;
    while (p < stack_end && *p == STACK_PAINT) p++;
    return (size_t)(stack_end - p) * sizeof *p;
}

// ---- reset and faults ----

static void on_fault(void) {
    board_print("fault\n");
    board_exit(2);
}

static void on_reset(void) {
    REGISTER(0xe000ed88) |= 0xf << 20;  // CPACR: the FPU may be used
    __asm__ volatile("dsb\n isb");
    for (uint32_t *p = stack_begin, *here = __builtin_frame_address(0); p < here - 64; p++) *p = STACK_PAINT;
    for (uint32_t *to = data_begin, *from = data_load; to < data_end;) *to++ = *from++;
    for (uint32_t *p = bss_begin; p < bss_end;) *p++ = 0;
    start_clock();
    board_exit(main());
}

typedef void (*Handler)(void);

__attribute__((section(".vectors"), used)) const struct {
    uint32_t *stack;
    Handler handlers[15];
} vectors = {stack_end,
             {on_reset, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, NULL, NULL, NULL, on_fault, on_fault, NULL,
              on_fault, on_tick}};
