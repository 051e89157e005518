/* Which sub-blocks of new chunks old chunks have: the compiled half of
 * twinfold.core.matching, where the same is written in Python.
 *
 * Everything happens on the caller's bytes and takes some microseconds, so
 * the GIL is kept.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define ROW_BYTES 10
#define MAX_CHUNK_BYTES (96 * 1024)
#define NONE UINT32_MAX
#define MIX UINT64_C(0x9E3779B97F4A7C15)

typedef struct {
    const uint8_t *row; /* in the caller's bytes */
    uint32_t chunk;     /* the number of the old chunk */
    uint32_t offset;    /* in it */
} sub_block;

/* The old sub-blocks, chunk by chunk, and a table of the first of each row. */
typedef struct {
    sub_block *blocks;
    uint32_t count;
    uint32_t *slots;
    uint32_t mask;
} old_blocks;

static uint32_t size_in(const uint8_t *row) { return row[8] | (uint32_t)row[9] << 8; }

static uint32_t slot_of(const uint8_t *row) {
    uint64_t hash;
    memcpy(&hash, row, sizeof hash);
    return (uint32_t)(hash * MIX >> 32);
}

static int same(const uint8_t *one, const uint8_t *other) {
    return memcmp(one, other, ROW_BYTES) == 0;
}

/* The place in the table of a row, or the free one where it belongs. */
static uint32_t *look_up(const old_blocks *old, const uint8_t *row) {
    uint32_t slot = slot_of(row) & old->mask;
    while (old->slots[slot] != NONE && !same(old->blocks[old->slots[slot]].row, row))
        slot = (slot + 1) & old->mask;
    return &old->slots[slot];
}

static void free_old(old_blocks *old) {
    PyMem_Free(old->blocks);
    PyMem_Free(old->slots);
}

/* Borrow the rows in an item of a list; -1 with an exception if there are none. */
static Py_ssize_t rows_at(PyObject *list, Py_ssize_t index, const uint8_t **rows) {
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(PyList_GetItem(list, index), &bytes, &size) < 0)
        return -1;
    *rows = (const uint8_t *)bytes;
    return size / ROW_BYTES;
}

/* Tell whether some chunk can have these rows; others count as none. */
static int can_be_rows(PyObject *list, Py_ssize_t index, const uint8_t *rows, Py_ssize_t count) {
    uint64_t total = 0;
    int all = 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        const uint32_t size = size_in(rows + i * ROW_BYTES);
        all &= size > 0;
        total += size;
    }
    return all && total <= MAX_CHUNK_BYTES &&
           PyBytes_Size(PyList_GetItem(list, index)) == count * ROW_BYTES;
}

