// How weights lie on the device: the same bits as in the file, in the order in which the matrix instruction takes them.
//
// Sixteen rows are a strip; a strip is a sequence of tiles of 256 columns. A tile has steps of 64 columns, which are two
// groups of 32, and then the scales. In a step, lane (g, t) = (lane / 4, lane % 4) has of the rows g and
// g + 8 the columns 8t..8t+7 of both groups. Low four bits of quants: four words a lane, first two of row g then two of
// row g + 8, with the quants of the first group in the low halves of the bytes and of the second in the high ones; the
// bytes are in the order 0, 2, 1, 3, so that a mask gives the pair that belongs into one register.
//
// A half with the bits 0x6400 is 1024, and its last bit is worth 1: so 0x6400 | q is 1024 + q, without a conversion.
#pragma once
#include "common.cuh"

enum Format { F16, Q4_0, Q5_0, Q8_0, Q4_K, Q5_K, Q6_K, NVFP4, MXFP4 };

template <int format>
struct Tile;

// What a lane takes of a tile, from wherever the tile is.
DEVICE uint4 take16(const u8* p) { return *(const uint4*)p; }

// The scale and minimum bytes of a superblock as words: four scales, four more, four minima, four more.
DEVICE uint4 unpack_scales(u32 a, u32 b, u32 c) {
    return make_uint4(a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030), b & 0x3f3f3f3f,
                      (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030));
}

DEVICE u32 less(u32 q, u32 offset) { return bits(__hsub2(halves(q), halves(offset))); }

// ggml's K quants with minima: d * scale * q - dmin * minimum. What is multiplied is 1024 + q as it is (in the second
// group of a step 1024 + 16 q); a group's sum is then scaled, and what the 1024 gave is taken off with the minima.
struct Minima {
    static constexpr bool minima = true, grouped = true;
    const u8* at;   // the lane's part of the first step
    uint4 rows[2];  // d, dmin and the packed scales of rows g and g + 8
    uint4 scales[2];

    __device__ __forceinline__ void prepare(int) {
#pragma unroll
        for (int r = 0; r < 2; r++) scales[r] = unpack_scales(rows[r].y, rows[r].z, rows[r].w);
    }
    __device__ __forceinline__ float d(int r) const { return low(rows[r].x); }
    __device__ __forceinline__ float dmin(int r) const { return high(rows[r].x); }
    // The minima of groups 2t and 2t + 1 as halves.
    __device__ __forceinline__ u32 mins(int r, int t) const {
        const u32 word = t < 2 ? scales[r].z : scales[r].w;
        return bits(__hsub2(halves(__byte_perm(word, 0x64, t % 2 ? 0x4342 : 0x4140)), halves(0x64006400)));
    }
    // What is taken off for the 1024: their scales times -1024 and -64.
    __device__ __forceinline__ u32 offsets(int r, int t) const {
        const u32 word = t < 2 ? scales[r].x : scales[r].y;
        const half2 x = __hsub2(halves(__byte_perm(word, 0x64, t % 2 ? 0x4342 : 0x4140)), halves(0x64006400));
        return bits(__hmul2(x, halves(0xd400e400)));
    }
    // What the sum of group h of step s is multiplied with.
    template <int s, int h>
    __device__ __forceinline__ float group(int r) const {
        constexpr int i = 2 * s + h;
        // A byte below the bits of 2^23 is that much more.
        const float x = __uint_as_float(__byte_perm(i < 4 ? scales[r].x : scales[r].y, 0x4b000000, 0x7440 + i % 4));
        return h ? x * 0.0625f - 524288.f : x - 8388608.f;
    }
};

template <>
struct Tile<Q4_K> : Minima {
    static constexpr int BYTES = 2304;
    __device__ __forceinline__ void load(const u8* tile, int lane, int) {
        at = tile + lane * 16;
#pragma unroll
        for (int r = 0; r < 2; r++) rows[r] = take16(tile + 2048 + (lane / 4 + 8 * r) * 16);
    }
    // The quants of group h of step s: a is the matrix of the first 16 columns, b of the others.
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
        constexpr u32 mask = h ? 0x00f000f0 : 0x000f000f;
        const uint4 q = take16(at + s * 512);
        const u32 w[2][2] = {{q.x, q.y}, {q.z, q.w}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            a[r] = masked<mask, 0x64006400>(w[r][0]);
            a[r + 2] = masked<mask, 0x64006400>(w[r][0] >> 8);
            b[r] = masked<mask, 0x64006400>(w[r][1]);
            b[r + 2] = masked<mask, 0x64006400>(w[r][1] >> 8);
        }
    }
};

