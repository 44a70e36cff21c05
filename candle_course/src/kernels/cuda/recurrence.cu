// Recurrent layers.
//
// In small layers a block takes a few examples through all steps; their states stay in shared memory,
// the weights in the multiprocessor's cache. Against a product and a point-wise kernel per step this
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

__device__ i64 time_of(const Sizes& sizes, int step) { return sizes.reverse ? sizes.steps - 1 - step : step; }

// One number of an example's step, from its gates: x are those of the input, p those of the hidden
// state, H numbers apart; h and c the state, changed; keep what the backward pass wants, H numbers
// apart, or nothing.
__device__ __forceinline__ void forward_step(int cell, int H, const real x[4], const real* p, real* h, real* c,
                                             real* keep) {
    if (cell == GRU) {
        const real r = sigmoid(x[0] + p[0]), z = sigmoid(x[1] + p[H]), hidden = p[2 * H];
        const real fresh = tanh(x[2] + r * hidden);
        *h = fresh + z * (*h - fresh);
        if (keep) {
            keep[0] = r;
            keep[H] = z;
            keep[2 * H] = fresh;
            keep[3 * H] = hidden;
        }
    } else if (cell == LSTM) {
        const real input = sigmoid(x[0] + p[0]), forget = sigmoid(x[1] + p[H]);
        const real fresh = tanh(x[2] + p[2 * H]), output = sigmoid(x[3] + p[3 * H]);
        *c = forget * *c + input * fresh;
        *h = output * tanh(*c);
        if (keep) {
            keep[0] = input;
            keep[H] = forget;
            keep[2 * H] = fresh;
            keep[3 * H] = output;
            keep[4 * H] = *c;
        }
    } else {
        const real sum = x[0] + p[0];
        *h = cell == TANH ? (real)tanh(sum) : (sum < (real)0 ? (real)0 : sum);
    }
}

// `count` of four (five) numbers that are `apart` from each other.
__device__ __forceinline__ void load(const real* from, int count, i64 apart, real to[5]) {
#pragma unroll
    for (int i = 0; i < 5; i++) to[i] = i < count ? from[i * apart] : (real)0;
}

// The same backwards. `keep`: the same numbers; `previous`: the hidden state before the step, an LSTM's cell;
// `y`: the hidden state after it. dh and dc, the gradients of the state after the step, become their
// direct part before it. Into gi and gh the gradients of both gates.
__device__ __forceinline__ void backward_step(int cell, int H, const real keep[5], real previous, real y, real* dh,
                                              real* dc, real* gi, real* gh) {
    const real d = *dh;
    if (cell == GRU) {
        const real r = keep[0], z = keep[1], fresh = keep[2], hidden = keep[3];
        const real sum = d * ((real)1 - z) * ((real)1 - fresh * fresh);
        gi[0] = gh[0] = sum * hidden * r * ((real)1 - r);
        gi[H] = gh[H] = d * (previous - fresh) * z * ((real)1 - z);
        gi[2 * H] = sum;
        gh[2 * H] = sum * r;
        *dh = d * z;
    } else if (cell == LSTM) {
        const real input = keep[0], forget = keep[1], fresh = keep[2], output = keep[3];
        const real squashed = tanh(keep[4]);
        const real through = *dc + d * output * ((real)1 - squashed * squashed);
        gi[0] = gh[0] = through * fresh * input * ((real)1 - input);
        gi[H] = gh[H] = through * previous * forget * ((real)1 - forget);
        gi[2 * H] = gh[2 * H] = through * input * ((real)1 - fresh * fresh);
        gi[3 * H] = gh[3 * H] = d * squashed * output * ((real)1 - output);
        *dc = through * forget;
        *dh = 0;
    } else {
        gi[0] = gh[0] = cell == TANH ? d * ((real)1 - y * y) : (y <= (real)0 ? (real)0 : d);
        *dh = 0;
    }
}

// `[rows, columns]` to `[columns, rows]`.
KERNEL(turned)(const real* x, i64 rows, i64 columns, real* y) {
    FOR_EACH(i, rows * columns) y[i] = x[i % rows * columns + i / rows];
}

