// Optimizers, averages and changes of gradients: all tensors in one launch.

#include "common.cuh"

#define MAX_TENSORS 64
#define MAX_SETS 4
#define NUMBERS 10
// Numbers that a block works on.
#define CHUNK 2048

// One tensor that is updated, what it is updated from, and its state.
struct Entry {
    real* target;
    const real* source;
    real* slots[3];
    // How many numbers, and which set of scalars.
    i64 size;
    // The first of the blocks that work on it.
    unsigned block;
    unsigned set;
};

// Travels as an argument of the launch: no copy, and no wait for one.
struct Entries {
    Entry entries[MAX_TENSORS];
    double sets[MAX_SETS][NUMBERS];
    unsigned count;
    // The blocks of launches before this one.
    unsigned offset;
};

// What the device knows of the steps taken.
struct Verdict {
    // Whether the gradients of the step under way hold NaN or infinity.
    i64 bad;
    // Whether those of an earlier step did, and every step since is not taken.
    i64 stopped;
    // Steps that were not taken.
    i64 skipped;
    // √Σ g², and what the gradients are to be multiplied by.
    double norm;
    double coefficient;
};

__device__ unsigned entry_of(const Entries& all, unsigned block) {
    unsigned low = 0, high = all.count;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (all.entries[middle].block <= block) low = middle; else high = middle;
    }
    return low;
}

// `rule(target, source, slots, i)` for every number of the block's chunk.
#define FOR_CHUNK(all)                                                        \
    const unsigned own = entry_of(all, blockIdx.x);                                \
    const Entry entry = all.entries[own];                                     \
    const double* const set = all.sets[entry.set];                            \
    (void)set;                                                                \
    const i64 chunk_start = (i64)(blockIdx.x - entry.block) * CHUNK;          \
    const i64 chunk_end = chunk_start + CHUNK < entry.size ? chunk_start + CHUNK : entry.size; \
    for (i64 i = chunk_start + threadIdx.x; i < chunk_end; i += blockDim.x)

// Σ g² and how many g are not finite, of every block's chunk.
KERNEL(gradient_squares)(Entries all, double* sums) {
    __shared__ double shared[32];
    double sum = 0.0, bad = 0.0;
    FOR_CHUNK(all) {
        double g = (double)entry.source[i];
        sum += g * g;
        bad += g - g == 0.0 ? 0.0 : 1.0;
    }
    sum = block_sum(sum, shared);
    bad = block_sum(bad, shared);
    if (threadIdx.x == 0) {
        sums[2 * (i64)(all.offset + blockIdx.x)] = sum;
        sums[2 * (i64)(all.offset + blockIdx.x) + 1] = bad;
    }
}

