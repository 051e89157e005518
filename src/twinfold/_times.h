/* File times as numbers of nanoseconds, part of the modules that read or give them. */
#include <stdint.h>
#include <sys/stat.h>

#define NANOSECONDS INT64_C(1000000000)

/* As a number, or the nearest that there is: it ends in 1677 and in 2262. */
static int64_t nanoseconds(struct timespec time) {
    const int64_t last = INT64_MAX / NANOSECONDS, rest = INT64_MAX % NANOSECONDS;
    const int64_t left = NANOSECONDS - time.tv_nsec;
    if (time.tv_sec > last || (time.tv_sec == last && time.tv_nsec > rest))
        return INT64_MAX;
    if (time.tv_sec < -last - 1 || (time.tv_sec == -last - 1 && left > rest))
        return -INT64_MAX;
    if (time.tv_sec < 0)
        return ((int64_t)time.tv_sec + 1) * NANOSECONDS - left;
    return (int64_t)time.tv_sec * NANOSECONDS + time.tv_nsec;
}

#if defined(__APPLE__)
#define CHANGED st_ctimespec
#define MODIFIED st_mtimespec
#else
#define CHANGED st_ctim
#define MODIFIED st_mtim
#endif
