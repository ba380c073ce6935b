// Queries as attention has them: rows of a matrix of 16, and what those have seen so far of keys and values.
//
// With the order of the matrix instruction's rows and columns being ours, column g of the i-th of four score matrices is
// position 8 * (g / 2) + 2i + g % 2, so that lane t's scores are of positions 8t..8t+7. The cache has keys and values in
// that order (`cache.cuh`); what they are stored as is known when this is compiled.
#pragma once
#include "cache.cuh"

// Tokens of a slot that follow each other.
struct Queries {
    int row, count, slot, position;
};

struct Attention {
    const float* q;         // [rows, heads, size]
    u8* cache;              // of the layer, in the first block
    const u32* tables;      // of each slot, its blocks of 32 positions
    const Queries* queries;
    float* out;             // [rows, heads, size]
    float* partial;         // of each split: [16, size] sums, then [16] of the largest score and of the weights' sum
    u32* arrived;           // zeros
    u64 stride;             // bytes from block to block
    int heads, kv_heads, size, width, window, splits;
    int per, subs;          // heads of queries in a matrix, and matrices that a head of keys needs
    float scale, softcap;   // no softcap: zero
    // For who also turns queries and keys, and stores keys and values: of the step, [rows, kv_heads, size]
    const float *k, *v, *angles, *q_weight, *k_weight;
    float q_eps, k_eps;
    int adjacent;
    // Unless its base is null, `out` as halves too: what a block has of a token are whole chunks of it then.
    Activations halves;

    __device__ __forceinline__ const u32* table(int slot) const { return tables + (size_t)slot * width; }
    // The keys of a head in a block, before the values.
    template <int KV>
    __device__ __forceinline__ u8* keys(u32 block, int head, int size) const {
        return cache + block * stride + (size_t)head * 2 * half_bytes(KV, size);
    }
};

constexpr float LOG2E = 1.4426950408889634f;

DEVICE float score(float x, const Attention& a) {
    x *= a.scale;
    if (a.softcap > 0) x = a.softcap * tanhf(x / a.softcap);
    return x * LOG2E;
}

// What a lane has of the keys or values of a head in a block, from wherever those are.
template <int D, int KV>
struct Lane {
    static constexpr int PIECES = D / 8, PER = pieces_of(KV), LOADS = PIECES / PER;
    const u8* at;

    __device__ __forceinline__ Lane(const u8* at) : at(at) {}
    // The values, where these are keys.
    __device__ __forceinline__ Lane values() const { return Lane(at + half_bytes(KV, D)); }
    // Its pieces from PER * i on.
    __device__ __forceinline__ uint4 load(int i) const { return *(const uint4*)(at + i * 512 + threadIdx.x % 32 * 16); }
    // Of four bits the sizes of the steps of its eight positions, in a group of 32 dimensions.
    __device__ __forceinline__ uint4 sizes(int group) const {
        return KV == Q4 ? *(const uint4*)(at + steps_at(D, group) + threadIdx.x % 4 * 16) : make_uint4(0, 0, 0, 0);
    }
};

// Butterflies of the Hadamard transform between an array's numbers h apart, up to `below`.
template <int COUNT>
DEVICE void butterflies(float (&x)[COUNT], int below) {
#pragma unroll
    for (int h = 1; h < COUNT; h *= 2)
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            if (h < below && !(i & h) && i + h < COUNT) {
                const float a = x[i], b = x[i + h];
                x[i] = a + b, x[i + h] = a - b;
            }
}
// The same between lanes.
DEVICE float butterfly(float x, int h) {
    const float other = __shfl_xor_sync(0xffffffff, x, h);
    return threadIdx.x & h ? other - x : x + other;
}

// A row of queries turned as keys of four bits are: a lane has the columns 8t..8t+7 of every 32.
template <int D>
DEVICE void hadamard_of(float (&v)[D / 32][8]) {
    constexpr int TURNED = D & -D;
    const float by = rsqrtf(TURNED);
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
        butterflies(v[j], 8);
#pragma unroll
        for (int i = 0; i < 8; i++) v[j][i] = butterfly(butterfly(v[j][i] * by, 1), 2);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float x[D / 32];
#pragma unroll
        for (int j = 0; j < D / 32; j++) x[j] = v[j][i];
        butterflies(x, TURNED / 32);
#pragma unroll
        for (int j = 0; j < D / 32; j++) v[j][i] = x[j];
    }
}

