/* Storage that answers late: every call below a root waits a given time first. For LD_PRELOAD, on Linux.

   DELAY_ROOT  an absolute path; calls on it and on what is below it wait
   DELAY_US    microseconds that each of them waits

   Waiting are: opening a file or a directory, reading and writing (read, readv, pread, preadv, write, writev, pwrite,
   copy_file_range, sendfile), asking for a path's status, making a directory, and listing one, once for every LISTED
   names. Not waiting are fstat and close: a network file system answers them from what opening brought along.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HANDLES 65536
#define LISTED 128

static unsigned char is_slow[HANDLES]; /* descriptors that were opened below the root */
static const char *root;
static size_t root_length;
static struct timespec delay;

__attribute__((constructor)) static void begin(void) {
    const char *micros = getenv("DELAY_US");
    root = getenv("DELAY_ROOT");
    root_length = root ? strlen(root) : 0;
    long us = micros ? atol(micros) : 0;
    if (us <= 0) root_length = 0;
    delay.tv_sec = us / 1000000;
    delay.tv_nsec = us % 1000000 * 1000;
}

static void wait_once(void) {
    static __thread int is_exact;
    if (!is_exact) { /* the system rounds a thread's sleep up by 50 us otherwise */
        prctl(PR_SET_TIMERSLACK, 1000);
        is_exact = 1;
    }
    int before = errno;
    struct timespec left = delay;
    while (nanosleep(&left, &left) && errno == EINTR) {}
    errno = before;
}

static int below(int directory, const char *path) {
    if (!root_length || !path) return 0;
    if (path[0] != '/') return directory >= 0 && directory < HANDLES && is_slow[directory];
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int slow(int handle) {
    return handle >= 0 && handle < HANDLES && is_slow[handle];
}

static int opened(int handle, int was_below) {
    if (handle >= 0 && handle < HANDLES) is_slow[handle] = (unsigned char)was_below;
    return handle;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int), is_below = below(-1, path); \
        va_end(rest); \
        if (is_below) wait_once(); \
        return opened(real(path, flags, mode), is_below); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        int mode = va_arg(rest, int), is_below = below(directory, path); \
        va_end(rest); \
        if (is_below) wait_once(); \
        return opened(real(directory, path, flags, mode), is_below); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, name, const char *, const char *); \
        int is_below = below(-1, path); \
        if (is_below) wait_once(); \
        FILE *file = real(path, mode); \
        if (file) opened(fileno(file), is_below); \
        return file; \
    }
FOPEN(fopen)
FOPEN(fopen64)

int close(int handle) {
    REAL(int, close, int);
    if (handle >= 0 && handle < HANDLES) is_slow[handle] = 0;
    return real(handle);
}

#define TRANSFER(name, declared, ...) \
    ssize_t name declared { \
        REAL(ssize_t, name, SIGNATURE); \
        if (slow(handle)) wait_once(); \
        return real(__VA_ARGS__); \
    }
#define SIGNATURE int, void *, size_t
TRANSFER(read, (int handle, void *data, size_t size), handle, data, size)
#undef SIGNATURE
#define SIGNATURE int, const struct iovec *, int
TRANSFER(readv, (int handle, const struct iovec *pieces, int count), handle, pieces, count)
#undef SIGNATURE
#define SIGNATURE int, void *, size_t, off_t
TRANSFER(pread, (int handle, void *data, size_t size, off_t at), handle, data, size, at)
#undef SIGNATURE
#define SIGNATURE int, void *, size_t, off64_t
TRANSFER(pread64, (int handle, void *data, size_t size, off64_t at), handle, data, size, at)
#undef SIGNATURE
#define SIGNATURE int, const struct iovec *, int, off_t
TRANSFER(preadv, (int handle, const struct iovec *pieces, int count, off_t at), handle, pieces, count, at)
#undef SIGNATURE
#define SIGNATURE int, const struct iovec *, int, off64_t
TRANSFER(preadv64, (int handle, const struct iovec *pieces, int count, off64_t at), handle, pieces, count, at)
#undef SIGNATURE

