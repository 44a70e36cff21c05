// Resizing of planes.

#include "common.cuh"

// Where the numbers of an axis come from and go to.
struct Axis {
    // For every output place: (1 − weight) · first + weight · second.
    const int* first;
    const int* second;
    const real* weight;
    // For every input place: the first and the last output place that touch it.
    const int* low;
    const int* high;
    int from, to;
};

KERNEL(upsample)(const real* x, i64 planes, Axis rows, Axis columns, real* y) {
    FOR_EACH(at, planes * rows.to * columns.to) {
        const i64 line = quotient(at, columns.to), plane = quotient(line, rows.to);
        const int i = (int)(line - plane * rows.to), j = (int)(at - line * columns.to);
        const real* from = x + plane * rows.from * columns.from;
        const real* first = from + (i64)rows.first[i] * columns.from;
        const real* second = from + (i64)rows.second[i] * columns.from;
        const real down = rows.weight[i], right = columns.weight[j];
        if (down == (real)0 && right == (real)0) {
            y[at] = first[columns.first[j]];
            continue;
        }
        y[at] = ((real)1 - down) * (((real)1 - right) * first[columns.first[j]] + right * first[columns.second[j]])
              + down * (((real)1 - right) * second[columns.first[j]] + right * second[columns.second[j]]);
    }
}

__device__ real share_of(const Axis& axis, int place, int r) {
    const real weight = axis.weight[place];
    return (axis.first[place] == r ? (real)1 - weight : (real)0) + (axis.second[place] == r ? weight : (real)0);
}

// Every input pixel gathers what its output pixels give back: no atomic additions, a fixed order.
KERNEL(upsample_backward)(const real* dy, i64 planes, Axis rows, Axis columns, real* dx) {
    FOR_EACH(at, planes * rows.from * columns.from) {
        const i64 line = quotient(at, columns.from), plane = quotient(line, rows.from);
        const int r = (int)(line - plane * rows.from), c = (int)(at - line * columns.from);
        const real* from = dy + plane * rows.to * columns.to;
        real sum = 0;
        for (int i = rows.low[r]; i <= rows.high[r]; i++) {
            const real by_row = share_of(rows, i, r);
            const real* numbers = from + (i64)i * columns.to;
            for (int j = columns.low[c]; j <= columns.high[c]; j++) {
                sum += by_row * share_of(columns, j, c) * numbers[j];
            }
        }
        dx[at] = sum;
    }
}
