/* Many small files with one call: the compiled half of twinfold.system.bulk.
 *
 * Whatever is asked for is first taken out of the Python objects; then all
 * system calls run without the GIL, so that the other threads go on. Each
 * function stops at the first file that the system refuses, and tells how
 * far it came and why it stopped.
 */
#define PY_SSIZE_T_CLEAN
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <Python.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#define NANOSECONDS INT64_C(1000000000)
#define HOLE_BYTES 32768

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

static struct timespec time_of(long long nanoseconds) {
    long long seconds = nanoseconds / NANOSECONDS, rest = nanoseconds % NANOSECONDS;
    if (rest < 0) {
        rest += NANOSECONDS;
        seconds -= 1;
    }
    return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)rest};
}

#if defined(__APPLE__)
#define CHANGED st_ctimespec
#define MODIFIED st_mtimespec
#else
#define CHANGED st_ctim
#define MODIFIED st_mtim
#endif

/* ---- identities --------------------------------------------------------- */

typedef struct {
    uint64_t inode;
    int64_t ctime_ns;
} file_identity;

static file_identity identity_of(const struct stat *status) {
    return (file_identity){(uint64_t)status->st_ino, nanoseconds(status->CHANGED)};
}

static PyObject *identities_and(const file_identity *files, Py_ssize_t count, int reason) {
    PyObject *list = PyList_New(count);
    for (Py_ssize_t i = 0; list != NULL && i < count; i++) {
        PyObject *identity = Py_BuildValue("(KL)", (unsigned long long)files[i].inode,
                                           (long long)files[i].ctime_ns);
        if (identity == NULL || PyList_SetItem(list, i, identity) < 0)
            Py_CLEAR(list);
    }
    return list == NULL ? NULL : Py_BuildValue("(Ni)", list, reason);
}

/* ---- creating ---------------------------------------------------------- */

typedef struct {
    const char *name;
    unsigned int mode;
    long long mtime_ns;
    Py_ssize_t first_part;
    Py_ssize_t part_count;
} new_file;

static int write_all(int fd, const char *data, size_t left) {
    while (left > 0) {
        ssize_t written = write(fd, data, left);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return -1;
        }
        data += written;
        left -= (size_t)written;
    }
    return 0;
}

static int is_hole(const char *data, size_t size) {
    return size >= HOLE_BYTES && data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

static int write_parts(int fd, const Py_buffer *parts, Py_ssize_t count) {
    int ends_with_hole = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *data = parts[i].buf;
        const size_t size = (size_t)parts[i].len;
        if (size == 0)
            continue;
        ends_with_hole = is_hole(data, size);
        if (ends_with_hole) {
            if (lseek(fd, (off_t)size, SEEK_CUR) < 0)
                return -1;
        } else if (write_all(fd, data, size) < 0)
            return -1;
    }
    return ends_with_hole ? ftruncate(fd, lseek(fd, 0, SEEK_CUR)) : 0;
}

static int fill(int fd, const new_file *file, const Py_buffer *parts, file_identity *identity) {
    if (write_parts(fd, &parts[file->first_part], file->part_count) < 0)
        return -1;
    struct timespec times[2] = {time_of(file->mtime_ns), time_of(file->mtime_ns)};
    struct stat status;
    if (futimens(fd, times) < 0 || fstat(fd, &status) < 0)
        return -1;
    *identity = identity_of(&status);
    return 0;
}

/* Create one file; what could not be made whole is taken away again. */
static int create_one(int directory, const new_file *file, const Py_buffer *parts,
                      file_identity *identity) {
    const int flags = O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC;
    int fd;
    do
        fd = openat(directory, file->name, flags, (mode_t)file->mode);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return -1;
    int failed = fill(fd, file, parts, identity), reason = errno;
    if (close(fd) < 0 && !failed && errno != EINTR) {
        failed = -1;
        reason = errno;
    }
    if (failed) {
        unlinkat(directory, file->name, 0);
        errno = reason;
    }
    return failed;
}

static Py_ssize_t create_all(int directory, const new_file *files, Py_ssize_t count,
                             const Py_buffer *parts, file_identity *identities, int *reason) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if (create_one(directory, &files[i], parts, &identities[i]) < 0) {
            *reason = errno;
            return i;
        }
    }
    return count;
}

