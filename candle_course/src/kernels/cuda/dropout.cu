// Dropout masks: a function of key and place alone, the same as the CPU's.

#include "common.cuh"

// The CPU's kernel gives every share of so many numbers a key of its own.
#define SHARE 4096

__device__ unsigned bits(unsigned long long key, unsigned index) {
    unsigned x = index * 0x9E3779B9u + (unsigned)key;
    for (int half = 0; half < 2; half++) {
        x = (x ^ (x >> 16)) * 0x7FEB352Du;
        x = (x ^ (x >> 15)) * 0x846CA68Bu;
        x = (x ^ (x >> 16)) + (half == 0 ? (unsigned)(key >> 32) : (unsigned)key);
    }
    x = (x ^ (x >> 16)) * 0x21F0AAADu;
    return x ^ (x >> 15);
}

KERNEL(dropout)(const real* x, i64 count, unsigned long long key, unsigned threshold, real scale, real* y) {
    FOR_EACH(i, count) {
        const unsigned long long own = key ^ ((unsigned long long)(i / SHARE) * 0x9E3779B97F4A7C15ull);
        y[i] = bits(own, (unsigned)(i % SHARE)) < threshold ? (real)0 : x[i] * scale;
    }
}
