// Products of weights with few rows of activations: weights are read once, 16 rows of them against 8 activations at a
// time in the matrix instruction, and dequantised in registers.
//
// A block has strips of the weights, of which it computes all columns, or those of a range; the tiles of some of its
// strips (a round) are dealt out to its warps, as many to each, one after the other as they lie. A warp has its next
// tiles copied to shared memory meanwhile. What warps found of a strip, in turn, is added up when all have ended.
// Activations lie in shared memory. Where they don't fit, there is more than one range: the blocks' sums meet in memory,
// and another kernel adds them up.
#include "multiply.cuh"

// What a block's warp has to do. Its tiles are numbered through all rounds. With TOGETHER as many warps as that have strips
// next to each other, and do the same with them; those strips, of which the last may be one again, are dealt out whole.
template <int TOGETHER>
struct Part {
    int group, first, tiles, strips, count;  // its place among others, its columns' first tile, how many, its strips, and what is dealt out
    float by_tiles;                  // the reciprocal
    int full, per, rest_per;         // whole rounds, and tiles of a warp in those and in the last one if it is none
    int mine, all;                   // tiles of this warp in a whole round, and in all

    __device__ __forceinline__ Part(const Linear& a) {
        const int warp = threadIdx.x / 32 / TOGETHER, range = blockIdx.y, round = (1 << a.shift) - 1;
        group = blockIdx.x;
        first = range * a.tiles;
        tiles = range + 1 < a.ranges ? a.tiles : a.remaining;
        by_tiles = reciprocal(tiles);
        strips = (a.few + (group < a.more)) << a.pair;
        count = (strips + TOGETHER - 1) / TOGETHER;
        full = TOGETHER > 1 ? 1 : over(count, reciprocal(a.batch));
        const int total = (TOGETHER > 1 ? count : a.batch) * tiles, rest = TOGETHER > 1 ? 0 : (count - full * a.batch) * tiles;
        per = (total + round) >> a.shift, rest_per = (rest + round) >> a.shift;
        if (TOGETHER > 1) per = ((count + round) >> a.shift) * tiles;
        mine = max(0, min(per, total - warp * per));
        all = full * mine + max(0, min(rest_per, rest - warp * rest_per));
    }
};

// The strip of a product that a unit is; a pair's are of both products.
DEVICE int strip_of(const Linear& a, int unit, int& product) {
    product = 0;
    if (!a.pair && unit >= a.products[0].strips) {
        unit -= a.products[0].strips, product = 1;
        if (unit >= a.products[1].strips) unit -= a.products[1].strips, product = 2;
    }
    return unit;
}

// The same for a block's turn.
DEVICE int strip_of(const Linear& a, int group, int turn, int& product) {
    const int strip = strip_of(a, group + (turn >> a.pair) * a.groups, product);
    if (a.pair) product = turn & 1;
    return strip;
}

// Makes a result of the sums of a unit's products.
DEVICE void finish(const Linear& a, int unit, int row, int feature, const float (&total)[2], float by) {
    int product = 0;
    const int at = strip_of(a, unit, product) * 16 + feature;
    const Product& p = a.products[product];
    if (at >= p.features) return;
    float x = total[0] * by;
    if (p.bias) x += p.bias[at];
    if (a.pair) {
        float up = total[1] * by;
        if (a.products[1].bias) up += a.products[1].bias[at];
        x = gated(a.gelu, x, up);
    }
    float* out = p.out + (size_t)row * p.features + at;
    *out = p.add ? *out + x : x;
}

// Tiles of a warp in shared memory, a power of two of them, which come one after the other.
template <int TOGETHER>
struct Ring {
    u32 base, barriers;  // of the warp, in shared memory
    const u8* from;      // a lane's tile of the next 32: where it is, and its bytes
    int bytes;

