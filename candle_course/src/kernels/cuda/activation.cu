// Element-wise non-linearities.

#include "common.cuh"

// max(a + b, 0), or max(a, 0) without b, and a bit for every number that passes, 32 to a word. In these
// orders a NaN stays NaN, and lets the gradient pass. A warp has 32 neighbours.
KERNEL(relu)(const real* a, const real* b, i64 count, real* y, unsigned* passed) {
    const i64 lane = threadIdx.x & 31;
    for (i64 first = (i64)blockIdx.x * blockDim.x + threadIdx.x - lane; first < count; first += (i64)gridDim.x * blockDim.x) {
        const i64 i = first + lane;
        bool passes = false;
        if (i < count) {
            real value = b ? a[i] + b[i] : a[i];
            if (value < (real)0) value = (real)0;
            y[i] = value;
            passes = !(value <= (real)0);
        }
        const unsigned word = __ballot_sync(0xffffffffu, passes);
        if (passed && lane == 0) passed[first / 32] = word;
    }
}

KERNEL(relu_backward)(const unsigned* passed, const real* dy, i64 count, real* dx) {
    FOR_EACH(i, count) dx[i] = passed[i / 32] >> (i % 32) & 1 ? dy[i] : (real)0;
}

#define INVERSE_ROOT_2 0.707106781186547524401
#define INVERSE_ROOT_2_PI 0.398942280401432677940

KERNEL(gelu)(const real* x, i64 count, real* y) {
    FOR_EACH(i, count) y[i] = x[i] * (real)0.5 * erfc(-x[i] * (real)INVERSE_ROOT_2);
}

KERNEL(gelu_backward)(const real* x, const real* dy, i64 count, real* dx) {
    FOR_EACH(i, count) {
        const real at = x[i];
        const real density = exp((real)-0.5 * at * at) * (real)INVERSE_ROOT_2_PI;
        dx[i] = ((real)0.5 * erfc(-at * (real)INVERSE_ROOT_2) + at * density) * dy[i];
    }
}

__device__ real sigmoid(real x) { return (real)1 / ((real)1 + exp(-x)); }

KERNEL(silu)(const real* x, i64 count, real* y) {
    FOR_EACH(i, count) y[i] = x[i] * sigmoid(x[i]);
}

KERNEL(silu_backward)(const real* x, const real* dy, i64 count, real* dx) {
    FOR_EACH(i, count) {
        const real s = sigmoid(x[i]);
        dx[i] = s * ((real)1 + x[i] * ((real)1 - s)) * dy[i];
    }
}
