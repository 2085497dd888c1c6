/* Preloaded into a gateway or a PostgreSQL: fsync that fails once, and a clock that is told where it stands.
 *
 * FAULTS_FSYNC  a file; while it exists and holds a piece of a path, the next fsync or fdatasync of a file whose path has
 *               that piece fails with EIO, and the file is removed.
 * FAULTS_CLOCK  a file of 8 bytes, a signed number of microseconds that is added to the time of day. Monotonic clocks are
 *               left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *shift;
static volatile int64_t none = 0;

__attribute__((constructor)) static void begin(void) {
    shift = &none;
    const char *name = getenv("FAULTS_CLOCK");
    if (!name) return;
    int file = open(name, O_RDONLY);
    if (file < 0) return;
    void *place = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    if (place != MAP_FAILED) shift = place;
    close(file);
}

static int fails(int descriptor) {
    const char *name = getenv("FAULTS_FSYNC");
    if (!name) return 0;
    FILE *told = fopen(name, "r");
    if (!told) return 0;
    char piece[512] = "", link[64], path[1024];
    int some = fgets(piece, sizeof piece, told) != NULL;
    fclose(told);
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!some || length < 0) return 0;
    path[length] = 0;
    piece[strcspn(piece, "\n")] = 0;
    return strstr(path, piece) != NULL && unlink(name) == 0;
}

int fsync(int descriptor) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    if (fails(descriptor)) { errno = EIO; return -1; }
    return real(descriptor);
}

int fdatasync(int descriptor) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (fails(descriptor)) { errno = EIO; return -1; }
    return real(descriptor);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t sum = (int64_t)now->tv_nsec + (*shift % 1000000) * 1000;
        now->tv_sec += *shift / 1000000 + sum / 1000000000;
        now->tv_nsec = sum % 1000000000;
        if (now->tv_nsec < 0) { now->tv_nsec += 1000000000; now->tv_sec -= 1; }
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &precise);
    if (result == 0 && now) { now->tv_sec = precise.tv_sec; now->tv_usec = precise.tv_nsec / 1000; }
    return result;
}

time_t time(time_t *place) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (place) *place = precise.tv_sec;
    return precise.tv_sec;
}
