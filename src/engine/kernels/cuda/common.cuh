// What all kernels share: types, the matrix instruction, loads, and how activations in halves are laid out.
#pragma once
#include <cuda_fp16.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__

// On Hopper and later, a kernel may be started while its predecessor still runs: `depend` waits for what the predecessor
// wrote, `release` lets the successor start. Every kernel calls both, so that waiting for one means waiting for all before.
DEVICE void depend() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE void release() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// c += a * b with a of 16 rows and 16 columns, b of 16 rows and 8 columns. With g = lane / 4 and t = lane % 4, a lane has
// of a the rows g and g + 8 at k 2t, 2t + 1, 2t + 8, 2t + 9; of b the column g at the same k; of c the rows g and g + 8
// at the columns 2t, 2t + 1. Since the sum over k has no order, a lane's four k may be any as long as a and b agree: here
// they are always neighbours.
DEVICE void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// a * b
DEVICE void product(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

DEVICE u32 bits(half2 x) { return *reinterpret_cast<u32*>(&x); }
DEVICE half2 halves(u32 x) { return *reinterpret_cast<half2*>(&x); }
DEVICE u32 pack(float a, float b) { return bits(__floats2half2_rn(a, b)); }
DEVICE float low(u32 x) { return __half2float(__ushort_as_half((u16)x)); }
DEVICE float high(u32 x) { return __half2float(__ushort_as_half((u16)(x >> 16))); }

DEVICE u32 word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

DEVICE __half clamped(float x) { return __float2half_rn(fminf(fmaxf(x, -65504.f), 65504.f)); }

// On Hopper and later, one thread has a piece of memory copied; a barrier in shared memory tells when it is there.
#if __CUDA_ARCH__ >= 900
DEVICE void barrier_init(u32 barrier, int count) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count)); }

DEVICE void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

DEVICE void barrier_arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory"); }

DEVICE void barrier_wait(u32 barrier, int parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@done bra over;\nbra again;\nover:\n}" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

DEVICE void bulk_copy(u32 to, const void* from, int bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
#endif

// (x & mask) | with
template <u32 mask, u32 with>
DEVICE u32 masked(u32 x) {
    u32 y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "n"(mask), "n"(with));
    return y;
}

// Eight numbers of a row of `width` from column k on; those beyond its end are zero.
DEVICE void load8(const float* row, int k, int width, float (&x)[8]) {
    if (k + 8 <= width && (size_t)(row + k) % 16 == 0) {
        const float4 a = *(const float4*)(row + k), b = *(const float4*)(row + k + 4);
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = k + i < width ? row[k + i] : 0;
    }
}

DEVICE float warp_max(float x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, i));
    return x;
}

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffff, x, i);
    return x;
}

// The result of all threads' values, for all threads. `shared` has 33 numbers.
template <bool maximum>
DEVICE float block_reduce(float x, float* shared) {
    x = maximum ? warp_max(x) : warp_sum(x);
    const int warps = (blockDim.x + 31) / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    if (threadIdx.x < 32) {
        float y = threadIdx.x < warps ? shared[threadIdx.x] : 0;
        y = maximum ? warp_max(y) : warp_sum(y);
        if (threadIdx.x == 0) shared[32] = y;
    }
    __syncthreads();
    return shared[32];
}

// Activations as the matrix instruction wants them: columns padded to a multiple of 256 (a chunk), rows to one of 8 (more
// than 16 of them: of 32; where there are many: of 128).
// - halves: blocks of 8 rows and 32 columns, 512 bytes; in a block rows of four 16-byte pieces, whose order is mixed as
//   the 64-byte swizzle of Hopper's matrix instructions has it (which costs nothing here). Two blocks with the next columns
//   lie together, then, where there are many rows, 16 such pairs with the next rows, then the next columns
// - sums: of each row and chunk, those of 32 columns each, as a half and the half that the first lost; minima of weights
//   are multiplied with them. In fours: the sums of two groups, then what they lost
// - scales: of each row and chunk, a power of two that the halves and sums were divided by, so that none overflows
struct Activations {
    u8* base;
    int rows;    // as many as there are
    int chunks;  // columns / 256, rounded up
    int tall;    // pairs of blocks that lie together: 16 where there are many rows, else 1

    __device__ __forceinline__ size_t cells() const {
        const int unit = tall > 1 ? 128 : rows > 16 ? 32 : 8;
        return (size_t)((rows + unit - 1) / unit * unit) * chunks;
    }
    // The 512 bytes of 8 rows and 32 columns.
    __device__ __forceinline__ u8* block(int row8, int k32) const {
        return base + (((size_t)(row8 / tall) * chunks * 4 + k32 / 2) * tall + row8 % tall) * 1024 + k32 % 2 * 512;
    }
    // The 16 sums of a row and chunk, 32 bytes.
    __device__ __forceinline__ u8* sums(int row, int chunk) const {
        return base + cells() * 512 + (((size_t)(row / 8) * chunks + chunk) * 8 + row % 8) * 32;
    }
    __device__ __forceinline__ float* scale(int row, int chunk) const {
        return (float*)(base + cells() * 544) + ((size_t)(row / 8) * chunks + chunk) * 8 + row % 8;
    }
};

// Whether activations of so many rows, of few, lie as Hopper's instruction for 64 weights' rows takes them: a lane's pairs of
// neighbours, which the columns 8t..8t+7 are, in the four pieces of the row rather than together in piece t.
DEVICE constexpr bool apart(int rows) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    return rows > 16;
#else
    return false;
#endif
}

// Where the piece of 16 bytes with the columns 8t..8t+7 of row g lies in a block.
DEVICE int piece(int g, int t) { return g * 64 + ((t ^ (g >> 1 & 3)) * 16); }

// The power of two that brings numbers of at most `most` to below 128.
DEVICE float scale_for(float most) {
    int exponent = (int)(__float_as_uint(most) >> 23 & 255);
    exponent = exponent < 20 ? 133 : exponent;  // nothing worth scaling: zeros
    exponent = exponent > 250 ? 250 : exponent;
    return __uint_as_float((u32)(exponent - 6) << 23);
}

DEVICE float most_of(const float (&x)[8]) {
    float m = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) m = fmaxf(m, fabsf(x[i]));
    return m;
}

// A warp writes a chunk of a row: lane i has the columns 8i..8i+7.
DEVICE void write_chunk(const Activations& out, int row, int chunk, const float (&x)[8], float scale) {
    const int lane = threadIdx.x % 32;
    const float by = 1 / scale;
    u32 h[4];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        h[i] = pack(x[2 * i] * by, x[2 * i + 1] * by);
        // The sums are of what is multiplied, not of what it was before it was rounded.
        sum += low(h[i]) + high(h[i]);
    }
    u8* block = out.block(row / 8, chunk * 8 + lane / 4);
    if (out.tall == 1 && apart(out.rows)) {
#pragma unroll
        for (int i = 0; i < 4; i++) *(u32*)(block + piece(row % 8, i) + lane % 4 * 4) = h[i];
    } else {
        *(uint4*)(block + piece(row % 8, lane % 4)) = make_uint4(h[0], h[1], h[2], h[3]);
    }
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    // Lanes 8t and 8t + 4 have the sums of the groups 2t and 2t + 1.
    const float other = __shfl_down_sync(0xffffffff, sum, 4);
    if (lane % 8 == 0) {
        const u32 first = pack(sum, other);
        const u32 lost = pack(sum - low(first), other - high(first));
        *(uint2*)(out.sums(row, chunk) + lane) = make_uint2(first, lost);
    }
    if (lane == 0) *out.scale(row, chunk) = scale;
}
