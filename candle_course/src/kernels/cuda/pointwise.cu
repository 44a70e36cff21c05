// Functions of one number, losses of pairs of numbers, and sums: the codes are those of the host.
// Values and derivatives are computed in double and rounded once, as on the CPU.

#include "common.cuh"

#define ABS 0
#define HUBER 1
#define LOG_COSH 2
#define PINBALL 3
#define SOFTPLUS 4
#define SIGMOID 5
#define HINGE 6
#define HINGE_SQUARED 7
#define FOCAL 8
#define POWER 9
#define SQRT 10
#define SQUARE 11

__device__ double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

__device__ double sigmoid(double x) {
    if (x >= 0.0) return 1.0 / (1.0 + exp(-x));
    double e = exp(x);
    return e / (1.0 + e);
}

__device__ double value_of(int code, double parameter, double x) {
    if (x != x) return x;
    const double size = fabs(x);
    switch (code) {
        case ABS: return size;
        case HUBER: return size <= parameter ? 0.5 * x * x : parameter * (size - 0.5 * parameter);
        case LOG_COSH: {
            if (size >= 1.0) return size + log1p(exp(-2.0 * size)) - 0.693147180559945309417;
            double half = sinh(0.5 * x);
            return log1p(2.0 * half * half);
        }
        case PINBALL: return x >= 0.0 ? parameter * x : (parameter - 1.0) * x;
        case SOFTPLUS: return softplus(x);
        case SIGMOID: return sigmoid(x);
        case HINGE: return x < 1.0 ? 1.0 - x : 0.0;
        case HINGE_SQUARED: return x < 1.0 ? (1.0 - x) * (1.0 - x) : 0.0;
        case FOCAL: return exp(-parameter * softplus(x)) * softplus(-x);
        case POWER: return x > 0.0 ? pow(x, parameter) : 0.0;
        case SQRT: return sqrt(x);
        default: return x * x;
    }
}

__device__ double slope_of(int code, double parameter, double x) {
    if (x != x) return x;
    const double sign = x > 0.0 ? 1.0 : (x < 0.0 ? -1.0 : 0.0);
    switch (code) {
        case ABS: return sign;
        case HUBER: return fabs(x) <= parameter ? x : parameter * sign;
        case LOG_COSH: return tanh(x);
        case PINBALL: return sign > 0.0 ? parameter : (sign < 0.0 ? parameter - 1.0 : 0.0);
        case SOFTPLUS: return sigmoid(x);
        case SIGMOID: return sigmoid(x) * sigmoid(-x);
        case HINGE: return x < 1.0 ? -1.0 : 0.0;
        case HINGE_SQUARED: return x < 1.0 ? -2.0 * (1.0 - x) : 0.0;
        case FOCAL:
            return -exp(-parameter * softplus(x)) * (parameter * sigmoid(x) * softplus(-x) + sigmoid(-x));
        case POWER: return x > 0.0 ? parameter * pow(x, parameter - 1.0) : 0.0;
        case SQRT: return x > 0.0 ? 0.5 / sqrt(x) : 0.0;
        default: return 2.0 * x;
    }
}

KERNEL(pointwise)(const real* x, i64 count, int code, double parameter, real* y) {
    FOR_EACH(i, count) y[i] = (real)value_of(code, parameter, (double)x[i]);
}

KERNEL(pointwise_backward)(const real* x, const real* outer, i64 count, int code, double parameter, real* dx) {
    FOR_EACH(i, count) {
        // 0 · ∞ is no contribution.
        double o = (double)outer[i];
        dx[i] = (real)(o == 0.0 ? 0.0 : o * slope_of(code, parameter, (double)x[i]));
    }
}

// What a loss of pairs is, the pair being a prediction (or logit) and a target.
struct PairRule {
    // Per label, for logits of yes or no; or nothing for 1.
    const double* pos_weight;
    // 0 where nothing went wrong; else 1, a target that is out of range, and 0.
    i64* fault;
    i64 labels, inner;
    // Of the difference (with `sign` −1: target − prediction), or of a logit.
    double parameter, factor, sign;
    // α of the focal loss; negative for none.
    double alpha;
    int kind;
    int code;
};

#define DIFFERENCE 0
#define BINARY 1
#define BINARY_FOCAL 2
#define MARGIN 3
#define DIVERGENCE 4

__device__ double out_of_range(const PairRule& rule, double target) {
    rule.fault[1] = (i64)target;
    rule.fault[2] = 0;
    rule.fault[0] = 1;
    return nan("");
}

// 1 or −1 for targets 1 and 0 or −1.
__device__ double sign_of(const PairRule& rule, double y) {
    if (y == 1.0) return 1.0;
    if (y == 0.0 || y == -1.0) return -1.0;
    return out_of_range(rule, y);
}

