// What touches each number of the activations once: norms, rotations, gates, sums, and the move into halves.
#include "cache.cuh"

DEVICE void store8(float* row, int k, int width, const float (&x)[8]) {
    if (k + 8 <= width && (size_t)(row + k) % 16 == 0) {
        *(float4*)(row + k) = make_float4(x[0], x[1], x[2], x[3]);
        *(float4*)(row + k + 4) = make_float4(x[4], x[5], x[6], x[7]);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (k + i < width) row[k + i] = x[i];
    }
}

// A block moves a row of f(column, eight numbers there) into halves. One scale for the row (`even`), as the large product
// wants it, or one for each chunk, which needs no second look.
template <typename F>
DEVICE void write_row(const Activations& out, int row, bool even, float* shared, F f) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float x[8], scale = 1;
    if (even) {
        float m = 0;
        for (int chunk = warp; chunk < out.chunks; chunk += warps) {
            f(chunk * 256 + lane * 8, x, false);
            m = fmaxf(m, most_of(x));
        }
        scale = scale_for(block_reduce<true>(m, shared));
    }
    for (int chunk = warp; chunk < out.chunks; chunk += warps) {
        f(chunk * 256 + lane * 8, x, true);
        write_chunk(out, row, chunk, x, even ? scale : scale_for(warp_max(most_of(x))));
    }
}

// With `even` a block has a row, else (blockIdx.y is the row) a few chunks.
KERNEL convert(const float* x, int width, const __grid_constant__ Activations halves, int even) {
    __shared__ float shared[33];
    release();
    depend();
    if (even) {
        const float* row = x + (size_t)blockIdx.x * width;
        return write_row(halves, blockIdx.x, true, shared, [&](int k, float (&v)[8], bool) { load8(row, k, width, v); });
    }
    const int chunk = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (chunk >= halves.chunks) return;
    float v[8];
    load8(x + (size_t)blockIdx.y * width, chunk * 256 + threadIdx.x % 32 * 8, width, v);
    write_chunk(halves, blockIdx.y, chunk, v, scale_for(warp_max(most_of(v))));
}

// out[row] = x[row] / rms(x[row]) * weight, as floats and as halves.
KERNEL norm_rows(const float* x, const float* weight, float eps, int width, float* out, const __grid_constant__ Activations halves, int even) {
    __shared__ float shared[33];
    release();
    depend();
    const float* row = x + (size_t)blockIdx.x * width;
    float* to = out + (size_t)blockIdx.x * width;
    // A thread's first numbers stay with it: most often there are no others.
    float v[8], w[8], kept[8], sum = 0;
    load8(row, threadIdx.x * 8, width, kept);
#pragma unroll
    for (int i = 0; i < 8; i++) sum += kept[i] * kept[i];
    for (int k = (threadIdx.x + blockDim.x) * 8; k < width; k += blockDim.x * 8) {
        load8(row, k, width, v);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += v[i] * v[i];
    }
    const float by = rsqrtf(block_reduce<false>(sum, shared) / width + eps);
    write_row(halves, blockIdx.x, even, shared, [&](int k, float (&v)[8], bool last) {
        if (k == threadIdx.x * 8) {
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = kept[i];
        } else {
            load8(row, k, width, v);
        }
        load8(weight, k, width, w);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= by * w[i];
        if (last) store8(to, k, width, v);
    });
}

DEVICE float gated(int gelu, float x, float up) {
    // GELU's approximation by tanh is x * sigmoid((1.5957691 + 0.07135481 x^2) x).
    const float y = gelu ? (1.5957691f + 0.07135481f * x * x) * x : x;
    return x / (1 + __expf(-y)) * up;
}

// gate = f(gate) * up, as floats and as halves. With `even` a block has a row, else (blockIdx.y is the row) a few chunks.
KERNEL gate_rows(float* gate, const float* up, int gelu, int width, const __grid_constant__ Activations halves, int even) {
    __shared__ float shared[33];
    release();
    depend();
    if (even) {
        float* a = gate + (size_t)blockIdx.x * width;
        const float* b = up + (size_t)blockIdx.x * width;
        write_row(halves, blockIdx.x, true, shared, [&](int k, float (&v)[8], bool last) {
            load8(a, k, width, v);
            if (last) return;  // what the first look has written
            float w[8];
            load8(b, k, width, w);
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = gated(gelu, v[i], w[i]);
            store8(a, k, width, v);
        });
    } else {
        const int chunk = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, k = chunk * 256 + threadIdx.x % 32 * 8;
        if (chunk >= halves.chunks) return;
        float *a = gate + (size_t)blockIdx.y * width, v[8], w[8];
        load8(a, k, width, v);
        load8(up + (size_t)blockIdx.y * width, k, width, w);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = gated(gelu, v[i], w[i]);
        store8(a, k, width, v);
        write_chunk(halves, blockIdx.y, chunk, v, scale_for(warp_max(most_of(v))));
    }
}

