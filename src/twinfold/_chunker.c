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
#define HAVE_AVX 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE static inline __attribute__((target("avx2"), always_inline))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq")))
#else
#define HAVE_AVX 0
#endif

#if defined(__GNUC__) || defined(__clang__)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define NOINLINE __attribute__((noinline))
#define INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define UNLIKELY(condition) (condition)
#define NOINLINE __declspec(noinline)
#define INLINE static __forceinline
#else
#define UNLIKELY(condition) (condition)
#define NOINLINE
#define INLINE static inline
#endif

#define MIN_BYTES 32768
#define MAX_BYTES 98304
#define WINDOW_BYTES 16
#define RANK_BYTES 64
#define CANDIDATE_BELOW 64

#define MAX_SUB_BLOCK_BYTES 8192
#define ROW_BYTES 10

/* Where to look for candidates: those that make the least piece, and how many there are. */
typedef struct {
    uint16_t below;
    size_t shortest;
} grain;

static const grain COARSE = {CANDIDATE_BELOW, 256}, FINE = {256, 64};
static const grain CHUNKS_ALONE = {CANDIDATE_BELOW, MIN_BYTES};

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

static inline uint16_t gear_of(uint8_t byte) {
    return TABLE_A[byte >> 4] ^ TABLE_B[byte & 15];
}

/* ---- candidates -------------------------------------------------------- */

/* The positions to look at are `count` bytes from `first` on; at least
 * WINDOW_BYTES bytes precede `first` in the same buffer. */
typedef struct {
    const uint8_t *first;
    size_t count;
} span;

/* A bit for each position with a hash less than `below`: that of the span's first one has the
 * number `offset` in `bits`. */
typedef struct {
    uint16_t below;
    size_t offset;
    uint64_t *bits;
} marks;

/* Kept out of the scanning loops, whose registers it would take. */
static NOINLINE void mark(const marks *found, size_t position) {
    position += found->offset;
    found->bits[position / 64] |= UINT64_C(1) << position % 64;
}

/* ---- plain C: four lanes, to overlap four chains of dependent additions -- */

#define PLAIN_LANES 4

static void fill_gear(uint16_t gear[256]) {
    for (int byte = 0; byte < 256; byte++)
        gear[byte] = gear_of((uint8_t)byte);
}

static uint32_t hash_before(const uint16_t *gear, const uint8_t *bytes) {
    uint32_t hash = 0;
    for (int i = -WINDOW_BYTES; i < 0; i++)
        hash = 2 * hash + gear[bytes[i]];
    return hash;
}

static void scan_one_lane(const uint16_t *gear, span positions, size_t from,
                          const marks *found) {
    const uint8_t *first = positions.first;
    const uint16_t below = found->below;
    uint32_t hash = hash_before(gear, first + from);
    for (size_t i = from; i < positions.count; i++) {
        hash = 2 * hash + gear[first[i]];
        if (UNLIKELY((uint16_t)hash < below))
            mark(found, i);
    }
}

static void scan_plain(span positions, const marks *found) {
    uint16_t gear[256];
    fill_gear(gear);
    const uint8_t *first = positions.first;
    const uint16_t below = found->below;
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
            mark(found, i);
        if (UNLIKELY((uint16_t)h1 < below))
            mark(found, i + lane);
        if (UNLIKELY((uint16_t)h2 < below))
            mark(found, i + 2 * lane);
        if (UNLIKELY((uint16_t)h3 < below))
            mark(found, i + 3 * lane);
    }
    scan_one_lane(gear, positions, PLAIN_LANES * lane, found);
}

/* ---- AVX2: 32 lanes of 16 bits in two registers --------------------------
 *
 * The span is divided into 32 lanes. Sixteen bytes of every lane are loaded
 * and transposed, so that row k holds byte k of each lane; one row advances
 * all 32 hashes by one byte. The tables of 16 entries are byte shuffles. */

#if HAVE_AVX

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

static void mark_lanes(const marks *found, size_t position, size_t stride, uint32_t lanes) {
    for (; lanes; lanes &= lanes - 1)
        mark(found, position + stride * (size_t)__builtin_ctz(lanes));
}

AVX2 static void scan_block(const uint8_t *first, size_t offset, size_t stride,
                            size_t lane_bytes, const marks *found) {
    const shuffles table = {table_bytes(TABLE_A, 0), table_bytes(TABLE_A, 8),
                            table_bytes(TABLE_B, 0), table_bytes(TABLE_B, 8)};
    const __m256i below = _mm256_set1_epi16((short)found->below);
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
                mark_lanes(found, i + (size_t)k, stride,
                               candidate_lanes(&hash, found->below));
        }
    }
}

