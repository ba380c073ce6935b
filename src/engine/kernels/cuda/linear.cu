// Products of weights with few rows of activations: weights are read once, 16 rows of them against 8 activations at a
// time in the matrix instruction, and dequantised in registers.
//
// Each warp of a block has 256 columns of its own: it takes its part of the activations into registers once, and then goes
// over strip after strip of the weights, whose next tiles are on their way meanwhile. What the warps of a block found is
// added up strip by strip. Where there are more columns than a block's warps can have (more than one range), the blocks'
// sums meet in memory, and the last to arrive adds them up, in the order of the ranges.
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
    int first, rows, columns;  // the first row of the halves, and how many; `out` begins there
    int pair;  // of the first two products: out[0] = function(first) * second
    int gelu;  // the function
    int units, ranges, groups;
    int stage;  // bytes that a tile takes in shared memory
    int batch;  // strips (an even number) between the warps' meetings
};

// A strip that a block computes.
struct Turn {
    const u8* from;
    int product, strip;
};

constexpr int STAGES = 3;

DEVICE float gated(int gelu, float x, float up) {
    // GELU's approximation by tanh is x * sigmoid((1.5957691 + 0.07135481 x^2) x).
    const float y = gelu ? (1.5957691f + 0.07135481f * x * x) * x : x;
    return x / (1 + __expf(-y)) * up;
}

// A warp's part of the activations: of N * 8 rows, its 256 columns.
template <int N>
struct Columns {
    uint4 x[N][8];    // by group
    uint2 sums[N];    // of groups 2t and 2t + 1 of row g, and what those lost
    float2 scale[N];  // of rows 2t and 2t + 1

    // Of the rows from `first` on, which is a multiple of 8.
    __device__ __forceinline__ void take(const Activations& from, int first, int chunk) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 8; i++) x[n][i] = *(const uint4*)(from.block(first / 8 + n, chunk * 8 + i) + piece(g, t));
            sums[n] = *(const uint2*)(from.sums(first + n * 8 + g, chunk) + t * 8);
            scale[n] = *(const float2*)from.scale(first + n * 8 + 2 * t, chunk);
        }
    }

    // From floats of up to four rows, which are normalised if there is a weight. All warps call it: `shared` has four
    // numbers a warp, `mine` 2048 bytes of the warp's own.
    __device__ __forceinline__ void take(const Linear& a, int chunk, float* shared, u8* mine) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
        float own[4] = {1, 1, 1, 1};  // the rows' scales
        u32 first = 0, lost = 0;
        for (int row = 0; row < a.rows; row++) {
            const float* from = a.x + (size_t)row * a.columns;
            float v[8], squares = 0, most = 0;
            load8(from, chunk * 256 + lane * 8, a.columns, v);
            if (a.norm) {
                float w[8];
                load8(a.norm, chunk * 256 + lane * 8, a.columns, w);
#pragma unroll
                for (int i = 0; i < 8; i++) squares += v[i] * v[i], v[i] *= w[i];
                // Columns of other ranges count too.
                for (int c = warp; a.ranges > 1 && c < (a.columns + 255) / 256; c += warps) {
                    const int first = blockIdx.x % a.ranges * warps;
                    if (c >= first && c < first + warps) continue;
                    load8(from, c * 256 + lane * 8, a.columns, w);
#pragma unroll
                    for (int i = 0; i < 8; i++) squares += w[i] * w[i];
                }
                squares = warp_sum(squares);
                if (lane == 0) shared[warp * 4 + row] = squares;
            }
#pragma unroll
            for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(v[i]));
            const float scale = scale_for(warp_max(most)), by = 1 / scale;
            u32 h[4];
            float sum = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                h[i] = pack(v[2 * i] * by, v[2 * i + 1] * by);
                sum += low(h[i]) + high(h[i]);
            }
            *(uint4*)(mine + (lane / 4 * 4 + row) * 64 + lane % 4 * 16) = make_uint4(h[0], h[1], h[2], h[3]);
            sum += __shfl_xor_sync(0xffffffff, sum, 1);
            sum += __shfl_xor_sync(0xffffffff, sum, 2);
            // Those of groups 2t and 2t + 1.
            const float a = __shfl_sync(0xffffffff, sum, 8 * t), b = __shfl_sync(0xffffffff, sum, 8 * t + 4);
            if (g == row) {
                first = pack(a, b);
                lost = pack(a - low(first), b - high(first));
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (i == row) own[i] = scale;
        }
        if (a.norm) {
            __syncthreads();
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float squares = lane < warps ? shared[lane * 4 + i] : 0;
                if (i < a.rows) own[i] *= rsqrtf(warp_sum(squares) / a.columns + a.eps);
            }
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[0][i] = g < a.rows ? *(const uint4*)(mine + (i * 4 + g) * 64 + t * 16) : make_uint4(0, 0, 0, 0);
        sums[0] = make_uint2(first, lost);
        scale[0] = t == 0 ? make_float2(own[0], own[1]) : make_float2(own[2], own[3]);
    }
};

