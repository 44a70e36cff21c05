#include "common.cuh"

// Between [batch, channels, plane] in `real` and [batch, plane, channels] in bf16, which tensor
// cores take. Blocks of 256 threads turn tiles of 32 channels by 32 pixels in shared memory, so
// that both sides are read and written in runs.

#define TILE 32
#define ROWS 8

// To bf16, channels last; 0 where `y`, an output of ReLU, is 0 (if y is there). Block (part, tile of
// channels) takes `share` of the batch's tiles of pixels. If `sums` is there: the sums per channel,
// in `partial` [parts, channels] if that is there, else, from one part, in `sums`.
KERNEL(to_channels_last)(
    const real* x, const real* y, bf16_bits* out, double* partial, real* sums, i64 batch, i64 channels, i64 plane,
    i64 share
) {
    __shared__ float tile[TILE][TILE + 1];
    int lane = threadIdx.x & 31, row = threadIdx.x >> 5;
    i64 first_channel = (i64)blockIdx.y * TILE, tiles = (plane + TILE - 1) / TILE, total = batch * tiles;
    i64 end = (blockIdx.x + 1) * share < total ? (blockIdx.x + 1) * share : total;
    double sum[TILE / ROWS];
    for (int k = 0; k < TILE / ROWS; k++) sum[k] = 0;
    for (i64 place = blockIdx.x * share; place < end; place++) {
        i64 image = quotient(place, tiles), first_pixel = (place - image * tiles) * TILE;
#pragma unroll
        for (int k = 0; k < TILE / ROWS; k++) {
            i64 channel = first_channel + row + k * ROWS, pixel = first_pixel + lane;
            real value = 0;
            if (channel < channels && pixel < plane) {
                i64 at = (image * channels + channel) * plane + pixel;
                value = x[at];
                // In this order a NaN lets the gradient pass.
                if (y && y[at] <= (real)0) value = (real)0;
            }
            tile[row + k * ROWS][lane] = (float)value;
            sum[k] += (double)value;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE / ROWS; k++) {
            i64 channel = first_channel + lane, pixel = first_pixel + row + k * ROWS;
            if (channel < channels && pixel < plane) {
                out[(image * plane + pixel) * channels + channel] = to_bf16(tile[lane][row + k * ROWS]);
            }
        }
        __syncthreads();
    }
    if (!sums) return;
    for (int k = 0; k < TILE / ROWS; k++) {
        double total_sum = warp_sum(sum[k]);
        i64 channel = first_channel + row + k * ROWS;
        if (lane == 0 && channel < channels) {
            if (partial) partial[blockIdx.x * channels + channel] = total_sum;
            else sums[channel] = (real)total_sum;
        }
    }
}

// From bf16, channels last, plus a bias per channel (if it is there), then ReLU if asked.
KERNEL(from_channels_last)(
    const bf16_bits* x, real* y, const real* bias, int relu, i64 batch, i64 channels, i64 plane, i64 share
) {
    __shared__ float tile[TILE][TILE + 1];
    int lane = threadIdx.x & 31, row = threadIdx.x >> 5;
    i64 first_channel = (i64)blockIdx.y * TILE, tiles = (plane + TILE - 1) / TILE, total = batch * tiles;
    i64 end = (blockIdx.x + 1) * share < total ? (blockIdx.x + 1) * share : total;
    for (i64 place = blockIdx.x * share; place < end; place++) {
        i64 image = quotient(place, tiles), first_pixel = (place - image * tiles) * TILE;
#pragma unroll
        for (int k = 0; k < TILE / ROWS; k++) {
            i64 channel = first_channel + lane, pixel = first_pixel + row + k * ROWS;
            bf16_bits bits = 0;
            if (channel < channels && pixel < plane) bits = x[(image * plane + pixel) * channels + channel];
            tile[row + k * ROWS][lane] = from_bf16(bits);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE / ROWS; k++) {
            i64 channel = first_channel + row + k * ROWS, pixel = first_pixel + lane;
            if (channel < channels && pixel < plane) {
                real value = (real)tile[lane][row + k * ROWS];
                if (bias) value += bias[channel];
                // In this order a NaN stays NaN.
                y[(image * channels + channel) * plane + pixel] = relu && value < (real)0 ? (real)0 : value;
            }
        }
        __syncthreads();
    }
}