    __device__ __forceinline__ void aim(const Linear& a, const Part<TOGETHER>& part, int tile) {
        tile += threadIdx.x % 32;
        bytes = 0;
        if (tile >= part.all) return;
        int per = part.per, turn = 0;
        if (tile >= part.mine || part.full == 0) {
            const int round = tile < part.full * part.mine ? over(tile, reciprocal(part.mine)) : part.full;
            tile -= round * part.mine, turn = round * a.batch;
            if (round == part.full) per = part.rest_per;
        }
        const int warp = threadIdx.x / 32, flat = tile + warp / TOGETHER * per, dealt = over(flat, part.by_tiles);
        const int chunk = part.first + flat - dealt * part.tiles, strip = min((turn + dealt) * TOGETHER + warp % TOGETHER, part.strips - 1);
        int product;
        const int at = strip_of(a, part.group, strip, product);
        const Product& p = a.products[product];
        from = p.weights + at * p.strip + (size_t)chunk * p.tile;
        bytes = (a.columns + 63) / 64 >= chunk * 4 + 4 ? p.tile : p.last;
    }
    __device__ __forceinline__ void fetch(const Linear& a, const Part<TOGETHER>& part, int tile) {
        if (tile % 32 == 0) aim(a, part, tile);
        const int to = tile & (a.stages - 1);
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x % 32 == tile % 32 && bytes > 0) {
            barrier_expect(barriers + to * 8, bytes);
            bulk_copy(base + to * a.stage, from, bytes, barriers + to * 8);
        }
#else
        const int size = __shfl_sync(0xffffffff, bytes, tile % 32);
        const u8* source = (const u8*)__shfl_sync(0xffffffff, (u64)from, tile % 32);
#pragma unroll 4
        for (int i = threadIdx.x % 32 * 16; i < size; i += 512)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(base + to * a.stage + i), "l"(source + i));
        asm volatile("cp.async.commit_group;");
#endif
    }
    __device__ __forceinline__ void wait(const Linear& a, int tile) const {
#if __CUDA_ARCH__ >= 900
        barrier_wait(barriers + (tile & (a.stages - 1)) * 8, (tile & a.stages) != 0);
#else
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncwarp();
#endif
    }
};

// A row has 16 sums, and lies so far from the next that no two lanes meet in a bank.
constexpr int ROW = 20, STAGES = 4;

// Where a warp's sums of a strip lie: where no strip is shared or no warp has two, by one of them.
struct Slots {
    int strips, warps;
    __device__ __forceinline__ Slots(int tiles, int per, float by_tiles) {
        const int whole = over(per, by_tiles), parts = over(tiles, reciprocal(per));
        warps = whole * tiles != per;
        strips = !warps || parts * per != tiles;
    }
    __device__ __forceinline__ int at(int strip, int warp) const { return strip * strips + warp * warps; }
};

// Formats that a kernel computes with, a bit for each: the fewer, the better its registers do.
constexpr u32 ALL = ~0u;

