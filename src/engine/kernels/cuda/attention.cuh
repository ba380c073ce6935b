// Attention over the cache. The heads of queries that share a head of keys, and tokens that follow each other, are the rows
// of one matrix of 16, so that each key and value is read once for all of them. Positions come in blocks of 32.
#pragma once
#include "queries.cuh"

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
