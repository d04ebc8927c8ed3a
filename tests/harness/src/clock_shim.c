/* LD_PRELOAD shim: adds an offset to the wall clock of one process, or to a moment at which it was
 * stopped; monotonic clocks stay true.
 *
 * The offset and that moment (0: the clock runs), 64-bit numbers of microseconds, lie in the file
 * that COORDINATOR_CLOCK_SHIM names; it is mapped, so whoever writes the file moves the clock at once. It calls the kernel directly,
 * because looking up the real function allocates, and the allocator asks for the time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t *offset_us; /* and behind it the moment */

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("COORDINATOR_CLOCK_SHIM");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) _exit(98);
    close(fd);
    offset_us = page;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    int rc = (int)syscall(SYS_clock_gettime, clock, t);
    if (rc != 0 || !offset_us || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return rc;
    int64_t us = __atomic_load_n(offset_us, __ATOMIC_RELAXED);
    int64_t stopped = __atomic_load_n(offset_us + 1, __ATOMIC_RELAXED);
    if (stopped) { t->tv_sec = stopped / 1000000; t->tv_nsec = stopped % 1000000 * 1000; }
    int64_t ns = t->tv_nsec + us % 1000000 * 1000;
    t->tv_sec += us / 1000000 + (ns < 0 ? -1 : ns >= 1000000000);
    t->tv_nsec = ns < 0 ? ns + 1000000000 : ns >= 1000000000 ? ns - 1000000000 : ns;
    return 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
    struct timespec t;
    (void)zone;
    int rc = clock_gettime(CLOCK_REALTIME, &t);
    if (rc == 0 && tv) { tv->tv_sec = t.tv_sec; tv->tv_usec = t.tv_nsec / 1000; }
    return rc;
}

time_t time(time_t *out) {
    struct timespec t;
    if (clock_gettime(CLOCK_REALTIME, &t) != 0) return (time_t)-1;
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
