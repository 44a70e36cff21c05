#include "common.cuh"

// The windows along one axis. Sliding ones have a kernel size, a stride and a padding; adaptive
// ones (kernel 0) divide the input as evenly as whole numbers allow.
struct Axis {
    int input, output, kernel, stride, padding, count_padding;
};

__device__ __forceinline__ int window_begin(Axis a, int i) {
    if (a.kernel == 0) return (int)((i64)i * a.input / a.output);
    int begin = i * a.stride - a.padding;
    return begin > 0 ? begin : 0;
}

__device__ __forceinline__ int window_end(Axis a, int i) {
    if (a.kernel == 0) return (int)(((i64)(i + 1) * a.input + a.output - 1) / a.output);
    int end = i * a.stride - a.padding + a.kernel;
    return end < a.input ? end : a.input;
}

// What an average's sum is divided by, along this axis.
__device__ __forceinline__ int window_count(Axis a, int i) {
    if (a.kernel == 0 || !a.count_padding) return window_end(a, i) - window_begin(a, i);
    // In ceil mode a window may reach beyond even the padding; that part never counts.
    int end = i * a.stride + a.kernel, most = a.input + 2 * a.padding;
    return (end < most ? end : most) - i * a.stride;
}

// The first and the last window that cover place `at`; none if the first is behind the last.
__device__ __forceinline__ int first_window(Axis a, int at) {
    if (a.kernel == 0) return (int)((i64)at * a.output / a.input);
    int reach = at + a.padding - a.kernel + 1;
    return reach > 0 ? (reach + a.stride - 1) / a.stride : 0;
}

__device__ __forceinline__ int last_window(Axis a, int at) {
    int last = a.kernel == 0 ? (int)(((i64)(at + 1) * a.output - 1) / a.input) : (at + a.padding) / a.stride;
    return last < a.output - 1 ? last : a.output - 1;
}

// The largest number of every window and its place in the plane: the first of equals, NaN above all.
KERNEL(max_pool)(const real* x, real* y, int* places, i64 count, Axis rows, Axis columns) {
    i64 out_plane = (i64)rows.output * columns.output, in_plane = (i64)rows.input * columns.input;
    FOR_EACH(i, count) {
        i64 plane = quotient(i, out_plane);
        int pixel = (int)(i - plane * out_plane);
        int row = pixel / columns.output, column = pixel - row * columns.output;
        const real* image = x + plane * in_plane;
        int left = window_begin(columns, column), right = window_end(columns, column);
        int bottom = window_end(rows, row);
        int place = window_begin(rows, row) * columns.input + left;
        real largest = image[place];
        for (int r = window_begin(rows, row); r < bottom; r++) {
            for (int c = left; c < right; c++) {
                real candidate = image[r * columns.input + c];
                if (candidate > largest || candidate != candidate) {
                    largest = candidate;
                    place = r * columns.input + c;
                }
            }
        }
        y[i] = largest;
        if (places) places[i] = place;
    }
}

// Every input number gathers the gradients of the windows that it is the largest of.
KERNEL(max_pool_backward)(const real* dy, const int* places, real* dx, i64 count, Axis rows, Axis columns) {
    i64 out_plane = (i64)rows.output * columns.output, in_plane = (i64)rows.input * columns.input;
    FOR_EACH(i, count) {
        i64 plane = quotient(i, in_plane);
        int pixel = (int)(i - plane * in_plane);
        int row = pixel / columns.input, column = pixel - row * columns.input;
        int first = first_window(columns, column), last = last_window(columns, column);
        int bottom = last_window(rows, row);
        real sum = 0;
        for (int r = first_window(rows, row); r <= bottom; r++) {
            for (int c = first; c <= last; c++) {
                i64 window = plane * out_plane + r * columns.output + c;
                if (places[window] == pixel) sum += dy[window];
            }
        }
        dx[i] = sum;
    }
}

// The mean of every window, one thread each.
KERNEL(average_pool)(const real* x, real* y, i64 count, Axis rows, Axis columns) {
    i64 out_plane = (i64)rows.output * columns.output, in_plane = (i64)rows.input * columns.input;
    FOR_EACH(i, count) {
        i64 plane = quotient(i, out_plane);
        int pixel = (int)(i - plane * out_plane);
        int row = pixel / columns.output, column = pixel - row * columns.output;
        const real* image = x + plane * in_plane;
        int left = window_begin(columns, column), right = window_end(columns, column);
        int bottom = window_end(rows, row);
        real sum = 0;
        for (int r = window_begin(rows, row); r < bottom; r++) {
            for (int c = left; c < right; c++) sum += image[r * columns.input + c];
        }
        y[i] = sum / (real)((i64)window_count(rows, row) * window_count(columns, column));
    }
}

// The same for large windows, a warp each.
KERNEL(average_pool_wide)(const real* x, real* y, i64 count, Axis rows, Axis columns) {
    i64 out_plane = (i64)rows.output * columns.output, in_plane = (i64)rows.input * columns.input;
    int lane = threadIdx.x & 31;
    i64 warps = (i64)gridDim.x * (blockDim.x >> 5);
    for (i64 i = (i64)blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5); i < count; i += warps) {
        i64 plane = quotient(i, out_plane);
        int pixel = (int)(i - plane * out_plane);
        int row = pixel / columns.output, column = pixel - row * columns.output;
        const real* image = x + plane * in_plane;
        int left = window_begin(columns, column), width = window_end(columns, column) - left;
        int top = window_begin(rows, row), height = window_end(rows, row) - top;
        real sum = 0;
        for (int k = lane; k < width * height; k += 32) {
            int r = k / width;
            sum += image[(top + r) * columns.input + left + k - r * width];
        }
        sum = warp_sum(sum);
        if (lane == 0) y[i] = sum / (real)((i64)window_count(rows, row) * window_count(columns, column));
    }
}

// Every input number gathers its share of the gradients of the windows over it.
KERNEL(average_pool_backward)(const real* dy, real* dx, i64 count, Axis rows, Axis columns) {
    i64 out_plane = (i64)rows.output * columns.output, in_plane = (i64)rows.input * columns.input;
    FOR_EACH(i, count) {
        i64 plane = quotient(i, in_plane);
        int pixel = (int)(i - plane * in_plane);
        int row = pixel / columns.input, column = pixel - row * columns.input;
        int first = first_window(columns, column), last = last_window(columns, column);
        int bottom = last_window(rows, row);
        real sum = 0;
        for (int r = first_window(rows, row); r <= bottom; r++) {
            int height = window_count(rows, r);
            for (int c = first; c <= last; c++) {
                real share = (real)((i64)height * window_count(columns, c));
                sum += dy[plane * out_plane + r * columns.output + c] / share;
            }
        }
        dx[i] = sum;
    }
}
