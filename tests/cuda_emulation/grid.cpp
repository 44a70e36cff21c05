// Runs a grid of threads on this one: blocks one after the other, the threads of a block as fibers
// that hand over at barriers. A barrier that some of a block's threads never reach is found.

#include "stand_in.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/mman.h>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct Size3 {
    unsigned x, y, z;
};

// The same layout as EmulatedThread in device.h.
struct Thread {
    Size3 thread, block, threads, blocks;
    void *shared;
    unsigned char (*slots)[16];
    int *votes;
};

extern "C" {
Thread *emulated_thread;
}

namespace {

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };

const size_t STACK = 256 << 10;

struct Fiber {
    Thread thread;
    State state;
    unsigned mask;
    char *stack;
#if defined(__x86_64__)
    void *top;
#else
    ucontext_t context;
#endif
};

void (*running)(void **);
void **arguments;
const char *running_name = "";
std::vector<Fiber> fibers;
Fiber *current;
std::mutex one_grid;

#if defined(__x86_64__)
void *scheduler;
extern "C" void emulated_switch(void **save, void *load);
// The callee-saved registers are all that a call leaves alone.
asm(R"(
.text
.globl emulated_switch
.hidden emulated_switch
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
void to_scheduler() { emulated_switch(&current->top, scheduler); }
void to_fiber() { emulated_switch(&scheduler, current->top); }
#else
ucontext_t scheduler;
void to_scheduler() { swapcontext(&current->context, &scheduler); }
void to_fiber() { swapcontext(&scheduler, &current->context); }
#endif

void fiber_main() {
    running(arguments);
    current->state = DONE;
    to_scheduler();
    abort();
}

void prepare(Fiber &fiber) {
    if (!fiber.stack) {
        void *memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) stand_in_fail("no memory for a thread's stack");
        fiber.stack = static_cast<char *>(memory);
    }
    fiber.state = READY;
#if defined(__x86_64__)
    void **top = reinterpret_cast<void **>(fiber.stack + STACK);
    *--top = nullptr;  // as if called: the stack is 8 off a multiple of 16
    *--top = reinterpret_cast<void *>(fiber_main);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.top = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK;
    makecontext(&fiber.context, fiber_main, 0);
#endif
}

void wait_as(State state) {
    current->state = state;
    to_scheduler();
}

/// Runs a warp's threads until each is done or waits for the block.
bool run_warp(size_t first, size_t end, bool backwards) {
    bool moved = false, again = true;
    while (again) {
        for (size_t i = first; i < end; i++) {
            Fiber &fiber = fibers[backwards ? first + end - 1 - i : i];
            if (fiber.state != READY) continue;
            current = &fiber;
            emulated_thread = &fiber.thread;
            to_fiber();
            moved = true;
        }
        again = false;
        for (size_t i = first; i < end; i++) {
            if (fibers[i].state != AT_WARP_BARRIER) continue;
            const unsigned mask = fibers[i].mask;
            bool all = true;
            for (size_t other = first; other < end; other++)
                if (mask >> (other - first) & 1 && fibers[other].state != DONE)
                    all &= fibers[other].state == AT_WARP_BARRIER && fibers[other].mask == mask;
            if (!all) continue;
            for (size_t other = first; other < end; other++)
                if (fibers[other].state == AT_WARP_BARRIER && fibers[other].mask == mask) fibers[other].state = READY;
            again = true;
        }
    }
    return moved;
}

void run_block(size_t count, bool backwards) {
    for (size_t i = 0; i < count; i++) prepare(fibers[i]);
    for (;;) {
        bool moved = false;
        const size_t warps = (count + 31) / 32;
        for (size_t w = 0; w < warps; w++) {
            const size_t first = 32 * (backwards ? warps - 1 - w : w);
            moved |= run_warp(first, first + 32 < count ? first + 32 : count, backwards);
        }
        size_t done = 0, waiting = 0;
        for (size_t i = 0; i < count; i++) {
            done += fibers[i].state == DONE;
            waiting += fibers[i].state == AT_BLOCK_BARRIER;
        }
        if (done == count) return;
        if (done + waiting == count) {
            for (size_t i = 0; i < count; i++)
                if (fibers[i].state == AT_BLOCK_BARRIER) fibers[i].state = READY;
        } else if (!moved) {
            stand_in_fail("%s: %zu of %zu threads of a block wait for the block, %zu for lanes of their warp that "
                          "do not come",
                          running_name, waiting, count, count - done - waiting);
        }
    }
}

}  // namespace

extern "C" {
void emulated_block_barrier() { wait_as(AT_BLOCK_BARRIER); }
void emulated_warp_barrier(unsigned mask) {
    current->mask = mask;
    wait_as(AT_WARP_BARRIER);
}
void emulated_trap(const char *what) { stand_in_fail("%s: %s", running_name, what); }
}

const char *stand_in_running_kernel() { return running_name; }

void stand_in_run_grid(const char *name, void (*kernel)(void **), void **with, const unsigned grid[3],
                       const unsigned block[3], size_t shared_bytes) {
    std::lock_guard<std::mutex> guard(one_grid);
    const size_t count = size_t(block[0]) * block[1] * block[2];
    if (count == 0 || count > 1024) stand_in_fail("%s: %zu threads in a block", name, count);
    if (shared_bytes > (227 << 10)) stand_in_fail("%s: %zu bytes of shared memory", name, shared_bytes);
    // Backwards, what a barrier should have ordered comes in another order.
    static const bool backwards = getenv("CUDA_EMULATION_BACKWARDS") != nullptr;
    static std::vector<unsigned char> shared(256 << 10);
    static unsigned char slots[32][32][16];
    static int votes;
    running = kernel, running_name = name, arguments = with;
    if (fibers.size() < count) fibers.resize(count);
    const size_t blocks = size_t(grid[0]) * grid[1] * grid[2];
    for (size_t b = 0; b < blocks; b++) {
        const Size3 at = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
        // What is not written first is NaN.
        memset(shared.data(), 0xff, shared_bytes);
        memset(slots, 0xff, sizeof slots);
        for (size_t i = 0; i < count; i++) {
            Thread &thread = fibers[i].thread;
            thread.thread = {unsigned(i % block[0]), unsigned(i / block[0] % block[1]), unsigned(i / block[0] / block[1])};
            thread.block = at;
            thread.threads = {block[0], block[1], block[2]};
            thread.blocks = {grid[0], grid[1], grid[2]};
            thread.shared = shared.data();
            thread.slots = slots[i / 32];
            thread.votes = &votes;
        }
        run_block(count, backwards);
    }
    running_name = "";
}
