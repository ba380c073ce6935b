// Products of weights with few rows of activations: weights are read once, 16 rows of them against 8 activations at a
// time in the matrix instruction, and dequantised in registers.
//
// A block has strips of the weights, of which it computes all columns, or those of a range; the tiles of some of its
// strips (a round) are dealt out to its warps, as many to each, one after the other as they lie. A warp has its next
// tiles copied to shared memory meanwhile. What warps found of a strip, in turn, is added up when all have ended.
// Activations lie in shared memory. Where they don't fit, there is more than one range: the blocks' sums meet in memory,
// and the last to arrive adds them up, in the order of the ranges.
#include "formats.cuh"

struct Product {
    const u8* weights;
    const float* bias;  // or null
    float* out;         // [rows, features]
    u64 strip;          // bytes of 16 rows
    int tile, last;     // bytes of 256 columns, and of what is left of a row
    int format, features, strips, add;  // to what `out` has
};

struct Linear {
    Product products[3];
    Activations halves;  // unless base is null: then
    const float* x;      // [rows, columns], up to four rows
    const float* norm;   // of x first, if not null
    float* partial;      // [units, ranges, products of a unit, sums]
    u32* arrived;        // [units], zeros
    float eps;
    int rows, columns;
    int pair;  // of the first two products: out[0] = function(first) * second
    int gelu;  // the function
    int units, ranges, groups;
    int tiles;          // of a strip in a range
    int batch;          // strips of a round (an even number of a pair's)
    int stage, stages;  // bytes that a tile takes in shared memory, and how many a warp has there
};

DEVICE float gated(int gelu, float x, float up) {
    // GELU's approximation by tanh is x * sigmoid((1.5957691 + 0.07135481 x^2) x).
    const float y = gelu ? (1.5957691f + 0.07135481f * x * x) * x : x;
    return x / (1 + __expf(-y)) * up;
}

// A range's activations in shared memory.
// - of floats: rows of halves, each 64 bytes further in its banks than the one before; the sums of groups likewise; scales
//   in fours
// - of halves: as `Activations` has them, but chunk by chunk
template <int N, bool FLOATS>
struct Columns {
    const u8 *x, *sums;   // a lane's part of the first chunk
    const float* scales;  // of rows 2t and 2t + 1

    static __device__ __forceinline__ int row_bytes(int tiles) { return tiles * 512 + 64; }
    static __device__ __forceinline__ int sum_bytes(int tiles) { return tiles * 32 + 32; }
    // Bytes of all, of so many rows and tiles.
    static __device__ __forceinline__ int bytes(int rows, int tiles) {
        return FLOATS ? rows * (row_bytes(tiles) + sum_bytes(tiles)) + tiles * 16 : tiles * N * (4096 + 256 + 32);
    }