// (x & mask) | y
template <u32 mask>
DEVICE u32 merged(u32 x, u32 y) {
    u32 z;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(z) : "r"(x), "n"(mask), "r"(y));
    return z;
}

template <int n>
DEVICE u32 shifted(u32 x) {
    return n >= 0 ? x << (n & 31) : x >> (-n & 31);
}

// Fifth bits: a word a step and lane. Of pair p (0..3 in the first group, 4..7 in the second), bit p is of the first and
// bit 16 + p of the second number, for row g; 8 more for row g + 8.
template <int h, int r, int p>
DEVICE u32 fifth(u32 word, u32 low) {
    constexpr int to = h ? 8 : 4, from = 4 * h + p + 8 * r;
    return merged<h ? 0x01000100 : 0x00100010>(shifted<to - from>(word), low);
}

// The quants of five bits of row r of group h of step s, 1024 added (and in the second group 16-fold): pairs 0..3.
template <int h, int r>
DEVICE void five(u32 w0, u32 w1, u32 bits, u32 (&out)[4]) {
    constexpr u32 mask = h ? 0x00f000f0 : 0x000f000f;
    out[0] = fifth<h, r, 0>(bits, masked<mask, 0x64006400>(w0));
    out[1] = fifth<h, r, 1>(bits, masked<mask, 0x64006400>(w0 >> 8));
    out[2] = fifth<h, r, 2>(bits, masked<mask, 0x64006400>(w1));
    out[3] = fifth<h, r, 3>(bits, masked<mask, 0x64006400>(w1 >> 8));
}

template <>
struct Tile<Q5_K> : Minima {
    static constexpr int BYTES = 2816;
    uint4 fifths;
    __device__ __forceinline__ void load(const u8* tile, int lane, int) {
        at = tile + lane * 16;
        fifths = take16(tile + 2048 + lane * 16);
#pragma unroll
        for (int r = 0; r < 2; r++) rows[r] = take16(tile + 2560 + (lane / 4 + 8 * r) * 16);
    }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
        const uint4 q = take16(at + s * 512);
        u32 x[2][4];
        five<h, 0>(q.x, q.y, word_of(fifths, s), x[0]);
        five<h, 1>(q.z, q.w, word_of(fifths, s), x[1]);
#pragma unroll
        for (int r = 0; r < 2; r++) a[r] = x[r][0], a[r + 2] = x[r][1], b[r] = x[r][2], b[r + 2] = x[r][3];
    }
};

// What formats without minima have in their place.
struct NoMinima {
    static constexpr bool minima = false;
    __device__ __forceinline__ float dmin(int) const { return 0; }
    __device__ __forceinline__ u32 mins(int, int) const { return 0; }
};

