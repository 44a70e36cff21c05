// The Lovász extension of the Jaccard loss: every class's pixels in the order of falling error, each
// with what it adds to the loss of those before it.
//
// A row is a class in a group of examples (an image, or the batch): `length` pixels. Rows are sorted
// by merging: tiles in shared memory, then runs of twice the width in every pass, a thread per
// number. Merging is stable, so that equal errors stay in the order of their pixels.

#include "common.cuh"

#define IGNORED 0xffffffffu
#define NO_CLASS 0xfffffffeu
#define TILE 1024
// Threads of a block, and the neighbours in a tile that one of them takes.
#define BLOCK 256
#define SHARE (TILE / BLOCK)

template <int size> struct Bits { typedef unsigned type; };
template <> struct Bits<8> { typedef unsigned long long type; };
typedef Bits<(int)sizeof(real)>::type bits;

struct Rows {
    i64 groups, classes, positions, length;
    // Errors are given (of one class); otherwise probabilities.
    int hinge;
    // Whether classes that do not occur count.
    int all;
};

// Class indices as 32 bits, for any type of them.
KERNEL(lovasz_labels)(const void* given, int kind, i64 count, i64 classes, i64 ignore, int ignores, i64* fault,
                      unsigned* labels) {
    FOR_EACH(i, count) {
        const i64 label = kind == 0 ? ((const unsigned char*)given)[i]
                        : kind == 1 ? ((const unsigned*)given)[i] : ((const i64*)given)[i];
        if (ignores && label == ignore) {
            labels[i] = IGNORED;
        } else if (label < 0 || label >= classes) {
            labels[i] = NO_CLASS;
            fault[1] = label;
            fault[2] = classes;
            fault[0] = 1;
        } else {
            labels[i] = (unsigned)label;
        }
    }
}

// A mask of 0 and 1 as labels and as signs −1 and 1.
KERNEL(lovasz_mask)(const real* mask, i64 count, double ignore, int ignores, i64* fault, unsigned* labels, real* signs) {
    FOR_EACH(i, count) {
        const double value = (double)mask[i];
        if (ignores && value == ignore) {
            labels[i] = IGNORED;
            signs[i] = (real)-1;
        } else if (value == 0.0 || value == 1.0) {
            labels[i] = (unsigned)value;
            signs[i] = (real)(2.0 * value - 1.0);
        } else {
            labels[i] = NO_CLASS;
            signs[i] = (real)nan("");
            fault[1] = (i64)value;
            fault[2] = 0;
            fault[0] = 1;
        }
    }
}

// Where the number of pixel i of a row is.
__device__ __forceinline__ i64 place_of(const Rows& rows, i64 row, i64 i) {
    const i64 group = row / rows.classes, example = i / rows.positions;
    const i64 examples = rows.length / rows.positions;
    return ((group * examples + example) * rows.classes + row % rows.classes) * rows.positions + i % rows.positions;
}

struct Pixel {
    real error, slope;
    bool truth, counted;
    i64 place;
};

__device__ __forceinline__ Pixel pixel_of(const Rows& rows, const real* x, const unsigned* labels, i64 row, i64 i) {
    const unsigned label = labels[row / rows.classes * rows.length + i];
    Pixel pixel;
    pixel.place = place_of(rows, row, i);
    pixel.counted = label != IGNORED;
    pixel.truth = label == (rows.hinge ? 1u : (unsigned)(row % rows.classes));
    const real value = x[pixel.place];
    if (rows.hinge) {
        pixel.error = value;
        pixel.slope = (real)1;
    } else {
        pixel.error = pixel.truth ? (real)1 - value : value;
        // |0| has the gradient 0, as everywhere in this crate.
        pixel.slope = pixel.error == (real)0 ? (real)0 : pixel.truth ? (real)-1 : (real)1;
    }
    if (label == NO_CLASS) pixel.error = (real)nan("");
    return pixel;
}

// Rises as the error, which is not negative, falls.
__device__ __forceinline__ bits key_of(real error) {
    union { real number; bits word; } u;
    u.number = error + (real)0;
    return ~u.word;
}

