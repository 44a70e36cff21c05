// Layer and group normalisation of `[rows, size]`, each row by itself.
//
// Number i of a row belongs to channel (row mod groups) · (size / inner) + i / inner: a layer norm has one
// group and `inner` 1, a group norm the positions of a plane as `inner`.

#include "common.cuh"

__device__ i64 channel_of(i64 row, i64 i, i64 groups, i64 size, i64 inner) {
    return row % groups * (size / inner) + quotient(i, inner);
}

// A block per row. `weight` and `bias` may be nothing. Into `moments`: mean and 1 / √(variance + ε).
KERNEL(layer_norm)(const real* x, i64 rows, i64 size, i64 groups, i64 inner, const real* weight, const real* bias,
                   double epsilon, real* y, real* moments) {
    __shared__ double shared[32];
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const real* from = x + row * size;
        double sum = 0.0;
        for (i64 i = threadIdx.x; i < size; i += blockDim.x) sum += (double)from[i];
        const real mean = (real)(block_sum(sum, shared) / (double)size);
        double squares = 0.0;
        for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
            const real d = from[i] - mean;
            squares += (double)(d * d);
        }
        const double variance = block_sum(squares, shared) / (double)size;
        const real inverse = (real)(1.0 / sqrt(variance + epsilon));
        if (threadIdx.x == 0) {
            moments[2 * row] = mean;
            moments[2 * row + 1] = inverse;
        }
        for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
            real value = (from[i] - mean) * inverse;
            if (weight) {
                const i64 channel = channel_of(row, i, groups, size, inner);
                value = value * weight[channel] + bias[channel];
            }
            y[row * size + i] = value;
        }
    }
}

// The gradient of the input; a block per row.
KERNEL(layer_norm_backward)(const real* x, const real* dy, i64 rows, i64 size, i64 groups, i64 inner,
                            const real* weight, const real* moments, real* dx) {
    __shared__ double shared[32];
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const real* from = x + row * size;
        const real mean = moments[2 * row], inverse = moments[2 * row + 1];
        double offset = 0.0, slope = 0.0;
        for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
            real g = dy[row * size + i];
            if (weight) g *= weight[channel_of(row, i, groups, size, inner)];
            offset += (double)g;
            slope += (double)(g * (from[i] - mean));
        }
        const real center = (real)(block_sum(offset, shared) / (double)size);
        const real tilt = (real)(block_sum(slope, shared) / (double)size) * inverse * inverse;
        for (i64 i = threadIdx.x; i < size; i += blockDim.x) {
            real g = dy[row * size + i];
            if (weight) g *= weight[channel_of(row, i, groups, size, inner)];
            dx[row * size + i] = inverse * (g - center - (from[i] - mean) * tilt);
        }
    }
}

// Sums for the gradients of weight and bias where `inner` is 1 and there is one group: 32 columns and
// 8 rows at a time; grid (columns / 32, pieces). Into `parts`, `[pieces, size, 2]`.
KERNEL(layer_norm_columns)(const real* x, const real* dy, i64 rows, i64 size, const real* moments, double* parts) {
    __shared__ double weights[8][32];
    __shared__ double biases[8][32];
    const int lane = threadIdx.x % 32, line = threadIdx.x / 32;
    const i64 column = (i64)blockIdx.x * 32 + lane;
    const i64 from = rows * blockIdx.y / gridDim.y, to = rows * (blockIdx.y + 1) / gridDim.y;
    double weight = 0.0, bias = 0.0;
    if (column < size) {
        for (i64 row = from + line; row < to; row += 8) {
            const real g = dy[row * size + column];
            weight += (double)(g * (x[row * size + column] - moments[2 * row]) * moments[2 * row + 1]);
            bias += (double)g;
        }
    }
    weights[line][lane] = weight;
    biases[line][lane] = bias;
    __syncthreads();
    if (line == 0 && column < size) {
        for (int other = 1; other < 8; other++) {
            weight += weights[other][lane];
            bias += biases[other][lane];
        }
        parts[2 * ((i64)blockIdx.y * size + column)] = weight;
        parts[2 * ((i64)blockIdx.y * size + column) + 1] = bias;
    }
}

// The same where a channel has `inner` numbers in a row; grid (channels, pieces).
KERNEL(layer_norm_planes)(const real* x, const real* dy, i64 rows, i64 size, i64 groups, i64 inner,
                          const real* moments, double* parts) {
    __shared__ double shared[32];
    const i64 channel = blockIdx.x, in_group = size / inner;
    const i64 count = rows / groups * inner;
    const i64 from = count * blockIdx.y / gridDim.y, to = count * (blockIdx.y + 1) / gridDim.y;
    double weight = 0.0, bias = 0.0;
    for (i64 at = from + threadIdx.x; at < to; at += blockDim.x) {
        const i64 example = quotient(at, inner);
        const i64 row = example * groups + channel / in_group;
        const i64 place = row * size + channel % in_group * inner + (at - example * inner);
        const real g = dy[place];
        weight += (double)(g * (x[place] - moments[2 * row]) * moments[2 * row + 1]);
        bias += (double)g;
    }
    weight = block_sum(weight, shared);
    bias = block_sum(bias, shared);
    if (threadIdx.x == 0) {
        const i64 part = (i64)blockIdx.y * gridDim.x + channel;
        parts[2 * part] = weight;
        parts[2 * part + 1] = bias;
    }
}

KERNEL(layer_norm_affine)(const double* parts, i64 pieces, i64 channels, real* dweight, real* dbias) {
    FOR_EACH(channel, channels) {
        double weight = 0.0, bias = 0.0;
        for (i64 piece = 0; piece < pieces; piece++) {
            weight += parts[2 * (piece * channels + channel)];
            bias += parts[2 * (piece * channels + channel) + 1];
        }
        dweight[channel] = (real)weight;
        dbias[channel] = (real)bias;
    }
}
