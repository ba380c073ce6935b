// Attention over the cache. The heads of queries that share a head of keys, and tokens that follow each other, are the rows
// of one matrix of 16, so that each key and value is read once for all of them. Positions come in blocks of 32.
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

DEVICE int first_block(const Attention& a, const Queries& tile) { return max(0, tile.position - a.window + 1) / 32; }

// A warp stores the key and value of a token, in the block where it belongs.
template <int D, int KV>
DEVICE void store(const Attention& a, const Queries& tile, int head, u8* keys) {
    const int lane = threadIdx.x % 32, g = lane / 4, at = tile.position % 32;
    const size_t from = ((size_t)tile.row * a.kv_heads + head) * D;
    float v[D / 32][8], x[8];
    turn<D>(a.k + from, a.k_weight, a.k_eps, a.adjacent, (const float2*)a.angles + (size_t)tile.row * (D / 2), v);
    // Lanes have eight neighbours each.
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = 0;
#pragma unroll
    for (int j = 0; j < D / 32; j++)
        if (g == j)
#pragma unroll
            for (int i = 0; i < 8; i++) x[i] = v[j][i];
    put(KV, D, keys, false, at, x);
    load8(a.v + from, 8 * lane, D, x);
    put(KV, D, keys + half_bytes(KV, D), true, at, x);
    __syncwarp();
}

// Keys and values of a head in a block are brought nearer.
template <int D, int KV>
DEVICE void prefetch(const u8* keys) {
    for (int i = threadIdx.x % 32; i < 2 * half_bytes(KV, D) / 128; i += 32) asm volatile("prefetch.global.L2 [%0];" ::"l"(keys + i * 128));
}