// Where the number at `at` goes when runs of `width` are merged, two and two.
__device__ __forceinline__ i64 merged_place(const bits* keys, i64 at, i64 width, i64 count) {
    const i64 run = at / width, other = (run ^ 1) * width;
    if (other >= count) return at;
    const i64 end = other + width < count ? other + width : count;
    const bits own = keys[at];
    // Of equal numbers those of the earlier run come first.
    const bool later = run & 1;
    i64 low = other, high = end;
    while (low < high) {
        const i64 middle = (low + high) / 2;
        if (keys[middle] < own || (later && keys[middle] == own)) low = middle + 1; else high = middle;
    }
    return (run & ~(i64)1) * width + (at - run * width) + (low - other);
}

// A block sorts a tile of a row. `order`: the pixels of the row.
KERNEL(lovasz_sort_tiles)(const real* x, const unsigned* labels, Rows rows, bits* keys, unsigned* order) {
    __shared__ bits key[2][TILE];
    __shared__ unsigned place[2][TILE];
    const i64 tiles = (rows.length + TILE - 1) / TILE;
    for (i64 task = blockIdx.x; task < rows.groups * rows.classes * tiles; task += gridDim.x) {
        const i64 row = task / tiles, first = task % tiles * TILE;
        const i64 count = first + TILE < rows.length ? TILE : rows.length - first;
        for (i64 k = threadIdx.x; k < count; k += blockDim.x) {
            key[0][k] = key_of(pixel_of(rows, x, labels, row, first + k).error);
            place[0][k] = (unsigned)(first + k);
        }
        __syncthreads();
        int from = 0;
        for (i64 width = 1; width < count; width *= 2) {
            for (i64 k = threadIdx.x; k < count; k += blockDim.x) {
                const i64 to = merged_place(key[from], k, width, count);
                key[1 - from][to] = key[from][k];
                place[1 - from][to] = place[from][k];
            }
            __syncthreads();
            from = 1 - from;
        }
        for (i64 k = threadIdx.x; k < count; k += blockDim.x) {
            keys[row * rows.length + first + k] = key[from][k];
            order[row * rows.length + first + k] = place[from][k];
        }
        __syncthreads();
    }
}

KERNEL(lovasz_merge)(const bits* keys, const unsigned* order, i64 count, i64 length, i64 width, bits* to_keys,
                     unsigned* to_order) {
    FOR_EACH(at, count) {
        const i64 row = at / length, first = row * length;
        const i64 to = first + merged_place(keys + first, at - first, width, length);
        to_keys[to] = keys[at];
        to_order[to] = order[at];
    }
}

// How many pixels of a tile are of the class, and how many are not.
KERNEL(lovasz_counts)(const real* x, const unsigned* labels, Rows rows, const unsigned* order, i64* counts) {
    __shared__ int shared[32];
    const i64 tiles = (rows.length + TILE - 1) / TILE;
    for (i64 task = blockIdx.x; task < rows.groups * rows.classes * tiles; task += gridDim.x) {
        const i64 row = task / tiles, first = task % tiles * TILE;
        const i64 end = first + TILE < rows.length ? first + TILE : rows.length;
        int truths = 0, others = 0;
        for (i64 i = first + threadIdx.x; i < end; i += blockDim.x) {
            const Pixel pixel = pixel_of(rows, x, labels, row, order[row * rows.length + i]);
            truths += pixel.truth;
            others += pixel.counted && !pixel.truth;
        }
        truths = block_sum(truths, shared);
        others = block_sum(others, shared);
        if (threadIdx.x == 0) {
            counts[2 * task] = truths;
            counts[2 * task + 1] = others;
        }
    }
}

// From the counts of a row's tiles to those of all tiles before; the row's own go to `totals`.
KERNEL(lovasz_offsets)(i64* counts, i64 rows, i64 tiles, i64* totals) {
    __shared__ i64 sums[2][BLOCK];
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
        const i64 share = (tiles + BLOCK - 1) / BLOCK, first = threadIdx.x * share;
        const i64 end = first + share < tiles ? first + share : tiles;
        for (int which = 0; which < 2; which++) {
            i64 sum = 0;
            for (i64 tile = first; tile < end; tile++) sum += counts[2 * (row * tiles + tile) + which];
            sums[which][threadIdx.x] = sum;
        }
        __syncthreads();
        if (threadIdx.x < 2) {
            i64 sum = 0;
            for (int k = 0; k < BLOCK; k++) {
                const i64 own = sums[threadIdx.x][k];
                sums[threadIdx.x][k] = sum;
                sum += own;
            }
            totals[2 * row + threadIdx.x] = sum;
        }
        __syncthreads();
        for (int which = 0; which < 2; which++) {
            i64 sum = sums[which][threadIdx.x];
            for (i64 tile = first; tile < end; tile++) {
                const i64 at = 2 * (row * tiles + tile) + which, own = counts[at];
                counts[at] = sum;
                sum += own;
            }
        }
        __syncthreads();
    }
}

