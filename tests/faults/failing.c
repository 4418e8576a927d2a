/* Makes the n-th call that writes below a folder fail, and all later ones if asked to. Preloaded by inject.py; it counts calls of the C library, which is
 * where Python, PyTorch and GDAL alike go to write. Closing a file that was opened for writing counts: a disk on the network says only then that it is full. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int wanted = -1, number = 0, lasting = 0, seen = 0;
static char folder[PATH_MAX] = "", failed[PATH_MAX + 32] = "";

void fault_arm(const char *below, int nth, int error, int from_then_on) {
    strncpy(folder, below, sizeof folder - 1);
    wanted = nth, number = error, lasting = from_then_on, seen = 0, failed[0] = 0;
}

int fault_seen(void) { return seen; }

/* The first call that failed, and on what. */
const char *fault_failed(void) { return failed; }

static int due(const char *call, const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    seen++;
    if (lasting ? seen < wanted : seen != wanted) return 0;
    if (!failed[0]) snprintf(failed, sizeof failed, "%s of %s", call, path);
    errno = number;
    return 1;
}

static int due_name(const char *call, const char *path) {
    char full[PATH_MAX + 2];
    if (!folder[0] || !path) return 0;
    if (path[0] == '/') return due(call, path);
    if (!getcwd(full, PATH_MAX / 2)) return 0;
    strcat(full, "/");
    strncat(full, path, PATH_MAX / 2 - 2);
    return due(call, full);
}

static int due_fd(const char *call, int fd) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return due(call, path);
}

static int due_at(const char *call, int fd, const char *path) {
    return fd == AT_FDCWD || (path && path[0] == '/') ? due_name(call, path) : due_fd(call, fd);
}

static int for_writing(int fd) {
    int flags = folder[0] ? fcntl(fd, F_GETFL) : -1;
    return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define BY_FD(type, name, args, pass, ...) \
    type name args { REAL(type, name, __VA_ARGS__); return due_fd(#name, fd) ? -1 : real pass; }
#define BY_NAME(name, args, pass, path, ...) \
    int name args { REAL(int, name, __VA_ARGS__); return due_name(#name, path) ? -1 : real pass; }
#define BY_PLACE(name, args, pass, fd, path, ...) \
    int name args { REAL(int, name, __VA_ARGS__); return due_at(#name, fd, path) ? -1 : real pass; }

BY_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), int, const void *, size_t)
BY_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), int, const void *, size_t, off_t)
BY_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), int, const void *, size_t, off64_t)
BY_FD(ssize_t, writev, (int fd, const struct iovec *data, int count), (fd, data, count), int, const struct iovec *, int)
BY_FD(int, fsync, (int fd), (fd), int)
BY_FD(int, fdatasync, (int fd), (fd), int)
BY_FD(int, ftruncate, (int fd, off_t size), (fd, size), int, off_t)
BY_FD(int, ftruncate64, (int fd, off64_t size), (fd, size), int, off64_t)
BY_FD(int, fchmod, (int fd, mode_t mode), (fd, mode), int, mode_t)
BY_NAME(chmod, (const char *path, mode_t mode), (path, mode), path, const char *, mode_t)
BY_NAME(rename, (const char *from, const char *to), (from, to), to, const char *, const char *)
BY_PLACE(renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to, int, const char *, int, const char *)
BY_NAME(mkdir, (const char *path, mode_t mode), (path, mode), path, const char *, mode_t)
BY_NAME(unlink, (const char *path), (path), path, const char *)
BY_PLACE(unlinkat, (int at, const char *path, int flags), (at, path, flags), at, path, int, const char *, int)
BY_NAME(rmdir, (const char *path), (path), path, const char *)

/* Closed all the same: whoever is told that closing failed must not close again. */
int close(int fd) {
    REAL(int, close, int);
    int fails = for_writing(fd) && due_fd("close", fd), number_then = errno, result = real(fd);
    if (!fails) return result;
    errno = number_then;
    return -1;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if ((flags & (O_CREAT | O_TRUNC)) && due_name(#name, path)) return -1; \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(int, name, int, const char *, int, ...); \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        if ((flags & (O_CREAT | O_TRUNC)) && due_at(#name, at, path)) return -1; \
        return real(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        REAL(FILE *, name, const char *, const char *); \
        if (strchr(mode, 'w') && due_name(#name, path)) return NULL; \
        return real(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    return due_fd("fwrite", fileno(file)) ? 0 : real(data, size, count, file);
}

int fflush(FILE *file) {
    REAL(int, fflush, FILE *);
    return file && for_writing(fileno(file)) && due_fd("fflush", fileno(file)) ? EOF : real(file);
}

int fclose(FILE *file) {
    REAL(int, fclose, FILE *);
    int fails = for_writing(fileno(file)) && due_fd("fclose", fileno(file)), number_then = errno, result = real(file);
    if (!fails) return result;
    errno = number_then;
    return EOF;
}
