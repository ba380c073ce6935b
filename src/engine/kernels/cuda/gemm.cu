// Products with many rows of activations: weights that were expanded to halves, on the tensor cores.
//
// Both sides lie in blocks of 8 rows and 32 columns, 128 rows of 64 columns together, so that a tile is copied as it lies,
// and a lane's part of a matrix is 16 neighbouring bytes of shared memory: no two lanes meet in a bank.
#include "common.cuh"

struct Gemm {
    const u8* weights;  // [features / 128, chunks * 4, 16, 2, 512]
    Activations x;      // with one scale a row
    const float* bias;  // or null
    float* out;         // [rows, stride]
    int features, stride;
    int add;  // to what `out` has
};

constexpr int M = 128, N = 128, STAGES = 4, BLOCK = 512, STAGE = (M + N) / 8 * BLOCK;

DEVICE void copy16(u32 to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
}

DEVICE uint4 shared16(u32 at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
    return v;
}

// What a lane has of 16 features and 8 rows: its features are 8 apart, its rows neighbours.
DEVICE void write(const Gemm& args, int feature, int row, const float (&c)[4]) {
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int r = row + k;
        if (r >= args.x.rows) continue;
        const float scale = *args.x.scale(r, 0);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int f = feature + i * 8;
            if (f >= args.features) continue;
            float* out = args.out + (size_t)r * args.stride + f;
            float x = c[k + i * 2] * scale;
            if (args.bias) x += args.bias[f];
            *out = args.add ? *out + x : x;
        }
    }
}

// A block has 128 features of 128 rows; each of its four warps 64 of 64. blockIdx.x counts rows, so that blocks that run
// together share weights.
KERNEL __launch_bounds__(128, 2) gemm(const __grid_constant__ Gemm args) {
    extern __shared__ u8 shared[];
    release();
    depend();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int m = blockIdx.y * M, n = blockIdx.x * N, steps = args.x.chunks * 8;
    const u32 base = (u32)__cvta_generic_to_shared(shared);

    // Each thread copies one 16-byte piece of every fourth block of 8 rows.
    const u8* from[2] = {args.weights + (size_t)(m / M) * steps * M * 64, args.x.base + (size_t)(n / N) * steps * N * 64};
    auto fetch = [&](int step) {
        if (step < steps) {
            const u32 stage = base + step % STAGES * STAGE + warp * BLOCK + lane * 16;
#pragma unroll
            for (int i = 0; i < 8; i++)
                copy16(stage + i * 4 * BLOCK, from[i / 4] + (size_t)(step / 2) * 16384 + step % 2 * BLOCK + (warp + i % 4 * 4) * 1024 + lane * 16);
        }
        asm volatile("cp.async.commit_group;");
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) fetch(s);

    float c[4][8][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) c[i][j][k] = 0;
    const u32 mine = base + piece(g, t);
    const u32 a_at = mine + warp / 2 * 8 * BLOCK, b_at = mine + (M / 8 + warp % 2 * 8) * BLOCK;
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
        __syncthreads();
        fetch(step + STAGES - 1);
        const u32 stage = step % STAGES * STAGE;
        uint4 b[8];
#pragma unroll
        for (int j = 0; j < 8; j++) b[j] = shared16(b_at + stage + j * BLOCK);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint4 x = shared16(a_at + stage + 2 * i * BLOCK), y = shared16(a_at + stage + (2 * i + 1) * BLOCK);
            const u32 first[4] = {x.x, y.x, x.y, y.y}, second[4] = {x.z, y.z, x.w, y.w};
#pragma unroll
            for (int j = 0; j < 8; j++) mma(c[i][j], first, b[j].x, b[j].y);
#pragma unroll
            for (int j = 0; j < 8; j++) mma(c[i][j], second, b[j].z, b[j].w);
        }
    }

    const int feature = m + warp / 2 * 64 + g, row = n + warp % 2 * 64 + 2 * t;
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) write(args, feature + i * 16, row + j * 8, c[i][j]);
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// The same by Hopper's instructions: one warp fetches blocks as they lie, and two groups of four warps multiply them from
// shared memory, 64 features by all rows of the tile each.

// Columns of a stage, in pairs of blocks.
constexpr int DEPTH = 64, DEEP_STAGES = 4;

