/* Where to cut: the compiled kernels behind twinfold.core.chunking.
 *
 * The format is defined in twinfold/core/chunking/format.py. The tables and constants of
 * _kernels.h repeat it, and the tests compare both.
 *
 * Every function works on the caller's bytes and on its own stack, so any
 * number of threads may be in here at once, without the GIL.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_kernels.h"

/* ---- a window over what is cut ------------------------------------------- */

#define WINDOW_WORDS (MAX_BYTES / 64 + 1)

/* The candidates of `data` from `base` on, as far as a chunk that starts there may reach; those
 * before `seen` are marked. Each position is looked at once, whatever comes to be cut there. */
typedef struct {
    const kernel *with;
    grain by;
    const uint8_t *data;
    size_t base, seen;
    uint64_t bits[WINDOW_WORDS];
} window;

static void open_window(window *over, const kernel *with, grain by, const uint8_t *data,
                        size_t size) {
    const size_t words = size < MAX_BYTES ? size / 64 + 1 : WINDOW_WORDS;
    over->with = with;
    over->by = by;
    over->data = data;
    over->base = over->seen = 0;
    memset(over->bits, 0, words * sizeof *over->bits);
}

/* Have the window show all candidates of a piece that starts here and is so long. */
static void move_window(window *over, size_t start, size_t size) {
    const size_t passed = start / 64 - over->base / 64;
    if (passed > 0) {
        memmove(over->bits, over->bits + passed, (WINDOW_WORDS - passed) * 8);
        memset(over->bits + WINDOW_WORDS - passed, 0, passed * 8);
        over->base = start / 64 * 64;
    }
    size_t from = start + over->by.shortest - 1;
    if (from < over->seen)
        from = over->seen;
    if (from >= start + size)
        return;
    const span positions = {over->data + from, start + size - from};
    const marks found = {over->by.below, from - over->base, over->bits};
    over->with->scan(positions, &found);
    over->seen = start + size;
}

static size_t lowest_bit(uint64_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return (size_t)__builtin_ctzll(bits);
#else
    size_t number = 0;
    for (; (bits & 1) == 0; bits >>= 1)
        number++;
    return number;
#endif
}

/* The first candidate from `from` on and before `end`, `end` if there is none. */
static size_t next_candidate(const window *in, size_t from, size_t end) {
    if (from >= end)
        return end;
    const size_t first = from - in->base, last = end - 1 - in->base;
    size_t word = first / 64;
    uint64_t rest = in->bits[word] & UINT64_MAX << first % 64;
    while (rest == 0) {
        if (++word > last / 64)
            return end;
        rest = in->bits[word];
    }
    const size_t found = in->base + word * 64 + lowest_bit(rest);
    return found < end ? found : end;
}

/* ---- chunks ------------------------------------------------------------ */

static uint64_t rank_at(const uint8_t *last_byte) {
    const uint8_t *bytes = last_byte - (RANK_BYTES - 1);
    uint64_t rank = RANK_START;
    for (int i = 0; i < RANK_BYTES; i += 8) {
        rank = (rank ^ load_le64(bytes + i)) * RANK_STEP;
        rank ^= rank >> 32;
    }
    rank *= RANK_END;
    return rank ^ rank >> 32;
}

/* Tell whether a chunk may end with this candidate: a finer window shows more than those. Its hash
 * is below 256, and of so much of a hash the last eight bytes decide. */
static int may_end_chunk(const window *in, size_t position) {
    if (in->by.below == CANDIDATE_BELOW)
        return 1;
    uint32_t hash = 0;
    for (int age = 0; age < 8; age++)
        hash += (uint32_t)gear_of(in->data[position - (size_t)age]) << age;
    return (hash & 255) < CANDIDATE_BELOW;
}

static size_t chunk_length(window *in, size_t start, size_t rest) {
    const size_t longest = rest < MAX_BYTES ? rest : MAX_BYTES, end = start + longest;
    move_window(in, start, longest);
    size_t length = longest;
    uint64_t least = UINT64_MAX;
    size_t position = next_candidate(in, start + MIN_BYTES - 1, end);
    for (; position < end; position = next_candidate(in, position + 1, end)) {
        if (!may_end_chunk(in, position))
            continue;
        const uint64_t rank = rank_at(in->data + position);
        if (rank < least || length == longest) {
            least = rank;
            length = position + 1 - start;
        }
    }
    return length;
}

/* ---- sub-blocks --------------------------------------------------------- */

static void write_le(uint8_t *bytes, uint64_t number, int count) {
    for (int i = 0; i < count; i++)
        bytes[i] = (uint8_t)(number >> 8 * i);
}

