/* Where to cut: the compiled kernels behind twinfold.core.chunking.
 *
 * The format is defined in twinfold/core/chunking/format.py. The tables and
 * constants below repeat it, and the tests compare both.
 *
 * Every function works on the caller's bytes and on its own stack, so any
 * number of threads may be in here at once, without the GIL.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define HAVE_AVX2 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE static inline __attribute__((target("avx2"), always_inline))
#else
#define HAVE_AVX2 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define NOINLINE __attribute__((noinline))
#elif defined(_MSC_VER)
#define UNLIKELY(condition) (condition)
#define NOINLINE __declspec(noinline)
#else
#define UNLIKELY(condition) (condition)
#define NOINLINE
#endif

#define MIN_BYTES 32768
#define MAX_BYTES 98304
#define WINDOW_BYTES 16
#define RANK_BYTES 64
#define CANDIDATE_BELOW 64

#define MAX_SUB_BLOCK_BYTES 8192
#define ROW_BYTES 10
/* Each row but the last is of a sub-block of at least the fine minimum. */
#define MAX_ROWS (MAX_BYTES / 64 + 1)

/* How densely a chunk is cut into sub-blocks. */
typedef struct {
    uint16_t below;
    size_t shortest;
} grain;

static const grain COARSE = {CANDIDATE_BELOW, 256}, FINE = {256, 64};

#define RANK_START UINT64_C(0x9E3779B97F4A7C15)
#define RANK_STEP UINT64_C(0xBF58476D1CE4E5B9)
#define RANK_END UINT64_C(0x94D049BB133111EB)

static const uint16_t TABLE_A[16] = {
    0x8ACA, 0xB030, 0x845F, 0xF89E, 0xCAB9, 0xE5E1, 0x1F5E, 0x7F52,
    0xBAC9, 0xCC05, 0x6C22, 0x87F9, 0x92BC, 0xAB38, 0xB629, 0x9351,
};
static const uint16_t TABLE_B[16] = {
    0x993B, 0x90E4, 0x0586, 0x217A, 0xED54, 0x4791, 0xA272, 0xC80B,
    0x2AD0, 0x980D, 0x9EFD, 0x20EF, 0x0B5A, 0x01D1, 0x1B4E, 0xD6A0,
};

/* ---- one candidate ---------------------------------------------------- */

/* The positions under comparison are `count` bytes from `first` on; at least
 * RANK_BYTES - 1 bytes precede `first` in the same buffer. */
typedef struct {
    const uint8_t *first;
    size_t count;
} span;

/* The candidate of least rank; or, where `marks` is set, a bit for each of them.
 * A candidate is a position with a hash less than `below`. */
typedef struct {
    uint16_t below;
    uint64_t rank;
    size_t position;
    uint64_t *marks;
} choice;

static inline uint64_t load_le64(const uint8_t *bytes) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
#else
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--)
        word = word << 8 | bytes[i];
#endif
    return word;
}

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

/* Kept out of the scanning loops, whose registers it would take. */
static NOINLINE void consider(choice *best, const uint8_t *first, size_t position) {
    if (best->marks != NULL) {
        best->marks[position / 64] |= UINT64_C(1) << position % 64;
        return;
    }
    uint64_t rank = rank_at(first + position);
    if (rank < best->rank || (rank == best->rank && position < best->position)) {
        best->rank = rank;
        best->position = position;
    }
}

/* ---- plain C: four lanes, to overlap four chains of dependent additions -- */

#define PLAIN_LANES 4

static void fill_gear(uint16_t gear[256]) {
    for (int byte = 0; byte < 256; byte++)
        gear[byte] = TABLE_A[byte >> 4] ^ TABLE_B[byte & 15];
}

static uint32_t hash_before(const uint16_t *gear, const uint8_t *bytes) {
    uint32_t hash = 0;
    for (int i = -WINDOW_BYTES; i < 0; i++)
        hash = 2 * hash + gear[bytes[i]];
    return hash;
}

static void scan_one_lane(const uint16_t *gear, span positions, size_t from,
                          choice *best) {
    const uint8_t *first = positions.first;
    const uint16_t below = best->below;
    uint32_t hash = hash_before(gear, first + from);
    for (size_t i = from; i < positions.count; i++) {
        hash = 2 * hash + gear[first[i]];
        if (UNLIKELY((uint16_t)hash < below))
            consider(best, first, i);
    }
}

