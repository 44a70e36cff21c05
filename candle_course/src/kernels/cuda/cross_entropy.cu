// Cross-entropy and focal loss of class indices; log-softmax; softmax with its accurate gradient.
//
// Scores are `[N, C, M]`: class c of position p = n M + m lies at (n C + c) M + m. What is computed,
// and why in this form, is told beside the CPU's kernels.

#include "common.cuh"

struct ClassRule {
    // A factor per class, or nothing for 1.
    const double* weights;
    // 0 where nothing went wrong; else 1, the label that is no class, and how many classes there are.
    i64* fault;
    i64 ignore;
    i64 examples, classes, positions;
    double smoothing, gamma, weight_sum;
    // Of the labels: 0 for u8, 1 for unsigned, 2 for i64.
    int kind;
    int ignores;
    // Whether a mean is over positions, not over their weights.
    int counts;
    // Whether the scores are log-probabilities already.
    int log;
};

__device__ void tell(const ClassRule& rule, i64 target, i64 what) {
    rule.fault[1] = target;
    rule.fault[2] = what;
    rule.fault[0] = 1;
}

// Of log-probabilities, −w · that of the target; one above 0 is none.
__device__ double log_loss(const ClassRule& rule, real x, double weight) {
    if (x > (real)1e-5) {
        tell(rule, (i64)x, -1);
        return nan("");
    }
    return -weight * (double)x;
}

// What the loss of a position is made of.
struct Position {
    real largest;
    // Σ e^(x − max) − 1: without the leader's 1, beside which small terms would be rounded away.
    real rest;
    real target;
    // Σ w_c (x_c − max), with smoothing.
    double weighted;
};

__device__ i64 label_at(const void* labels, int kind, i64 index) {
    if (kind == 0) return ((const unsigned char*)labels)[index];
    if (kind == 1) return ((const unsigned*)labels)[index];
    return ((const i64*)labels)[index];
}

__device__ double weight_of(const ClassRule& rule, i64 class_) {
    return rule.weights ? rule.weights[class_] : 1.0;
}

// 0 for an ignored position, 1 for one that counts, 2 for a label that is no class.
__device__ int standing(const ClassRule& rule, i64 label) {
    if (rule.ignores && label == rule.ignore) return 0;
    return label >= 0 && (i64)label < rule.classes ? 1 : 2;
}

__device__ real others_of(const Position& at, real target_exp) {
    return at.target == at.largest ? at.rest : (real)1 + at.rest - target_exp;
}

__device__ double power_of(double q, double gamma) { return gamma == 2.0 ? q * q : pow(q, gamma); }

__device__ double loss_of(const ClassRule& rule, const Position& at, double weight) {
    real nll = (at.largest - at.target) + log1p(at.rest);
    if (rule.gamma != 0.0) {
        double q = (double)others_of(at, exp(at.target - at.largest)) / (1.0 + (double)at.rest);
        return weight * power_of(q, rule.gamma) * (double)nll;
    }
    if (rule.smoothing > 0.0) {
        double even = rule.weight_sum * (double)log1p(at.rest) - at.weighted;
        return (1.0 - rule.smoothing) * weight * (double)nll + rule.smoothing / (double)rule.classes * even;
    }
    return weight == 0.0 ? 0.0 : weight * (double)nll;
}

// The gradient of every score: `scale` · e^(x − max) − `constant` · w_c, but `at_target` at the target.
struct Slope {
    real scale, at_target;
    double constant;
};

__device__ Slope slope_of(const ClassRule& rule, const Position& at, double weight, double outer) {
    real target_exp = exp(at.target - at.largest);
    double total = 1.0 + (double)at.rest;
    double q = (double)others_of(at, target_exp) / total;
    Slope slope;
    slope.constant = 0.0;
    if (rule.gamma != 0.0) {
        double p = (double)target_exp / total;
        double nll = (double)((at.largest - at.target) + log1p(at.rest));
        // −ln(1 − q)/q tends to 1 at q = 0, where the quotient is 0/0.
        double quotient = q > 0.0 ? nll / q : 1.0;
        if (q != q) quotient = q;
        double factor = weight * power_of(q, rule.gamma) * (1.0 + rule.gamma * p * quotient) * outer;
        slope.scale = (real)(factor / total);
        slope.at_target = (real)(-factor * q);
        return slope;
    }
    double p = (double)target_exp / total;
    double spread = rule.smoothing / (double)rule.classes;
    double hard = (1.0 - rule.smoothing) * weight;
    double even = spread > 0.0 ? spread * rule.weight_sum : 0.0;
    slope.scale = (real)((hard + even) * outer / total);
    slope.at_target = (real)((even * p - spread * weight - hard * q) * outer);
    slope.constant = spread * outer;
    return slope;
}

