#include "common.cuh"

// Batch normalisation of [batch, channels, plane]. Block (part, channel) has `share` of the
// channel's batch · plane numbers.

// Walks a block's numbers of a channel without a division each: `at` is the place of the thread's
// next number, until `left` is used up.
struct Walk {
    i64 at, left, pixel, plane, next_image, images, pixels;
};

__device__ __forceinline__ Walk walk(i64 batch, i64 channels, i64 plane, i64 share) {
    i64 total = batch * plane, first = blockIdx.x * share + threadIdx.x;
    i64 end = (blockIdx.x + 1) * share;
    if (end > total) end = total;
    Walk w;
    i64 image = quotient(first, plane);
    w.pixel = first - image * plane;
    w.plane = plane;
    w.next_image = channels * plane;
    w.at = (image * channels + blockIdx.y) * plane + w.pixel;
    w.left = end - first;
    w.images = quotient(blockDim.x, plane);
    w.pixels = blockDim.x - w.images * plane;
    return w;
}

__device__ __forceinline__ void step(Walk& w) {
    w.left -= blockDim.x;
    w.at += w.images * w.next_image + w.pixels;
    w.pixel += w.pixels;
    if (w.pixel >= w.plane) {
        w.pixel -= w.plane;
        w.at += w.next_image - w.plane;
    }
}

// The next places of the walk, so many that their loads are under way together; −1 behind the end.
#define AT_ONCE 4
__device__ __forceinline__ void next_places(Walk& w, i64* places) {
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) {
        places[k] = w.left > 0 ? w.at : -1;
        step(w);
    }
}

template <typename T>
__device__ __forceinline__ void load(const T* from, const i64* places, T* numbers) {
#pragma unroll
    for (int k = 0; k < AT_ONCE; k++) numbers[k] = places[k] < 0 ? (T)0 : from[places[k]];
}

#define FOR_WALK(batch, channels, plane, share) \
    for (Walk w = walk(batch, channels, plane, share); w.left > 0;)

// The two sums of a channel over the parts of [channels, parts, 2], in every thread.
__device__ __forceinline__ void totals(const double* partial, i64 parts, double* first, double* second) {
    __shared__ double shared[32];
    double a = 0, b = 0;
    for (i64 part = threadIdx.x; part < parts; part += blockDim.x) {
        a += partial[(blockIdx.y * parts + part) * 2];
        b += partial[(blockIdx.y * parts + part) * 2 + 1];
    }
    *first = block_sum(a, shared);
    *second = block_sum(b, shared);
}

// Sums and squares of a channel's numbers, less its first number: a mean far from 0 costs no
// precision.
KERNEL(batch_moments)(const real* x, double* partial, i64 batch, i64 channels, i64 plane, i64 share) {
    __shared__ double shared[32];
    double origin = (double)x[blockIdx.y * plane], sum = 0, squares = 0;
    FOR_WALK(batch, channels, plane, share) {
        i64 places[AT_ONCE];
        real numbers[AT_ONCE];
        next_places(w, places);
        load(x, places, numbers);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (places[k] < 0) break;
            double value = (double)numbers[k] - origin;
            sum += value;
            squares += value * value;
        }
    }
    sum = block_sum(sum, shared);
    squares = block_sum(squares, shared);
    if (threadIdx.x == 0) {
        i64 place = ((i64)blockIdx.y * gridDim.x + blockIdx.x) * 2;
        partial[place] = sum;
        partial[place + 1] = squares;
    }
}

