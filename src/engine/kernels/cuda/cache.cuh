// How keys and values lie in the cache, and how they get there.
//
// Of 32 positions of a head there are the keys, then the values, each in pieces of eight numbers in the order in which
// attention's lanes take them: 16 bytes a lane, which are a piece of halves, two of 8 bits or four of 4.
// - keys: piece (i, j) of lane (g, t) = (lane / 4, lane % 4) has of position 8 * (g / 2) + 2i + g % 2 the dimensions
//   32j + 8t..32j + 8t + 7
// - values: piece d of that lane has dimension 8d + g of positions 8t..8t + 7
// Four bits are steps, whose sizes (halves: [dimensions / 32][32 positions]) come after the pieces. A byte of them is
// of one position alone, so that positions may be stored by different warps.
//
// Heads of sizes that attention has no such kernel for lie as they are: [32, dimensions], 16 steps and their size before
// them in 18 bytes.
#pragma once
#include "common.cuh"

// What numbers are stored as. Eight bits are e4m3. Four bits are -8..7 steps of a 16th between the extremes of 32 numbers,
// of a head that was turned by the Hadamard transform.
enum Kv { HALF, FP8, Q4 };

// Pieces in 16 bytes.
DEVICE constexpr int pieces_of(int kv) { return 1 << kv; }

// Bytes of the keys or values of a head of so many dimensions, of 32 positions.
DEVICE constexpr int half_bytes(int kv, int size) { return kv == Q4 ? (size + 31) / 32 * 576 : size * 64 >> kv; }

// Where in those the sizes of steps of a group of 32 dimensions are.
DEVICE constexpr int steps_at(int size, int group) { return size * 16 + group * 64; }

// Whether heads of this size lie in pieces.
DEVICE bool in_pieces(int size) { return size == 64 || size == 96 || size == 128 || size == 256; }

// Turns eight numbers of each lane, which are a head's in their order, by the Hadamard transform over the largest power of
// two that divides its size.
DEVICE void hadamard(float (&x)[8], int size) {
    const int lane = threadIdx.x % 32, turned = size & -size;
#pragma unroll
    for (int h = 1; h < 8; h *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (!(i & h)) {
                const float a = x[i], b = x[i + h];
                x[i] = a + b, x[i + h] = a - b;
            }
    for (int h = 1; 8 * h < turned; h *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float other = __shfl_xor_sync(0xffffffff, x[i], h);
            x[i] = lane & h ? other - x[i] : x[i] + other;
        }
    const float by = 1 / sqrtf(turned);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] *= by;
}