static Py_ssize_t count_parts(PyObject *files) {
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(files); i++) {
        PyObject *parts;
        const char *name;
        unsigned int mode;
        long long mtime_ns;
        PyObject *file = PyTuple_GetItem(files, i);
        if (!PyTuple_Check(file)) {
            PyErr_SetString(PyExc_TypeError, "each file is a tuple");
            return -1;
        }
        if (!PyArg_ParseTuple(file, "yILO!", &name, &mode, &mtime_ns, &PyTuple_Type, &parts))
            return -1;
        total += PyTuple_Size(parts);
    }
    return total;
}

/* Take one file's data out of its tuple; returns how many buffers are held then. */
static Py_ssize_t read_file_tuple(PyObject *tuple, new_file *file, Py_buffer *buffers,
                                  Py_ssize_t held) {
    PyObject *parts;
    file->first_part = held;
    file->part_count = 0;
    if (!PyArg_ParseTuple(tuple, "yILO!", &file->name, &file->mode, &file->mtime_ns, &PyTuple_Type,
                          &parts))
        return held;
    for (Py_ssize_t i = 0; i < PyTuple_Size(parts); i++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(parts, i), &buffers[held], PyBUF_SIMPLE) < 0)
            return held;
        held++;
        file->part_count++;
    }
    return held;
}

static PyObject *create_in(int directory, PyObject *tuples) {
    const Py_ssize_t count = PyTuple_Size(tuples), part_count = count_parts(tuples);
    if (part_count < 0)
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t held = 0, done = 0;
    int reason = 0;
    new_file *files = PyMem_Calloc((size_t)count + 1, sizeof *files);
    Py_buffer *parts = PyMem_Calloc((size_t)part_count + 1, sizeof *parts);
    file_identity *identities = PyMem_Calloc((size_t)count + 1, sizeof *identities);
    if (files == NULL || parts == NULL || identities == NULL) {
        PyErr_NoMemory();
        goto end;
    }
    for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++)
        held = read_file_tuple(PyTuple_GetItem(tuples, i), &files[i], parts, held);
    if (PyErr_Occurred())
        goto end;
    Py_BEGIN_ALLOW_THREADS
    done = create_all(directory, files, count, parts, identities, &reason);
    Py_END_ALLOW_THREADS
    result = identities_and(identities, done, reason);
end:
    for (Py_ssize_t i = 0; i < held; i++)
        PyBuffer_Release(&parts[i]);
    PyMem_Free(identities);
    PyMem_Free(parts);
    PyMem_Free(files);
    return result;
}

PyDoc_STRVAR(create_files_doc,
             "create_files(directory_fd, files)\n--\n\n"
             "Create files of (name, mode, mtime_ns, parts); return (inode, ctime_ns) of each, and\n"
             "the error number that hindered the next one, or 0.");

static PyObject *create_files(PyObject *module, PyObject *arguments) {
    (void)module;
    int directory;
    PyObject *files;
    if (!PyArg_ParseTuple(arguments, "iO:create_files", &directory, &files))
        return NULL;
    PyObject *tuples = PySequence_Tuple(files);
    if (tuples == NULL)
        return NULL;
    PyObject *result = create_in(directory, tuples);
    Py_DECREF(tuples);
    return result;
}

/* ---- steps -------------------------------------------------------------- */

/* The numbers of twinfold.system.bulk. */
enum { MOVE = 0, REPLACE = 1, KEEP = 2, ADJUST = 3 };

/* One step with a file: its name, another one that it gets, and attributes. */
typedef struct {
    int action;
    int source_fd, target_fd;
    const char *source, *target;
    unsigned int mode;
    long long mtime_ns;
} file_step;

static int rename_new(const file_step *step) {
#if defined(__linux__) && defined(SYS_renameat2)
    const unsigned int no_replace = 1;
    return (int)syscall(SYS_renameat2, step->source_fd, step->source, step->target_fd, step->target,
                        no_replace);
#elif defined(__APPLE__)
    return renameatx_np(step->source_fd, step->source, step->target_fd, step->target, RENAME_EXCL);
#else
    (void)step;
    errno = ENOSYS;
    return -1;
#endif
}

/* Bits and time of an open file that may not be read or written, by what /proc calls it. */
static int adjust_opened(int fd, const file_step *step, struct stat *status) {
    const unsigned int bits = 07777;
    char itself[32];
    struct timespec times[2] = {time_of(step->mtime_ns), time_of(step->mtime_ns)};
    if (fstat(fd, status) < 0)
        return -1;
    if (!S_ISREG(status->st_mode)) {
        errno = EINVAL;
        return -1;
    }
    snprintf(itself, sizeof itself, "/proc/self/fd/%d", fd);
    if ((status->st_mode & bits) != step->mode && chmod(itself, (mode_t)step->mode) < 0)
        return -1;
    if (utimensat(AT_FDCWD, itself, times, 0) < 0)
        return -1;
    return fstat(fd, status);
}