// For few tokens: the warps of a block, and the blocks of the grid's first dimension, share the positions. With TURNED there
// is one token of each conversation, and its queries and key are still to be turned, and key and value to be stored.
template <int D, int KV, bool SMALL, bool TURNED>
DEVICE void attend(const Attention& a) {
    extern __shared__ float shared[];
    release();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
    const int kv = blockIdx.y / a.subs, sub = blockIdx.y % a.subs, group = a.heads / a.kv_heads;
    const int head = kv * group + sub * a.per;
    // What a step is about is there before its first kernel begins.
    const Queries tile = a.queries[blockIdx.z];
    const int rows = tile.count * a.per;
    // The last matrix of a group may have fewer heads; matrices of one token only are like that.
    const int real = min(a.per, group - sub * a.per);
    const u32* table = a.table(tile.slot);
    const int to = (tile.position + tile.count - 1) / 32 + 1, stride = a.splits * warps;
    int block = first_block(a, tile) + blockIdx.x * warps + warp;
    // Where the next block lies is looked up before this one is looked through.
    u32 upcoming = block < to ? table[block] : 0;
    if (block < to) prefetch<D, KV>(a.keys<KV>(upcoming, kv, D));
    if (block + stride < to) prefetch<D, KV>(a.keys<KV>(table[block + stride], kv, D));
    depend();

    typedef Lane<D, KV> L;
    Rows<D, KV, SMALL> r;
    if constexpr (TURNED) {
        r.turned(a, tile, real, head);
        const int last = to - 1;
        if (block <= last && (last - block) % stride == 0) store<D, KV>(a, tile, kv, a.keys<KV>(table[last], kv, D));
    } else {
        r.init(a, tile, 0, real == a.per ? rows : real, head);
    }
    for (; block < to; block += stride) {
        const L keys(a.keys<KV>(upcoming, kv, D)), values = keys.values();
        if (block + stride < to) upcoming = table[block + stride];
        // Where there are registers for it, values are on their way before they are wanted.
        constexpr bool KEPT = D <= 128;
        uint4 kept[L::LOADS];
#pragma unroll
        for (int i = 0; i < L::LOADS; i++)
            if (KEPT) kept[i] = values.load(i);
        r.see(a, block, false, keys, [&](int i) { return KEPT ? kept[i] : values.load(i); }, values);
    }
    r.finish();

    // The warps' parts, put together.
    constexpr int R = SMALL ? 8 : 16;
    float* mosts = shared + warps * R * D;
    float* sums = mosts + warps * R;
#pragma unroll
    for (int n = 0; n < r.N; n++) {
        float* o = shared + (warp * R + g + 8 * n) * D;
#pragma unroll
        for (int d = 0; d < D / 8; d++) *(float2*)(o + d * 8 + 2 * t) = make_float2(r.o[d][2 * n], r.o[d][2 * n + 1]);
        if (t == 0) mosts[warp * R + g + 8 * n] = r.most[n], sums[warp * R + g + 8 * n] = r.sum[n];
    }
    __syncthreads();
    const int place = blockIdx.z * gridDim.y + blockIdx.y, width = a.heads * D;
    float* results = sums + warps * R;  // where there are halves to be made of them
    for (int i = threadIdx.x; i < rows * D; i += blockDim.x) {
        const int row = i / D, d = i % D;
        if (row % a.per >= real) continue;
        float m = -INFINITY, sum = 0, o = 0;
        for (int w = 0; w < warps; w++) m = fmaxf(m, mosts[w * R + row]);
        for (int w = 0; w < warps; w++) {
            const float by = m == -INFINITY ? 0 : exp2f(mosts[w * R + row] - m);
            sum += by * sums[w * R + row];
            o += by * shared[(w * R + row) * D + d];
        }
        if (a.splits == 1) {
            a.out[(size_t)(tile.row + row / a.per) * width + (head + row % a.per) * D + d] = o / sum;
            if (a.halves.base) results[i] = o / sum;
        } else {
            float* to = a.partial + ((size_t)place * a.splits + blockIdx.x) * 16 * (D + 2) + row * D;
            to[d] = o;
            if (d == 0) *(float2*)(to + (16 - row) * D + 2 * row) = make_float2(m, sum);
        }
    }
    // A warp makes halves of a chunk.
    auto halve = [&] {
        if (!a.halves.base) return;
        __syncthreads();
        for (int i = warp * 256; i < rows * D; i += warps * 256) {
            const int row = i / D, column = (head + row % a.per) * D + i % D;
            float x[8];
            load8(results + i, lane * 8, 256, x);
            write_chunk(a.halves, tile.row + row / a.per, column / 256, x, scale_for(warp_max(most_of(x))));
        }
    };
    if (a.splits == 1) return halve();

    // The last of the splits to arrive puts them together.
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(a.arrived + place, 1) == a.splits - 1;
        if (last) a.arrived[place] = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    // Four numbers a thread; all that it needs of 16 splits is on its way at once.
    for (int i = threadIdx.x * 4; i < rows * D; i += blockDim.x * 4) {
        const int row = i / D, d = i % D;
        if (row % a.per >= real) continue;
        const float* from = a.partial + (size_t)place * a.splits * 16 * (D + 2);
        float most = -INFINITY, sum = 0, o[4] = {0, 0, 0, 0};
        for (int first = 0; first < a.splits; first += 16) {
            float4 part[16];
            float2 of[16];
#pragma unroll
            for (int s = 0; s < 16; s++) {
                const float* split = from + (size_t)min(first + s, a.splits - 1) * 16 * (D + 2);
                part[s] = __ldcg((const float4*)(split + row * D + d));
                of[s] = __ldcg((const float2*)(split + 16 * D + 2 * row));
            }
            float m = most;
#pragma unroll
            for (int s = 0; s < 16; s++) m = fmaxf(m, of[s].x);
            const float base = m == -INFINITY ? 0 : m, less = exp2f(most - base);
            most = m;
            sum *= less;
#pragma unroll
            for (int k = 0; k < 4; k++) o[k] *= less;
#pragma unroll
            for (int s = 0; s < 16; s++) {
                const float by = first + s < a.splits ? exp2f(of[s].x - base) : 0;
                sum += by * of[s].y;
                o[0] += by * part[s].x, o[1] += by * part[s].y, o[2] += by * part[s].z, o[3] += by * part[s].w;
            }
        }
        const float4 result = make_float4(o[0] / sum, o[1] / sum, o[2] / sum, o[3] / sum);
        *(float4*)(a.out + (size_t)(tile.row + row / a.per) * width + (head + row % a.per) * D + d) = result;
        if (a.halves.base) *(float4*)(results + i) = result;
    }
    halve();
}

DEVICE void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

// For many tokens: each warp has a matrix of queries of its own, and the warps of a block share the keys and values of a
// slot through shared memory, in the order in which lanes take them. Three blocks of positions are on their way.
constexpr int WARPS = 8, STAGES = 3;

template <int D, int KV>
DEVICE void attend_many(const Attention& a) {
    extern __shared__ float shared[];
    release();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int kv = blockIdx.y / a.subs, sub = blockIdx.y % a.subs, group = a.heads / a.kv_heads;
    const int head = kv * group + sub * a.per, real = min(a.per, group - sub * a.per);
    depend();
    // The last tiles have the most to see: they start first.
    const Queries tile = a.queries[gridDim.x - 1 - blockIdx.x];
    const u32* table = a.table(tile.slot);
    const int tokens = 16 / a.per, first = warp * tokens;
    const int mine = max(0, min(tokens, tile.count - first));
    const Queries own = {tile.row + first, mine, tile.slot, tile.position + first};

    Rows<D, KV, false> r;
    r.init(a, own, 0, real == a.per ? mine * a.per : min(mine, 1) * real, head);
    const int from = first_block(a, tile), to = (tile.position + tile.count - 1) / 32 + 1;
    constexpr int BYTES = 2 * half_bytes(KV, D);
    const u32 base = (u32)__cvta_generic_to_shared(shared);
    auto fetch = [&](int block) {
        if (block < to) {
            const u8* keys = a.keys<KV>(table[block], kv, D);
            const u32 stage = base + (block - from) % STAGES * BYTES;
#pragma unroll
            for (int i = threadIdx.x * 16; i < BYTES; i += WARPS * 512) copy16(stage + i, keys + i);
        }
        asm volatile("cp.async.commit_group;");
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) fetch(from + s);
    for (int block = from; block < to; block++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
        __syncthreads();
        fetch(block + STAGES - 1);
        const int last = own.position + mine - 1;
        if (mine == 0 || block * 32 > last || block * 32 + 31 <= own.position - a.window) continue;
        const bool whole = block * 32 + 31 <= own.position && block * 32 > last - a.window;
        const Lane<D, KV> keys((const u8*)shared + (block - from) % STAGES * BYTES), values = keys.values();
        r.see(a, block, whole, keys, [&](int i) { return values.load(i); }, values);
    }
    r.finish();
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int row = g + 8 * n, token = row / a.per, at = row % a.per;
        if (token >= mine || at >= real) continue;
        float* out = a.out + ((size_t)(own.row + token) * a.heads + head + at) * D;
        const float by = 1 / r.sum[n];
#pragma unroll
        for (int d = 0; d < D / 8; d++) *(float2*)(out + d * 8 + 2 * t) = make_float2(r.o[d][2 * n] * by, r.o[d][2 * n + 1] * by);
    }
}