// d * scale * (q - 32). The high two bits: two words a step and lane, one of each row. Of pair p, bits 2p and 2p + 1 are of
// the first and 16 more of the second number. Of two steps at a time: 16 bytes a lane.
template <>
struct Tile<Q6_K> : NoMinima {
    static constexpr int BYTES = 3360;
    static constexpr bool grouped = false;
    const u8* at;
    uint4 scales[2];
    u16 ds[2];
    __device__ __forceinline__ void load(const u8* tile, int lane, int) {
        at = tile + lane * 16;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            scales[r] = take16(tile + 3072 + (lane / 4 + 8 * r) * 16);
            ds[r] = *(const u16*)(tile + 3328 + (lane / 4 + 8 * r) * 2);
        }
    }
    __device__ __forceinline__ void prepare(int lane) {
        // A lane's columns of a group are all in its first or all in its second 16; a scale of x is kept as x + 128.
        const u32 order = lane % 4 < 2 ? 0x6420 : 0x7531;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint4 v = scales[r];
            scales[r].x = __byte_perm(v.x, v.y, order) ^ 0x80808080;
            scales[r].y = __byte_perm(v.z, v.w, order) ^ 0x80808080;
        }
    }
    __device__ __forceinline__ float d(int r) const { return __half2float(__ushort_as_half(ds[r])); }
    template <int h, int p>
    DEVICE u32 six(u32 low, u32 high) {
        constexpr int to = h ? 8 : 4, from = 2 * (4 * h + p);
        const u32 x = merged<h ? 0x03000300 : 0x00300030>(shifted<to - from>(high), low);
        // 1024 + 16 q becomes q - 32 in one step: the factor is exact and so is the difference.
        return h ? bits(__hfma2(halves(x), halves(0x2c002c00), halves(0xd600d600))) : less(x, 0x64206420);
    }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
        constexpr u32 mask = h ? 0x00f000f0 : 0x000f000f;
        constexpr int group = 2 * s + h;
        const uint4 q = take16(at + s * 512), high2 = take16(at + 2048 + s / 2 * 512);
        const u32 w[2][2] = {{q.x, q.y}, {q.z, q.w}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const u32 high = word_of(high2, s % 2 * 2 + r);
            const u32 word = group < 4 ? scales[r].x : scales[r].y;
            const half2 d = __hsub2(halves(__byte_perm(word, 0x64, 0x4040 + 0x101 * (group % 4))), halves(0x64806480));
            a[r] = bits(__hmul2(halves(six<h, 0>(masked<mask, 0x64006400>(w[r][0]), high)), d));
            a[r + 2] = bits(__hmul2(halves(six<h, 1>(masked<mask, 0x64006400>(w[r][0] >> 8), high)), d));
            b[r] = bits(__hmul2(halves(six<h, 2>(masked<mask, 0x64006400>(w[r][1]), high)), d));
            b[r + 2] = bits(__hmul2(halves(six<h, 3>(masked<mask, 0x64006400>(w[r][1] >> 8), high)), d));
        }
    }
};

// ggml's older quants: a scale for each 32, and the numbers as they are. A tile may end early, after `steps` steps; its
// eight scales a row follow.
struct Grouped : NoMinima {
    static constexpr bool grouped = true;
    uint4 scales[2];
    __device__ __forceinline__ void load_scales(const u8* at, int lane) {
#pragma unroll
        for (int r = 0; r < 2; r++) scales[r] = take16(at + (lane / 4 + 8 * r) * 16);
    }
    __device__ __forceinline__ void prepare(int) {}
    __device__ __forceinline__ float d(int) const { return 1; }
    template <int s, int h>
    __device__ __forceinline__ float group(int r) const {
        return h ? high(word_of(scales[r], s)) : low(word_of(scales[r], s));
    }
};

template <>
struct Tile<Q4_0> : Grouped {
    static constexpr int BYTES = 2304;
    const u8* at;
    __device__ __forceinline__ void load(const u8* tile, int lane, int steps) {
        at = tile + lane * 16;
        load_scales(tile + steps * 512, lane);
    }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
        const uint4 q = take16(at + s * 512);
        const u32 w[2][2] = {{q.x, q.y}, {q.z, q.w}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            a[r] = four<h>(w[r][0]);
            a[r + 2] = four<h>(w[r][0] >> 8);
            b[r] = four<h>(w[r][1]);
            b[r + 2] = four<h>(w[r][1] >> 8);
        }
    }
    // q - 8
    template <int h>
    DEVICE u32 four(u32 w) {
        const u32 x = masked<h ? 0x00f000f0 : 0x000f000f, 0x64006400>(w);
        return h ? bits(__hfma2(halves(x), halves(0x2c002c00), halves(0xd480d480))) : less(x, 0x64086408);
    }
};