static int adjust(const file_step *step, struct stat *status) {
#if defined(__linux__) && defined(O_PATH)
    const int fd = openat(step->source_fd, step->source, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    const int failed = adjust_opened(fd, step, status), reason = errno;
    close(fd);
    errno = reason;
    return failed;
#else
    (void)adjust_opened;
    errno = ENOSYS;
    return -1;
#endif
}

static int take_step(const file_step *step, file_identity *identity) {
    struct stat status;
    int failed;
    if (step->action == KEEP)
        return linkat(step->source_fd, step->source, step->target_fd, step->target, 0);
    if (step->action == ADJUST) {
        failed = adjust(step, &status);
    } else {
        failed = step->action == MOVE
                     ? rename_new(step)
                     : renameat(step->source_fd, step->source, step->target_fd, step->target);
        if (!failed)
            failed = fstatat(step->target_fd, step->target, &status, AT_SYMLINK_NOFOLLOW);
    }
    if (!failed)
        *identity = identity_of(&status);
    return failed;
}

static Py_ssize_t take_all(const file_step *steps, Py_ssize_t count, file_identity *identities,
                           int *reason) {
    for (Py_ssize_t i = 0; i < count; i++) {
        if (take_step(&steps[i], &identities[i]) < 0) {
            *reason = errno;
            return i;
        }
    }
    return count;
}

static int read_step_tuple(PyObject *tuple, file_step *step) {
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "each step is a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(tuple, "iiyiyIL", &step->action, &step->source_fd, &step->source,
                          &step->target_fd, &step->target, &step->mode, &step->mtime_ns))
        return -1;
    if (step->action < MOVE || step->action > ADJUST) {
        PyErr_SetString(PyExc_ValueError, "no such action");
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(take_steps_doc,
             "take_steps(steps)\n--\n\n"
             "Move, replace, keep or adjust files, each by (action, source_fd, source, target_fd,\n"
             "target, mode, mtime_ns); return (inode, ctime_ns) of each, and the error number that\n"
             "hindered the next one, or 0.");

static PyObject *take_steps(PyObject *module, PyObject *argument) {
    (void)module;
    PyObject *result = NULL, *tuples = PySequence_Tuple(argument);
    if (tuples == NULL)
        return NULL;
    const Py_ssize_t count = PyTuple_Size(tuples);
    Py_ssize_t done = 0;
    int reason = 0;
    file_step *steps = PyMem_Calloc((size_t)count + 1, sizeof *steps);
    file_identity *identities = PyMem_Calloc((size_t)count + 1, sizeof *identities);
    if (steps == NULL || identities == NULL) {
        PyErr_NoMemory();
        goto end;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (read_step_tuple(PyTuple_GetItem(tuples, i), &steps[i]) < 0)
            goto end;
    }
    Py_BEGIN_ALLOW_THREADS
    done = take_all(steps, count, identities, &reason);
    Py_END_ALLOW_THREADS
    result = identities_and(identities, done, reason);
end:
    PyMem_Free(identities);
    PyMem_Free(steps);
    Py_DECREF(tuples);
    return result;
}

/* ---- reading ------------------------------------------------------------ */

typedef struct {
    const char *name;
    unsigned int mode;
    long long size, mtime_ns, ctime_ns, device, inode;
    char *data;
    int fd;
    int is_read;
} wanted_file;

static int is_unchanged(const wanted_file *file) {
    struct stat status;
    if (fstat(file->fd, &status) < 0)
        return 0;
    return S_ISREG(status.st_mode) && (status.st_mode & 0777) == file->mode &&
           (long long)status.st_size == file->size &&
           nanoseconds(status.MODIFIED) == file->mtime_ns &&
           nanoseconds(status.CHANGED) == file->ctime_ns &&
           (uint64_t)status.st_dev == (uint64_t)file->device &&
           (uint64_t)status.st_ino == (uint64_t)file->inode;
}

static int open_quietly(int directory, const char *name) {
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
#if defined(O_NOATIME)
    const int fd = openat(directory, name, flags | O_NOATIME);
    if (fd >= 0 || errno != EPERM)
        return fd;
#endif
    return openat(directory, name, flags);
}

/* With `is_hasty`, only what is in memory already: fails where the disk had to be waited for. */
static ssize_t read_some(int fd, char *data, size_t size, long long offset, int is_hasty) {
    if (!is_hasty)
        return pread(fd, data, size, (off_t)offset);
#if defined(RWF_NOWAIT)
    const struct iovec part = {.iov_base = data, .iov_len = size};
    return preadv2(fd, &part, 1, (off_t)offset, RWF_NOWAIT);
#else
    errno = EAGAIN;
    return -1;
#endif
}

static int read_all(const wanted_file *file, int is_hasty) {
    long long done = 0;
    while (done < file->size) {
        const size_t left = (size_t)(file->size - done);
        const ssize_t count = read_some(file->fd, file->data + done, left, done, is_hasty);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return 0;
        done += count;
    }
    return 1;
}

static void ask_for(const wanted_file *file) {
#if defined(POSIX_FADV_WILLNEED)
    if (file->fd >= 0 && file->size > 0)
        posix_fadvise(file->fd, 0, 0, POSIX_FADV_WILLNEED);
#else
    (void)file;
#endif
}

/* As soon as one file is not in memory, the system is asked for all others at once; then each is
 * probably there when its turn comes. Returns whether that was so. */
static int read_wanted(int directory, wanted_file *files, Py_ssize_t count) {
    int has_waited = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        files[i].fd = open_quietly(directory, files[i].name);
        if (files[i].data == NULL)
            ask_for(&files[i]);
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        wanted_file *file = &files[i];
        if (file->fd < 0)
            continue;
        if (file->data != NULL && is_unchanged(file)) {
            int is_there = !has_waited && read_all(file, 1);
            for (Py_ssize_t j = i; !is_there && !has_waited && j < count; j++)
                ask_for(&files[j]);
            has_waited |= !is_there;
            is_there = is_there || read_all(file, 0);
            file->is_read = is_there && is_unchanged(file);
        }
        close(file->fd);
    }
    return has_waited;
}