// One block. `first`: every tensor's first block, and their number at the end. Into `tensors`: Σ g²
// and the count of numbers that are not finite, by tensor; then the verdict.
// `policy`: 0 to go on whatever the gradients are, 1 to stop for good, 2 to leave out the step.
// `max_norm`: 0 for no bound.
KERNEL(gradient_verdict)(const double* sums, const unsigned* first, unsigned count, int policy,
                                            double max_norm, double* tensors, Verdict* verdict) {
    __shared__ double shared[64];
    // A warp takes a tensor.
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const bool stopped = verdict->stopped != 0;
    double total = 0.0, total_bad = 0.0;
    for (unsigned base = 0; base < count; base += warps) {
        const unsigned tensor = base + warp;
        double sum = 0.0, bad = 0.0;
        if (tensor < count) {
            for (unsigned block = first[tensor] + lane; block < first[tensor + 1]; block += 32) {
                sum += sums[2 * (i64)block];
                bad += sums[2 * (i64)block + 1];
            }
        }
        sum = warp_sum(sum);
        bad = warp_sum(bad);
        if (lane == 0) {
            shared[2 * warp] = sum;
            shared[2 * warp + 1] = bad;
            // What the host names in its error are the tensors of the step that stopped.
            if (tensor < count && !stopped) {
                tensors[2 * (i64)tensor] = sum;
                tensors[2 * (i64)tensor + 1] = bad;
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            for (unsigned w = 0; w < warps && base + w < count; w++) {
                total += shared[2 * w];
                total_bad += shared[2 * w + 1];
            }
        }
        __syncthreads();
    }
    if (threadIdx.x != 0) return;
    const double norm = sqrt(total);
    verdict->norm = norm;
    const double factor = max_norm / (norm + 1e-6);
    verdict->coefficient = max_norm > 0.0 && norm - norm == 0.0 && factor < 1.0 ? factor : 1.0;
    verdict->bad = policy != 0 && total_bad != 0.0 ? 1 : 0;
    if (policy == 1 && (verdict->bad || stopped)) {
        verdict->stopped = 1;
        verdict->bad = 1;
    }
    if (verdict->bad) verdict->skipped += 1;
}

// The number of a parameter's step, from that of all steps that were tried.
__device__ double step_of(const double* set, const Verdict* verdict) { return set[0] - (double)verdict->skipped; }

// set: step, η, λ, μ, the gradient's share (but 1 at first), 1 for Nesterov's form. Slot: the buffer, or nothing.
KERNEL(sgd)(Entries all, const Verdict* verdict) {
    if (verdict->bad) return;
    FOR_CHUNK(all) {
        const real rate = (real)set[1], decay = (real)set[2], momentum = (real)set[3];
        real p = entry.target[i];
        real g = entry.source[i] + decay * p;
        if (entry.slots[0]) {
            const real share = step_of(set, verdict) == 1.0 ? (real)1 : (real)set[4];
            const real b = momentum * entry.slots[0][i] + share * g;
            entry.slots[0][i] = b;
            g = set[5] != 0.0 ? g + momentum * b : b;
        }
        entry.target[i] = p - rate * g;
    }
}

// set: step, η, λ, β₁, β₂, ε, 1 for decoupled decay. Slots: m, v, and the largest v so far, or nothing.
KERNEL(adam)(Entries all, const Verdict* verdict) {
    __shared__ double corrections[2];
    if (verdict->bad) return;
    if (threadIdx.x == 0) {
        const double* set = all.sets[all.entries[entry_of(all, blockIdx.x)].set];
        const double step = step_of(set, verdict);
        corrections[0] = set[1] / (1.0 - pow(set[3], step));
        corrections[1] = sqrt(1.0 - pow(set[4], step));
    }
    __syncthreads();
    const real step_size = (real)corrections[0], correction = (real)corrections[1];
    FOR_CHUNK(all) {
        const bool decoupled = set[6] != 0.0;
        const real penalty = decoupled ? (real)0 : (real)set[2];
        const real keep = decoupled ? (real)(1.0 - set[1] * set[2]) : (real)1;
        const real new1 = (real)(1.0 - set[3]), beta2 = (real)set[4], new2 = (real)(1.0 - set[4]);
        const real p = entry.target[i];
        const real g = entry.source[i] + penalty * p;
        real m = entry.slots[0][i], v = entry.slots[1][i];
        v = beta2 * v + new2 * g * g;
        m = m + new1 * (g - m);
        entry.slots[0][i] = m;
        entry.slots[1][i] = v;
        if (entry.slots[2]) {
            const real most = entry.slots[2][i];
            v = v > most ? v : most;
            entry.slots[2][i] = v;
        }
        entry.target[i] = keep * p - step_size * m / (sqrt(v) / correction + (real)set[5]);
    }
}

// set: step, η, λ, α, ε, μ, 1 if centred. Slots: the square, the mean if centred, the buffer or nothing.
KERNEL(rms_prop)(Entries all, const Verdict* verdict) {
    if (verdict->bad) return;
    FOR_CHUNK(all) {
        const real alpha = (real)set[3], fresh = (real)(1.0 - set[3]);
        const real p = entry.target[i];
        const real g = entry.source[i] + (real)set[2] * p;
        real v = alpha * entry.slots[0][i] + fresh * g * g;
        entry.slots[0][i] = v;
        if (set[6] != 0.0) {
            real mean = entry.slots[1][i];
            mean = mean + fresh * (g - mean);
            entry.slots[1][i] = mean;
            // Of a steady gradient the difference is rounding, of either sign.
            const real least = v * (real)(sizeof(real) == 8 ? 2.220446049250313e-16 : 1.1920928955078125e-7);
            v = v - mean * mean;
            v = v < least ? least : v;
        }
        real update = g / (sqrt(v) + (real)set[4]);
        real* buffer = set[6] != 0.0 ? entry.slots[2] : entry.slots[1];
        if (buffer) {
            update = (real)set[5] * buffer[i] + update;
            buffer[i] = update;
        }
        entry.target[i] = p - (real)set[1] * update;
    }
}

// set: step, η, λ, ε, the decay of the rate.
KERNEL(adagrad)(Entries all, const Verdict* verdict) {
    if (verdict->bad) return;
    FOR_CHUNK(all) {
        const real rate = (real)(set[1] / (1.0 + (step_of(set, verdict) - 1.0) * set[4]));
        const real p = entry.target[i];
        const real g = entry.source[i] + (real)set[2] * p;
        const real sum = entry.slots[0][i] + g * g;
        entry.slots[0][i] = sum;
        entry.target[i] = p - rate * g / (sqrt(sum) + (real)set[3]);
    }
}

// set: step, η, λ, β₁, β₂.
KERNEL(lion)(Entries all, const Verdict* verdict) {
    if (verdict->bad) return;
    FOR_CHUNK(all) {
        const real rate = (real)set[1], keep = (real)(1.0 - set[1] * set[2]);
        const real g = entry.source[i], m = entry.slots[0][i], p = entry.target[i];
        const real direction = (real)set[3] * m + (real)(1.0 - set[3]) * g;
        const real up = direction > (real)0 ? rate : (real)0, down = direction < (real)0 ? rate : (real)0;
        entry.target[i] = keep * p - up + down;
        entry.slots[0][i] = (real)set[4] * m + (real)(1.0 - set[4]) * g;
    }
}

// target ← target + set[0] · (source − target): an average moves towards the weights.
KERNEL(move_towards)(Entries all) {
    FOR_CHUNK(all) {
        const real average = entry.target[i];
        entry.target[i] = average + (real)set[0] * (entry.source[i] - average);
    }
}

// target ← set[0] · target + set[1] · source.
KERNEL(scale_add)(Entries all) {
    FOR_CHUNK(all) entry.target[i] = (real)set[0] * entry.target[i] + (real)set[1] * entry.source[i];
}

// target ← set[0] · target.
KERNEL(scale)(Entries all) {
    FOR_CHUNK(all) entry.target[i] = (real)set[0] * entry.target[i];
}

// target ← target, at least −set[0] and at most set[0]; NaN stays.
KERNEL(clamp)(Entries all) {
    FOR_CHUNK(all) {
        const real bound = (real)set[0], value = entry.target[i];
        entry.target[i] = value < -bound ? -bound : (value > bound ? bound : value);
    }
}

// target ← source.
KERNEL(copy)(Entries all) {
    FOR_CHUNK(all) entry.target[i] = entry.source[i];
}

// target ← the verdict's coefficient · target.
KERNEL(scale_by_verdict)(Entries all, const Verdict* verdict) {
    const real coefficient = (real)verdict->coefficient;
    if (coefficient == (real)1) return;
    FOR_CHUNK(all) {
        entry.target[i] = coefficient * entry.target[i];
    }
}