    __device__ __forceinline__ void look(const u8* base, int rows, int tiles) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        if constexpr (FLOATS) {
            // What columns of rows that aren't there give is never looked at.
            const int row = min(g, rows - 1);
            x = base + row * row_bytes(tiles) + t * 16;
            sums = base + rows * row_bytes(tiles) + row * sum_bytes(tiles) + t * 8;
            scales = (const float*)(base + rows * (row_bytes(tiles) + sum_bytes(tiles))) + t % 2 * 2;
        } else {
            x = base + piece(g, t);
            sums = base + tiles * N * 4096 + g * 32 + t * 8;
            scales = (const float*)(base + tiles * N * (4096 + 256)) + 2 * t;
        }
    }
    __device__ __forceinline__ uint4 at(int chunk, int n, int i) const {
        return *(const uint4*)(FLOATS ? x + chunk * 512 + i * 64 : x + (chunk * N + n) * 4096 + i * 512);
    }
    // Of groups 2t and 2t + 1 of row g, and what those lost.
    __device__ __forceinline__ uint2 sum(int chunk, int n) const {
        return *(const uint2*)(sums + (FLOATS ? chunk * 32 : (chunk * N + n) * 256));
    }
    __device__ __forceinline__ float2 scale(int chunk, int n) const {
        return *(const float2*)(scales + (FLOATS ? chunk * 4 : (chunk * N + n) * 8));
    }

    // All threads put halves there.
    static __device__ __forceinline__ void put(u8* base, const Activations& from, int first, int tiles) {
        const size_t cells = from.cells();
#pragma unroll 4
        for (int i = threadIdx.x; i < tiles * N * 256; i += blockDim.x) {
            const int at = i / 256, n = at % N;
            ((uint4*)base)[i] = *(const uint4*)(from.base + ((size_t)n * from.chunks + first + at / N) * 4096 + i % 256 * 16);
        }
        for (int i = threadIdx.x; i < tiles * N * 18; i += blockDim.x) {
            const int at = i / 18, n = at % N, k = i % 18;
            const size_t cell = ((size_t)n * from.chunks + first + at / N) * 8;
            u8* to = base + tiles * N * 4096;
            if (k < 16) *(uint4*)(to + at * 256 + k * 16) = *(const uint4*)(from.base + cells * 512 + cell * 32 + k * 16);
            else *(uint4*)(to + tiles * N * 256 + at * 32 + k % 2 * 16) = *(const uint4*)(from.base + cells * 544 + cell * 4 + k % 2 * 16);
        }
    }

    // A warp puts a chunk of a row there: each lane eight columns.
    static __device__ __forceinline__ void put(u8* base, int rows, int tiles, int row, int chunk, const float (&v)[8]) {
        const int lane = threadIdx.x % 32;
        float most = 0, sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(v[i]));
        const float scale = scale_for(warp_max(most)), by = 1 / scale;
        u32 h[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            h[i] = pack(v[2 * i] * by, v[2 * i + 1] * by);
            sum += low(h[i]) + high(h[i]);
        }
        *(uint4*)(base + row * row_bytes(tiles) + chunk * 512 + lane * 16) = make_uint4(h[0], h[1], h[2], h[3]);
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        // Lanes 8t and 8t + 4 have the sums of the groups 2t and 2t + 1.
        const float other = __shfl_down_sync(0xffffffff, sum, 4);
        base += rows * row_bytes(tiles);
        if (lane % 8 == 0) {
            const u32 first = pack(sum, other);
            *(uint2*)(base + row * sum_bytes(tiles) + chunk * 32 + lane) = make_uint2(first, pack(sum - low(first), other - high(first)));
        }
        if (lane == 0) ((float*)(base + rows * sum_bytes(tiles)))[chunk * 4 + row] = scale;
    }
};

// Adds a tile's products with a chunk of the activations.
template <int format, int N, bool FLOATS>
DEVICE void multiply(const u8* tile, int steps, const Columns<N, FLOATS>& x, int chunk, float (&sum)[N][4]) {
    typedef Tile<format> T;
    const int lane = threadIdx.x % 32, t = lane % 4;
    T w;
    w.load(tile, lane, steps);
    w.prepare(lane);
    float c[N][4];
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] = 0;
#define GROUP(S, H)                                                                     \
    {                                                                                   \
        u32 a[4], b[4];                                                                 \
        w.template get<S, H>(a, b, lane);                                               \
        float d0 = 1, d1 = 1;                                                           \
        if constexpr (T::grouped) d0 = w.template group<S, H>(0), d1 = w.template group<S, H>(1); \
        _Pragma("unroll") for (int n = 0; n < N; n++) {                                 \
            const uint4 v = x.at(chunk, n, S * 2 + H);                                  \
            if constexpr (T::grouped) {                                                 \
                float e[4];                                                             \
                product(e, a, v.x, v.y);                                                \
                mma(e, b, v.z, v.w);                                                    \
                c[n][0] += e[0] * d0;                                                   \
                c[n][1] += e[1] * d0;                                                   \
                c[n][2] += e[2] * d1;                                                   \
                c[n][3] += e[3] * d1;                                                   \
            } else {                                                                    \
                mma(c[n], a, v.x, v.y);                                                 \
                mma(c[n], b, v.z, v.w);                                                 \
            }                                                                           \
        }                                                                               \
    }
    EACH_GROUP(steps, GROUP);
#undef GROUP
    const float d0 = w.d(0), d1 = w.d(1);
    u32 mins[4] = {0, 0, 0, 0}, offsets[4] = {0, 0, 0, 0};
    if constexpr (T::minima) {
        mins[0] = mins[2] = w.mins(0, t), mins[1] = mins[3] = w.mins(1, t);
        offsets[0] = offsets[2] = w.offsets(0, t), offsets[1] = offsets[3] = w.offsets(1, t);
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
        float v[4] = {0, 0, 0, 0};
        if constexpr (T::minima) {
            const uint2 sums = x.sum(chunk, n);
            mma(c[n], offsets, sums.x, sums.y);
            float e[4];
            product(e, mins, sums.x, sums.y);
            v[0] = w.dmin(0) * e[0];
            v[1] = w.dmin(0) * e[1];
            v[2] = w.dmin(1) * e[2];
            v[3] = w.dmin(1) * e[3];
        }
        const float2 scale = x.scale(chunk, n);
        sum[n][0] += (d0 * c[n][0] - v[0]) * scale.x;
        sum[n][1] += (d0 * c[n][1] - v[1]) * scale.y;
        sum[n][2] += (d1 * c[n][2] - v[2]) * scale.x;
        sum[n][3] += (d1 * c[n][3] - v[3]) * scale.y;
    }
}

