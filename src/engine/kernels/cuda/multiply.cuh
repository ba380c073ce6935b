// What products with few rows of activations are told, where those lie in shared memory, and a tile of weights times a
// chunk of them.
#pragma once
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
    float* inverse;      // where there are ranges: what the rows of x are to be multiplied with for the norm
    float eps;
    int rows, columns;
    int pair;  // of the first two products: out[0] = function(first) * second
    int gelu;  // the function
    int ranges, groups;
    int few, more;        // units of a group, and how many groups have one more
    int tiles, remaining; // of a strip in a range, and in the last one
    int batch;            // strips of a round (an even number of a pair's)
    int shift;            // warps of a block are 2 to the power of this
    int stage, stages;  // bytes that a tile takes in shared memory, and how many a warp has there: 2 or 4
};

DEVICE float gated(int gelu, float x, float up) {
    // GELU's approximation by tanh is x * sigmoid((1.5957691 + 0.07135481 x^2) x).
    const float y = gelu ? (1.5957691f + 0.07135481f * x * x) * x : x;
    return __fdividef(x, 1 + __expf(-y)) * up;
}

// n / d of small numbers, with the reciprocal of d. What is done once a kernel had better be few instructions: no warp
// has another's to hide behind.
DEVICE float reciprocal(int d) {
    float x;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(x) : "f"((float)d));
    return x;
}
DEVICE int over(int n, float by) { return (int)((n + 0.5f) * by); }

// A range's activations in shared memory.
// - of floats: rows of halves, each 64 bytes further in its banks than the one before; the sums of groups likewise; scales
//   in fours. Row r is column 2r of the products: a lane has one row's, and leaves the odd columns alone
// - of halves: as `Activations` has them
template <int N, bool FLOATS>
struct Columns {
    const u8 *x, *sums;   // a lane's part of the first chunk
    const float* scales;  // of row t of floats, of rows 2t and 2t + 1 of halves
    int tiles;

    static __device__ __forceinline__ int row_bytes(int tiles) { return tiles * 512 + 64; }
    static __device__ __forceinline__ int sum_bytes(int tiles) { return tiles * 32 + 32; }
    // Bytes of all, of so many rows and tiles.
    static __device__ __forceinline__ int bytes(int rows, int tiles) {
        return FLOATS ? rows * (row_bytes(tiles) + sum_bytes(tiles)) + tiles * 16 : tiles * N * (4096 + 256 + 32);
    }

    __device__ __forceinline__ void look(const u8* base, int rows, int tiles) {
        this->tiles = tiles;
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        if constexpr (FLOATS) {
            // What columns of rows that aren't there give is never looked at.
            const int row = min(g / 2, rows - 1);
            x = base + row * row_bytes(tiles) + t * 16;
            sums = base + rows * row_bytes(tiles) + row * sum_bytes(tiles) + t * 8;
            scales = (const float*)(base + rows * (row_bytes(tiles) + sum_bytes(tiles))) + t;
        } else {
            x = base + (apart(N * 8) ? g * 64 + t * 4 : piece(g, t));
            sums = base + tiles * N * 4096 + g * 32 + t * 8;
            scales = (const float*)(base + tiles * N * (4096 + 256)) + 2 * t;
        }
    }
    __device__ __forceinline__ uint4 at(int chunk, int n, int i) const {
        if (apart(N * 8)) {
            const u8* from = x + (n * tiles + chunk) * 4096 + i * 512;
            const int mix = threadIdx.x / 8 % 4 * 16;
            auto pair = [&](int p) { return *(const u32*)(from + (p * 16 ^ mix)); };
            return make_uint4(pair(0), pair(1), pair(2), pair(3));
        }
        return *(const uint4*)(FLOATS ? x + chunk * 512 + i * 64 : x + (n * tiles + chunk) * 4096 + i * 512);
    }
    // Of groups 2t and 2t + 1 of row g, and what those lost.
    __device__ __forceinline__ uint2 sum(int chunk, int n) const {
        return *(const uint2*)(sums + (FLOATS ? chunk * 32 : (n * tiles + chunk) * 256));
    }
    __device__ __forceinline__ float2 scale(int chunk, int n) const {
        if (FLOATS) return make_float2(scales[chunk * 4], 0);
        return *(const float2*)(scales + (n * tiles + chunk) * 8);
    }