template <>
struct Tile<Q5_0> : Grouped {
    static constexpr int BYTES = 2816;
    const u8* at;
    uint4 fifths;
    __device__ __forceinline__ void load(const u8* tile, int lane, int steps) {
        at = tile + lane * 16;
        fifths = take16(tile + steps * 512 + lane * 16);
        load_scales(tile + steps * 512 + 512, lane);
    }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
        const uint4 q = take16(at + s * 512);
        u32 x[2][4];
        five<h, 0>(q.x, q.y, word_of(fifths, s), x[0]);
        five<h, 1>(q.z, q.w, word_of(fifths, s), x[1]);
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int p = 0; p < 4; p++)
                x[r][p] = h ? bits(__hfma2(halves(x[r][p]), halves(0x2c002c00), halves(0xd500d500))) : less(x[r][p], 0x64106410);
            a[r] = x[r][0];
            a[r + 2] = x[r][1];
            b[r] = x[r][2];
            b[r + 2] = x[r][3];
        }
    }
};

// Bytes q + 128; of each step, 16 bytes a lane of row g (8 of each group), then of row g + 8.
template <>
struct Tile<Q8_0> : Grouped {
    static constexpr int BYTES = 4352;
    const u8* at;
    __device__ __forceinline__ void load(const u8* tile, int lane, int steps) {
        at = tile + lane * 16;
        load_scales(tile + steps * 1024, lane);
    }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint4 q = take16(at + (s * 2 + r) * 512);
            const u32 w0 = word_of(q, 2 * h), w1 = word_of(q, 2 * h + 1);
            a[r] = less(__byte_perm(w0, 0x64, 0x4140), 0x64806480);
            a[r + 2] = less(__byte_perm(w0, 0x64, 0x4342), 0x64806480);
            b[r] = less(__byte_perm(w1, 0x64, 0x4140), 0x64806480);
            b[r + 2] = less(__byte_perm(w1, 0x64, 0x4342), 0x64806480);
        }
    }
};

// Halves. Of each step, 16 bytes a lane of row g, then of row g + 8, of the first group, then of the second.
template <>
struct Tile<F16> : NoMinima {
    static constexpr int BYTES = 8192;
    static constexpr bool grouped = false;
    const u8* at;
    __device__ __forceinline__ void load(const u8* tile, int lane, int) { at = tile + lane * 16; }
    __device__ __forceinline__ void prepare(int) {}
    __device__ __forceinline__ float d(int) const { return 1; }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint4 x = take16(at + ((s * 2 + h) * 2 + r) * 512);
            a[r] = x.x;
            a[r + 2] = x.y;
            b[r] = x.z;
            b[r + 2] = x.w;
        }
    }
};

// Floats of 4 bits: a sign, two bits of exponent, one of mantissa. Put where a half has them (15 and 11 to 9), they are 2^-14
// of what they stand for, those too small to be normal included. A half of a word has four of them, of pairs 0 and 1 of the
// first group, then of the second; the bits lie so that it takes few instructions to get them there: the last three of
// number n are 3n bits below, and the sign is as many bits below as this.
DEVICE constexpr int sign_below(int n) { return n == 0 ? 0 : n == 1 ? 3 : n - 1; }
DEVICE u32 spread_tiny(u32 q, int n) { return (q & 7) << (9 - 3 * n) | (q >> 3) << (15 - sign_below(n)); }

// Of pair i of group h.
template <int h, int i>
DEVICE u32 tiny(u32 word) {
    constexpr int n = 2 * h + i;
    if (n < 2) return shifted<3 * n>(word) & 0x8e008e00;
    return merged<0x80008000>(shifted<sign_below(n)>(word), shifted<3 * n>(word) & 0x0e000e00);
}

