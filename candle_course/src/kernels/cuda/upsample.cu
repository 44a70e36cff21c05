// Resizing of planes, nearest (mode 0), bilinear (1) and bilinear with aligned corners (2).

#include "common.cuh"

// One output row or column as a mix of two input ones: (1 − weight) · first + weight · second.
struct Tap {
    i64 first, second;
    double weight;
};

__device__ Tap tap(int mode, i64 from, i64 to, i64 i) {
    Tap t;
    if (mode == 0) {
        const i64 place = quotient(i * from, to);
        t.first = t.second = place < from ? place : from - 1;
        t.weight = 0.0;
        return t;
    }
    double place;
    if (mode == 2) {
        place = to == 1 ? 0.0 : (double)i * (double)(from - 1) / (double)(to - 1);
    } else {
        place = ((double)i + 0.5) * (double)from / (double)to - 0.5;
        if (place < 0.0) place = 0.0;
    }
    const i64 below = (i64)place;
    t.first = below < from - 1 ? below : from - 1;
    t.second = t.first + 1 < from ? t.first + 1 : from - 1;
    t.weight = place - (double)t.first;
    return t;
}

KERNEL(upsample)(const real* x, i64 planes, i64 height, i64 width, i64 out_height, i64 out_width, int mode, real* y) {
    FOR_EACH(at, planes * out_height * out_width) {
        const i64 line = quotient(at, out_width), plane = quotient(line, out_height);
        const Tap row = tap(mode, height, out_height, line - plane * out_height);
        const Tap column = tap(mode, width, out_width, at - line * out_width);
        const real* from = x + plane * height * width;
        if (row.weight == 0.0 && column.weight == 0.0) {
            y[at] = from[row.first * width + column.first];
            continue;
        }
        const real* first = from + row.first * width;
        const real* second = from + row.second * width;
        y[at] = (real)((1.0 - row.weight) * (1.0 - column.weight)) * first[column.first]
              + (real)((1.0 - row.weight) * column.weight) * first[column.second]
              + (real)(row.weight * (1.0 - column.weight)) * second[column.first]
              + (real)(row.weight * column.weight) * second[column.second];
    }
}

// The first and last output place that may touch input place r.
__device__ void reach(int mode, i64 from, i64 to, i64 r, i64* low, i64* high) {
    double scale, shift;
    if (mode == 0) {
        *low = r * to / from - 1;
        *high = (r + 1) * to / from + 1;
    } else {
        if (mode == 2) {
            scale = from > 1 ? (double)(to - 1) / (double)(from - 1) : 0.0;
            shift = 0.0;
        } else {
            scale = (double)to / (double)from;
            shift = 0.5;
        }
        *low = (i64)(((double)(r - 1) + shift) * scale - shift) - 1;
        *high = (i64)(((double)(r + 1) + shift) * scale - shift) + 2;
    }
    // What lies beyond the borders is pulled to them.
    if (*low < 0 || r == 0) *low = 0;
    if (*high > to - 1 || r == from - 1) *high = to - 1;
}

__device__ double share_of(const Tap& t, i64 r) {
    return (t.first == r ? 1.0 - t.weight : 0.0) + (t.second == r ? t.weight : 0.0);
}

// Every input pixel gathers what its output pixels give back: no atomic additions, a fixed order.
KERNEL(upsample_backward)(const real* dy, i64 planes, i64 height, i64 width, i64 out_height, i64 out_width, int mode,
                          real* dx) {
    FOR_EACH(at, planes * height * width) {
        const i64 line = quotient(at, width), plane = quotient(line, height);
        const i64 r = line - plane * height, c = at - line * width;
        i64 top, bottom, left, right;
        reach(mode, height, out_height, r, &top, &bottom);
        reach(mode, width, out_width, c, &left, &right);
        const real* from = dy + plane * out_height * out_width;
        real sum = 0;
        for (i64 i = top; i <= bottom; i++) {
            const double by_row = share_of(tap(mode, height, out_height, i), r);
            if (by_row == 0.0) continue;
            for (i64 j = left; j <= right; j++) {
                const double by_column = share_of(tap(mode, width, out_width, j), c);
                if (by_column != 0.0) sum += (real)(by_row * by_column) * from[i * out_width + j];
            }
        }
        dx[at] = sum;
    }
}