// A lane's columns (8t..8t+7 of every 32) of a head, normalised if there is a weight, and turned. Lanes with the same t may
// have heads of their own. Where halves are turned together, they are of 64 columns or more.
template <int D>
DEVICE void turn(const float* head, const float* weight, float eps, int adjacent, const float2* turns, float (&v)[D / 32][8]) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < D / 32; j++) load8(head, 32 * j + 8 * t, D, v[j]);
    if (weight) {
        float square = 0, w[8];
#pragma unroll
        for (int j = 0; j < D / 32; j++)
#pragma unroll
            for (int i = 0; i < 8; i++) square += v[j][i] * v[j][i];
        square += __shfl_xor_sync(0xffffffff, square, 1);
        square += __shfl_xor_sync(0xffffffff, square, 2);
        const float by = rsqrtf(square / D + eps);
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            load8(weight, 32 * j + 8 * t, D, w);
#pragma unroll
            for (int i = 0; i < 8; i++) v[j][i] *= by * w[i];
        }
    }
    auto rotate = [](float& x, float& y, float2 turn) {
        const float a = x, b = y;
        x = a * turn.x - b * turn.y;
        y = b * turn.x + a * turn.y;
    };
    if (adjacent) {
#pragma unroll
        for (int j = 0; j < D / 32; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) rotate(v[j][2 * i], v[j][2 * i + 1], turns[16 * j + 4 * t + i]);
    } else {
#pragma unroll
        for (int j = 0; j < D / 64; j++)
#pragma unroll
            for (int i = 0; i < 8; i++) rotate(v[j][i], v[j + D / 64][i], turns[32 * j + 8 * t + i]);
    }
}

// A matrix of 16 rows of queries and what it has seen so far.
template <int D, int KV, bool SMALL>
struct Rows {
    static constexpr int N = SMALL ? 1 : 2;  // rows g, and g + 8 if there are more than 8
    typedef Lane<D, KV> L;
    u32 q[D / 16][2 * N];
    float offset[KV == Q4 ? D / 32 : 1][N];  // what scores of keys of four bits begin with, for each group
    float o[D / 8][2 * N];
    float most[N], sum[N];
    int position[N];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < N; n++) most[n] = -INFINITY, sum[n] = 0;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
#pragma unroll
            for (int i = 0; i < 2 * N; i++) o[d][i] = 0;
    }

    // Takes what a lane has of row g + 8n of the queries.
    __device__ __forceinline__ void take(int n, float (&v)[D / 32][8]) {
        if constexpr (KV == Q4) hadamard_of<D>(v);
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            // Every second pair of a key of four bits is 16 times as much.
            const float by = KV == Q4 ? 0.0625f : 1;
            u32 pairs[4];
#pragma unroll
            for (int i = 0; i < 4; i++) pairs[i] = i % 2 ? pack(v[j][2 * i] * by, v[j][2 * i + 1] * by) : pack(v[j][2 * i], v[j][2 * i + 1]);
            q[2 * j][n] = pairs[0], q[2 * j][N + n] = pairs[1];
            q[2 * j + 1][n] = pairs[2], q[2 * j + 1][N + n] = pairs[3];
            if constexpr (KV == Q4) {
                // Steps are 1024 + q there, and 1024 + 16 q in every second pair, for q - 8.
                float sum = -1032 * (low(pairs[0]) + high(pairs[0]) + low(pairs[2]) + high(pairs[2]));
                sum -= 1152 * (low(pairs[1]) + high(pairs[1]) + low(pairs[3]) + high(pairs[3]));
                sum += __shfl_xor_sync(0xffffffff, sum, 1);
                offset[j][n] = sum + __shfl_xor_sync(0xffffffff, sum, 2);
            }
        }
    }

    // Of one token, whose `rows` heads are turned first.
    __device__ __forceinline__ void turned(const Attention& a, const Queries& tile, int rows, int head) {
        const int g = threadIdx.x % 32 / 4;
        float v[D / 32][8];
        const float* from = a.q + ((size_t)tile.row * a.heads + head + min(g, rows - 1)) * D;
        turn<D>(from, a.q_weight, a.q_eps, a.adjacent, (const float2*)a.angles + (size_t)tile.row * (D / 2), v);
        // Rows that aren't there see nothing.
        position[0] = g < rows ? tile.position : -1;
        take(0, v);
        clear();
    }

    // `rows` from `first` on of the matrix exist. Row r is of token r / per and head r % per.
    __device__ __forceinline__ void init(const Attention& a, const Queries& tile, int first, int rows, int head) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const int r = first + g + 8 * n;
            const bool there = r < rows;
            position[n] = there ? tile.position + r / a.per : -1;
            const float* from = a.q + ((size_t)(tile.row + (there ? r / a.per : 0)) * a.heads + head + (there ? r % a.per : 0)) * D;
            float v[D / 32][8];