// The products of a tile with a warp's activations.
template <int format, int N>
DEVICE void multiply(const u8* tile, int steps, const Columns<N>& x, float (&sum)[N][4]) {
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
            const uint4 v = x.x[n][S * 2 + H];                                          \
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
        if constexpr (T::minima) mma(c[n], offsets, x.sums[n].x, x.sums[n].y);
        float v[4] = {d0 * c[n][0], d0 * c[n][1], d1 * c[n][2], d1 * c[n][3]};
        if constexpr (T::minima) {
            float e[4];
            product(e, mins, x.sums[n].x, x.sums[n].y);
            v[0] -= w.dmin(0) * e[0];
            v[1] -= w.dmin(0) * e[1];
            v[2] -= w.dmin(1) * e[2];
            v[3] -= w.dmin(1) * e[3];
        }
        sum[n][0] = v[0] * x.scale[n].x;
        sum[n][1] = v[1] * x.scale[n].y;
        sum[n][2] = v[2] * x.scale[n].x;
        sum[n][3] = v[3] * x.scale[n].y;
    }
}

#if __CUDA_ARCH__ < 900
DEVICE void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}
#endif

// A row has 16 sums, and lies so far from the next that no two lanes meet in a bank; the same for a warp's rows.
constexpr int ROW = 20;