// q of q (ln q − ln p), checked as ln p is.
__device__ double share_of(const PairRule& rule, double log_p, double q) {
    if (!(q >= 0.0 && q <= 1.0)) return out_of_range(rule, q);
    if (log_p > 1e-5) {
        out_of_range(rule, log_p);
        rule.fault[2] = -1;
        return nan("");
    }
    return q;
}

__device__ double pair_value(const PairRule& rule, double x, double y, i64 i) {
    if (rule.kind == DIFFERENCE) return rule.factor * value_of(rule.code, rule.parameter, rule.sign * (x - y));
    if (rule.kind == BINARY) {
        if (!(y >= 0.0 && y <= 1.0)) y = out_of_range(rule, y);
        const double positive = rule.pos_weight ? rule.pos_weight[i / rule.inner % rule.labels] : 1.0;
        return (1.0 - y) * value_of(SOFTPLUS, 0.0, x) + positive * y * value_of(SOFTPLUS, 0.0, -x);
    }
    if (rule.kind == DIVERGENCE) {
        const double q = share_of(rule, x, y);
        // Both products have the limit 0 at q = 0, where 0 · −∞ would be NaN.
        return q == 0.0 ? 0.0 : q * (log(q) - x);
    }
    const double s = sign_of(rule, y);
    if (rule.kind == MARGIN) return value_of(rule.code, rule.parameter, s * x);
    const double alpha = rule.alpha < 0.0 ? 1.0 : (s > 0.0 ? rule.alpha : 1.0 - rule.alpha);
    return alpha * value_of(FOCAL, rule.parameter, s * x);
}

__device__ double pair_slope(const PairRule& rule, double x, double y, i64 i) {
    if (rule.kind == DIFFERENCE) {
        return rule.factor * rule.sign * slope_of(rule.code, rule.parameter, rule.sign * (x - y));
    }
    if (rule.kind == BINARY) {
        if (!(y >= 0.0 && y <= 1.0)) y = out_of_range(rule, y);
        const double positive = rule.pos_weight ? rule.pos_weight[i / rule.inner % rule.labels] : 1.0;
        return (1.0 - y) * slope_of(SOFTPLUS, 0.0, x) - positive * y * slope_of(SOFTPLUS, 0.0, -x);
    }
    if (rule.kind == DIVERGENCE) return -share_of(rule, x, y);
    const double s = sign_of(rule, y);
    if (rule.kind == MARGIN) return s * slope_of(rule.code, rule.parameter, s * x);
    const double alpha = rule.alpha < 0.0 ? 1.0 : (s > 0.0 ? rule.alpha : 1.0 - rule.alpha);
    return alpha * s * slope_of(FOCAL, rule.parameter, s * x);
}

// `losses`: one per pair, or nothing. `sums`: one per block; with one block alone `total` is written
// at once, times `share`.
KERNEL(pair_loss)(const real* x, const real* y, i64 count, PairRule rule, double share, real* losses, double* sums,
                  real* total) {
    __shared__ double shared[32];
    double sum = 0.0;
    FOR_EACH(i, count) {
        const double loss = pair_value(rule, (double)x[i], (double)y[i], i);
        if (losses) losses[i] = (real)loss;
        sum += loss;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) {
        if (gridDim.x == 1) {
            if (total) total[0] = (real)(share * sum);
        } else {
            sums[blockIdx.x] = sum;
        }
    }
}

// `outer`: the gradient of the value (of every loss with `each`).
KERNEL(pair_loss_backward)(const real* x, const real* y, i64 count, PairRule rule, double share, const real* outer,
                           int each, real* dx) {
    FOR_EACH(i, count) {
        const double o = share * (double)outer[each ? i : 0];
        dx[i] = (real)(o == 0.0 ? 0.0 : o * pair_slope(rule, (double)x[i], (double)y[i], i));
    }
}

// Σ of a row of `width` numbers, a block per row, in double.
KERNEL(row_sums)(const real* x, i64 rows, i64 width, double share, real* sums) {
    __shared__ double shared[32];
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        double sum = 0.0;
        for (i64 i = threadIdx.x; i < width; i += blockDim.x) sum += (double)x[row * width + i];
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) sums[row] = (real)(share * sum);
    }
}

// Σ of all numbers, by block; `finish_sum` adds the blocks up.
KERNEL(block_sums)(const real* x, i64 count, double* sums) {
    __shared__ double shared[32];
    double sum = 0.0;
    FOR_EACH(i, count) sum += (double)x[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block.
KERNEL(finish_sum)(const double* sums, i64 count, double share, real* total) {
    __shared__ double shared[32];
    double sum = 0.0;
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) total[0] = (real)(share * sum);
}