// Rows of 64 bytes, swizzled; eight rows are a block, blocks of the next eight rows lie 1024 bytes on.
DEVICE u64 matrix(u32 at) { return (u64)(at >> 4 & 0x3fff) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 2ull << 62; }

#define F4(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define F16X(c, i) F4(c, i), F4(c, i + 4), F4(c, i + 8), F4(c, i + 12)

// c += a * b of 64 features, 128 rows and 16 columns.
DEVICE void wide_mma(float (&c)[64], u64 a, u64 b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, 1, 1, 1, 0, 0;"
        : F16X(c, 0), F16X(c, 16), F16X(c, 32), F16X(c, 48)
        : "l"(a), "l"(b));
}

template <int WIDTH>
DEVICE void gemm_deep(const Gemm& args) {
    extern __shared__ __align__(1024) u8 deep[];
    __shared__ __align__(8) u64 full[DEEP_STAGES], empty[DEEP_STAGES];
    constexpr int BYTES = (M + WIDTH) * DEPTH * 2;
    release();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int m = blockIdx.y * M, n = blockIdx.x * WIDTH, steps = args.x.chunks * 4;
    const u32 base = ((u32)__cvta_generic_to_shared(deep) + 1023) & ~1023u;
    const u32 is_full = (u32)__cvta_generic_to_shared(full), is_empty = (u32)__cvta_generic_to_shared(empty);
    if (threadIdx.x == 0) {
        for (int s = 0; s < DEEP_STAGES; s++) barrier_init(is_full + s * 8, 1), barrier_init(is_empty + s * 8, 2);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    depend();

    if (warp == 8) {
        // 128 rows of 64 columns are one piece.
        constexpr int PIECE = 128 * DEPTH * 2;
        for (int step = 0; step < steps && lane == 0; step++) {
            const int s = step % DEEP_STAGES, round = step / DEEP_STAGES;
            const u32 to = base + s * BYTES, barrier = is_full + s * 8;
            if (round > 0) barrier_wait(is_empty + s * 8, (round - 1) % 2);
            barrier_expect(barrier, BYTES);
            bulk_copy(to, args.weights + ((size_t)blockIdx.y * steps + step) * PIECE, PIECE, barrier);
#pragma unroll
            for (int i = 0; i < WIDTH / 128; i++) {
                // Where rows end before the tile does, the last of them again.
                const int piece = min((int)blockIdx.x * (WIDTH / 128) + i, (args.x.rows - 1) / 128);
                bulk_copy(to + (i + 1) * PIECE, args.x.base + ((size_t)piece * steps + step) * PIECE, PIECE, barrier);
            }
        }
        return;
    }
    if (warp > 8) return;

    const int team = warp / 4;
    float c[WIDTH / 128][64];
#pragma unroll
    for (int j = 0; j < WIDTH / 128; j++)
#pragma unroll
        for (int i = 0; i < 64; i++) c[j][i] = 0;
    for (int step = 0; step < steps; step++) {
        const int s = step % DEEP_STAGES;
        barrier_wait(is_full + s * 8, step / DEEP_STAGES % 2);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        const u32 a = base + s * BYTES + team * 8 * 1024, b = base + s * BYTES + M / 8 * 1024;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const u32 at = k / 2 * 512 + k % 2 * 32;
#pragma unroll
            for (int j = 0; j < WIDTH / 128; j++) wide_mma(c[j], matrix(a + at), matrix(b + j * 16 * 1024 + at));
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        // What was begun a step ago has ended: its stage may be filled again.
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (step > 0 && threadIdx.x % 128 == 0) barrier_arrive(is_empty + (step - 1) % DEEP_STAGES * 8);
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    const int feature = m + team * 64 + warp % 4 * 16 + lane / 4, row = n + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < WIDTH / 128; j++)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float four[4] = {c[j][i * 4], c[j][i * 4 + 1], c[j][i * 4 + 2], c[j][i * 4 + 3]};
            write(args, feature, row + j * 128 + i * 8, four);
        }
}

KERNEL __launch_bounds__(288, 1) gemm_deep_128(const __grid_constant__ Gemm args) { gemm_deep<128>(args); }
KERNEL __launch_bounds__(288, 1) gemm_deep_256(const __grid_constant__ Gemm args) { gemm_deep<256>(args); }
#endif