// The nearest number of four bits of exponent and three of mantissa, of two the even one.
DEVICE u32 e4m3(float x) {
    const u32 sign = __float_as_uint(x) >> 24 & 0x80;
    x = fminf(fabsf(x), 448.f);
    // Below 2^-6 steps are of 2^-9.
    if (x < 0.015625f) return sign | (u32)rintf(x * 512);
    const u32 bits = __float_as_uint(x);
    return sign | (((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - ((127 - 7) << 3));
}

// Two numbers of 8 bits, the low half of a word or its high one.
DEVICE u32 from_e4m3(u32 word, bool upper) {
#if __CUDA_ARCH__ >= 890
    u32 out;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(out) : "h"((u16)(upper ? word >> 16 : word)));
    return out;
#else
    // Put where a half has them, they are 2^-8 of what they stand for.
    const u32 x = __byte_perm(word, 0, upper ? 0x3424 : 0x1404);
    return bits(__hmul2(halves((x & 0x80008000) | (x >> 1 & 0x3f803f80)), halves(0x5c005c00)));
#endif
}

// Steps of four neighbouring lanes' 32 numbers: their size, and which each number is.
DEVICE __half steps(const float (&x)[8], u32 (&quant)[8]) {
    const int lane = threadIdx.x % 32;
    float extreme = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
#pragma unroll
    for (int h = 1; h < 4; h *= 2) {
        const float other = __shfl_xor_sync(0xffffffff, extreme, h);
        // Of two that are as far out, the first.
        const bool first = lane & h ? fabsf(other) >= fabsf(extreme) : fabsf(other) > fabsf(extreme);
        if (first) extreme = other;
    }
    // The extreme one is -8 steps, so that 7 are left on the other side.
    const __half step = clamped(extreme / -8);
    const float size = __half2float(step), by = size == 0 ? 0 : 1 / size;
#pragma unroll
    for (int i = 0; i < 8; i++) quant[i] = (u32)fminf(fmaxf(rintf(x[i] * by) + 8, 0.f), 15.f);
    return step;
}

// The bits that a byte of four bits has of position p of four: pairs that belong together are two bytes apart.
DEVICE int byte_of(int p) { return (p & 1) * 2 + p / 2; }

// A warp puts the key or value of a head at a position: lanes have eight dimensions each. `to` is where the keys or values
// of 32 positions are.
DEVICE void put(int kv, int size, u8* to, bool value, int position, float (&x)[8]) {
    const int lane = threadIdx.x % 32, first = lane * 8, group = lane / 4;
    if (kv == Q4) hadamard(x, size);
    u32 quant[8];
    __half step;
    if (kv == Q4) step = steps(x, quant);
    if (!in_pieces(size)) {
        u8* row = to + position * (half_bytes(kv, size) / 32);
        // The later 16 numbers of a group are the high halves of the bytes.
        if (kv == Q4)
#pragma unroll
            for (int i = 0; i < 8; i++) quant[i] |= __shfl_down_sync(0xffffffff, quant[i], 2) << 4;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            if (first + i >= size) break;
            if (kv == HALF) ((__half*)row)[first + i] = clamped(x[i]);
            if (kv == FP8) row[first + i] = e4m3(x[i]);
            if (kv == Q4 && lane % 4 < 2) row[group * 18 + 2 + lane % 4 * 8 + i] = quant[i];
        }
        if (kv == Q4 && lane % 4 == 0 && first < size) *(__half*)(row + group * 18) = step;
        return;
    }

    if (kv == Q4 && lane % 4 == 0 && first < size) ((__half*)(to + steps_at(size, group)))[position] = step;
    if (value) {
        // Four bits of a value share their byte with those eight dimensions on.
        if (kv == Q4)
#pragma unroll
            for (int i = 0; i < 8; i++) quant[i] |= __shfl_down_sync(0xffffffff, quant[i], 1) << 4;
        if (first >= size || (kv == Q4 && lane % 2)) return;
        const int at = position % 8, per = pieces_of(kv);
        to += lane / per * 512 + position / 8 * 16;
#pragma unroll
        for (int i = 0; i < 8; i++, to += 64) {
            if (kv == HALF) ((__half*)to)[at] = clamped(x[i]);
            if (kv == FP8) to[lane % 2 * 8 + at] = e4m3(x[i]);
            if (kv == Q4) to[lane % 4 * 4 + at / 4 * 4 + byte_of(at % 4)] = quant[i];
        }
    } else {
        if (first >= size) return;
        const int piece = position % 8 / 2 * (size / 32) + group, per = pieces_of(kv);
        to += piece / per * 512 + (4 * (2 * (position / 8) + position % 2) + lane % 4) * 16 + piece % per * (16 / per);
        u32 words[4];
        if (kv == HALF) {
#pragma unroll
            for (int i = 0; i < 4; i++) words[i] = bits(__halves2half2(clamped(x[2 * i]), clamped(x[2 * i + 1])));
            *(uint4*)to = make_uint4(words[0], words[1], words[2], words[3]);
        } else if (kv == FP8) {
#pragma unroll
            for (int i = 0; i < 2; i++)
                words[i] = e4m3(x[4 * i]) | e4m3(x[4 * i + 1]) << 8 | e4m3(x[4 * i + 2]) << 16 | e4m3(x[4 * i + 3]) << 24;
            *(uint2*)to = make_uint2(words[0], words[1]);
        } else {
            // Pairs one after the other: the first ones in the low halves of the word, the second ones in the high ones.
            words[0] = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) words[0] |= quant[i] << (i / 2 * 4 + i % 2 * 16);
            *(u32*)to = words[0];
        }
    }
}

// Eight halves of a key or value, of 16 bytes of a lane with so many pieces. Steps of four bits are: of a key 1024 + q, and
// 1024 + 16 q in its second and fourth pair (attention knows); of a value what they stand for, `sizes` being those of the
// lane's eight positions.
DEVICE uint4 key_of(int kv, const uint4& raw, int piece) {
    if (kv == HALF) return raw;
    if (kv == FP8) {
        const u32 a = piece % 2 ? raw.z : raw.x, b = piece % 2 ? raw.w : raw.y;
        return make_uint4(from_e4m3(a, false), from_e4m3(a, true), from_e4m3(b, false), from_e4m3(b, true));
    }
    const u32 word = word_of(raw, piece % 4), later = word >> 8;
    return make_uint4(masked<0x000f000f, 0x64006400>(word), masked<0x00f000f0, 0x64006400>(word),
                      masked<0x000f000f, 0x64006400>(later), masked<0x00f000f0, 0x64006400>(later));
}

DEVICE uint4 value_of(int kv, const uint4& raw, int piece, const uint4& sizes) {
    if (kv != Q4) return key_of(kv, raw, piece);
    const bool second = piece % 2;
    auto four = [&](u32 word, u32 size) {
        const u32 x = second ? masked<0x00f000f0, 0x64006400>(word) : masked<0x000f000f, 0x64006400>(word);
        const half2 q = second ? __hfma2(halves(x), halves(0x2c002c00), halves(0xd480d480)) : __hsub2(halves(x), halves(0x64086408));
        return bits(__hmul2(q, halves(size)));
    };
    const u32 a = piece % 4 < 2 ? raw.x : raw.z, b = piece % 4 < 2 ? raw.y : raw.w;
    return make_uint4(four(a, sizes.x), four(a >> 8, sizes.y), four(b, sizes.z), four(b >> 8, sizes.w));
}