// y = (x − mean) · scale + shift, then ReLU if asked. With `partial` (training) mean and variance
// are the batch's; they go to `saved` [2, channels] as mean and 1/√(variance + ε), to `mean` and
// `variance`, and into the running ones, where those are there. Without, `saved` holds them.
// `rounded`: room for (x − mean) / √(variance + ε) in bf16, or null. y is then computed from that, so that
// the backward pass, which has nothing else, sees ReLU let the same numbers pass.
KERNEL(batch_normalise)(
    const real* x, real* y, bf16_bits* rounded, const double* partial, const real* weight, const real* bias,
    double* saved, real* mean, real* variance, real* running_mean, real* running_variance, i64* batches,
    double momentum, double epsilon, int relu, i64 batch, i64 channels, i64 plane, i64 share
) {
    i64 channel = blockIdx.y;
    double center, inverse;
    if (partial) {
        double sum, squares, numbers = (double)(batch * plane);
        totals(partial, gridDim.x, &sum, &squares);
        double offset = sum / numbers, spread = squares / numbers - offset * offset;
        // A comparison that lets NaN through.
        if (spread < 0) spread = 0;
        center = (double)x[channel * plane] + offset;
        inverse = 1.0 / sqrt(spread + epsilon);
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            saved[channel] = center;
            saved[channels + channel] = inverse;
            if (mean) {
                mean[channel] = (real)center;
                variance[channel] = (real)spread;
            }
            if (running_mean) {
                double unbiased = spread * (numbers / (numbers - 1));
                running_mean[channel] = (real)((double)running_mean[channel] * (1 - momentum) + center * momentum);
                running_variance[channel] =
                    (real)((double)running_variance[channel] * (1 - momentum) + unbiased * momentum);
                if (channel == 0) *batches += 1;
            }
        }
    } else {
        center = saved[channel];
        inverse = saved[channels + channel];
    }
    real factor = weight ? weight[channel] : (real)1, unit = (real)inverse;
    real middle = (real)center, scale = (real)((double)factor * inverse);
    real shift = bias ? bias[channel] : (real)0;
    FOR_WALK(batch, channels, plane, share) {
        i64 places[AT_ONCE];
        real numbers[AT_ONCE];
        next_places(w, places);
        load(x, places, numbers);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (places[k] < 0) break;
            real value;
            if (rounded) {
                const bf16_bits normal = to_bf16((float)((numbers[k] - middle) * unit));
                rounded[places[k]] = normal;
                value = (real)from_bf16(normal) * factor + shift;
            } else {
                value = (numbers[k] - middle) * scale + shift;
            }
            // In this order a NaN stays NaN.
            y[places[k]] = relu && value < (real)0 ? (real)0 : value;
        }
    }
}

// `saved` of given statistics.
KERNEL(batch_given)(const real* mean, const real* variance, double* saved, double epsilon, i64 channels) {
    FOR_EACH(i, channels) {
        saved[i] = (double)mean[i];
        saved[channels + i] = 1.0 / sqrt((double)variance[i] + epsilon);
    }
}

// x − mean, or, from what was kept in bf16, that by the standard deviation.
__device__ __forceinline__ void load_centred(
    const real* x, const bf16_bits* rounded, const i64* places, real middle, real* centred
) {
    if (rounded) {
        bf16_bits kept[AT_ONCE];
        load(rounded, places, kept);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) centred[k] = (real)from_bf16(kept[k]);
    } else {
        load(x, places, centred);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) centred[k] -= middle;
    }
}

// Σ dy and Σ dy · (x − mean) of a channel, where ReLU let the number pass. `x` or `rounded` is null, here and
// below; with the latter the second sum is that of dy · (x − mean) / √(variance + ε).
KERNEL(batch_gradient_sums)(
    const real* x, const bf16_bits* rounded, const real* dy, const double* saved, const real* weight, const real* bias,
    double* partial, int relu, i64 batch, i64 channels, i64 plane, i64 share
) {
    __shared__ double shared[32];
    i64 channel = blockIdx.y;
    real middle = (real)saved[channel];
    real scale = (real)((weight ? (double)weight[channel] : 1.0) * (rounded ? 1.0 : saved[channels + channel]));
    real shift = bias ? bias[channel] : (real)0;
    double sum = 0, product = 0;
    FOR_WALK(batch, channels, plane, share) {
        i64 places[AT_ONCE];
        real centred[AT_ONCE], gradients[AT_ONCE];
        next_places(w, places);
        load_centred(x, rounded, places, middle, centred);
        load(dy, places, gradients);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (places[k] < 0) break;
            if (relu && centred[k] * scale + shift <= (real)0) continue;
            sum += (double)gradients[k];
            product += (double)gradients[k] * (double)centred[k];
        }
    }
    sum = block_sum(sum, shared);
    product = block_sum(product, shared);
    if (threadIdx.x == 0) {
        i64 place = (channel * gridDim.x + blockIdx.x) * 2;
        partial[place] = sum;
        partial[place + 1] = product;
    }
}