/* Lanes may overlap by a few positions: to mark one twice changes nothing. */
static void scan_avx2(span positions, const marks *found) {
    size_t done = 0;
    while (positions.count - done >= LANES * ROWS) {
        size_t block = positions.count - done;
        if (block > BLOCK_POSITIONS)
            block = BLOCK_POSITIONS;
        size_t lane_bytes = (block + LANES * ROWS - 1) / (LANES * ROWS) * ROWS;
        size_t stride = (block - lane_bytes) / (LANES - 1);
        scan_block(positions.first, done, stride, lane_bytes, found);
        done += (LANES - 1) * stride + lane_bytes;
    }
    uint16_t gear[256];
    fill_gear(gear);
    scan_one_lane(gear, positions, done, found);
}

#endif

/* ---- hashes of sub-blocks ------------------------------------------------
 *
 * Plain C, which the compiler turns into wider instructions where it may. */

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

INLINE uint64_t mix_word(uint64_t word, uint64_t number) {
    uint64_t mixed = (word ^ number * RANK_START) * RANK_STEP;
    return mixed ^ mixed >> 32;
}

/* The format multiplies each word by RANK_END before it adds it: that is the sum, once. */
INLINE uint64_t hash_words(const uint8_t *bytes, size_t size) {
    const size_t words = size / 8, rest = size % 8;
    uint64_t sum = 0;
    for (size_t i = 0; i < words; i++)
        sum += mix_word(load_le64(bytes + 8 * i), i + 1);
    if (rest) {
        uint8_t last[8] = {0};
        memcpy(last, bytes + 8 * words, rest);
        sum += mix_word(load_le64(last), words + 1);
    }
    sum = size + sum * RANK_END;
    return sum ^ sum >> 32;
}

static uint64_t hash_plain(const uint8_t *bytes, size_t size) {
    return hash_words(bytes, size);
}

#if HAVE_AVX

AVX2 static uint64_t hash_avx2(const uint8_t *bytes, size_t size) {
    return hash_words(bytes, size);
}

/* Short ones end at once: what is beyond the end is masked, not taken one by one. */
AVX512 static uint64_t hash_avx512(const uint8_t *bytes, size_t size) {
    const __m512i first = _mm512_set_epi64(8, 7, 6, 5, 4, 3, 2, 1);
    const __m512i start = _mm512_set1_epi64((long long)RANK_START);
    const __m512i step = _mm512_set1_epi64((long long)RANK_STEP);
    __m512i number = _mm512_mullo_epi64(first, start), sum = _mm512_setzero_si512();
    for (size_t done = 0; done < size; done += 64) {
        const size_t left = size - done;
        const __mmask64 known = left < 64 ? (UINT64_C(1) << left) - 1 : UINT64_MAX;
        const __mmask8 words = left < 64 ? (__mmask8)((1u << (left + 7) / 8) - 1) : 255;
        __m512i mixed = _mm512_maskz_loadu_epi8(known, bytes + done);
        mixed = _mm512_mullo_epi64(_mm512_xor_si512(mixed, number), step);
        mixed = _mm512_xor_si512(mixed, _mm512_srli_epi64(mixed, 32));
        sum = _mm512_mask_add_epi64(sum, words, sum, mixed);
        number = _mm512_add_epi64(number, _mm512_slli_epi64(start, 3));
    }
    const uint64_t hash = size + (uint64_t)_mm512_reduce_add_epi64(sum) * RANK_END;
    return hash ^ hash >> 32;
}

#endif

/* ---- kernels ------------------------------------------------------------- */

typedef struct {
    const char *name;
    void (*scan)(span positions, const marks *found);
    uint64_t (*hash)(const uint8_t *bytes, size_t size);
} kernel;

/* Fastest first. */
static const kernel KERNELS[] = {
#if HAVE_AVX
    {"avx512", scan_avx2, hash_avx512},
    {"avx2", scan_avx2, hash_avx2},
#endif
    {"plain", scan_plain, hash_plain},
};

#define KERNEL_COUNT (sizeof KERNELS / sizeof *KERNELS)

static int runs_here(const kernel *by) {
#if HAVE_AVX
    if (by->hash == hash_avx512)
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (by->hash == hash_avx2)
        return __builtin_cpu_supports("avx2") != 0;
#endif
    return by->hash == hash_plain;
}

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
