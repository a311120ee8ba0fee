/* Lets opening or reading files fail whose path holds a given text, with a given error. Preloaded into a process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char text[256];
static volatile int open_error, read_error, passes;

void fail_files(const char *path, int opening, int reading, int first) {
    strncpy(text, path, sizeof text - 1);
    open_error = opening, read_error = reading, passes = first;
}

static int fails(const char *path, int error) {
    if (!error || !text[0] || !strstr(path, text)) return 0;
    if (__sync_fetch_and_sub(&passes, 1) > 0) return 0;
    errno = error;
    return 1;
}

static int fails_handle(int handle) {
    char link[64], path[4096];
    if (!read_error) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails(path, read_error);
}

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...) {                           \
        static int (*original)(const char *, int, ...);                    \
        va_list arguments;                                                 \
        va_start(arguments, flags);                                        \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, int) : 0; \
        va_end(arguments);                                                 \
        if (fails(path, open_error)) return -1;                            \
        if (!original) original = dlsym(RTLD_NEXT, #name);                 \
        return original(path, flags, mode);                                \
    }
OPEN(open)
OPEN(open64)

#define PREAD(name, offset_type)                                           \
    ssize_t name(int handle, void *buffer, size_t size, offset_type offset) { \
        static ssize_t (*original)(int, void *, size_t, offset_type);      \
        if (fails_handle(handle)) return -1;                               \
        if (!original) original = dlsym(RTLD_NEXT, #name);                 \
        return original(handle, buffer, size, offset);                     \
    }
PREAD(pread, off_t)
PREAD(pread64, off64_t)