static int take_old(PyObject *list, old_blocks *old) {
    const uint8_t *rows;
    const Py_ssize_t chunks = PyList_Size(list);
    size_t most = 0;
    for (Py_ssize_t i = 0; i < chunks; i++) {
        Py_ssize_t count = rows_at(list, i, &rows);
        if (count < 0)
            return -1;
        most += (size_t)count;
    }
    if (most >= NONE / 4) {
        PyErr_SetString(PyExc_ValueError, "too many sub-blocks");
        return -1;
    }
    uint32_t slots = 4;
    while (slots < 2 * most)
        slots *= 2;
    old->blocks = PyMem_Malloc((most + 1) * sizeof *old->blocks);
    old->slots = PyMem_Malloc(slots * sizeof *old->slots);
    if (old->blocks == NULL || old->slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(old->slots, 0xFF, slots * sizeof *old->slots);
    old->mask = slots - 1;
    for (Py_ssize_t i = 0; i < chunks; i++) {
        Py_ssize_t count = rows_at(list, i, &rows);
        uint32_t offset = 0;
        if (!can_be_rows(list, i, rows, count))
            continue;
        for (; count > 0; count--, rows += ROW_BYTES) {
            old->blocks[old->count] = (sub_block){rows, (uint32_t)i, offset};
            uint32_t *slot = look_up(old, rows);
            if (*slot == NONE)
                *slot = old->count;
            old->count++;
            offset += size_in(rows);
        }
    }
    return 0;
}

/* The old sub-block that is equal to a new one: the one that follows the last
 * copied one, if it is, or the first. */
static uint32_t find(const old_blocks *old, const uint8_t *row, uint32_t last) {
    if (last != NONE && last + 1 < old->count) {
        const sub_block *next = &old->blocks[last + 1];
        if (next->chunk == old->blocks[last].chunk && same(next->row, row))
            return last + 1;
    }
    return *look_up(old, row);
}

/* What a new chunk consists of: ranges of old chunks, and bytes of its own. */
typedef struct {
    long chunk; /* -1 for none */
    uint32_t offset, size;
} part;

static int add_part(PyObject *parts, const part *piece) {
    if (piece->size == 0)
        return 0;
    PyObject *item = Py_BuildValue("(lII)", piece->chunk, piece->offset, piece->size);
    int failed = item == NULL || PyList_Append(parts, item) < 0;
    Py_XDECREF(item);
    return failed ? -1 : 0;
}

/* Tell whether a chunk may be copied out of; it is then among `bases`. */
static int is_base(uint32_t *bases, int *count, int most, uint32_t chunk) {
    for (int i = 0; i < *count; i++)
        if (bases[i] == chunk)
            return 1;
    if (*count == most)
        return 0;
    bases[(*count)++] = chunk;
    return 1;
}

#define MOST_BASES 64

static PyObject *parts_of(const old_blocks *old, const uint8_t *row, Py_ssize_t rows,
                          int most_bases) {
    uint32_t bases[MOST_BASES];
    int base_count = 0;
    uint32_t last = NONE;
    part open = {-1, 0, 0};
    PyObject *parts = PyList_New(0);
    for (; parts != NULL && rows > 0; rows--, row += ROW_BYTES) {
        uint32_t at = find(old, row, last);
        if (at != NONE && !is_base(bases, &base_count, most_bases, old->blocks[at].chunk))
            at = NONE;
        part piece = {-1, 0, size_in(row)};
        if (at != NONE) {
            piece.chunk = (long)old->blocks[at].chunk;
            piece.offset = old->blocks[at].offset;
        }
        last = at;
        if (piece.chunk == open.chunk &&
            (piece.chunk < 0 || piece.offset == open.offset + open.size)) {
            open.size += piece.size;
            continue;
        }
        if (add_part(parts, &open) < 0)
            Py_CLEAR(parts);
        open = piece;
    }
    if (parts != NULL && add_part(parts, &open) < 0)
        Py_CLEAR(parts);
    return parts;
}

static PyObject *match_all(const old_blocks *old, PyObject *list, int most_bases) {
    const Py_ssize_t chunks = PyList_Size(list);
    PyObject *found = PyList_New(chunks);
    for (Py_ssize_t i = 0; found != NULL && i < chunks; i++) {
        const uint8_t *rows;
        Py_ssize_t count = rows_at(list, i, &rows);
        PyObject *parts = count < 0 ? NULL : parts_of(old, rows, count, most_bases);
        if (parts == NULL || PyList_SetItem(found, i, parts) < 0)
            Py_CLEAR(found);
    }
    return found;
}

PyDoc_STRVAR(match_rows_doc,
             "match_rows(old, new, most_bases)\n--\n\n"
             "What chunks with the rows in new have of those with the rows in old.");

static PyObject *match_rows(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *old_rows, *new_rows;
    int most_bases;
    if (!PyArg_ParseTuple(arguments, "O!O!i:match_rows", &PyList_Type, &old_rows,
                          &PyList_Type, &new_rows, &most_bases))
        return NULL;
    if (most_bases < 0 || most_bases > MOST_BASES)
        return PyErr_Format(PyExc_ValueError, "not from 0 to %d bases", MOST_BASES);
    old_blocks old = {NULL, 0, NULL, 0};
    PyObject *found = NULL;
    if (take_old(old_rows, &old) == 0)
        found = match_all(&old, new_rows, most_bases);
    free_old(&old);
    return found;
}

static PyMethodDef methods[] = {
    {"match_rows", match_rows, METH_VARARGS, match_rows_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "twinfold._matcher",
    .m_doc = "Which sub-blocks chunks have in common.",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__matcher(void) { return PyModuleDef_Init(&definition); }