#pragma unroll
            for (int j = 0; j < D / 32; j++) {
                if (there) {
                    load8(from, 32 * j + 8 * t, D, v[j]);
                } else {
#pragma unroll
                    for (int i = 0; i < 8; i++) v[j][i] = 0;
                }
            }
            take(n, v);
        }
        clear();
    }

    DEVICE void multiply(float (&c)[2 * N], const u32 (&a)[2 * N], u32 b0, u32 b1) {
        if constexpr (SMALL) {
            float unused;
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %2}, {%3, %5, %4, %5}, {%6, %7}, {%0, %1, %8, %8};"
                : "+f"(c[0]), "+f"(c[1]), "=f"(unused)
                : "r"(a[0]), "r"(a[1]), "r"(0), "r"(b0), "r"(b1), "f"(0.f));
        } else {
            mma(c, a, b0, b1);
        }
    }

    // Sees a block of 32 positions; load(i) gives what the lane loads of the values.
    template <typename V>
    __device__ __forceinline__ void see(const Attention& a, int block, bool whole, const L& keys, V load, const L& values) {
        const int t = threadIdx.x % 4;
        float s[4][2 * N];
        uint4 raw, sizes[KV == Q4 ? D / 32 : 1];
        if constexpr (KV == Q4)
#pragma unroll
            for (int j = 0; j < D / 32; j++) sizes[j] = keys.sizes(j);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int c = 0; c < 2 * N; c++) s[i][c] = 0;
#pragma unroll
            for (int j = 0; j < D / 32; j++) {
                const int piece = i * (D / 32) + j;
                if (piece % L::PER == 0) raw = keys.load(piece / L::PER);
                const uint4 k = key_of(KV, raw, piece);
                if constexpr (KV == Q4) {
                    float part[2 * N];
#pragma unroll
                    for (int c = 0; c < 2 * N; c++) part[c] = offset[j][c / 2];
                    multiply(part, q[2 * j], k.x, k.y);
                    multiply(part, q[2 * j + 1], k.z, k.w);
                    const u32 size = word_of(sizes[j], i);
#pragma unroll
                    for (int c = 0; c < 2 * N; c++) s[i][c] += part[c] * (c % 2 ? high(size) : low(size));
                } else {
                    multiply(s[i], q[2 * j], k.x, k.y);
                    multiply(s[i], q[2 * j + 1], k.z, k.w);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++) {
            float m = most[n];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    const int at = block * 32 + 8 * t + 2 * i + c;
                    float& x = s[i][2 * n + c];
                    x = whole || (at <= position[n] && at > position[n] - a.window) ? score(x, a) : -INFINITY;
                    m = fmaxf(m, x);
                }
            m = fmaxf(m, __shfl_xor_sync(0xffffffff, m, 1));
            m = fmaxf(m, __shfl_xor_sync(0xffffffff, m, 2));
            const float base = m == -INFINITY ? 0 : m, less = exp2f(most[n] - base);
            most[n] = m;
            sum[n] *= less;
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    float& x = s[i][2 * n + c];
                    x = exp2f(x - base);
                    sum[n] += x;
                }
#pragma unroll
            for (int d = 0; d < D / 8; d++) o[d][2 * n] *= less, o[d][2 * n + 1] *= less;
        }
        u32 p[2][2 * N];
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int n = 0; n < N; n++) p[i / 2][i % 2 * N + n] = pack(s[i][2 * n], s[i][2 * n + 1]);
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            if (d % L::PER == 0) raw = load(d / L::PER);
            if (d % 4 == 0) sizes[0] = values.sizes(d / 4);
            const uint4 v = value_of(KV, raw, d, sizes[0]);
            multiply(o[d], p[0], v.x, v.y);
            multiply(o[d], p[1], v.z, v.w);
        }
    }

    __device__ __forceinline__ void finish() {
        if constexpr (KV == Q4) {
            // What values of four bits give is turned back: lane t has of row g the columns 8d + 2t and 8d + 2t + 1.
            constexpr int TURNED = D & -D;
            const float by = rsqrtf(TURNED);
#pragma unroll
            for (int n = 0; n < N; n++) {
                float x[2][D / 8];
#pragma unroll
                for (int d = 0; d < D / 8; d++) {
                    const float a = o[d][2 * n] * by, b = o[d][2 * n + 1] * by;
                    x[0][d] = butterfly(butterfly(a + b, 1), 2), x[1][d] = butterfly(butterfly(a - b, 1), 2);
                }
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    butterflies(x[c], TURNED / 8);
#pragma unroll
                    for (int d = 0; d < D / 8; d++) o[d][2 * n + c] = x[c][d];
                }
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++) {
            sum[n] += __shfl_xor_sync(0xffffffff, sum[n], 1);
            sum[n] += __shfl_xor_sync(0xffffffff, sum[n], 2);
        }
    }
};