static void scan_plain(span positions, choice *best) {
    uint16_t gear[256];
    fill_gear(gear);
    const uint8_t *first = positions.first;
    const uint16_t below = best->below;
    const size_t lane = positions.count / PLAIN_LANES;
    uint32_t h0 = hash_before(gear, first);
    uint32_t h1 = hash_before(gear, first + lane);
    uint32_t h2 = hash_before(gear, first + 2 * lane);
    uint32_t h3 = hash_before(gear, first + 3 * lane);
    for (size_t i = 0; i < lane; i++) {
        h0 = 2 * h0 + gear[first[i]];
        h1 = 2 * h1 + gear[first[i + lane]];
        h2 = 2 * h2 + gear[first[i + 2 * lane]];
        h3 = 2 * h3 + gear[first[i + 3 * lane]];
        if (UNLIKELY((uint16_t)h0 < below))
            consider(best, first, i);
        if (UNLIKELY((uint16_t)h1 < below))
            consider(best, first, i + lane);
        if (UNLIKELY((uint16_t)h2 < below))
            consider(best, first, i + 2 * lane);
        if (UNLIKELY((uint16_t)h3 < below))
            consider(best, first, i + 3 * lane);
    }
    scan_one_lane(gear, positions, PLAIN_LANES * lane, best);
}

/* ---- AVX2: 32 lanes of 16 bits in two registers --------------------------
 *
 * The span is divided into 32 lanes. Sixteen bytes of every lane are loaded
 * and transposed, so that row k holds byte k of each lane; one row advances
 * all 32 hashes by one byte. The tables of 16 entries are byte shuffles. */

#if HAVE_AVX2

#define LANES 32
#define ROWS 16
/* A lane stride that is no multiple of 2 KiB keeps the 32 streams out of each
 * other's cache sets. */
#define BLOCK_POSITIONS (LANES * 1088)

typedef struct {
    __m256i a_low, a_high, b_low, b_high;
} shuffles;

typedef struct {
    __m256i low, high; /* lanes 0-7 and 16-23; lanes 8-15 and 24-31 */
} hashes;

AVX2_INLINE __m256i table_bytes(const uint16_t table[16], int shift) {
    uint8_t bytes[16];
    for (int i = 0; i < 16; i++)
        bytes[i] = (uint8_t)(table[i] >> shift);
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)bytes));
}

AVX2_INLINE void load_rows(__m256i rows[ROWS], const uint8_t *bytes, size_t stride) {
    for (int i = 0; i < ROWS; i++) {
        const uint8_t *other = bytes + 16 * stride;
        rows[i] = _mm256_inserti128_si256(
            _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)bytes)),
            _mm_loadu_si128((const __m128i *)other), 1);
        bytes += stride;
    }
}

/* The lanes are too many streams for the processor to foresee. A prefetch past
 * the end of the data does nothing. */
AVX2_INLINE void prefetch_rows(const uint8_t *bytes) {
    for (int i = 0; i < LANES * ROWS; i += 64)
        _mm_prefetch((const char *)bytes + i, _MM_HINT_T1);
}

AVX2_INLINE void interleave(__m256i to[ROWS], const __m256i from[ROWS]) {
    for (int i = 0; i < ROWS / 2; i++) {
        to[2 * i] = _mm256_unpacklo_epi8(from[i], from[i + ROWS / 2]);
        to[2 * i + 1] = _mm256_unpackhi_epi8(from[i], from[i + ROWS / 2]);
    }
}

AVX2_INLINE void transpose(__m256i rows[ROWS]) {
    __m256i other[ROWS];
    interleave(other, rows);
    interleave(rows, other);
    interleave(other, rows);
    interleave(rows, other);
}

AVX2_INLINE void advance(hashes *hash, __m256i row, const shuffles *table) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i low = _mm256_and_si256(row, nibble);
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(row, 4), nibble);
    __m256i gear_low = _mm256_xor_si256(_mm256_shuffle_epi8(table->a_low, high),
                                        _mm256_shuffle_epi8(table->b_low, low));
    __m256i gear_high = _mm256_xor_si256(_mm256_shuffle_epi8(table->a_high, high),
                                         _mm256_shuffle_epi8(table->b_high, low));
    hash->low = _mm256_add_epi16(_mm256_add_epi16(hash->low, hash->low),
                                 _mm256_unpacklo_epi8(gear_low, gear_high));
    hash->high = _mm256_add_epi16(_mm256_add_epi16(hash->high, hash->high),
                                  _mm256_unpackhi_epi8(gear_low, gear_high));
}

AVX2_INLINE int any_candidate(const hashes *hash, __m256i below) {
    __m256i less = _mm256_subs_epu16(below, _mm256_min_epu16(hash->low, hash->high));
    return !_mm256_testz_si256(less, less);
}

AVX2_INLINE uint32_t candidate_lanes(const hashes *hash, uint16_t below) {
    const __m256i last = _mm256_set1_epi16((short)(below - 1));
    __m256i low = _mm256_cmpeq_epi16(_mm256_min_epu16(hash->low, last), hash->low);
    __m256i high = _mm256_cmpeq_epi16(_mm256_min_epu16(hash->high, last), hash->high);
    return (uint32_t)_mm256_movemask_epi8(_mm256_packs_epi16(low, high));
}