__device__ Position position_of(const ClassRule& rule, const real* x, i64 stride, i64 label) {
    Position at;
    at.largest = x[0];
    for (i64 c = 1; c < rule.classes; c++) {
        real score = x[c * stride];
        at.largest = score > at.largest ? score : at.largest;
    }
    at.rest = 0;
    at.weighted = 0.0;
    int leaders = -1;
    for (i64 c = 0; c < rule.classes; c++) {
        real below = x[c * stride] - at.largest;
        real e = exp(below);
        if (e == (real)1) leaders++; else at.rest += e;
        if (rule.smoothing > 0.0) at.weighted += weight_of(rule, c) * (double)below;
    }
    if (leaders > 0) at.rest += (real)leaders;
    at.target = x[label * stride];
    return at;
}

// The value and what gradients are multiplied by, from sums of losses and of weights.
__device__ void conclude(double loss, double weight, int mean, real* value, double* inverse) {
    double denominator = mean ? weight : 1.0;
    // A loss that is no number must be seen, whatever it is divided by.
    value[0] = (real)(denominator > 0.0 ? loss / denominator : (loss == loss ? 0.0 : loss));
    inverse[0] = denominator > 0.0 ? 1.0 / denominator : 0.0;
}

// One thread per position. `sums`: two numbers per block; with one block alone `value` and `inverse`
// are written at once. `losses`: one per position, or nothing.
KERNEL(class_loss)(const real* scores, const void* labels, ClassRule rule, int mean,
                                      real* losses, double* sums, real* value, double* inverse) {
    __shared__ double shared[32];
    i64 pixels = rule.examples * rule.positions;
    double loss = 0.0, weight = 0.0;
    FOR_EACH(p, pixels) {
        i64 label = label_at(labels, rule.kind, p);
        int state = standing(rule, label);
        double one = 0.0;
        if (state == 2) {
            tell(rule, label, rule.classes);
            one = nan("");
        } else if (state == 1) {
            const real* x = scores + p / rule.positions * rule.classes * rule.positions + p % rule.positions;
            double own = weight_of(rule, label);
            one = rule.log ? log_loss(rule, x[label * rule.positions], own)
                           : loss_of(rule, position_of(rule, x, rule.positions, label), own);
            weight += rule.counts ? 1.0 : own;
        }
        if (losses) losses[p] = (real)one;
        loss += one;
    }
    loss = block_sum(loss, shared);
    weight = block_sum(weight, shared);
    if (threadIdx.x == 0) {
        if (gridDim.x == 1) {
            conclude(loss, weight, mean, value, inverse);
        } else {
            sums[2 * (i64)blockIdx.x] = loss;
            sums[2 * (i64)blockIdx.x + 1] = weight;
        }
    }
}

// A block for each of many classes' rows; M = 1.
__device__ Position row_of(const ClassRule& rule, const real* x, i64 label, double* shared, real* shared_real) {
    real largest = x[0];
    for (i64 c = threadIdx.x; c < rule.classes; c += blockDim.x) largest = x[c] > largest ? x[c] : largest;
    largest = block_max(largest, shared_real);
    double rest = 0.0, leaders = 0.0, weighted = 0.0;
    for (i64 c = threadIdx.x; c < rule.classes; c += blockDim.x) {
        real below = x[c] - largest;
        real e = exp(below);
        if (e == (real)1) leaders += 1.0; else rest += (double)e;
        if (rule.smoothing > 0.0) weighted += weight_of(rule, c) * (double)below;
    }
    Position at;
    at.largest = largest;
    at.rest = (real)(block_sum(rest, shared) + (block_sum(leaders, shared) - 1.0));
    at.weighted = rule.smoothing > 0.0 ? block_sum(weighted, shared) : 0.0;
    at.target = x[label];
    return at;
}

