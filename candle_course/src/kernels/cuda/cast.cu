#include "common.cuh"

// Numbers of a thread whose loads are under way together.
#define AT_ONCE 4

KERNEL(to_bf16)(const real* x, bf16_bits* y, i64 count) {
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 first = (i64)blockIdx.x * blockDim.x + threadIdx.x; first < count; first += AT_ONCE * stride) {
        real numbers[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) numbers[k] = first + k * stride < count ? x[first + k * stride] : (real)0;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (first + k * stride < count) y[first + k * stride] = to_bf16((float)numbers[k]);
        }
    }
}

KERNEL(from_bf16)(const bf16_bits* x, real* y, i64 count) {
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 first = (i64)blockIdx.x * blockDim.x + threadIdx.x; first < count; first += AT_ONCE * stride) {
        bf16_bits numbers[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) numbers[k] = first + k * stride < count ? x[first + k * stride] : 0;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (first + k * stride < count) y[first + k * stride] = (real)from_bf16(numbers[k]);
        }
    }
}

// `y += bias` of [rows, columns], then ReLU if asked. In place.
KERNEL(bias_relu)(real* y, const real* bias, i64 count, i64 columns, int relu) {
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 first = (i64)blockIdx.x * blockDim.x + threadIdx.x; first < count; first += AT_ONCE * stride) {
        real numbers[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) numbers[k] = first + k * stride < count ? y[first + k * stride] : (real)0;
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            i64 i = first + k * stride;
            if (i >= count) break;
            real value = numbers[k];
            if (bias) value += bias[i - quotient(i, columns) * columns];
            // In this order a NaN stays NaN.
            y[i] = relu && value < (real)0 ? (real)0 : value;
        }
    }
}

// Gradients behind a ReLU, and their sums per column of [rows, columns], in one pass. A block has
// 32 columns and 8 rows at a time, `share` rows in all. Missing (null): y (no
// ReLU), masked, masked_bf16, partial, sums. Sums go to `partial` [parts, columns] if it is there, else, from one part, to `sums`.
KERNEL(mask_column_sums)(
    const real* dy, const real* y, real* masked, bf16_bits* masked_bf16, double* partial, real* sums, i64 rows,
    i64 columns, i64 share
) {
    __shared__ double shared[256];
    int lane = threadIdx.x & 31, row_of_block = threadIdx.x >> 5;
    i64 column = (i64)blockIdx.x * 32 + lane;
    i64 first = blockIdx.y * share, end = first + share < rows ? first + share : rows;
    double sum = 0;
    if (column < columns) {
        for (i64 row = first + row_of_block; row < end; row += 8) {
            i64 i = row * columns + column;
            real value = dy[i];
            // In this order a NaN lets the gradient pass.
            if (y && y[i] <= (real)0) value = (real)0;
            if (masked) masked[i] = value;
            if (masked_bf16) masked_bf16[i] = to_bf16((float)value);
            sum += (double)value;
        }
    }
    if (!sums) return;
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (row_of_block == 0 && column < columns) {
        for (int other = 1; other < 8; other++) sum += shared[other * 32 + lane];
        if (partial) partial[blockIdx.y * columns + column] = sum;
        else sums[column] = (real)sum;
    }
}

// sums[i] = Σ partial[part, i].
KERNEL(finish_sums)(const double* partial, real* sums, i64 columns, i64 parts) {
    FOR_EACH(i, columns) {
        double sum = 0;
        for (i64 part = 0; part < parts; part++) sum += partial[part * columns + i];
        sums[i] = (real)sum;
    }
}

// Rows of `width` numbers into rows of `stride`, from `offset` on.
KERNEL(join)(const real* x, real* y, i64 count, i64 width, i64 stride, i64 offset) {
    FOR_EACH(i, count) {
        const i64 row = quotient(i, width);
        y[row * stride + offset + i - row * width] = x[i];
    }
}

// And out of them again.
KERNEL(part)(const real* x, real* y, i64 count, i64 width, i64 stride, i64 offset) {
    FOR_EACH(i, count) {
        const i64 row = quotient(i, width);
        y[i] = x[row * stride + offset + i - row * width];
    }
}