static PyObject *read_in(int directory, PyObject *tuples, long long limit) {
    const Py_ssize_t count = PyTuple_Size(tuples);
    int has_waited = 0;
    PyObject *contents = PyList_New(0);
    wanted_file *files = PyMem_Calloc((size_t)count + 1, sizeof *files);
    if (contents == NULL || files == NULL) {
        PyErr_NoMemory();
        goto failed;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        wanted_file *file = &files[i];
        PyObject *tuple = PyTuple_GetItem(tuples, i);
        if (!PyTuple_Check(tuple)) {
            PyErr_SetString(PyExc_TypeError, "each file is a tuple");
            goto failed;
        }
        int kind;
        if (!PyArg_ParseTuple(tuple, "yiILLLLL", &file->name, &kind, &file->mode, &file->size,
                              &file->mtime_ns, &file->ctime_ns, &file->device, &file->inode))
            goto failed;
        const int is_small = file->size >= 0 && file->size <= limit;
        PyObject *content = PyBytes_FromStringAndSize(NULL, is_small ? (Py_ssize_t)file->size : 0);
        if (content == NULL || PyList_Append(contents, content) < 0) {
            Py_XDECREF(content);
            goto failed;
        }
        file->data = is_small ? PyBytes_AsString(content) : NULL;
        Py_DECREF(content);
    }
    Py_BEGIN_ALLOW_THREADS
    has_waited = read_wanted(directory, files, count);
    Py_END_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!files[i].is_read) {
            Py_INCREF(Py_None);
            if (PyList_SetItem(contents, i, Py_None) < 0)
                goto failed;
        }
    }
    PyMem_Free(files);
    return Py_BuildValue("(NN)", contents, PyBool_FromLong(has_waited));
failed:
    PyMem_Free(files);
    Py_XDECREF(contents);
    return NULL;
}

PyDoc_STRVAR(read_files_doc,
             "read_files(directory_fd, files, limit_bytes)\n--\n\n"
             "Read files of (name, kind, mode, size, mtime_ns, ctime_ns, device, inode); return\n"
             "the content of each that is no larger than the limit and was just that before and\n"
             "after, else None; and whether the disk had to be waited for. The system is asked\n"
             "to fetch the larger ones.");