// NVIDIA's: a scale for each 16, a float of 8 bits without a sign. Put where a half has them, scales are 2^-8 of what they
// stand for; times 2^15 they are as large as a half can be, so that their products with small numbers are not too small.
template <>
struct Tile<NVFP4> : NoMinima {
    static constexpr int BYTES = 2304;
    static constexpr bool grouped = false;
    const u8* at;
    uint4 scales[2];
    __device__ __forceinline__ void load(const u8* tile, int lane, int steps) {
        at = tile + lane * 16;
#pragma unroll
        for (int r = 0; r < 2; r++) scales[r] = take16(tile + steps * 512 + (lane / 4 + 8 * r) * 16);
    }
    __device__ __forceinline__ void prepare(int lane) {
        // A lane's columns of a group are all in its first or all in its second 16.
        const u32 order = lane % 4 < 2 ? 0x6420 : 0x7531;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint4 v = scales[r];
            scales[r].x = __byte_perm(v.x, v.y, order);
            scales[r].y = __byte_perm(v.z, v.w, order);
        }
    }
    __device__ __forceinline__ float d(int) const { return 128; }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
        constexpr int group = 2 * s + h;
        const uint4 q = take16(at + s * 512);
        const u32 w[2][2] = {{q.x, q.y}, {q.z, q.w}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            // Those of both groups of the step.
            const u32 small = __byte_perm(group < 4 ? scales[r].x : scales[r].y, 0, 0x4140 + 0x202 * (s % 2)) << 7;
            const half2 both = __hmul2(halves(small), halves(0x78007800));
            const half2 scale = h ? __high2half2(both) : __low2half2(both);
            a[r] = bits(__hmul2(halves(tiny<h, 0>(w[r][0])), scale));
            a[r + 2] = bits(__hmul2(halves(tiny<h, 1>(w[r][0])), scale));
            b[r] = bits(__hmul2(halves(tiny<h, 0>(w[r][1])), scale));
            b[r + 2] = bits(__hmul2(halves(tiny<h, 1>(w[r][1])), scale));
        }
    }
};

// 2^(exponent - 127)
DEVICE float power_of_two(u32 exponent) { return __uint_as_float(exponent ? exponent << 23 : 0x00400000); }

// The open standard's: a power of two for each 32.
template <>
struct Tile<MXFP4> : NoMinima {
    static constexpr int BYTES = 2176;
    static constexpr bool grouped = true;
    const u8* at;
    uint2 scales[2];
    __device__ __forceinline__ void load(const u8* tile, int lane, int steps) {
        at = tile + lane * 16;
#pragma unroll
        for (int r = 0; r < 2; r++) scales[r] = *(const uint2*)(tile + steps * 512 + (lane / 4 + 8 * r) * 8);
    }
    __device__ __forceinline__ void prepare(int) {}
    __device__ __forceinline__ float d(int) const { return 1; }
    template <int s, int h>
    __device__ __forceinline__ float group(int r) const {
        constexpr int i = 2 * s + h;
        const u32 exponent = (i < 4 ? scales[r].x : scales[r].y) >> (i % 4 * 8) & 255;
        return 16384.f * power_of_two(exponent);
    }
    template <int s, int h>
    __device__ __forceinline__ void get(u32 (&a)[4], u32 (&b)[4], int) const {
        const uint4 q = take16(at + s * 512);
        const u32 w[2][2] = {{q.x, q.y}, {q.z, q.w}};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            a[r] = tiny<h, 0>(w[r][0]);
            a[r + 2] = tiny<h, 1>(w[r][0]);
            b[r] = tiny<h, 0>(w[r][1]);
            b[r + 2] = tiny<h, 1>(w[r][1]);
        }
    }
};

// Bytes of a tile of so many steps.
DEVICE int tile_bytes(int format, int steps) {
    switch (format) {
        case F16: return steps * 2048;
        case Q4_0:
        case NVFP4: return steps * 512 + 256;
        case MXFP4: return steps * 512 + 128;
        case Q5_0: return steps * 512 + 768;
        case Q8_0: return steps * 1024 + 256;
        case Q4_K: return 2304;
        case Q5_K: return 2816;
        default: return 3360;
    }
}

// Bytes of a strip of 16 rows with so many columns.
DEVICE size_t strip_bytes(int format, int columns) {
    const int steps = (columns + 63) / 64, last = steps % 4;
    return (size_t)(steps / 4) * tile_bytes(format, 4) + (last ? tile_bytes(format, last) : 0);
}

// CALL(step, group) for each group of a tile of `count` steps.
#define EACH_GROUP(count, CALL)                    \
    do {                                           \
        if (0 < (count)) { CALL(0, 0) CALL(0, 1) } \
        if (1 < (count)) { CALL(1, 0) CALL(1, 1) } \
        if (2 < (count)) { CALL(2, 0) CALL(2, 1) } \
        if (3 < (count)) { CALL(3, 0) CALL(3, 1) } \
    } while (0)