KERNEL(class_loss_rows)(const real* scores, const void* labels, ClassRule rule,
                                           real* losses, double* sums) {
    __shared__ double shared[32];
    __shared__ real shared_real[32];
    for (i64 row = blockIdx.x; row < rule.examples; row += gridDim.x) {
        i64 label = label_at(labels, rule.kind, row);
        int state = standing(rule, label);
        double loss = 0.0, weight = 0.0;
        if (state == 1) {
            double own = weight_of(rule, label);
            const real* x = scores + row * rule.classes;
            loss = rule.log ? log_loss(rule, x[label], own) : loss_of(rule, row_of(rule, x, label, shared, shared_real), own);
            weight = rule.counts ? 1.0 : own;
        } else if (state == 2) {
            loss = nan("");
            if (threadIdx.x == 0) tell(rule, label, rule.classes);
        }
        if (threadIdx.x == 0) {
            if (losses) losses[row] = (real)loss;
            sums[2 * row] = loss;
            sums[2 * row + 1] = weight;
        }
    }
}

// One block: the sums of all blocks or rows, in a fixed order.
KERNEL(class_loss_total)(const double* sums, i64 count, int mean, real* value, double* inverse) {
    __shared__ double shared[32];
    double loss = 0.0, weight = 0.0;
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) {
        loss += sums[2 * i];
        weight += sums[2 * i + 1];
    }
    loss = block_sum(loss, shared);
    weight = block_sum(weight, shared);
    if (threadIdx.x == 0) conclude(loss, weight, mean, value, inverse);
}

// One thread per position. `outer`: the gradient of the value, or (`each`) of every position's loss.
KERNEL(class_loss_backward)(const real* scores, const void* labels, ClassRule rule,
                                               const real* outer, int each, const double* inverse, real* gradient) {
    i64 pixels = rule.examples * rule.positions;
    FOR_EACH(p, pixels) {
        i64 label = label_at(labels, rule.kind, p);
        int state = standing(rule, label);
        i64 first = p / rule.positions * rule.classes * rule.positions + p % rule.positions;
        const real* x = scores + first;
        real* g = gradient + first;
        if (state != 1) {
            real value = state == 0 ? (real)0 : (real)nan("");
            for (i64 c = 0; c < rule.classes; c++) g[c * rule.positions] = value;
            continue;
        }
        double factor = (double)outer[each ? p : 0] * (each ? 1.0 : inverse[0]);
        if (rule.log) {
            const real own = (real)(-weight_of(rule, label) * factor);
            for (i64 c = 0; c < rule.classes; c++) g[c * rule.positions] = c == label ? own : (real)0;
            continue;
        }
        Position at = position_of(rule, x, rule.positions, label);
        Slope slope = slope_of(rule, at, weight_of(rule, label), factor);
        for (i64 c = 0; c < rule.classes; c++) {
            real value = exp(x[c * rule.positions] - at.largest) * slope.scale;
            if (slope.constant != 0.0) value -= (real)(slope.constant * weight_of(rule, c));
            g[c * rule.positions] = (i64)c == label ? slope.at_target : value;
        }
    }
}

KERNEL(class_loss_backward_rows)(const real* scores, const void* labels, ClassRule rule,
                                                    const real* outer, int each, const double* inverse,
                                                    real* gradient) {
    __shared__ double shared[32];
    __shared__ real shared_real[32];
    for (i64 row = blockIdx.x; row < rule.examples; row += gridDim.x) {
        i64 label = label_at(labels, rule.kind, row);
        int state = standing(rule, label);
        const real* x = scores + row * rule.classes;
        real* g = gradient + row * rule.classes;
        if (state != 1) {
            real value = state == 0 ? (real)0 : (real)nan("");
            for (i64 c = threadIdx.x; c < rule.classes; c += blockDim.x) g[c] = value;
            continue;
        }
        double factor = (double)outer[each ? row : 0] * (each ? 1.0 : inverse[0]);
        if (rule.log) {
            const real own = (real)(-weight_of(rule, label) * factor);
            for (i64 c = threadIdx.x; c < rule.classes; c += blockDim.x) g[c] = c == label ? own : (real)0;
            continue;
        }
        Position at = row_of(rule, x, label, shared, shared_real);
        Slope slope = slope_of(rule, at, weight_of(rule, label), factor);
        for (i64 c = threadIdx.x; c < rule.classes; c += blockDim.x) {
            real value = exp(x[c] - at.largest) * slope.scale;
            if (slope.constant != 0.0) value -= (real)(slope.constant * weight_of(rule, c));
            g[c] = (i64)c == label ? slope.at_target : value;
        }
    }
}