static PyObject *read_files(PyObject *module, PyObject *arguments) {
    (void)module;
    int directory;
    long long limit;
    PyObject *files;
    if (!PyArg_ParseTuple(arguments, "iOL:read_files", &directory, &files, &limit))
        return NULL;
    PyObject *tuples = PySequence_Tuple(files);
    if (tuples == NULL)
        return NULL;
    PyObject *result = read_in(directory, tuples, limit);
    Py_DECREF(tuples);
    return result;
}

/* ---- listing ------------------------------------------------------------ */

/* The name is a place among all names while these may still move in memory. */
typedef struct {
    size_t name_at;
    const char *name;
    mode_t mode;
    long long size, mtime_ns, ctime_ns, device, inode;
} listed_entry;

typedef struct {
    listed_entry before, after;
    listed_entry *entries;
    size_t count, room;
    char *names;
    size_t names_bytes, names_room;
} listing;

static int make_room(void **data, size_t needed, size_t *room, size_t item_bytes) {
    if (needed <= *room)
        return 0;
    const size_t wider = needed + *room + 64;
    void *moved = realloc(*data, wider * item_bytes);
    if (moved == NULL)
        return -1;
    *data = moved;
    *room = wider;
    return 0;
}

static listed_entry entry_of(const struct stat *status) {
    return (listed_entry){
        .mode = status->st_mode,
        .size = (long long)status->st_size,
        .mtime_ns = nanoseconds(status->MODIFIED),
        .ctime_ns = nanoseconds(status->CHANGED),
        .device = (long long)status->st_dev,
        .inode = (long long)status->st_ino,
    };
}

static int add_entry(listing *found, const char *name, const struct stat *status) {
    const size_t size = strlen(name) + 1;
    if (make_room((void **)&found->entries, found->count + 1, &found->room,
                  sizeof *found->entries) < 0 ||
        make_room((void **)&found->names, found->names_bytes + size, &found->names_room, 1) < 0)
        return -1;
    memcpy(found->names + found->names_bytes, name, size);
    found->entries[found->count] = entry_of(status);
    found->entries[found->count++].name_at = found->names_bytes;
    found->names_bytes += size;
    return 0;
}

static int is_itself_or_above(const char *name) {
    return name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0));
}

static int by_name(const void *one, const void *other) {
    return strcmp(((const listed_entry *)one)->name, ((const listed_entry *)other)->name);
}

static void sort_by_name(listing *found) {
    for (size_t i = 0; i < found->count; i++)
        found->entries[i].name = found->names + found->entries[i].name_at;
    if (found->count > 1)
        qsort(found->entries, found->count, sizeof *found->entries, by_name);
}

/* Names that vanish meanwhile are left out. */
static int list_names(int directory_fd, listing *found) {
    const int fd = fcntl(directory_fd, F_DUPFD_CLOEXEC, 0);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (directory == NULL) {
        const int reason = errno;
        if (fd >= 0)
            close(fd);
        return reason;
    }
    int reason = 0;
    rewinddir(directory);
    while (reason == 0) {
        struct stat status;
        errno = 0;
        const struct dirent *entry = readdir(directory);
        if (entry == NULL) {
            reason = errno;
            break;
        }
        if (is_itself_or_above(entry->d_name))
            continue;
        if (fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0)
            reason = errno == ENOENT ? 0 : errno;
        else if (add_entry(found, entry->d_name, &status) < 0)
            reason = ENOMEM;
    }
    closedir(directory);
    return reason;
}

static int list_all(int directory_fd, listing *found) {
    struct stat status;
    if (fstat(directory_fd, &status) < 0)
        return errno;
    found->before = entry_of(&status);
    const int reason = list_names(directory_fd, found);
    if (reason != 0)
        return reason;
    if (fstat(directory_fd, &status) < 0)
        return errno;
    found->after = entry_of(&status);
    sort_by_name(found);
    return 0;
}