// The gradients of input, weight and bias, where those are there; `statistics`: the input also acts
// through its channel's mean and variance.
KERNEL(batch_gradient)(
    const real* x, const bf16_bits* rounded, const real* dy, const double* saved, const real* weight, const real* bias,
    const double* partial, real* dx, real* of_weight, real* of_bias, int relu, int statistics, i64 batch, i64 channels,
    i64 plane, i64 share
) {
    i64 channel = blockIdx.y;
    double inverse = saved[channels + channel], unit = rounded ? 1.0 : inverse, sum = 0, product = 0;
    if (partial) totals(partial, gridDim.x, &sum, &product);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        if (of_weight) of_weight[channel] = (real)(product * unit);
        if (of_bias) of_bias[channel] = (real)sum;
    }
    if (!dx) return;
    double factor = weight ? (double)weight[channel] : 1.0, exact = factor * inverse, numbers = (double)(batch * plane);
    real middle = (real)saved[channel], scale = (real)exact, shift = bias ? bias[channel] : (real)0;
    real of_output = (real)(factor * unit);
    real offset = statistics ? (real)(exact * sum / numbers) : (real)0;
    real slope = statistics ? (real)(exact * product / numbers * unit * unit) : (real)0;
    FOR_WALK(batch, channels, plane, share) {
        i64 places[AT_ONCE];
        real centred[AT_ONCE], gradients[AT_ONCE];
        next_places(w, places);
        load_centred(x, rounded, places, middle, centred);
        load(dy, places, gradients);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (places[k] < 0) break;
            real passed = relu && centred[k] * of_output + shift <= (real)0 ? (real)0 : gradients[k];
            dx[places[k]] = scale * passed - offset - slope * centred[k];
        }
    }
}

// Gradients of [batch, channels, plane] behind a ReLU, and their sums per channel, in one pass.
// Missing (null): y (no ReLU), masked, masked_bf16, partial, sums. From one part sums go to `sums`.
KERNEL(mask_channel_sums)(
    const real* dy, const real* y, real* masked, bf16_bits* masked_bf16, double* partial, real* sums, i64 batch,
    i64 channels, i64 plane, i64 share
) {
    __shared__ double shared[32];
    double sum = 0;
    FOR_WALK(batch, channels, plane, share) {
        i64 places[AT_ONCE];
        real outputs[AT_ONCE], gradients[AT_ONCE];
        next_places(w, places);
        load(dy, places, gradients);
        if (y) load(y, places, outputs);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (places[k] < 0) break;
            // In this order a NaN lets the gradient pass.
            real value = y && outputs[k] <= (real)0 ? (real)0 : gradients[k];
            if (masked) masked[places[k]] = value;
            if (masked_bf16) masked_bf16[places[k]] = to_bf16((float)value);
            sum += (double)value;
        }
    }
    if (!sums) return;
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        if (partial) partial[blockIdx.x * channels + blockIdx.y] = sum;
        else sums[blockIdx.y] = (real)sum;
    }
}

// `y += bias` of the channel, then ReLU if asked. From `x` in bf16 if that is there, else in place.
KERNEL(channel_bias_relu)(
    const bf16_bits* x, real* y, const real* bias, int relu, i64 batch, i64 channels, i64 plane, i64 share
) {
    real shift = bias ? bias[blockIdx.y] : (real)0;
    FOR_WALK(batch, channels, plane, share) {
        i64 places[AT_ONCE];
        real numbers[AT_ONCE];
        next_places(w, places);
        if (x) {
            bf16_bits rounded[AT_ONCE];
            load(x, places, rounded);
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++) numbers[k] = (real)from_bf16(rounded[k]);
        } else {
            load((const real*)y, places, numbers);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            if (places[k] < 0) break;
            real value = numbers[k] + shift;
            // In this order a NaN stays NaN.
            y[places[k]] = relu && value < (real)0 ? (real)0 : value;
        }
    }
}