    // All threads have halves put there.
    static __device__ __forceinline__ void put(u8* base, const Activations& from, int first, int tiles, u32 barrier) {
        const size_t cells = from.cells();
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x == 0) {
            const u32 to = (u32)__cvta_generic_to_shared(base);
            barrier_expect(barrier, tiles * N * (4096 + 256 + 32));
#pragma unroll 1
            for (int n = 0; n < N; n++) {
                const size_t cell = ((size_t)n * from.chunks + first) * 8;
                bulk_copy(to + n * tiles * 4096, from.base + cell * 512, tiles * 4096, barrier);
                bulk_copy(to + (N * 4096 + n * 256) * tiles, from.base + cells * 512 + cell * 32, tiles * 256, barrier);
                bulk_copy(to + (N * (4096 + 256) + n * 32) * tiles, from.base + cells * 544 + cell * 4, tiles * 32, barrier);
            }
        }
        barrier_wait(barrier, 0);
#else
        for (int n = 0; n < N; n++) {
            const size_t cell = ((size_t)n * from.chunks + first) * 8;
            auto copy = [&](size_t to, size_t at, int bytes) {
#pragma unroll 4
                for (int i = threadIdx.x * 16; i < bytes; i += blockDim.x * 16) *(uint4*)(base + to + i) = *(const uint4*)(from.base + at + i);
            };
            copy(n * tiles * 4096, cell * 512, tiles * 4096);
            copy((N * 4096 + n * 256) * tiles, cells * 512 + cell * 32, tiles * 256);
            copy((N * (4096 + 256) + n * 32) * tiles, cells * 544 + cell * 4, tiles * 32);
        }
        __syncthreads();
#endif
    }

    // A warp puts a chunk of a row there: each lane eight columns.
    static __device__ __forceinline__ void put(u8* base, int rows, int tiles, int row, int chunk, const float (&v)[8]) {
        const int lane = threadIdx.x % 32;
        float most = 0, sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(v[i]));
        // The reciprocal of a power of two.
        const float scale = scale_for(warp_max(most)), by = __uint_as_float((254u << 23) - __float_as_uint(scale));
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
    constexpr int STEP = FLOATS ? 2 : 1;  // odd columns are no one's
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
        float d[2] = {1, 1};                                                            \
        if constexpr (T::grouped) d[0] = w.template group<S, H>(0), d[1] = w.template group<S, H>(1); \
        _Pragma("unroll") for (int n = 0; n < N; n++) {                                 \
            const uint4 v = x.at(chunk, n, S * 2 + H);                                  \
            if constexpr (T::grouped) {                                                 \
                float e[4];                                                             \
                product(e, a, v.x, v.y);                                                \
                mma(e, b, v.z, v.w);                                                    \
                _Pragma("unroll") for (int i = 0; i < 4; i += STEP) c[n][i] += e[i] * d[i / 2]; \
            } else {                                                                    \
                mma(c[n], a, v.x, v.y);                                                 \
                mma(c[n], b, v.z, v.w);                                                 \
            }                                                                           \
        }                                                                               \
    }
    EACH_GROUP(steps, GROUP);
#undef GROUP
    u32 mins[4] = {0, 0, 0, 0}, offsets[4] = {0, 0, 0, 0};
    if constexpr (T::minima) {
        mins[0] = mins[2] = w.mins(0, t), mins[1] = mins[3] = w.mins(1, t);
        offsets[0] = offsets[2] = w.offsets(0, t), offsets[1] = offsets[3] = w.offsets(1, t);
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
        float e[4] = {0, 0, 0, 0};
        if constexpr (T::minima) {
            const uint2 sums = x.sum(chunk, n);
            mma(c[n], offsets, sums.x, sums.y);
            product(e, mins, sums.x, sums.y);
        }
        const float2 scale = x.scale(chunk, n);
#pragma unroll
        for (int i = 0; i < 4; i += STEP) {
            float v = w.d(i / 2) * c[n][i];
            if constexpr (T::minima) v -= w.dmin(i / 2) * e[i];
            sum[n][i] += v * (i % 2 ? scale.y : scale.x);
        }
    }
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// c = a * b, or more of it, of 64 weights' rows (16 of each warp), 32 rows of activations and 16 columns. What it gives is
// not there before it was waited for.
DEVICE void wide_mma(float (&c)[16], const u32 (&a)[4], u64 b, int more) {
    asm volatile(
        "{\n.reg .pred more;\nsetp.ne.b32 more, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, more, 1, 1, 0;\n}"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]),
          "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
}

