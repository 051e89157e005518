/* What is looked at or read of many small files with one call, for twinfold.system.bulk.
 *
 * Whatever is asked for is first taken out of the Python objects; then all
 * system calls run without the GIL, so that the other threads go on.
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
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "_times.h"

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
    {"fetch_files", fetch_files, METH_VARARGS, fetch_files_doc},
    {"list_entries", list_entries, METH_VARARGS, list_entries_doc},
    {"read_files", read_files, METH_VARARGS, read_files_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "twinfold._reading",
    .m_doc = "What is looked at or read of many small files with one call.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__reading(void) { return PyModuleDef_Init(&definition); }
