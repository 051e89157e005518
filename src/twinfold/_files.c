/* What is done to many small files with one call, for twinfold.system.bulk.
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

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "_times.h"

#if defined(__linux__)
#include <sys/syscall.h>
#endif

#define HOLE_BYTES 32768

static struct timespec time_of(long long nanoseconds) {
    long long seconds = nanoseconds / NANOSECONDS, rest = nanoseconds % NANOSECONDS;
    if (rest < 0) {
        rest += NANOSECONDS;
        seconds -= 1;
    }
    return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)rest};
}

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

/* ---- the Python module -------------------------------------------------- */

static PyMethodDef methods[] = {
    {"create_files", create_files, METH_VARARGS, create_files_doc},
    {"take_steps", take_steps, METH_O, take_steps_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "twinfold._files",
    .m_doc = "What is done to many small files with one call.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__files(void) { return PyModuleDef_Init(&definition); }