static void consider_lanes(choice *best, const uint8_t *first, size_t position,
                           size_t stride, uint32_t lanes) {
    for (; lanes; lanes &= lanes - 1)
        consider(best, first, position + stride * (size_t)__builtin_ctz(lanes));
}

AVX2 static void scan_block(const uint8_t *first, size_t offset, size_t stride,
                            size_t lane_bytes, choice *best) {
    const shuffles table = {table_bytes(TABLE_A, 0), table_bytes(TABLE_A, 8),
                            table_bytes(TABLE_B, 0), table_bytes(TABLE_B, 8)};
    const __m256i below = _mm256_set1_epi16((short)best->below);
    hashes hash = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    const uint8_t *next = first + offset + LANES * stride;
    __m256i rows[ROWS];
    load_rows(rows, first + offset - WINDOW_BYTES, stride);
    transpose(rows);
    for (int k = 0; k < ROWS; k++)
        advance(&hash, rows[k], &table);
    for (size_t i = offset; i < offset + lane_bytes; i += ROWS) {
        prefetch_rows(next + (i - offset) * LANES);
        load_rows(rows, first + i, stride);
        transpose(rows);
        for (int k = 0; k < ROWS; k++) {
            advance(&hash, rows[k], &table);
            if (UNLIKELY(any_candidate(&hash, below)))
                consider_lanes(best, first, i + (size_t)k, stride,
                               candidate_lanes(&hash, best->below));
        }
    }
}

/* Lanes may overlap by a few positions: to consider one twice changes nothing. */
static void scan_avx2(span positions, choice *best) {
    size_t done = 0;
    while (positions.count - done >= LANES * ROWS) {
        size_t block = positions.count - done;
        if (block > BLOCK_POSITIONS)
            block = BLOCK_POSITIONS;
        size_t lane_bytes = (block + LANES * ROWS - 1) / (LANES * ROWS) * ROWS;
        size_t stride = (block - lane_bytes) / (LANES - 1);
        scan_block(positions.first, done, stride, lane_bytes, best);
        done += (LANES - 1) * stride + lane_bytes;
    }
    uint16_t gear[256];
    fill_gear(gear);
    scan_one_lane(gear, positions, done, best);
}

#endif

/* ---- chunks ------------------------------------------------------------ */

typedef void (*scan_function)(span positions, choice *best);

static size_t chunk_length(scan_function scan, const uint8_t *chunk, size_t rest) {
    size_t longest = rest < MAX_BYTES ? rest : MAX_BYTES;
    if (longest <= MIN_BYTES)
        return longest;
    span positions = {chunk + MIN_BYTES - 1, longest - MIN_BYTES + 1};
    choice best = {CANDIDATE_BELOW, UINT64_MAX, positions.count - 1, NULL};
    scan(positions, &best);
    return best.position + MIN_BYTES;
}

static size_t find_lengths(scan_function scan, const uint8_t *data, size_t size,
                           int final, uint32_t *lengths) {
    size_t count = 0, start = 0;
    while (size - start >= MAX_BYTES || (final && start < size)) {
        size_t length = chunk_length(scan, data + start, size - start);
        lengths[count++] = (uint32_t)length;
        start += length;
    }
    return count;
}

/* ---- sub-blocks --------------------------------------------------------- */

static uint64_t hash_word(uint64_t word, uint64_t number) {
    uint64_t mixed = (word ^ number * RANK_START) * RANK_STEP;
    return (mixed ^ mixed >> 32) * RANK_END;
}