// Soft targets q, `[N, C, M]`: Σ a_c (lse − x_c) with a_c = w_c ((1 − ε) q_c + ε / C); in double, because
// p_c − a_c cancels all the more the better the prediction.
struct SoftPosition {
    double largest, rest, mass;
};

__device__ double coefficient(const ClassRule& rule, const real* q, i64 c) {
    const double spread = rule.smoothing / (double)rule.classes;
    return weight_of(rule, c) * ((double)q[c * rule.positions] * (1.0 - rule.smoothing) + spread);
}

__device__ SoftPosition soft_position(const ClassRule& rule, const real* x, const real* q) {
    SoftPosition at;
    at.largest = (double)x[0];
    for (i64 c = 1; c < rule.classes; c++) {
        const double score = (double)x[c * rule.positions];
        at.largest = score > at.largest ? score : at.largest;
    }
    at.rest = 0.0;
    at.mass = 0.0;
    bool led = false;
    for (i64 c = 0; c < rule.classes; c++) {
        const double e = exp((double)x[c * rule.positions] - at.largest);
        // Without the leader's 1, beside which small terms would be rounded away.
        if (e == 1.0 && !led) led = true; else at.rest += e;
        at.mass += coefficient(rule, q, c);
    }
    return at;
}

// Sums as `class_loss`; the mean divides by the positions. `tolerance`: by how much the probabilities of
// a position may miss 1; all 0 is allowed.
KERNEL(soft_loss)(const real* scores, const real* targets, ClassRule rule, double tolerance, int mean, real* losses,
                  double* sums, real* value, double* inverse) {
    __shared__ double shared[32];
    double loss = 0.0, count = 0.0;
    FOR_EACH(p, rule.examples * rule.positions) {
        const i64 first = p / rule.positions * rule.classes * rule.positions + p % rule.positions;
        const real* x = scores + first;
        const real* q = targets + first;
        const SoftPosition at = soft_position(rule, x, q);
        double one = 0.0, total = 0.0;
        for (i64 c = 0; c < rule.classes; c++) {
            const double a = coefficient(rule, q, c), own = (double)q[c * rule.positions];
            if (a > 0.0) one += a * ((at.largest - (double)x[c * rule.positions]) + log1p(at.rest));
            if (!(own >= 0.0 && own <= 1.0)) total = nan("");
            total += own;
        }
        if (!(fabs(total - 1.0) < tolerance || total == 0.0)) {
            tell(rule, (i64)total, -2);
            one = nan("");
        }
        if (losses) losses[p] = (real)one;
        loss += one;
        count += 1.0;
    }
    loss = block_sum(loss, shared);
    count = block_sum(count, shared);
    if (threadIdx.x == 0) {
        if (gridDim.x == 1) {
            conclude(loss, count, mean, value, inverse);
        } else {
            sums[2 * (i64)blockIdx.x] = loss;
            sums[2 * (i64)blockIdx.x + 1] = count;
        }
    }
}

KERNEL(soft_loss_backward)(const real* scores, const real* targets, ClassRule rule, const real* outer, int each,
                           const double* inverse, real* gradient) {
    FOR_EACH(p, rule.examples * rule.positions) {
        const i64 first = p / rule.positions * rule.classes * rule.positions + p % rule.positions;
        const real* x = scores + first;
        const real* q = targets + first;
        const SoftPosition at = soft_position(rule, x, q);
        const double factor = (double)outer[each ? p : 0] * (each ? 1.0 : inverse[0]);
        for (i64 c = 0; c < rule.classes; c++) {
            const double distance = at.largest - (double)x[c * rule.positions], a = coefficient(rule, q, c);
            // mass · p_c − a_c, with 1 − p_c taken from the rest where the class leads.
            const double g = distance == 0.0 ? (at.mass - a) - at.mass * at.rest / (1.0 + at.rest)
                                             : at.mass * exp(-distance) / (1.0 + at.rest) - a;
            gradient[first + c * rule.positions] = (real)(g * factor);
        }
    }
}

