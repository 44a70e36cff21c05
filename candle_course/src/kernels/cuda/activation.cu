// Element-wise non-linearities.

#include "common.cuh"

// In these orders a NaN stays NaN, and lets the gradient pass.
KERNEL(relu)(const real* x, i64 count, real* y) {
    FOR_EACH(i, count) y[i] = x[i] < (real)0 ? (real)0 : x[i];
}

KERNEL(relu_backward)(const real* y, const real* dy, i64 count, real* dx) {
    FOR_EACH(i, count) dx[i] = y[i] <= (real)0 ? (real)0 : dy[i];
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