// For heads of other sizes up to 256, which lie as they are: a warp a token and head, lanes share the dimensions.
template <int KV>
DEVICE void attend_any(const Attention& a) {
    release();
    depend();
    const int lane = threadIdx.x % 32, D = a.size, kv = blockIdx.y, group = a.heads / a.kv_heads;
    const Queries tile = a.queries[blockIdx.x];
    const u32* table = a.table(tile.slot);
    // Lanes have every 32nd dimension.
    auto number = [&](const u8* row, int i) {
        if (KV == HALF) return __half2float(((const __half*)row)[lane + 32 * i]);
        if (KV == FP8) return low(from_e4m3(row[lane + 32 * i], false));
        const u8* from = row + i * 18;
        const float q = (from[2 + lane % 16] >> lane / 16 * 4 & 15) - 8.f;
        return __half2float(__float2half_rn(q * __half2float(*(const __half*)from)));
    };
    auto hadamard = [&](float (&x)[8]) {
        const int turned = D & -D;
        butterflies(x, turned / 32);
        for (int i = 0; i < 8; i++) {
            for (int h = 1; h < 32; h *= 2) x[i] = butterfly(x[i], h);
            x[i] *= rsqrtf(turned);
        }
    };
    for (int pair = threadIdx.x / 32; pair < tile.count * group; pair += blockDim.x / 32) {
        const int token = pair / group, position = tile.position + token;
        const size_t at = ((size_t)(tile.row + token) * a.heads + kv * group + pair % group) * D;
        float q[8], o[8], most = -INFINITY, sum = 0;
        for (int i = 0; i < 8; i++) q[i] = lane + 32 * i < D ? a.q[at + lane + 32 * i] : 0, o[i] = 0;
        if (KV == Q4) hadamard(q);
        for (int p = max(0, position - a.window + 1); p <= position; p++) {
            constexpr int ROWS = 32;
            const int row = half_bytes(KV, D) / ROWS;
            const u8* key = a.keys<KV>(table[p / ROWS], kv, D) + p % ROWS * row;
            float x = 0;
            for (int i = 0; i < 8; i++)
                if (lane + 32 * i < D) x += q[i] * number(key, i);
            x = score(warp_sum(x), a);
            const float m = fmaxf(most, x), less = exp2f(most - m), by = exp2f(x - m);
            most = m;
            sum = sum * less + by;
            for (int i = 0; i < 8; i++)
                if (lane + 32 * i < D) o[i] = o[i] * less + by * number(key + ROWS * row, i);
        }
        if (KV == Q4) hadamard(o);
        for (int i = 0; i < 8; i++)
            if (lane + 32 * i < D) a.out[at + lane + 32 * i] = o[i] / sum;
    }
}

#define ATTEND(D, KV, NAME)                                                                                                            \
    KERNEL __launch_bounds__(256) attend_##D##_##NAME##_turned(const __grid_constant__ Attention a) { attend<D, KV, true, true>(a); } \
    KERNEL __launch_bounds__(256) attend_##D##_##NAME##_small(const __grid_constant__ Attention a) { attend<D, KV, true, false>(a); } \
    KERNEL __launch_bounds__(128) attend_##D##_##NAME(const __grid_constant__ Attention a) { attend<D, KV, false, false>(a); }        \
    KERNEL __launch_bounds__(256) attend_##D##_##NAME##_many(const __grid_constant__ Attention a) { attend_many<D, KV>(a); }
// All kernels for what keys and values are stored as; each in a file of its own.
#define ATTENTION(KV, NAME)   \
    ATTEND(64, KV, NAME)      \
    ATTEND(96, KV, NAME)      \
    ATTEND(128, KV, NAME)     \
    ATTEND(256, KV, NAME)     \
    KERNEL attend_any_##NAME(const __grid_constant__ Attention a) { attend_any<KV>(a); }