template <int others>
DEVICE void wide_wait(float (&c)[16]) {
    asm volatile("wgmma.wait_group.sync.aligned %16;"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]), "+f"(c[9]),
                   "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15])
                 : "n"(others) : "memory");
}

// The same as `multiply` for 32 rows, by four warps at once with a tile each. Activations come from shared memory: `b`
// tells of those of the first chunk.
template <int format>
DEVICE void multiply_wide(const u8* tile, int steps, const Columns<4, false>& x, u64 b, int chunk, float (&sum)[4][4]) {
    typedef Tile<format> T;
    const int lane = threadIdx.x % 32, t = lane % 4;
    T w;
    w.load(tile, lane, steps);
    w.prepare(lane);
    float c[16], e[2][16];
#pragma unroll
    for (int i = 0; i < 16; i++) c[i] = e[0][i] = e[1][i] = 0;
    b += chunk * (4096 / 16);
    float d[2][2];
#define GROUP(S, H)                                                                              \
    {                                                                                            \
        constexpr int i = 2 * S + H;                                                             \
        u32 first[4], second[4];                                                                 \
        w.template get<S, H>(first, second, lane);                                               \
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");                                  \
        wide_mma(T::grouped ? e[H] : c, first, b + i * (512 / 16), !T::grouped && i > 0);        \
        wide_mma(T::grouped ? e[H] : c, second, b + i * (512 / 16) + 2, 1);                      \
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");                           \
        if constexpr (!T::grouped) {                                                             \
            /* Few at a time: weights stay in registers until they were multiplied. */           \
            if (i > 0) asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");            \
        } else {                                                                                 \
            _Pragma("unroll") for (int r = 0; r < 2; r++) d[H][r] = w.template group<S, H>(r);   \
            if (i > 0) {                                                                         \
                wide_wait<1>(e[1 - H]);                                                          \
                _Pragma("unroll") for (int k = 0; k < 16; k++) c[k] += e[1 - H][k] * d[1 - H][k / 2 % 2]; \
            }                                                                                    \
        }                                                                                        \
    }
    EACH_GROUP(steps, GROUP);
#undef GROUP
    if constexpr (T::grouped) {
        wide_wait<0>(e[1]);
#pragma unroll
        for (int k = 0; k < 16; k++) c[k] += e[1][k] * d[1][k / 2 % 2];
    } else {
        wide_wait<0>(c);
    }
    u32 mins[4] = {0, 0, 0, 0}, offsets[4] = {0, 0, 0, 0};
    if constexpr (T::minima) {
        mins[0] = mins[2] = w.mins(0, t), mins[1] = mins[3] = w.mins(1, t);
        offsets[0] = offsets[2] = w.offsets(0, t), offsets[1] = offsets[3] = w.offsets(1, t);
    }
#pragma unroll
    for (int n = 0; n < 4; n++) {
        float f[4] = {0, 0, 0, 0}, of[4] = {c[4 * n], c[4 * n + 1], c[4 * n + 2], c[4 * n + 3]};
        if constexpr (T::minima) {
            const uint2 sums = x.sum(chunk, n);
            mma(of, offsets, sums.x, sums.y);
            product(f, mins, sums.x, sums.y);
        }
        const float2 scale = x.scale(chunk, n);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float v = w.d(i / 2) * of[i];
            if constexpr (T::minima) v -= w.dmin(i / 2) * f[i];
            sum[n][i] += v * (i % 2 ? scale.y : scale.x);
        }
    }
}
#endif