// With TOGETHER each four warps do the same at a time, by one instruction of Hopper.
template <int N, bool FLOATS, int WARPS, u32 FORMATS, int TOGETHER = 1>
DEVICE void linear(const Linear& a) {
    extern __shared__ __align__(16) u8 all_shared[];
    // What Hopper's instruction takes begins at a multiple of 512.
    u8* shared = all_shared + (TOGETHER > 1 ? -(u32)__cvta_generic_to_shared(all_shared) & 511 : 0);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
    constexpr int OUTS = N * 128;
    release();

    const Part<TOGETHER> part(a);
    const int first = part.first, tiles = part.tiles, count = part.count;
    const int range = blockIdx.y, group = part.group, steps = (a.columns + 63) / 64 - first * 4, each = 1 << a.pair;
    // Activations, the warps' tiles, their sums.
    u8* tile_at = shared + (Columns<N, FLOATS>::bytes(a.rows, a.tiles) + 127) / 128 * 128;
    float* sums = (float*)(tile_at + warps * a.stages * a.stage);
    __shared__ float squares[WARPS * 4], inverse[4];
    const u8* mine = tile_at + warp * a.stages * a.stage;
    Ring<TOGETHER> ring;
    ring.base = (u32)__cvta_generic_to_shared(mine);
#if __CUDA_ARCH__ >= 900
    __shared__ __align__(8) u64 there[WARPS * STAGES];
    ring.barriers = (u32)__cvta_generic_to_shared(there) + warp * STAGES * 8;
    if (lane < STAGES) barrier_init(ring.barriers + lane * 8, 1);
    __shared__ __align__(8) u64 halves_there;
    if (!FLOATS && threadIdx.x == 0) barrier_init((u32)__cvta_generic_to_shared(&halves_there), 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    if (FLOATS) __syncwarp();
    else __syncthreads();
#endif
#pragma unroll 1
    for (int s = 0; s < a.stages; s++) ring.fetch(a, part, s);

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
#if __CUDA_ARCH__ >= 900
        Columns<N, FLOATS>::put(shared, a.halves, first, tiles, (u32)__cvta_generic_to_shared(&halves_there));
#else
        Columns<N, FLOATS>::put(shared, a.halves, first, tiles, 0);
#endif
    }
    if (FLOATS) __syncthreads();
    if (FLOATS && a.norm && warp < a.rows) {
        const float square = warp_sum(lane < warps ? squares[lane * 4 + warp] : 0);
        if (lane == 0) {
            inverse[warp] = rsqrtf(square / a.columns + a.eps);
            if (a.ranges > 1 && blockIdx.x == 0 && range == 0) a.inverse[warp] = inverse[warp];
        }
    }
    Columns<N, FLOATS> x;
    x.look(shared, a.rows, FLOATS ? a.tiles : tiles);

    const int all = FLOATS ? a.rows : N * 8;  // rows of sums
    int tile = 0;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    // Rows of 64 bytes, swizzled; eight rows are a block, those of the next eight rows lie behind all columns of these.
    const u64 wide = (u64)((u32)__cvta_generic_to_shared(shared) >> 4 & 0x3fff) | 1ull << 16 | (u64)(tiles * 4096 >> 4) << 32 | 2ull << 62;
#endif
    const int most = TOGETHER > 1 ? count : a.batch;
    for (int from = 0; from < count; from += most) {
        const int batch = min(most, count - from), total = batch * tiles, per = batch == most ? part.per : part.rest_per;
        const Slots slots(tiles, per, part.by_tiles);
        for (int at = warp / TOGETHER * per, end = min(at + per, total); at < end;) {
            const int dealt = over(at, part.by_tiles);
            int product, chunk = at - dealt * tiles;
            strip_of(a, group, min((from + dealt) * TOGETHER + warp % TOGETHER, part.strips - 1), product);
            const int to = min(tiles, chunk + end - at);
            at += to - chunk;
            float sum[N][4];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[n][i] = 0;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define MULTIPLY_WIDE(FORMAT, STEPS) if constexpr (TOGETHER > 1) multiply_wide<FORMAT>(from, STEPS, x, wide, chunk, sum); else
#else
#define MULTIPLY_WIDE(FORMAT, STEPS)
#endif
            switch (a.products[product].format) {
                // Where few formats are possible, whole tiles, of which is known what there is to do, are apart.
#define SEGMENT(FORMAT, STEPS)                                                                                 \
    case FORMAT:                                                                                               \
        if constexpr (FORMATS >> FORMAT & 1) for (; chunk < to; chunk++, tile++) {                             \
            ring.wait(a, tile);                                                                                \
            const u8* from = mine + (tile & (a.stages - 1)) * a.stage;                                         \
            MULTIPLY_WIDE(FORMAT, STEPS)                                                                       \
            if (FORMATS != ALL && STEPS == 4) multiply<FORMAT, N, FLOATS>(from, 4, x, chunk, sum);             \
            else multiply<FORMAT, N, FLOATS>(from, STEPS, x, chunk, sum);                                      \
            __syncwarp();                                                                                      \
            ring.fetch(a, part, tile + a.stages);                                                              \
        }                                                                                                      \
        break;
                SEGMENT(F16, min(4, steps - chunk * 4))
                SEGMENT(Q4_0, min(4, steps - chunk * 4))
                SEGMENT(Q5_0, min(4, steps - chunk * 4))
                SEGMENT(Q8_0, min(4, steps - chunk * 4))
                SEGMENT(Q4_K, 4)
                SEGMENT(Q5_K, 4)
                SEGMENT(Q6_K, 4)
                SEGMENT(NVFP4, min(4, steps - chunk * 4))
                SEGMENT(MXFP4, min(4, steps - chunk * 4))
            }
#undef SEGMENT
            if constexpr (TOGETHER > 1) {
                // All that the range has of the strip.
                const int strip = dealt * TOGETHER + warp % TOGETHER, unit = group + (strip >> a.pair) * a.groups;
                if (strip >= part.strips) continue;
                float* partial = a.partial + ((((size_t)unit * a.ranges + range) << a.pair) + (strip & a.pair)) * OUTS + g;
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        if (n * 8 + 2 * t + i % 2 < a.rows) partial[(n * 8 + 2 * t + i % 2) * 16 + i / 2 * 8] = sum[n][i];
                continue;
            }
            float* into = sums + slots.at(dealt, warp) * all * ROW + g;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (!FLOATS) into[(n * 8 + 2 * t + i % 2) * ROW + i / 2 * 8] = sum[n][i];
                    else if (i % 2 == 0 && t < all) into[t * ROW + i / 2 * 8] = sum[n][i];
                }
        }
        if (TOGETHER > 1) return;
        __syncthreads();

        // A warp adds up what all found of 8 rows of a unit: each lane of a feature, and of every second row.
        constexpr int ROWS = FLOATS ? 2 : 4;
        const int units = batch >> a.pair, feature = lane % 16, before = from >> a.pair;
        const float by_per = reciprocal(per);
        for (int i = warp; i < units * N; i += warps) {
            const int unit = i / N, row = i % N * 8 + lane / 16;
            float total[ROWS][2];
#pragma unroll
            for (int k = 0; k < ROWS; k++) total[k][0] = total[k][1] = 0;
#pragma unroll
            for (int s = 0; s < 2; s++) {
                if (s == each) break;
                const int strip = unit * each + s, end = over(strip * tiles + tiles - 1, by_per);
#pragma unroll 2
                for (int w = over(strip * tiles, by_per); w <= end; w++) {
                    const float* found = sums + (slots.at(strip, w) * all + row) * ROW + feature;
#pragma unroll
                    for (int k = 0; k < ROWS; k++)
                        if (!FLOATS || row + 2 * k < all) total[k][s] += found[2 * k * ROW];
                }
            }
            const int at = group + (before + unit) * a.groups;
            float* partial = a.partial + (((size_t)at * a.ranges + range) << a.pair) * OUTS + feature;
#pragma unroll
            for (int k = 0; k < ROWS; k++) {
                const int r = row + 2 * k;
                if (r >= a.rows) break;
                if (a.ranges == 1) {
                    finish(a, at, r, feature, total[k], FLOATS && a.norm ? inverse[r] : 1);
                } else {
                    partial[r * 16] = total[k][0];
                    if (a.pair) partial[OUTS + r * 16] = total[k][1];
                }
            }
        }
        if (from + most < count) __syncthreads();
    }
}

