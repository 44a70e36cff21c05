/* MPI's calls with types that are the same in every implementation. All are of MPI_COMM_WORLD, whose errors end
 * the job (MPI_ERRORS_ARE_FATAL, MPI's default): no call that fails returns. */
#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

/* 0 if MPI has begun and offers calls of several threads, one at a time; 1 if it was begun before; 2 if it offers
 * less than that. */
int candle_course_mpi_start(void) {
    int begun = 0, threads = MPI_THREAD_SINGLE;
    MPI_Initialized(&begun);
    if (begun) {
        return 1;
    }
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &threads);
    return threads < MPI_THREAD_SERIALIZED ? 2 : 0;
}

int candle_course_mpi_rank(void) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

int candle_course_mpi_size(void) {
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

void candle_course_mpi_sum_f32(float *values, int count) {
    MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

void candle_course_mpi_sum_f64(double *values, int count) {
    MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}

void candle_course_mpi_broadcast(uint8_t *bytes, int count, int root) {
    MPI_Bcast(bytes, count, MPI_BYTE, root, MPI_COMM_WORLD);
}

/* The number of every rank; `all` has room for as many as there are ranks. */
void candle_course_mpi_all_gather(uint64_t mine, uint64_t *all) {
    MPI_Allgather(&mine, 1, MPI_UINT64_T, all, 1, MPI_UINT64_T, MPI_COMM_WORLD);
}

/* The bytes of every rank: `counts[r]` of them of rank r, written from `all + starts[r]` on. This rank's are there
 * already. */
void candle_course_mpi_all_gather_bytes(uint8_t *all, const int *counts, const int *starts) {
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, all, counts, starts, MPI_BYTE, MPI_COMM_WORLD);
}

void candle_course_mpi_barrier(void) {
    MPI_Barrier(MPI_COMM_WORLD);
}

void candle_course_mpi_abort(int status) {
    MPI_Abort(MPI_COMM_WORLD, status);
}

void candle_course_mpi_end(void) {
    MPI_Finalize();
}
