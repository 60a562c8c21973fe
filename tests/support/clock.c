/*
 * Shifts the clocks of a process, as LD_PRELOAD. The file $CLOCK_SHIFT has two numbers of nanoseconds:
 * for the wall clock and for the clocks that count from the start of the machine. A write to it has
 * effect at once. A thread that waits on a futex until a moment of a shifted clock, as Rust's `park_timeout`
 * does, waits until that moment of the true clock.
 *
 * It allocates nothing, because an allocator reads clocks while it starts: libfaketime does, and hangs
 * in programs that have jemalloc.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t *shift;

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("CLOCK_SHIFT");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *found = mmap(NULL, 2 * sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        shift = found;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    long done = syscall(SYS_clock_gettime, clock, time);
    if (done != 0 || shift == NULL)
        return done;
    int64_t by = 0;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        by = shift[0];
    if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW ||
        clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME)
        by = shift[1];
    int64_t ns = time->tv_nsec + by % SECOND + SECOND;
    time->tv_sec += by / SECOND + ns / SECOND - 1;
    time->tv_nsec = ns % SECOND;
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to != NULL)
        *to = now.tv_sec;
    return now.tv_sec;
}
