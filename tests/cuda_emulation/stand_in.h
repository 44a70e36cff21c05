// What the parts of the stand-in share.
#pragma once

#include <atomic>
#include <cstddef>

/// Says what is wrong and ends the program.
[[noreturn]] void stand_in_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/// Whether calls are only counted: kernels, products and convolutions do nothing.
bool stand_in_counting();

/// Runs `kernel` for every thread of the grid.
void stand_in_run_grid(const char *name, void (*kernel)(void **), void **arguments, const unsigned grid[3],
                       const unsigned block[3], size_t shared_bytes);
const char *stand_in_running_kernel();

/// How often something was called.
struct Counter {
    const char *name;
    std::atomic<long> count{0};
    Counter *next;
    explicit Counter(const char *name);
};

#define COUNT_AS(name)                                                                             \
    do {                                                                                           \
        static Counter counter(name);                                                              \
        counter.count++;                                                                           \
    } while (0)
#define COUNT() COUNT_AS(__func__)