// Cosine and sine of positions times frequencies: [rows, frequencies, 2].
KERNEL angles(const u32* positions, const double* frequencies, int count, int total, float* out) {
    release();
    depend();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    double sine, cosine;
    sincos(positions[i / count] * frequencies[i % count], &sine, &cosine);
    out[2 * i] = cosine;
    out[2 * i + 1] = sine;
}

// A warp normalises a head if there is a weight, then rotates it.
DEVICE void rotate_head(float* v, int size, int adjacent, const float2* turns, const float* weight, float eps) {
    const int lane = threadIdx.x % 32;
    float by = 1;
    if (weight) {
        float sum = 0;
        for (int i = lane; i < size; i += 32) sum += v[i] * v[i];
        by = rsqrtf(warp_sum(sum) / size + eps);
    }
    for (int i = lane; i < size / 2; i += 32) {
        const int j = adjacent ? 2 * i : i, k = adjacent ? j + 1 : i + size / 2;
        const float a = v[j] * by * (weight ? weight[j] : 1), b = v[k] * by * (weight ? weight[k] : 1);
        const float2 turn = turns[i];
        v[j] = a * turn.x - b * turn.y;
        v[k] = b * turn.x + a * turn.y;
    }
}

KERNEL rotate(float* x, int heads, int size, int adjacent, const float* angles, const float* weight, float eps, int total) {
    release();
    depend();
    const int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (head >= total) return;
    const float2* turns = (const float2*)angles + (size_t)(head / heads) * (size / 2);
    rotate_head(x + (size_t)head * size, size, adjacent, turns, weight, eps);
}

struct Heads {
    float *q, *k;
    const float *v, *angles, *q_weight, *k_weight;
    const u32 *slots, *positions, *tables;
    u8* cache;   // of the layer, in the first block
    u64 stride;  // bytes from block to block
    int heads, kv_heads, size, adjacent, width, total, kv;
    float eps;

    // A warp stores the key or value of a head where its row's position is.
    __device__ __forceinline__ void store(int row, int head, bool value) const {
        const int bytes = half_bytes(kv, size);
        const u32 position = positions[row], block = tables[(size_t)slots[row] * width + position / 32];
        u8* to = cache + block * stride + (size_t)(2 * head + value) * bytes;
        float x[8];
        load8((value ? v : k) + ((size_t)row * kv_heads + head) * size, threadIdx.x % 32 * 8, size, x);
        put(kv, size, to, value, position % 32, x);
    }
};

// Queries and keys are rotated, keys and values stored: a warp a head.
KERNEL rotate_store(const __grid_constant__ Heads a) {
    release();
    depend();
    const int warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (warp >= a.total) return;
    const int each = a.heads + 2 * a.kv_heads, row = warp / each, head = warp % each;
    const float2* turns = (const float2*)a.angles + (size_t)row * (a.size / 2);
    if (head < a.heads) {
        rotate_head(a.q + ((size_t)row * a.heads + head) * a.size, a.size, a.adjacent, turns, a.q_weight, a.eps);
        return;
    }
    const int kv = (head - a.heads) % a.kv_heads;
    const bool value = head >= a.heads + a.kv_heads;
    if (!value) {
        rotate_head(a.k + ((size_t)row * a.kv_heads + kv) * a.size, a.size, a.adjacent, turns, a.k_weight, a.eps);
        __syncwarp();
    }
    a.store(row, kv, value);
}

// Keys and values into the cache: a warp a head's.
KERNEL store(const __grid_constant__ Heads a) {
    release();
    depend();
    const int warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (warp >= a.total) return;
    const int row = warp / 2 / a.kv_heads;
    a.store(row, warp / 2 % a.kv_heads, warp % 2);
}

KERNEL add(float* x, const float* y, u64 count) {
    release();
    depend();
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] += y[i];
}

// Tells if one of the numbers is none.
KERNEL unsound(const float* x, u64 count, u32* flag) {
    release();
    depend();
    bool found = false;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x)
        found |= (__float_as_uint(x[i]) & 0x7f800000) == 0x7f800000;
    if (found) *flag = 1;
}

KERNEL softcap(float* x, float cap, u64 count) {
    release();
    depend();
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = cap * tanhf(x[i] / cap);
}

KERNEL gather(const float* x, const u32* rows, int width, float* out) {
    release();
    depend();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < width) out[(size_t)blockIdx.y * width + i] = x[(size_t)rows[blockIdx.y] * width + i];
}
