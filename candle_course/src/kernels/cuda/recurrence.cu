// Recurrent layers: a whole sequence in one launch.
//
// A block takes a few examples through all steps; their states stay in shared memory, the
// weights in the multiprocessor's cache. Against a product and a point-wise kernel per step this
// saves two launches per step, which is what small layers spend their time on.

#include "common.cuh"

#define TANH 0
#define RELU 1
#define LSTM 2
#define GRU 3

// A host compiler's stand-in for memory whose size comes with the launch.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#endif

__device__ int gates_of(int cell) { return cell == LSTM ? 4 : (cell == GRU ? 3 : 1); }
__device__ int kept_of(int cell) { return cell == LSTM ? 5 : (cell == GRU ? 4 : 0); }
__device__ int states_of(int cell) { return cell == LSTM ? 2 : 1; }

__device__ real sigmoid(real x) { return (real)1 / ((real)1 + exp(-x)); }

struct Sizes {
    int cell, examples, steps, hidden, reverse;
};

// `from_input`: `[N, T, gates H]`; `transposed`: the weights as `[H, gates H]`; `bias`: `[gates H]`;
// `first`: `[N, states H]`. `out`: `[N, T, H]`; `last`: `[N, states H]`; `kept`: `[N, T, kept H]` or nothing;
// `before`: `[T, N, H]`, the hidden state before each step, or nothing. Shared memory: states and products.
template <int EXAMPLES>
__device__ void forwards(const real* from_input, const real* transposed, const real* bias, const real* first,
                         Sizes sizes, real* out, real* last, real* kept, real* before, real* memory) {
    const int H = sizes.hidden, W = gates_of(sizes.cell) * H, S = states_of(sizes.cell) * H, K = kept_of(sizes.cell) * H;
    real* state = memory;
    real* products = memory + EXAMPLES * S;
    const int start = blockIdx.x * EXAMPLES;
    const int count = sizes.examples - start < EXAMPLES ? sizes.examples - start : EXAMPLES;
    for (int i = threadIdx.x; i < EXAMPLES * S; i += blockDim.x) {
        state[i] = i / S < count ? first[(i64)start * S + i] : (real)0;
    }
    __syncthreads();
    for (int step = 0; step < sizes.steps; step++) {
        const i64 t = sizes.reverse ? sizes.steps - 1 - step : step;
        if (before) {
            for (int i = threadIdx.x; i < count * H; i += blockDim.x) {
                before[(t * sizes.examples + start) * H + i] = state[i / H * S + i % H];
            }
        }
        for (int j = threadIdx.x; j < W; j += blockDim.x) {
            real sums[EXAMPLES];
            for (int e = 0; e < EXAMPLES; e++) sums[e] = 0;
#pragma unroll 8
            for (int k = 0; k < H; k++) {
                const real w = transposed[(i64)k * W + j];
#pragma unroll
                for (int e = 0; e < EXAMPLES; e++) sums[e] += w * state[e * S + k];
            }
            for (int e = 0; e < EXAMPLES; e++) products[e * W + j] = sums[e] + bias[j];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < count * H; i += blockDim.x) {
            const int e = i / H, k = i % H;
            const i64 row = (i64)(start + e) * sizes.steps + t;
            const real* x = from_input + row * W + k;
            const real* p = products + e * W + k;
            real* h = state + e * S + k;
            real* keep = kept ? kept + row * K + k : 0;
            if (sizes.cell == GRU) {
                const real r = sigmoid(x[0] + p[0]), z = sigmoid(x[H] + p[H]), hidden = p[2 * H];
                const real fresh = tanh(x[2 * H] + r * hidden);
                *h = fresh + z * (*h - fresh);
                if (keep) {
                    keep[0] = r;
                    keep[H] = z;
                    keep[2 * H] = fresh;
                    keep[3 * H] = hidden;
                }
            } else if (sizes.cell == LSTM) {
                const real input = sigmoid(x[0] + p[0]), forget = sigmoid(x[H] + p[H]);
                const real fresh = tanh(x[2 * H] + p[2 * H]), output = sigmoid(x[3 * H] + p[3 * H]);
                const real c = forget * h[H] + input * fresh;
                h[H] = c;
                *h = output * tanh(c);
                if (keep) {
                    keep[0] = input;
                    keep[H] = forget;
                    keep[2 * H] = fresh;
                    keep[3 * H] = output;
                    keep[4 * H] = c;
                }
            } else {
                const real sum = x[0] + p[0];
                *h = sizes.cell == TANH ? (real)tanh(sum) : (sum < (real)0 ? (real)0 : sum);
            }
            out[row * H + k] = *h;
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < count * S; i += blockDim.x) last[(i64)start * S + i] = state[i];
}

// Backwards. `weight`: `[gates H, H]`; `dy`: `[N, T, H]` or nothing; `d_last`: `[N, states H]` or nothing. Into
// `d_input` `[N, T, gates H]`, `d_hidden` `[T, N, gates H]` and `d_first` `[N, states H]`.
template <int EXAMPLES>
__device__ void backwards(const real* weight, const real* first, const real* out, const real* kept, const real* dy,
                          const real* d_last, Sizes sizes, real* d_input, real* d_hidden, real* d_first,
                          real* memory) {
    const int H = sizes.hidden, W = gates_of(sizes.cell) * H, S = states_of(sizes.cell) * H, K = kept_of(sizes.cell) * H;
    real* state = memory;
    real* gates = memory + EXAMPLES * S;
    // A small layer's products are divided among several threads.
    real* partial = gates + EXAMPLES * W;
    const int parts = H < (int)blockDim.x ? blockDim.x / H : 1;
    const int start = blockIdx.x * EXAMPLES;
    const int count = sizes.examples - start < EXAMPLES ? sizes.examples - start : EXAMPLES;
    for (int i = threadIdx.x; i < EXAMPLES * S; i += blockDim.x) {
        state[i] = d_last && i / S < count ? d_last[(i64)start * S + i] : (real)0;
    }
    for (int i = threadIdx.x; i < EXAMPLES * W; i += blockDim.x) gates[i] = 0;
    __syncthreads();
    for (int step = sizes.steps - 1; step >= 0; step--) {
        const i64 t = sizes.reverse ? sizes.steps - 1 - step : step;
        const i64 earlier = sizes.reverse ? t + 1 : t - 1;
        for (int i = threadIdx.x; i < count * H; i += blockDim.x) {
            const int e = i / H, k = i % H;
            const i64 row = (i64)(start + e) * sizes.steps + t, row_before = row - t + earlier;
            const real* keep = kept + row * K + k;
            const real* at_first = first + (i64)(start + e) * S + k;
            real* d = state + e * S + k;
            real* g = gates + e * W + k;
            real* gi = d_input + row * W + k;
            real* gh = d_hidden + (t * sizes.examples + start + e) * W + k;
            const real dh = *d + (dy ? dy[row * H + k] : (real)0);
            if (sizes.cell == GRU) {
                const real r = keep[0], z = keep[H], fresh = keep[2 * H], hidden = keep[3 * H];
                const real previous = step > 0 ? out[row_before * H + k] : *at_first;
                const real sum = dh * ((real)1 - z) * ((real)1 - fresh * fresh);
                const real dr = sum * hidden * r * ((real)1 - r), dz = dh * (previous - fresh) * z * ((real)1 - z);
                gi[0] = dr;
                gi[H] = dz;
                gi[2 * H] = sum;
                g[0] = gh[0] = dr;
                g[H] = gh[H] = dz;
                g[2 * H] = gh[2 * H] = sum * r;
                *d = dh * z;
            } else if (sizes.cell == LSTM) {
                const real input = keep[0], forget = keep[H], fresh = keep[2 * H], output = keep[3 * H];
                const real squashed = tanh(keep[4 * H]);
                const real previous = step > 0 ? kept[row_before * K + 4 * H + k] : at_first[H];
                const real through = d[H] + dh * output * ((real)1 - squashed * squashed);
                const real of[4] = {through * fresh * input * ((real)1 - input),
                                    through * previous * forget * ((real)1 - forget),
                                    through * input * ((real)1 - fresh * fresh),
                                    dh * squashed * output * ((real)1 - output)};
                for (int gate = 0; gate < 4; gate++) gi[gate * H] = g[gate * H] = gh[gate * H] = of[gate];
                d[H] = through * forget;
                *d = 0;
            } else {
                const real y = out[row * H + k];
                const real own = sizes.cell == TANH ? dh * ((real)1 - y * y) : (y <= (real)0 ? (real)0 : dh);
                gi[0] = g[0] = gh[0] = own;
                *d = 0;
            }
        }
        __syncthreads();
        for (int at = threadIdx.x; at < parts * H; at += blockDim.x) {
            const int part = at / H, k = at % H;
            real sums[EXAMPLES];
            for (int e = 0; e < EXAMPLES; e++) sums[e] = 0;
#pragma unroll 8
            for (int j = W * part / parts; j < W * (part + 1) / parts; j++) {
                const real w = weight[(i64)j * H + k];
#pragma unroll
                for (int e = 0; e < EXAMPLES; e++) sums[e] += w * gates[e * W + j];
            }
            for (int e = 0; e < EXAMPLES; e++) {
                if (parts == 1) state[e * S + k] += sums[e]; else partial[(e * parts + part) * H + k] = sums[e];
            }
        }
        __syncthreads();
        if (parts > 1) {
            for (int i = threadIdx.x; i < EXAMPLES * H; i += blockDim.x) {
                const int e = i / H, k = i % H;
                real sum = 0;
                for (int part = 0; part < parts; part++) sum += partial[(e * parts + part) * H + k];
                state[e * S + k] += sum;
            }
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < count * S; i += blockDim.x) d_first[(i64)start * S + i] = state[i];
}

#define FORWARDS(name, examples)                                                                            \
    KERNEL(name)(const real* from_input, const real* transposed, const real* bias, const real* first,       \
                 Sizes sizes, real* out, real* last, real* kept, real* before) {                             \
        DYNAMIC_SHARED(real, memory);                                                                       \
        forwards<examples>(from_input, transposed, bias, first, sizes, out, last, kept, before, memory);    \
    }

#define BACKWARDS(name, examples)                                                                           \
    KERNEL(name)(const real* weight, const real* first, const real* out, const real* kept, const real* dy,  \
                 const real* d_last, Sizes sizes, real* d_input, real* d_hidden, real* d_first) {           \
        DYNAMIC_SHARED(real, memory);                                                                       \
        backwards<examples>(weight, first, out, kept, dy, d_last, sizes, d_input, d_hidden, d_first, memory); \
    }

FORWARDS(recurrence_one, 1)
FORWARDS(recurrence_four, 4)
BACKWARDS(recurrence_backward_one, 1)
BACKWARDS(recurrence_backward_four, 4)