#define SIGNATURE int, const struct iovec *, int, off_t, int
TRANSFER(preadv2, (int handle, const struct iovec *pieces, int count, off_t at, int flags), handle, pieces, count, at,
         flags)
#undef SIGNATURE
#define SIGNATURE int, const struct iovec *, int, off64_t, int
TRANSFER(preadv64v2, (int handle, const struct iovec *pieces, int count, off64_t at, int flags), handle, pieces, count,
         at, flags)
#undef SIGNATURE
#define SIGNATURE int, off64_t *, int, off64_t *, size_t, unsigned int
TRANSFER(copy_file_range, (int handle, off64_t *from, int out, off64_t *to, size_t size, unsigned int flags), handle, from,
     out, to, size, flags)
#undef SIGNATURE
ssize_t sendfile(int out, int handle, off_t *from, size_t size) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    if (slow(handle)) wait_once();
    return real(out, handle, from, size);
}
ssize_t sendfile64(int out, int handle, off64_t *from, size_t size) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    if (slow(handle)) wait_once();
    return real(out, handle, from, size);
}

#define SIGNATURE int, const void *, size_t
TRANSFER(write, (int handle, const void *data, size_t size), handle, data, size)
#undef SIGNATURE
#define SIGNATURE int, const struct iovec *, int
TRANSFER(writev, (int handle, const struct iovec *pieces, int count), handle, pieces, count)
#undef SIGNATURE
#define SIGNATURE int, const void *, size_t, off_t
TRANSFER(pwrite, (int handle, const void *data, size_t size, off_t at), handle, data, size, at)
#undef SIGNATURE
#define SIGNATURE int, const void *, size_t, off64_t
TRANSFER(pwrite64, (int handle, const void *data, size_t size, off64_t at), handle, data, size, at)
#undef SIGNATURE

int mkdirat(int directory, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    if (below(directory, path)) wait_once();
    return real(directory, path, mode);
}

#define STAT(name, type) \
    int name(const char *path, struct type *status) { \
        REAL(int, name, const char *, struct type *); \
        if (below(-1, path)) wait_once(); \
        return real(path, status); \
    }
STAT(stat, stat)
STAT(lstat, stat)
STAT(stat64, stat64)
STAT(lstat64, stat64)

#define STATAT(name, type) \
    int name(int directory, const char *path, struct type *status, int flags) { \
        REAL(int, name, int, const char *, struct type *, int); \
        if (path[0] && below(directory, path)) wait_once(); \
        return real(directory, path, status, flags); \
    }
STATAT(fstatat, stat)
STATAT(fstatat64, stat64)

int statx(int directory, const char *path, int flags, unsigned int mask, struct statx *status) {
    REAL(int, statx, int, const char *, int, unsigned int, struct statx *);
    if (path[0] && below(directory, path)) wait_once();
    return real(directory, path, flags, mask, status);
}

DIR *opendir(const char *path) {
    REAL(DIR *, opendir, const char *);
    int is_below = below(-1, path);
    if (is_below) wait_once();
    DIR *listing = real(path);
    if (listing) opened(dirfd(listing), is_below);
    return listing;
}

#define READDIR(name, type) \
    struct type *name(DIR *listing) { \
        REAL(struct type *, name, DIR *); \
        static __thread DIR *last; \
        static __thread unsigned int count; \
        if (listing != last) { \
            last = listing; \
            count = 0; \
        } \
        if (slow(dirfd(listing)) && count++ % LISTED == 0) wait_once(); \
        return real(listing); \
    }
READDIR(readdir, dirent)
READDIR(readdir64, dirent64)

int closedir(DIR *listing) {
    REAL(int, closedir, DIR *);
    int handle = dirfd(listing);
    if (handle >= 0 && handle < HANDLES) is_slow[handle] = 0;
    return real(listing);
}