/* Write the rows of a chunk that the window shows; return where the next ones go. */
static uint8_t *write_rows(const window *in, size_t start, size_t size, uint8_t *row) {
    const size_t end = start + size, shortest = in->by.shortest;
    for (; start < end; row += ROW_BYTES) {
        const size_t rest = end - start;
        const size_t longest = rest < MAX_SUB_BLOCK_BYTES ? rest : MAX_SUB_BLOCK_BYTES;
        size_t length = longest;
        const size_t found = next_candidate(in, start + shortest - 1, start + longest);
        if (found < start + longest)
            length = found + 1 - start;
        write_le(row, in->with->hash(in->data + start, length), 8);
        write_le(row + 8, length, 2);
        start += length;
    }
    return row;
}

/* Each row but a chunk's last is of a sub-block of at least the least length. */
static size_t most_rows_bytes(grain by, size_t size, size_t chunks) {
    return (size / by.shortest + chunks) * ROW_BYTES;
}

/* ---- the Python module -------------------------------------------------- */

/* To wait for the GIL again takes longer than to work on less than this. */
#define LEAST_BYTES_UNLOCKED 16384

static PyThreadState *unlock_for(size_t size) {
    return size < LEAST_BYTES_UNLOCKED ? NULL : PyEval_SaveThread();
}

static void lock_again(PyThreadState *state) {
    if (state != NULL)
        PyEval_RestoreThread(state);
}

static const kernel *find_kernel(const char *name) {
    for (size_t i = 0; i < KERNEL_COUNT; i++)
        if (strcmp(name, KERNELS[i].name) == 0 && runs_here(&KERNELS[i]))
            return &KERNELS[i];
    PyErr_Format(PyExc_ValueError, "no kernel named %s here", name);
    return NULL;
}

/* A chunk that was found: its length, and where its rows end among all rows. */
typedef struct {
    size_t length, rows_end;
} piece;

static PyObject *lengths_of(const piece *pieces, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *length = PyLong_FromSize_t(pieces[i].length);
        if (length == NULL || PyList_SetItem(list, (Py_ssize_t)i, length) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *rows_of(const piece *pieces, size_t count, const uint8_t *rows) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    size_t start = 0;
    for (size_t i = 0; list != NULL && i < count; i++) {
        const char *first = (const char *)rows + start;
        PyObject *found =
            PyBytes_FromStringAndSize(first, (Py_ssize_t)(pieces[i].rows_end - start));
        if (found == NULL || PyList_SetItem(list, (Py_ssize_t)i, found) < 0)
            Py_CLEAR(list);
        start = pieces[i].rows_end;
    }
    return list;
}

/* Find the chunks that can be decided, and the rows of each where there is room for them. */
static size_t find_chunks(window *in, size_t size, int final, piece *pieces, uint8_t *rows) {
    size_t count = 0, start = 0;
    uint8_t *row = rows;
    while (size - start >= MAX_BYTES || (final && start < size)) {
        const size_t length = chunk_length(in, start, size - start);
        if (rows != NULL)
            row = write_rows(in, start, length, row);
        pieces[count++] = (piece){length, (size_t)(row - rows)};
        start += length;
    }
    return count;
}

static PyObject *cut_data(const Py_buffer *data, int final, const grain *by, const char *name) {
    const size_t size = (size_t)data->len, most = size / MIN_BYTES + 1;
    const kernel *with = find_kernel(name);
    if (with == NULL)
        return NULL;
    PyObject *lengths = NULL, *found = NULL;
    piece *pieces = PyMem_Malloc(most * sizeof *pieces);
    uint8_t *rows = by == NULL ? NULL : PyMem_Malloc(most_rows_bytes(*by, size, most));
    if (pieces == NULL || (by != NULL && rows == NULL)) {
        PyErr_NoMemory();
    } else {
        PyThreadState *state = unlock_for(size);
        window in;
        open_window(&in, with, by == NULL ? CHUNKS_ALONE : *by, data->buf, size);
        const size_t count = find_chunks(&in, size, final, pieces, rows);
        lock_again(state);
        lengths = lengths_of(pieces, count);
        found = by == NULL ? NULL : rows_of(pieces, count, rows);
    }
    PyMem_Free(rows);
    PyMem_Free(pieces);
    return by == NULL ? lengths : Py_BuildValue("(NN)", lengths, found);
}

PyDoc_STRVAR(cut_lengths_doc,
             "cut_lengths(data, final, kernel)\n--\n\n"
             "Lengths of the chunks that can be decided from data.");

static PyObject *cut_lengths(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer data;
    int final;
    const char *name;
    if (!PyArg_ParseTuple(arguments, "y*ps:cut_lengths", &data, &final, &name))
        return NULL;
    PyObject *lengths = cut_data(&data, final, NULL, name);
    PyBuffer_Release(&data);
    return lengths;
}

PyDoc_STRVAR(cut_with_rows_doc,
             "cut_with_rows(data, final, fine, kernel)\n--\n\n"
             "(lengths, rows) of the chunks that can be decided from data.");

static PyObject *cut_with_rows(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer data;
    int final, fine;
    const char *name;
    if (!PyArg_ParseTuple(arguments, "y*pps:cut_with_rows", &data, &final, &fine, &name))
        return NULL;
    PyObject *found = cut_data(&data, final, fine ? &FINE : &COARSE, name);
    PyBuffer_Release(&data);
    return found;
}

/* Take hold of each chunk; returns how many are held, fewer with an error set. */
static Py_ssize_t hold_chunks(PyObject *tuple, Py_buffer *chunks, size_t *total) {
    const Py_ssize_t count = PyTuple_Size(tuple);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, i), &chunks[i], PyBUF_SIMPLE) < 0)
            return i;
        if (chunks[i].len > MAX_BYTES) {
            PyErr_SetString(PyExc_ValueError, "a chunk is not longer than 96 KiB");
            return i + 1;
        }
        *total += (size_t)chunks[i].len;
    }
    return count;
}

