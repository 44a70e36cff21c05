// Overlap sums of soft segmentations, for Dice, IoU and Tversky.
//
// Probabilities are `[N, C, M]`. The truth is a class per position (`[N, M]`: u8, u32 or i64) or a
// degree per position and label (`[N, C, M]`).

#include "common.cuh"

struct Truth {
    // Class indices, or nothing with degrees.
    const void* labels;
    const real* degrees;
    i64* fault;
    i64 ignore;
    i64 classes, positions;
    int kind;
    int ignores;
};

__device__ i64 label_at(const void* labels, int kind, i64 index) {
    if (kind == 0) return ((const unsigned char*)labels)[index];
    if (kind == 1) return ((const unsigned*)labels)[index];
    return ((const i64*)labels)[index];
}

// The degree of position i of a row, and whether it counts.
__device__ void truth_at(const Truth& truth, i64 row, i64 i, double* t, double* counted) {
    *counted = 1.0;
    if (!truth.labels) {
        *t = (double)truth.degrees[row * truth.positions + i];
        if (truth.ignores && *t == (double)truth.ignore) {
            *t = 0.0;
            *counted = 0.0;
        } else if (!(*t >= 0.0 && *t <= 1.0)) {
            truth.fault[1] = (i64)*t;
            truth.fault[2] = 0;
            truth.fault[0] = 1;
            *t = nan("");
        }
        return;
    }
    const i64 label = label_at(truth.labels, truth.kind, row / truth.classes * truth.positions + i);
    *t = label == row % truth.classes ? 1.0 : 0.0;
    if (truth.ignores && label == truth.ignore) {
        *t = 0.0;
        *counted = 0.0;
    } else if (label < 0 || label >= truth.classes) {
        truth.fault[1] = label;
        truth.fault[2] = truth.classes;
        truth.fault[0] = 1;
        *t = nan("");
    }
}

// A block per piece of a row: Σ p t, Σ p (1 − t) or Σ p² − p t, Σ (1 − p) t or t² − p t, Σ t into
// `parts`, `[rows, pieces, 4]`.
KERNEL(region_parts)(const real* p, Truth truth, int squared, i64 rows, i64 pieces, double* parts) {
    __shared__ double shared[32];
    for (i64 task = blockIdx.x; task < rows * pieces; task += gridDim.x) {
        const i64 row = task / pieces, piece = task % pieces;
        const i64 from = truth.positions * piece / pieces, to = truth.positions * (piece + 1) / pieces;
        double both = 0.0, only_p = 0.0, only_t = 0.0, all_t = 0.0;
        for (i64 i = from + threadIdx.x; i < to; i += blockDim.x) {
            double t, counted;
            truth_at(truth, row, i, &t, &counted);
            const double own = (double)p[row * truth.positions + i] * counted, shared_part = own * t;
            both += shared_part;
            only_p += squared ? own * own - shared_part : own - shared_part;
            only_t += squared ? t * t - shared_part : t - shared_part;
            all_t += t;
        }
        both = block_sum(both, shared);
        only_p = block_sum(only_p, shared);
        only_t = block_sum(only_t, shared);
        all_t = block_sum(all_t, shared);
        if (threadIdx.x == 0) {
            parts[4 * task] = both;
            parts[4 * task + 1] = only_p;
            parts[4 * task + 2] = only_t;
            parts[4 * task + 3] = all_t;
        }
    }
}

// The pieces of every row added up: `sums` `[3, rows]`, `totals` `[rows]`.
KERNEL(region_sums)(const double* parts, i64 rows, i64 pieces, double* sums, double* totals) {
    FOR_EACH(row, rows) {
        double both = 0.0, only_p = 0.0, only_t = 0.0, all_t = 0.0;
        for (i64 piece = 0; piece < pieces; piece++) {
            const double* part = parts + 4 * (row * pieces + piece);
            both += part[0];
            only_p += part[1];
            only_t += part[2];
            all_t += part[3];
        }
        sums[row] = both;
        sums[rows + row] = only_p;
        sums[2 * rows + row] = only_t;
        totals[row] = all_t;
    }
}

// The gradient of p, from that of the three sums.
KERNEL(region_backward)(const real* p, Truth truth, int squared, i64 rows, const double* outer, real* dp) {
    FOR_EACH(at, rows * truth.positions) {
        const i64 row = at / truth.positions;
        double t, counted;
        truth_at(truth, row, at % truth.positions, &t, &counted);
        const double both = outer[row], only_p = outer[rows + row], only_t = outer[2 * rows + row];
        const double by_only_p = squared ? 2.0 * (double)p[at] - t : 1.0 - t;
        dp[at] = (real)(counted * (both * t + only_p * by_only_p - only_t * t));
    }
}