// Small layers: a block takes a few examples through all steps.
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
    const int gates = gates_of(sizes.cell);
    // What comes from the input is fetched while the products are made, where a thread has one number.
    const bool ahead = count * H <= (int)blockDim.x;
    for (int step = 0; step < sizes.steps; step++) {
        const i64 t = time_of(sizes, step);
        real x[5];
        if (ahead && (int)threadIdx.x < count * H) {
            const i64 row = (i64)(start + threadIdx.x / H) * sizes.steps + t;
            load(from_input + row * W + threadIdx.x % H, gates, H, x);
        }
        if (before) {
            for (int i = threadIdx.x; i < count * H; i += blockDim.x) {
                before[(t * sizes.examples + start) * H + i] = state[i / H * S + i % H];
            }
        }
        for (int j = threadIdx.x; j < W; j += blockDim.x) {
            real sums[EXAMPLES];
            for (int e = 0; e < EXAMPLES; e++) sums[e] = 0;
#pragma unroll 16
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
            real* h = state + e * S + k;
            if (!ahead) load(from_input + row * W + k, gates, H, x);
            forward_step(sizes.cell, H, x, products + e * W + k, h, h + S - H, kept ? kept + row * K + k : 0);
            out[row * H + k] = *h;
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < count * S; i += blockDim.x) last[(i64)start * S + i] = state[i];
}

// What a step backwards reads for one number.
struct Wanted {
    real keep[5], previous, y, dy;
};

__device__ __forceinline__ Wanted want(const Sizes& sizes, int step, i64 example, int k, int parts, const real* first,
                                       const real* out, const real* kept, const real* dy) {
    const i64 H = sizes.hidden, t = time_of(sizes, step), earlier = time_of(sizes, step - 1);
    const i64 row = example * sizes.steps + t, row_before = row - t + earlier;
    const real* at_first = first + example * states_of(sizes.cell) * H + k;
    Wanted wanted;
    load(kept + row * parts * H + k, parts, H, wanted.keep);
    wanted.previous = 0;
    if (sizes.cell == GRU) wanted.previous = step > 0 ? out[row_before * H + k] : at_first[0];
    if (sizes.cell == LSTM) wanted.previous = step > 0 ? kept[(row_before * parts + 4) * H + k] : at_first[H];
    wanted.y = out[row * H + k];
    wanted.dy = dy[row * H + k];
    return wanted;
}