// A block's part of the work: its place among others, its columns' first tile, how many, and its strips.
struct Part {
    int group, first, tiles, count;
};

// What a warp fetches next. It lies in shared memory, as one lane keeps it, and looks at it once a tile.
struct Feed {
    const u8* from;
    int bytes;                  // none: there is no more
    int tile, last;             // bytes of its strip's tiles
    int round, strip, at, end;  // strips of earlier rounds, of this one, tiles of this one, and the warp's last
    int chunk;

    // The first tile of a strip that the warp has.
    __device__ __forceinline__ void locate(const Linear& a, const Part& part) {
        const int each = a.pair ? 2 : 1, turn = round + strip;
        int i = part.group + turn / each * a.groups, product = a.pair ? turn % 2 : 0;
        if (!a.pair)
            while (product < 2 && i >= a.products[product].strips) i -= a.products[product++].strips;
        const Product& p = a.products[product];
        tile = p.tile, last = p.last;
        from = p.weights + i * p.strip + (size_t)(part.first + chunk) * p.tile;
    }
    // The warp's first tile in this round or a later one.
    __device__ __forceinline__ void begin(const Linear& a, const Part& part) {
        for (; round < part.count; round += a.batch) {
            const int total = min(a.batch, part.count - round) * part.tiles, warps = blockDim.x / 32, per = (total + warps - 1) / warps;
            at = threadIdx.x / 32 * per, end = min(at + per, total);
            if (at >= end) continue;
            strip = at / part.tiles, chunk = at % part.tiles;
            return locate(a, part);
        }
    }
    __device__ __forceinline__ void size(const Linear& a, const Part& part) {
        bytes = round >= part.count ? 0 : (a.columns + 63) / 64 >= (part.first + chunk + 1) * 4 ? tile : last;
    }
    __device__ __forceinline__ void advance(const Linear& a, const Part& part) {
        from += tile;
        chunk++;
        if (++at == end) {
            round += a.batch;
            begin(a, part);
        } else if (chunk == part.tiles) {
            chunk = 0, strip++;
            locate(a, part);
        }
        size(a, part);
    }
};

// Tiles of a warp in shared memory, which come one after the other, round after round.
struct Ring {
    u32 base, barriers;  // of the warp, in shared memory
    int stage;           // the next to be read
    u32 parity;

    // One lane has a stage filled with the next tile; before Hopper all lanes do.
    __device__ __forceinline__ void fetch(const Linear& a, const Part& part, Feed& feed, int to) const {
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x % 32 == 0 && feed.bytes > 0) {
            barrier_expect(barriers + to * 8, feed.bytes);
            bulk_copy(base + to * a.stage, feed.from, feed.bytes, barriers + to * 8);
            feed.advance(a, part);
        }
#else
        const int bytes = feed.bytes;
#pragma unroll 4
        for (int i = threadIdx.x % 32 * 16; i < bytes; i += 512)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(base + to * a.stage + i), "l"(feed.from + i));
        asm volatile("cp.async.commit_group;");
        __syncwarp();
        if (threadIdx.x % 32 == 0 && bytes > 0) feed.advance(a, part);
        __syncwarp();
#endif
    }
    __device__ __forceinline__ void wait() const {
#if __CUDA_ARCH__ >= 900
        barrier_wait(barriers + stage * 8, parity);
#else
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncwarp();
#endif
    }
};

// A row has 16 sums, and lies so far from the next that no two lanes meet in a bank.
constexpr int ROW = 20, STAGES = 8;

// Where a warp's sums of a strip lie: where no strip is shared or no warp has two, by one of them.
DEVICE int slot(int strip, int warp, int tiles, int per) {
    return per % tiles == 0 ? strip : tiles % per == 0 ? warp : strip + warp;
}