template <int N>
DEVICE void linear(const Linear& a) {
    extern __shared__ u8 shared[];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
    constexpr int SUMS = N * 8 * ROW + 8, OUTS = N * 128, MOST = 4;
    u8* ring = shared + warp * STAGES * a.stage;
    float* sums = (float*)(shared + warps * STAGES * a.stage);  // [batch, warps, SUMS]
    float* squares = sums;                                      // [warps, 4], before
    Turn* turns = (Turn*)(sums + a.batch * warps * SUMS);       // [turns]
    __shared__ bool last[MOST];
    release();

    const int range = blockIdx.x % a.ranges, group = blockIdx.x / a.ranges;
    const int chunk = range * warps + warp, mine = min(4, (a.columns + 63) / 64 - chunk * 4);
    const int each = a.pair ? 2 : 1, count = (a.units - group + a.groups - 1) / a.groups * each;
    for (int turn = threadIdx.x; turn < count; turn += blockDim.x) {
        int strip = group + turn / each * a.groups, product = a.pair ? turn % 2 : 0;
        if (!a.pair)
            while (product < 2 && strip >= a.products[product].strips) strip -= a.products[product++].strips;
        turns[turn] = {a.products[product].weights + strip * a.products[product].strip, product, strip};
    }
#if __CUDA_ARCH__ >= 900
    __shared__ __align__(8) u64 there[16 * STAGES];
    const u32 barriers = (u32)__cvta_generic_to_shared(there) + warp * STAGES * 8;
    if (lane == 0) {
#pragma unroll
        for (int s = 0; s < STAGES; s++) barrier_init(barriers + s * 8, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
#endif
    __syncthreads();
    const u32 base = (u32)__cvta_generic_to_shared(ring);
    auto fetch = [&](int turn) {
        if (turn < count && mine > 0) {
            const Turn next = turns[turn];
            const Product& p = a.products[next.product];
            const int bytes = mine == 4 ? p.tile : p.last, stage = turn % STAGES;
            const u8* from = next.from + chunk * p.tile;
#if __CUDA_ARCH__ >= 900
            if (lane == 0) {
                barrier_expect(barriers + stage * 8, bytes);
                bulk_copy(base + stage * a.stage, from, bytes, barriers + stage * 8);
            }
#else
#pragma unroll 4
            for (int i = lane * 16; i < bytes; i += 512) copy16(base + stage * a.stage + i, from + i);
#endif
        }
#if __CUDA_ARCH__ < 900
        asm volatile("cp.async.commit_group;");
#endif
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) fetch(s);
    // Weights depend on no one; activations do.
    depend();
    Columns<N> x;
    if (N > 1 || a.halves.base) {
        if (mine > 0) x.take(a.halves, a.first, chunk);
    } else {
        if constexpr (N == 1) x.take(a, chunk, squares, ring + (STAGES - 1) * a.stage);
#if __CUDA_ARCH__ >= 900
        // A tile will be copied to where the activations were.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    }
    __syncthreads();

    for (int from = 0; from < count; from += a.batch) {
        const int batch = min(a.batch, count - from);
        for (int i = 0; i < batch; i++) {
            const int turn = from + i;
#if __CUDA_ARCH__ >= 900
            if (mine > 0) barrier_wait(barriers + turn % STAGES * 8, turn / STAGES % 2);
#else
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
            __syncwarp();
#endif
            float sum[N][4];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[n][i] = 0;
            if (mine > 0) {
                const u8* tile = ring + turn % STAGES * a.stage;
                switch (a.products[turns[turn].product].format) {
                    case F16: multiply<F16, N>(tile, mine, x, sum); break;
                    case Q4_0: multiply<Q4_0, N>(tile, mine, x, sum); break;
                    case Q5_0: multiply<Q5_0, N>(tile, mine, x, sum); break;
                    case Q8_0: multiply<Q8_0, N>(tile, mine, x, sum); break;
                    case Q4_K: multiply<Q4_K, N>(tile, 4, x, sum); break;
                    case Q5_K: multiply<Q5_K, N>(tile, 4, x, sum); break;
                    case NVFP4: multiply<NVFP4, N>(tile, mine, x, sum); break;
                    case MXFP4: multiply<MXFP4, N>(tile, mine, x, sum); break;
                    default: multiply<Q6_K, N>(tile, 4, x, sum); break;
                }
            }
            __syncwarp();
            fetch(turn + STAGES - 1);
            float* at = sums + (i * warps + warp) * SUMS + 2 * t * ROW + g;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) at[(n * 8 + i % 2) * ROW + i / 2 * 8] = sum[n][i];
        }
        __syncthreads();

        // Four lanes add up what the warps found of an output of a unit, and of its second product if it has one.
        const int units = batch / each, outs = a.rows * 16;
        auto finish = [&](int unit, int i, float (&total)[2]) {
            const Turn of = turns[unit * each];
            const Product& p = a.products[of.product];
            const int row = i / 16, feature = of.strip * 16 + i % 16;
            if (feature >= p.features) return;
            float x = p.bias ? total[0] + p.bias[feature] : total[0];
            if (a.pair) x = gated(a.gelu, x, a.products[1].bias ? total[1] + a.products[1].bias[feature] : total[1]);
            float* out = p.out + (size_t)row * p.features + feature;
            *out = p.add ? *out + x : x;
        };
        for (int i = threadIdx.x / 4; i < (units * outs + 7) / 8 * 8; i += blockDim.x / 4) {
            const bool there = i < units * outs;
            const int unit = there ? i / outs : 0, out = there ? i % outs : 0;
            float total[2] = {0, 0};
#pragma unroll
            for (int s = 0; s < 2; s++) {
                if (s == each) break;
                const float* found = sums + (unit * each + s) * warps * SUMS + out / 16 * ROW + out % 16;
                float x = 0;
                for (int w = threadIdx.x % 4; w < warps; w += 4) x += found[w * SUMS];
                x += __shfl_xor_sync(0xffffffff, x, 1);
                x += __shfl_xor_sync(0xffffffff, x, 2);
                total[s] = x;
            }
            if (!there || threadIdx.x % 4 > 0) continue;
            if (a.ranges == 1) {
                finish(from / each + unit, out, total);
            } else {
                const size_t at = group + (from / each + unit) * a.groups;
                float* partial = a.partial + (at * a.ranges + range) * each * OUTS + out;
                __stcg(partial, total[0]);
                if (a.pair) __stcg(partial + OUTS, total[1]);
            }
        }
        if (a.ranges > 1) {
            // The last range to arrive adds them up.
            __threadfence();
            __syncthreads();
            if (threadIdx.x < units) {
                u32* arrived = a.arrived + group + (from / each + threadIdx.x) * a.groups;
                last[threadIdx.x] = atomicAdd(arrived, 1) == a.ranges - 1;
                if (last[threadIdx.x]) *arrived = 0;
            }
            __syncthreads();
            __threadfence();
            for (int i = threadIdx.x; i < units * outs; i += blockDim.x) {
                const int unit = i / outs, out = i % outs;
                if (!last[unit]) continue;
                const size_t at = group + (from / each + unit) * a.groups;
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
        __syncthreads();
    }
}

KERNEL __launch_bounds__(512, 1) linear_1(const __grid_constant__ Linear a) { linear<1>(a); }
KERNEL __launch_bounds__(512, 1) linear_2(const __grid_constant__ Linear a) { linear<2>(a); }