// Backwards. `weight`: `[gates H, H]`; `dy`: `[N, T, H]`; `d_last`: `[N, states H]` or nothing. Into `d_input`
// `[N, T, gates H]`, `d_hidden` `[T, N, gates H]` and `d_first` `[N, states H]`.
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
    const int parts_kept = kept_of(sizes.cell);
    // What a step wants is fetched while the products of the step after it are made, as above.
    const bool ahead = count * H <= (int)blockDim.x;
    Wanted wanted;
    if (ahead && (int)threadIdx.x < count * H) {
        wanted = want(sizes, sizes.steps - 1, start + threadIdx.x / H, threadIdx.x % H, parts_kept, first, out, kept, dy);
    }
    for (int step = sizes.steps - 1; step >= 0; step--) {
        const i64 t = time_of(sizes, step);
        for (int i = threadIdx.x; i < count * H; i += blockDim.x) {
            const int e = i / H, k = i % H;
            const i64 row = (i64)(start + e) * sizes.steps + t;
            if (!ahead) wanted = want(sizes, step, start + e, k, parts_kept, first, out, kept, dy);
            real* d = state + e * S + k;
            real* g = gates + e * W + k;
            *d += wanted.dy;
            backward_step(sizes.cell, H, wanted.keep, wanted.previous, wanted.y, d, d + S - H, d_input + row * W + k, g);
            if (ahead && step > 0) wanted = want(sizes, step - 1, start + e, k, parts_kept, first, out, kept, dy);
            real* gh = d_hidden + (t * sizes.examples + start + e) * W + k;
            for (int gate = 0; gate < W; gate += H) gh[gate] = g[gate];
        }
        __syncthreads();
        for (int at = threadIdx.x; at < parts * H; at += blockDim.x) {
            const int part = at / H, k = at % H;
            real sums[EXAMPLES];
            for (int e = 0; e < EXAMPLES; e++) sums[e] = 0;
#pragma unroll 16
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

// Large layers: a product of the whole batch per step, then one of these, a thread per number.

// The state before the first step: `before` at its time, and an LSTM's `c`, `[N, H]`.
KERNEL(recurrence_begin)(const real* first, Sizes sizes, real* before, real* c) {
    const int H = sizes.hidden, S = states_of(sizes.cell) * H;
    FOR_EACH(i, (i64)sizes.examples * H) {
        const i64 e = i / H, k = i % H;
        before[time_of(sizes, 0) * sizes.examples * H + i] = first[e * S + k];
        if (sizes.cell == LSTM) c[i] = first[e * S + H + k];
    }
}

// `products`: `[N, gates H]`, without biases. `before`: `[T, N, H]`; the next step's part is written.
KERNEL(recurrence_step)(const real* from_input, const real* products, const real* bias, int step, Sizes sizes,
                        real* before, real* c, real* out, real* last, real* kept) {
    const int H = sizes.hidden, W = gates_of(sizes.cell) * H, S = states_of(sizes.cell) * H, K = kept_of(sizes.cell) * H;
    const i64 t = time_of(sizes, step), plane = (i64)sizes.examples * H;
    FOR_EACH(i, plane) {
        const i64 e = i / H, k = i % H, row = e * sizes.steps + t;
        real x[5], p[5], b[5];
        load(from_input + row * W + k, W / H, H, x);
        load(products + e * W + k, W / H, H, p);
        load(bias + k, W / H, H, b);
#pragma unroll
        for (int gate = 0; gate < 4; gate++) p[gate] += b[gate];
        real h = before[t * plane + i], cell = sizes.cell == LSTM ? c[i] : (real)0;
        real keep[5];
        forward_step(sizes.cell, 1, x, p, &h, &cell, keep);
        if (kept) {
#pragma unroll
            for (int part = 0; part < 5; part++) {
                if (part < K / H) kept[row * K + part * H + k] = keep[part];
            }
        }
        if (sizes.cell == LSTM) c[i] = cell;
        out[row * H + k] = h;
        if (step + 1 < sizes.steps) before[time_of(sizes, step + 1) * plane + i] = h;
        else {
            last[e * S + k] = h;
            if (sizes.cell == LSTM) last[e * S + H + k] = cell;
        }
    }
}

// `dh`, `dc`: `[N, H]`, the gradients of the state after the step, but for the step's output; they
// become their direct part before it. At the last step they begin with `d_last`.
KERNEL(recurrence_step_backward)(const real* first, const real* before, const real* out, const real* kept,
                                 const real* dy, const real* d_last, int step, Sizes sizes, real* dh, real* dc,
                                 real* d_input, real* d_hidden) {
    const int H = sizes.hidden, W = gates_of(sizes.cell) * H, S = states_of(sizes.cell) * H, K = kept_of(sizes.cell) * H;
    const i64 t = time_of(sizes, step), earlier = time_of(sizes, step - 1), plane = (i64)sizes.examples * H;
    FOR_EACH(i, plane) {
        const i64 e = i / H, k = i % H, row = e * sizes.steps + t;
        const bool at_end = step + 1 == sizes.steps;
        real previous = before[t * plane + i];
        if (sizes.cell == LSTM) {
            previous = step > 0 ? kept[(row - t + earlier) * K + 4 * H + k] : first[e * S + H + k];
        }
        real keep[5], gi[4], gh[4];
        load(kept + row * K + k, K / H, H, keep);
        real d = at_end ? (d_last ? d_last[e * S + k] : (real)0) : dh[i];
        d += dy[row * H + k];
        real d_cell = sizes.cell != LSTM ? (real)0 : (!at_end ? dc[i] : d_last ? d_last[e * S + H + k] : (real)0);
        backward_step(sizes.cell, 1, keep, previous, out[row * H + k], &d, &d_cell, gi, gh);
#pragma unroll
        for (int gate = 0; gate < 4; gate++) {
            if (gate >= W / H) break;
            d_input[row * W + gate * H + k] = gi[gate];
            d_hidden[(t * sizes.examples + e) * W + gate * H + k] = gh[gate];
        }
        dh[i] = d;
        if (sizes.cell == LSTM) dc[i] = d_cell;
    }
}

// The gradient of the first state, `[N, states H]`.
KERNEL(recurrence_end_backward)(const real* dh, const real* dc, Sizes sizes, real* d_first) {
    const int H = sizes.hidden, S = states_of(sizes.cell) * H;
    FOR_EACH(i, (i64)sizes.examples * H) {
        const i64 e = i / H, k = i % H;
        d_first[e * S + k] = dh[i];
        if (sizes.cell == LSTM) d_first[e * S + H + k] = dc[i];
    }
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