static uint64_t hash_sub_block(const uint8_t *bytes, size_t size) {
    const size_t words = size / 8, rest = size % 8;
    uint64_t sum = size;
    for (size_t i = 0; i < words; i++)
        sum += hash_word(load_le64(bytes + 8 * i), i + 1);
    if (rest) {
        uint8_t last[8] = {0};
        memcpy(last, bytes + 8 * words, rest);
        sum += hash_word(load_le64(last), words + 1);
    }
    return sum ^ sum >> 32;
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

/* The first marked position from `from` to `to`, `to` + 1 if there is none. */
static size_t next_mark(const uint64_t *marks, size_t from, size_t to) {
    size_t word = from / 64;
    uint64_t rest = marks[word] & UINT64_MAX << from % 64;
    while (rest == 0) {
        if (++word > to / 64)
            return to + 1;
        rest = marks[word];
    }
    size_t found = word * 64 + lowest_bit(rest);
    return found <= to ? found : to + 1;
}

static size_t sub_block_length(grain by, const uint64_t *marks, size_t start,
                               size_t size) {
    size_t longest = size - start;
    if (longest > MAX_SUB_BLOCK_BYTES)
        longest = MAX_SUB_BLOCK_BYTES;
    if (longest <= by.shortest)
        return longest;
    /* Position 0 is that of the last byte of the shortest sub-block at the start. */
    size_t last = start + longest - by.shortest;
    size_t found = next_mark(marks, start, last);
    return found <= last ? found + by.shortest - start : longest;
}

static void write_le(uint8_t *bytes, uint64_t number, int count) {
    for (int i = 0; i < count; i++)
        bytes[i] = (uint8_t)(number >> 8 * i);
}

static size_t find_sub_blocks(scan_function scan, grain by, const uint8_t *chunk,
                              size_t size, uint8_t *rows) {
    uint64_t marks[MAX_BYTES / 64] = {0};
    if (size > by.shortest) {
        span positions = {chunk + by.shortest - 1, size - by.shortest + 1};
        choice all = {by.below, 0, 0, marks};
        scan(positions, &all);
    }
    uint8_t *row = rows;
    for (size_t start = 0; start < size; row += ROW_BYTES) {
        size_t length = sub_block_length(by, marks, start, size);
        write_le(row, hash_sub_block(chunk + start, length), 8);
        write_le(row + 8, length, 2);
        start += length;
    }
    return (size_t)(row - rows);
}

/* ---- the Python module -------------------------------------------------- */

static scan_function find_kernel(const char *name) {
#if HAVE_AVX2
    if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2"))
        return scan_avx2;
#endif
    return strcmp(name, "plain") == 0 ? scan_plain : NULL;
}

static PyObject *list_of(const uint32_t *lengths, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *length = PyLong_FromUnsignedLong(lengths[i]);
        if (length == NULL || PyList_SetItem(list, (Py_ssize_t)i, length) < 0)
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *lengths_in(scan_function scan, const Py_buffer *data, int final) {
    const size_t size = (size_t)data->len;
    uint32_t *lengths = PyMem_Malloc((size / MIN_BYTES + 1) * sizeof *lengths);
    if (lengths == NULL)
        return PyErr_NoMemory();
    size_t count;
    Py_BEGIN_ALLOW_THREADS
    count = find_lengths(scan, data->buf, size, final, lengths);
    Py_END_ALLOW_THREADS
    PyObject *list = list_of(lengths, count);
    PyMem_Free(lengths);
    return list;
}

PyDoc_STRVAR(cut_lengths_doc,
             "cut_lengths(data, final, kernel)\n--\n\n"
             "Lengths of the chunks that can be decided from data.");

static PyObject *cut_lengths(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer data;
    int final;
    const char *kernel;
    if (!PyArg_ParseTuple(arguments, "y*ps:cut_lengths", &data, &final, &kernel))
        return NULL;
    PyObject *list = NULL;
    scan_function scan = find_kernel(kernel);
    if (scan != NULL)
        list = lengths_in(scan, &data, final);
    else
        PyErr_Format(PyExc_ValueError, "no kernel named %s here", kernel);
    PyBuffer_Release(&data);
    return list;
}

PyDoc_STRVAR(sub_blocks_doc,
             "sub_blocks(chunk, fine, kernel)\n--\n\n"
             "Rows of the sub-blocks that a chunk consists of.");

/* A chunk takes some microseconds: the GIL is kept, to wait for it would take longer. */
static PyObject *sub_blocks(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer chunk;
    int fine;
    const char *kernel;
    if (!PyArg_ParseTuple(arguments, "y*ps:sub_blocks", &chunk, &fine, &kernel))
        return NULL;
    PyObject *rows = NULL;
    scan_function scan = find_kernel(kernel);
    if (scan == NULL) {
        PyErr_Format(PyExc_ValueError, "no kernel named %s here", kernel);
    } else if (chunk.len > MAX_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a chunk is not longer than 96 KiB");
    } else {
        uint8_t found[MAX_ROWS * ROW_BYTES];
        size_t size = find_sub_blocks(scan, fine ? FINE : COARSE, chunk.buf,
                                      (size_t)chunk.len, found);
        rows = PyBytes_FromStringAndSize((const char *)found, (Py_ssize_t)size);
    }
    PyBuffer_Release(&chunk);
    return rows;
}

PyDoc_STRVAR(kernels_doc, "kernels()\n--\n\n"
                          "Names of the kernels that this processor runs, fastest first.");

static PyObject *kernels(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    if (find_kernel("avx2") != NULL)
        return Py_BuildValue("(ss)", "avx2", "plain");
    return Py_BuildValue("(s)", "plain");
}

static PyMethodDef methods[] = {
    {"cut_lengths", cut_lengths, METH_VARARGS, cut_lengths_doc},
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