/* The name, if there is one, and the facts. */
static PyObject *described(const listed_entry *entry, const int kinds[4]) {
    const int is_file = S_ISREG(entry->mode), is_directory = S_ISDIR(entry->mode);
    const int kind = kinds[is_file ? 0 : is_directory ? 1 : S_ISLNK(entry->mode) ? 2 : 3];
    const int keeps_mode = is_file || is_directory;
    const long long facts[] = {
        kind,
        keeps_mode ? (long long)(entry->mode & 0777) : 0,
        is_file ? entry->size : 0,
        keeps_mode ? entry->mtime_ns : 0,
        is_directory ? 0 : entry->ctime_ns,
        entry->device,
        entry->inode,
    };
    const Py_ssize_t count = sizeof facts / sizeof *facts, first = entry->name != NULL;
    PyObject *tuple = PyTuple_New(first + count);
    if (tuple != NULL && first > 0) {
        PyObject *name = PyBytes_FromString(entry->name);
        if (name == NULL || PyTuple_SetItem(tuple, 0, name) < 0)
            Py_CLEAR(tuple);
    }
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *fact = PyLong_FromLongLong(facts[i]);
        if (fact == NULL || PyTuple_SetItem(tuple, first + i, fact) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

PyDoc_STRVAR(list_entries_doc,
             "list_entries(directory_fd, kinds)\n--\n\n"
             "Return the facts of the directory before, (name, *facts) of each entry by name, and\n"
             "the facts of the directory after. Facts are kind, mode, size, mtime_ns, ctime_ns,\n"
             "device and inode. The kinds are those of files, directories, symlinks and others.");

static PyObject *list_entries(PyObject *module, PyObject *arguments) {
    (void)module;
    int directory, reason, kinds[4];
    if (!PyArg_ParseTuple(arguments, "i(iiii):list_entries", &directory, &kinds[0], &kinds[1],
                          &kinds[2], &kinds[3]))
        return NULL;
    listing found = {0};
    Py_BEGIN_ALLOW_THREADS
    reason = list_all(directory, &found);
    Py_END_ALLOW_THREADS
    PyObject *list = NULL;
    if (reason != 0) {
        errno = reason;
        PyErr_SetFromErrno(PyExc_OSError);
    } else
        list = PyList_New((Py_ssize_t)found.count);
    for (size_t i = 0; list != NULL && i < found.count; i++) {
        PyObject *entry = described(&found.entries[i], kinds);
        if (entry == NULL || PyList_SetItem(list, (Py_ssize_t)i, entry) < 0)
            Py_CLEAR(list);
    }
    free(found.entries);
    free(found.names);
    if (list == NULL)
        return NULL;
    return Py_BuildValue("(NNN)", described(&found.before, kinds), list,
                         described(&found.after, kinds));
}

/* ---- fetching ahead ------------------------------------------------------ */

#define MOST_FETCHED_FILES 4096

static int is_regular(int directory, const struct dirent *entry) {
    if (entry->d_type != DT_UNKNOWN)
        return entry->d_type == DT_REG;
    struct stat status;
    return fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISREG(status.st_mode);
}

/* Ask the system to fetch a file; returns how many bytes that is at most. */
static long long fetch(int directory, const char *name, long long limit) {
    struct stat status;
    long long size = 0;
    const int fd = open_quietly(directory, name);
    if (fd < 0)
        return 0;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
        size = (long long)status.st_size < limit ? (long long)status.st_size : limit;
#if defined(POSIX_FADV_WILLNEED)
        if (size > 0)
            posix_fadvise(fd, 0, (off_t)size, POSIX_FADV_WILLNEED);
#endif
    }
    close(fd);
    return size;
}

static void fetch_all(int parent, const char *name, long long limit) {
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (directory == NULL) {
        if (fd >= 0)
            close(fd);
        return;
    }
    const struct dirent *entry;
    for (int count = 0; limit > 0 && count < MOST_FETCHED_FILES; count++) {
        entry = readdir(directory);
        if (entry == NULL)
            break;
        if (is_regular(fd, entry))
            limit -= fetch(fd, entry->d_name, limit);
    }
    closedir(directory);
}

PyDoc_STRVAR(fetch_files_doc,
             "fetch_files(directory_fd, name, limit_bytes)\n--\n\n"
             "Ask the system to fetch the files in the directory of that name, if there is one.");

static PyObject *fetch_files(PyObject *module, PyObject *arguments) {
    (void)module;
    int parent;
    const char *name;
    long long limit;
    if (!PyArg_ParseTuple(arguments, "iyL:fetch_files", &parent, &name, &limit))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fetch_all(parent, name, limit);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* ---- the Python module -------------------------------------------------- */

static PyMethodDef methods[] = {
    {"create_files", create_files, METH_VARARGS, create_files_doc},
    {"fetch_files", fetch_files, METH_VARARGS, fetch_files_doc},
    {"list_entries", list_entries, METH_VARARGS, list_entries_doc},
    {"read_files", read_files, METH_VARARGS, read_files_doc},
    {"take_steps", take_steps, METH_O, take_steps_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "twinfold._files",
    .m_doc = "Many small files with one call.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__files(void) { return PyModuleDef_Init(&definition); }