// What ranges found of a unit, added up in their order.
KERNEL linear_sums(const __grid_constant__ Linear a) {
    release();
    const int outs = a.rows <= 8 ? 128 : a.rows <= 16 ? 256 : 512, unit = blockIdx.x;
    const float* partial = a.partial + (((size_t)unit * a.ranges) << a.pair) * outs;
    depend();
    for (int out = threadIdx.x; out < a.rows * 16; out += blockDim.x) {
        float total[2] = {0, 0};
#pragma unroll 8
        for (int r = 0; r < a.ranges; r++) {
            const float* from = partial + ((r * outs) << a.pair) + out;
            total[0] += __ldcg(from);
            if (a.pair) total[1] += __ldcg(from + outs);
        }
        float by = 1;
        if (a.norm && !a.halves.base) by = a.inverse[out / 16];
        finish(a, unit, out / 16, out % 16, total, by);
    }
}

#define LINEAR(FAMILY, FORMATS)                                                                                                        \
    KERNEL __launch_bounds__(512, 1) linear_floats##FAMILY(const __grid_constant__ Linear a) { linear<1, true, 16, FORMATS>(a); }      \
    KERNEL __launch_bounds__(512, 1) linear_1##FAMILY(const __grid_constant__ Linear a) { linear<1, false, 16, FORMATS>(a); }          \
    KERNEL __launch_bounds__(512, 1) linear_2##FAMILY(const __grid_constant__ Linear a) { linear<2, false, 16, FORMATS>(a); }          \
    KERNEL __launch_bounds__(512, 1) linear_4##FAMILY(const __grid_constant__ Linear a) { linear<4, false, 16, FORMATS>(a); }
LINEAR(, ALL)
LINEAR(_q4_k, 1 << Q4_K)
LINEAR(_k, 1 << Q4_K | 1 << Q6_K)
LINEAR(_nvfp4, 1 << NVFP4)
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
KERNEL __launch_bounds__(512, 1) linear_wide_q4_k(const __grid_constant__ Linear a) { linear<4, false, 16, 1 << Q4_K, 4>(a); }
KERNEL __launch_bounds__(512, 1) linear_wide_q6_k(const __grid_constant__ Linear a) { linear<4, false, 16, 1 << Q6_K, 4>(a); }
KERNEL __launch_bounds__(512, 1) linear_wide_nvfp4(const __grid_constant__ Linear a) { linear<4, false, 16, 1 << NVFP4, 4>(a); }
#endif