template <int N, bool FLOATS>
DEVICE void linear(const Linear& a) {
    extern __shared__ __align__(16) u8 shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
    constexpr int OUTS = N * 128;
    release();

    const int range = blockIdx.x % a.ranges, group = blockIdx.x / a.ranges, first = range * a.tiles;
    const int tiles = min(a.tiles, (a.columns + 255) / 256 - first), steps = (a.columns + 63) / 64 - first * 4;
    const int each = a.pair ? 2 : 1, count = (a.units - group + a.groups - 1) / a.groups * each;
    // Activations, the warps' tiles, their sums.
    u8* tile_at = shared + (Columns<N, FLOATS>::bytes(a.rows, a.tiles) + 127) / 128 * 128;
    float* sums = (float*)(tile_at + warps * a.stages * a.stage);
    __shared__ float squares[16 * 4], inverse[4];

    const u8* tile_base = tile_at + warp * a.stages * a.stage;
    __shared__ Feed feeds[16];
    const Part part = {group, first, tiles, count};
    Feed& feed = feeds[warp];
    Ring ring = {(u32)__cvta_generic_to_shared(tile_base), 0, 0, 0};
#if __CUDA_ARCH__ >= 900
    __shared__ __align__(8) u64 there[16 * STAGES];
    ring.barriers = (u32)__cvta_generic_to_shared(there) + warp * STAGES * 8;
#endif
    if (lane == 0) {
#if __CUDA_ARCH__ >= 900
        for (int s = 0; s < a.stages; s++) barrier_init(ring.barriers + s * 8, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
        feed.round = 0;
        feed.begin(a, part);
        feed.size(a, part);
    }
    __syncwarp();
    for (int s = 0; s < a.stages; s++) ring.fetch(a, part, feed, s);

    // Weights depend on no one; activations do.
    if constexpr (FLOATS) {
        float w[8];
        if (a.norm && warp < tiles) load8(a.norm, (first + warp) * 256 + lane * 8, a.columns, w);
        depend();
        for (int row = 0; row < a.rows; row++) {
            const float* from = a.x + (size_t)row * a.columns;
            float v[8], next[8], square = 0;
            if (warp < tiles) load8(from, (first + warp) * 256 + lane * 8, a.columns, next);
            for (int chunk = warp; chunk < tiles; chunk += warps) {
#pragma unroll
                for (int i = 0; i < 8; i++) v[i] = next[i];
                if (chunk + warps < tiles) load8(from, (first + chunk + warps) * 256 + lane * 8, a.columns, next);
                if (a.norm) {
                    if (chunk != warp || row > 0) load8(a.norm, (first + chunk) * 256 + lane * 8, a.columns, w);
#pragma unroll
                    for (int i = 0; i < 8; i++) square += v[i] * v[i], v[i] *= w[i];
                }
                Columns<N, FLOATS>::put(shared, a.rows, a.tiles, row, chunk, v);
            }
            if (a.norm) {
                // Columns of other ranges count too.
                for (int c = warp; a.ranges > 1 && c < (a.columns + 255) / 256; c += warps) {
                    if (c >= first && c < first + tiles) continue;
                    load8(from, c * 256 + lane * 8, a.columns, v);
#pragma unroll
                    for (int i = 0; i < 8; i++) square += v[i] * v[i];
                }
                square = warp_sum(square);
                if (lane == 0) squares[warp * 4 + row] = square;
            }
        }
    } else {
        depend();
        Columns<N, FLOATS>::put(shared, a.halves, first, tiles);
    }
    __syncthreads();
    if (FLOATS && a.norm && warp < a.rows) {
        const float square = warp_sum(lane < warps ? squares[lane * 4 + warp] : 0);
        if (lane == 0) inverse[warp] = rsqrtf(square / a.columns + a.eps);
    }
    Columns<N, FLOATS> x;
    x.look(shared, a.rows, a.tiles);

    const int all = FLOATS ? a.rows : N * 8;  // rows of sums
    for (int from = 0; from < count; from += a.batch) {
        const int batch = min(a.batch, count - from), total = batch * tiles, per = (total + warps - 1) / warps;
        for (int at = warp * per, end = min(at + per, total); at < end;) {
            const int strip = at / tiles, turn = from + strip;
            int product = a.pair ? turn % 2 : 0;
            if (!a.pair)
                for (int i = group + turn * a.groups; product < 2 && i >= a.products[product].strips;) i -= a.products[product++].strips;
            int chunk = at - strip * tiles;
            const int to = min(tiles, chunk + end - at);
            at += to - chunk;
            float sum[N][4];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[n][i] = 0;
#define SEGMENT(FORMAT, STEPS)                                                                                   \
    for (; chunk < to; chunk++) {                                                                                \
        ring.wait();                                                                                             \
        multiply<FORMAT, N, FLOATS>(tile_base + ring.stage * a.stage, STEPS, x, chunk, sum);                     \
        __syncwarp();                                                                                            \
        ring.fetch(a, part, feed, ring.stage);                                                                   \
        if (++ring.stage == a.stages) ring.stage = 0, ring.parity ^= 1;                                          \
    }                                                                                                            \
    break;
            switch (a.products[product].format) {
                case F16: SEGMENT(F16, min(4, steps - chunk * 4))
                case Q4_0: SEGMENT(Q4_0, min(4, steps - chunk * 4))
                case Q5_0: SEGMENT(Q5_0, min(4, steps - chunk * 4))
                case Q8_0: SEGMENT(Q8_0, min(4, steps - chunk * 4))
                case Q4_K: SEGMENT(Q4_K, 4)
                case Q5_K: SEGMENT(Q5_K, 4)
                case NVFP4: SEGMENT(NVFP4, min(4, steps - chunk * 4))
                case MXFP4: SEGMENT(MXFP4, min(4, steps - chunk * 4))
                default: SEGMENT(Q6_K, 4)
            }
#undef SEGMENT
            float* into = sums + (slot(strip, warp, tiles, per) * all + 2 * t) * ROW + g;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (!FLOATS || 2 * t + i % 2 < all) into[(n * 8 + i % 2) * ROW + i / 2 * 8] = sum[n][i];
        }
        __syncthreads();

        const int units = batch / each, outs = a.rows * 16;
        auto finish = [&](int unit, int i, float (&total)[2]) {
            int strip = group + unit * a.groups, product = 0;
            if (!a.pair)
                while (product < 2 && strip >= a.products[product].strips) strip -= a.products[product++].strips;
            const Product& p = a.products[product];
            const int row = i / 16, feature = strip * 16 + i % 16;
            if (feature >= p.features) return;
            const float by = FLOATS && a.norm ? inverse[row] : 1;
            float x = total[0] * by;
            if (p.bias) x += p.bias[feature];
            if (a.pair) {
                float up = total[1] * by;
                if (a.products[1].bias) up += a.products[1].bias[feature];
                x = gated(a.gelu, x, up);
            }
            float* out = p.out + (size_t)row * p.features + feature;
            *out = p.add ? *out + x : x;
        };
        for (int i = threadIdx.x; i < units * outs; i += blockDim.x) {
            const int unit = i / outs, out = i % outs;
            float total[2] = {0, 0};
#pragma unroll
            for (int s = 0; s < 2; s++) {
                if (s == each) break;
                const int strip = unit * each + s, until = (strip * tiles + tiles - 1) / per;
                for (int w = strip * tiles / per; w <= until; w++)
                    total[s] += sums[(slot(strip, w, tiles, per) * all + out / 16) * ROW + out % 16];
            }
            if (a.ranges == 1) {
                finish(from / each + unit, out, total);
            } else {
                const size_t at = group + (size_t)(from / each + unit) * a.groups;
                float* partial = a.partial + (at * a.ranges + range) * each * OUTS + out;
                __stcg(partial, total[0]);
                if (a.pair) __stcg(partial + OUTS, total[1]);
            }
        }
        if (a.ranges > 1) {
            // The last range to arrive adds them up.
            u32* last = (u32*)sums;
            __threadfence();
            __syncthreads();
            for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
                u32* arrived = a.arrived + group + (from / each + unit) * a.groups;
                last[unit] = atomicAdd(arrived, 1) == a.ranges - 1;
                if (last[unit]) *arrived = 0;
            }
            __syncthreads();
            __threadfence();
            for (int i = threadIdx.x; i < units * outs; i += blockDim.x) {
                const int unit = i / outs, out = i % outs;
                if (!last[unit]) continue;
                const size_t at = group + (size_t)(from / each + unit) * a.groups;
                const float* partial = a.partial + at * a.ranges * each * OUTS + out;
                float total[2] = {0, 0};
#pragma unroll 4
                for (int r = 0; r < a.ranges; r++) {
                    total[0] += __ldcg(partial + r * each * OUTS);
                    if (a.pair) total[1] += __ldcg(partial + (r * each + 1) * OUTS);
                }
                finish(from / each + unit, out, total);
            }
        }
        if (from + a.batch < count) __syncthreads();
    }
}

// Of floats: two blocks fit on a multiprocessor, so that the next product's weights are on their way before this one ends.
KERNEL __launch_bounds__(512, 2) linear_floats(const __grid_constant__ Linear a) { linear<1, true>(a); }
KERNEL __launch_bounds__(512, 1) linear_1(const __grid_constant__ Linear a) { linear<1, false>(a); }
KERNEL __launch_bounds__(512, 1) linear_2(const __grid_constant__ Linear a) { linear<2, false>(a); }
KERNEL __launch_bounds__(512, 1) linear_4(const __grid_constant__ Linear a) { linear<4, false>(a); }