// What a row weighs: the mean over a group's classes that enter, then over groups.
KERNEL(lovasz_weights)(const i64* totals, Rows rows, double* weights) {
    FOR_EACH(group, rows.groups) {
        const i64* own = totals + 2 * group * rows.classes;
        // Every class counts the same pixels.
        const bool any = own[0] + own[1] > 0;
        i64 entering = 0;
        for (i64 c = 0; c < rows.classes; c++) entering += any && (rows.all || own[2 * c] > 0);
        const double weight = 1.0 / (double)((entering > 0 ? entering : 1) * rows.groups);
        for (i64 c = 0; c < rows.classes; c++) {
            weights[group * rows.classes + c] = any && (rows.all || own[2 * c] > 0) ? weight : 0.0;
        }
    }
}

// A tile's share of the loss, and the gradient (if it is there) of its pixels.
KERNEL(lovasz_terms)(const real* x, const unsigned* labels, Rows rows, const unsigned* order, const i64* counts,
                     const i64* totals, const double* weights, double* terms, real* gradient) {
    __shared__ int truths[BLOCK];
    __shared__ int others[BLOCK];
    __shared__ double shared[32];
    const i64 tiles = (rows.length + TILE - 1) / TILE;
    for (i64 task = blockIdx.x; task < rows.groups * rows.classes * tiles; task += gridDim.x) {
        const i64 row = task / tiles, first = task % tiles * TILE + threadIdx.x * SHARE;
        Pixel pixels[SHARE];
        int of_class = 0, rest = 0;
        for (int k = 0; k < SHARE; k++) {
            pixels[k].counted = pixels[k].truth = false;
            pixels[k].place = -1;
            if (first + k >= rows.length) continue;
            pixels[k] = pixel_of(rows, x, labels, row, order[row * rows.length + first + k]);
            of_class += pixels[k].truth;
            rest += pixels[k].counted && !pixels[k].truth;
        }
        truths[threadIdx.x] = of_class;
        others[threadIdx.x] = rest;
        __syncthreads();
        for (int back = 1; back < BLOCK; back *= 2) {
            const int t = (int)threadIdx.x >= back ? truths[threadIdx.x - back] : 0;
            const int o = (int)threadIdx.x >= back ? others[threadIdx.x - back] : 0;
            __syncthreads();
            truths[threadIdx.x] += t;
            others[threadIdx.x] += o;
            __syncthreads();
        }
        i64 truths_before = counts[2 * task] + truths[threadIdx.x] - of_class;
        i64 others_before = counts[2 * task + 1] + others[threadIdx.x] - rest;
        const i64 all = totals[2 * row];
        const double weight = weights[row];
        double loss = 0.0;
        for (int k = 0; k < SHARE; k++) {
            const Pixel& pixel = pixels[k];
            if (pixel.place < 0) continue;
            double added = 0.0;
            const double both = (double)(all + others_before);
            if (!pixel.counted) {
                if (gradient) gradient[pixel.place] = (real)0;
                continue;
            }
            if (pixel.truth) {
                added = 1.0 / both;
                truths_before++;
            } else {
                // Of a class that does not occur, the worst pixel alone costs.
                added = all == 0 ? (others_before == 0 ? 1.0 : 0.0)
                                 : (double)(all - truths_before) / (both * (both + 1.0));
                others_before++;
            }
            if (weight != 0.0) loss += (double)pixel.error * added;
            if (gradient) gradient[pixel.place] = (real)(added * (double)pixel.slope * weight);
        }
        loss = block_sum(loss, shared);
        if (threadIdx.x == 0) terms[task] = weight * loss;
        __syncthreads();
    }
}

// One block.
KERNEL(lovasz_total)(const double* terms, i64 count, real* total) {
    __shared__ double shared[32];
    double sum = 0.0;
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) sum += terms[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) total[0] = (real)sum;
}