static PyObject *rows_of_held(const kernel *with, grain by, const Py_buffer *chunks, size_t count,
                              size_t total) {
    PyObject *found = NULL;
    piece *pieces = PyMem_Malloc((count + 1) * sizeof *pieces);
    uint8_t *rows = PyMem_Malloc(most_rows_bytes(by, total, count + 1));
    if (pieces == NULL || rows == NULL) {
        PyErr_NoMemory();
    } else {
        PyThreadState *state = unlock_for(total);
        uint8_t *row = rows;
        for (size_t i = 0; i < count; i++) {
            const size_t size = (size_t)chunks[i].len;
            window in;
            open_window(&in, with, by, chunks[i].buf, size);
            move_window(&in, 0, size);
            row = write_rows(&in, 0, size, row);
            pieces[i] = (piece){size, (size_t)(row - rows)};
        }
        lock_again(state);
        found = rows_of(pieces, count, rows);
    }
    PyMem_Free(rows);
    PyMem_Free(pieces);
    return found;
}

PyDoc_STRVAR(sub_blocks_doc,
             "sub_blocks(chunks, fine, kernel)\n--\n\n"
             "Rows of the sub-blocks that each chunk consists of.");

static PyObject *sub_blocks(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *sequence;
    int fine;
    const char *name;
    if (!PyArg_ParseTuple(arguments, "Ops:sub_blocks", &sequence, &fine, &name))
        return NULL;
    const kernel *with = find_kernel(name);
    PyObject *tuple = with == NULL ? NULL : PySequence_Tuple(sequence);
    if (tuple == NULL)
        return NULL;
    PyObject *found = NULL;
    Py_ssize_t held = 0;
    size_t total = 0;
    Py_buffer *chunks = PyMem_Calloc((size_t)PyTuple_Size(tuple) + 1, sizeof *chunks);
    if (chunks == NULL)
        PyErr_NoMemory();
    else
        held = hold_chunks(tuple, chunks, &total);
    if (!PyErr_Occurred())
        found = rows_of_held(with, fine ? FINE : COARSE, chunks, (size_t)held, total);
    for (Py_ssize_t i = 0; i < held; i++)
        PyBuffer_Release(&chunks[i]);
    PyMem_Free(chunks);
    Py_DECREF(tuple);
    return found;
}

PyDoc_STRVAR(kernels_doc, "kernels()\n--\n\n"
                          "Names of the kernels that this processor runs, fastest first.");

static PyObject *kernels(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    PyObject *names = PyList_New(0);
    for (size_t i = 0; names != NULL && i < KERNEL_COUNT; i++) {
        if (!runs_here(&KERNELS[i]))
            continue;
        PyObject *name = PyUnicode_FromString(KERNELS[i].name);
        if (name == NULL || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    PyObject *tuple = names == NULL ? NULL : PyList_AsTuple(names);
    Py_XDECREF(names);
    return tuple;
}

static PyMethodDef methods[] = {
    {"cut_lengths", cut_lengths, METH_VARARGS, cut_lengths_doc},
    {"cut_with_rows", cut_with_rows, METH_VARARGS, cut_with_rows_doc},
    {"sub_blocks", sub_blocks, METH_VARARGS, sub_blocks_doc},
    {"kernels", kernels, METH_NOARGS, kernels_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "twinfold._chunker",
    .m_doc = "Where to cut: compiled kernels.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__chunker(void) { return PyModuleDef_Init(&definition); }
