/* Where chunks and sub-blocks may end, and the hash of a sub-block: the loops over every byte, in
 * plain C and for processors that take many bytes at once. Part of _chunker.c alone.
 */
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