// log softmax over C of `[N, C, M]`; one thread per position.
KERNEL(log_softmax)(const real* scores, i64 examples, i64 classes, i64 positions, real* out) {
    i64 pixels = examples * positions;
    FOR_EACH(p, pixels) {
        i64 first = p / positions * classes * positions + p % positions;
        const real* x = scores + first;
        real largest = x[0];
        for (i64 c = 1; c < classes; c++) largest = x[c * positions] > largest ? x[c * positions] : largest;
        double sum = 0.0;
        for (i64 c = 0; c < classes; c++) sum += (double)exp(x[c * positions] - largest);
        real logarithm = (real)log(sum);
        for (i64 c = 0; c < classes; c++) out[first + c * positions] = x[c * positions] - largest - logarithm;
    }
}

// The same with a block per row; M = 1.
KERNEL(log_softmax_rows)(const real* scores, i64 rows, i64 classes, real* out) {
    __shared__ double shared[32];
    __shared__ real shared_real[32];
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const real* x = scores + row * classes;
        real largest = x[0];
        for (i64 c = threadIdx.x; c < classes; c += blockDim.x) largest = x[c] > largest ? x[c] : largest;
        largest = block_max(largest, shared_real);
        double sum = 0.0;
        for (i64 c = threadIdx.x; c < classes; c += blockDim.x) sum += (double)exp(x[c] - largest);
        real logarithm = (real)log(block_sum(sum, shared));
        for (i64 c = threadIdx.x; c < classes; c += blockDim.x) out[row * classes + c] = x[c] - largest - logarithm;
    }
}

// dx = dy − softmax · Σ dy, from the output.
KERNEL(log_softmax_backward)(const real* y, const real* dy, i64 examples, i64 classes,
                                                i64 positions, real* dx) {
    i64 pixels = examples * positions;
    FOR_EACH(p, pixels) {
        i64 first = p / positions * classes * positions + p % positions;
        double sum = 0.0;
        for (i64 c = 0; c < classes; c++) sum += (double)dy[first + c * positions];
        for (i64 c = 0; c < classes; c++) {
            i64 at = first + c * positions;
            dx[at] = dy[at] - exp(y[at]) * (real)sum;
        }
    }
}

KERNEL(log_softmax_backward_rows)(const real* y, const real* dy, i64 rows, i64 classes, real* dx) {
    __shared__ double shared[32];
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        i64 first = row * classes;
        double sum = 0.0;
        for (i64 c = threadIdx.x; c < classes; c += blockDim.x) sum += (double)dy[first + c];
        real total = (real)block_sum(sum, shared);
        for (i64 c = threadIdx.x; c < classes; c += blockDim.x) {
            dx[first + c] = dy[first + c] - exp(y[first + c]) * total;
        }
    }
}

// Probabilities over C of `[N, C, M]`.
KERNEL(class_softmax)(const real* scores, i64 examples, i64 classes, i64 positions, real* out) {
    i64 pixels = examples * positions;
    FOR_EACH(p, pixels) {
        i64 first = p / positions * classes * positions + p % positions;
        const real* x = scores + first;
        real largest = x[0];
        for (i64 c = 1; c < classes; c++) largest = x[c * positions] > largest ? x[c * positions] : largest;
        real rest = 0;
        int leaders = -1;
        for (i64 c = 0; c < classes; c++) {
            real e = exp(x[c * positions] - largest);
            if (e == (real)1) leaders++; else rest += e;
        }
        real total = (real)1 + (leaders > 0 ? rest + (real)leaders : rest);
        for (i64 c = 0; c < classes; c++) out[first + c * positions] = exp(x[c * positions] - largest) / total;
    }
}

// p_j (g_j − Σ g_c p_c), with every g taken relative to that of the likeliest class.
KERNEL(class_softmax_backward)(const real* probabilities, const real* outer, i64 examples,
                                                  i64 classes, i64 positions, real* gradient) {
    i64 pixels = examples * positions;
    FOR_EACH(i, pixels) {
        i64 first = i / positions * classes * positions + i % positions;
        const real* p = probabilities + first;
        const real* g = outer + first;
        real best = p[0], reference = g[0];
        for (i64 c = 1; c < classes; c++) {
            if (p[c * positions] > best) {
                best = p[c * positions];
                reference = g[c * positions];
            }
        }
        real dot = 0;
        for (i64 c = 0; c < classes; c++) dot += (g[c * positions] - reference) * p[c * positions];
        for (i64 c = 0; c < classes; c++) {
            gradient[first + c * positions] = (g[c * positions] - reference - dot) * p[c * positions];
        }
    }
}
