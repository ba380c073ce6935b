// Weights between the orders of a file and of the device.
#include "formats.cuh"

// The formats of files.
enum Raw { RAW_F32, RAW_F16, RAW_BF16, RAW_Q4_0, RAW_Q5_0, RAW_Q8_0, RAW_Q4_K, RAW_Q5_K, RAW_Q6_K, RAW_NVFP4, RAW_MXFP4 };

DEVICE float raw_half(const u8* p) { return __half2float(__ushort_as_half((u16)(p[0] | p[1] << 8))); }

// Column k of a row of floats.
DEVICE float raw_float(int raw, const u8* row, size_t k) {
    if (raw == RAW_F32) {
        const u8* p = row + 4 * k;
        return __uint_as_float(p[0] | p[1] << 8 | p[2] << 16 | (u32)p[3] << 24);
    }
    const u8* p = row + 2 * k;
    return raw == RAW_F16 ? raw_half(p) : __uint_as_float((u32)(p[0] << 16) | (u32)p[1] << 24);
}

// The quant of column k, without its offset.
DEVICE u32 raw_quant(int raw, const u8* row, size_t k) {
    const int i = k % 32, j = k % 256, g = j / 32;
    switch (raw) {
        case RAW_Q4_0: return row[k / 32 * 18 + 2 + i % 16] >> (i / 16 * 4) & 15;
        case RAW_Q5_0: {
            const u8* b = row + k / 32 * 22;
            return (b[6 + i % 16] >> (i / 16 * 4) & 15) | (b[2 + i / 8] >> (i % 8) & 1) << 4;
        }
        case RAW_Q8_0: return row[k / 32 * 34 + 2 + i] ^ 0x80;
        case RAW_Q4_K: return row[k / 256 * 144 + 16 + g / 2 * 32 + i] >> (g % 2 * 4) & 15;
        case RAW_Q5_K: {
            const u8* b = row + k / 256 * 176;
            return (b[48 + g / 2 * 32 + i] >> (g % 2 * 4) & 15) | (b[16 + i] >> g & 1) << 4;
        }
        case RAW_NVFP4: return row[k / 64 * 36 + 4 + k % 64 / 16 * 8 + k % 8] >> (k / 8 % 2 * 4) & 15;
        case RAW_MXFP4: return row[k / 32 * 17 + 1 + i % 16] >> (i / 16 * 4) & 15;
        default: {  // Q6_K
            const u8* b = row + k / 256 * 210;
            const int half = j / 128, at = j % 128;
            return (b[half * 64 + at % 64] >> (at / 64 * 4) & 15) | (b[128 + half * 32 + at % 32] >> (at / 32 * 2) & 3) << 4;
        }
    }
}

// NVFP4's scale of the 16 columns around k, as it lies on the device: what is no number counts as zero.
DEVICE u8 raw_scale(const u8* row, size_t k) {
    const u8 scale = row[k / 64 * 36 + k % 64 / 16] & 0x7f;
    return scale == 0x7f ? 0 : scale;
}

// A float of 4 bits.
DEVICE float raw_tiny(u32 q) {
    const int exponent = q >> 1 & 3, mantissa = q & 1;
    const float x = exponent ? (2 + mantissa) * (1 << exponent) * 0.25f : mantissa * 0.5f;
    return q & 8 ? -x : x;
}

DEVICE float raw_value(int raw, const u8* row, size_t k) {
    const int g = k % 256 / 32;
    switch (raw) {
        case RAW_F32:
        case RAW_F16:
        case RAW_BF16: return raw_float(raw, row, k);
        case RAW_Q4_0: return raw_half(row + k / 32 * 18) * ((int)raw_quant(raw, row, k) - 8);
        case RAW_Q5_0: return raw_half(row + k / 32 * 22) * ((int)raw_quant(raw, row, k) - 16);
        case RAW_Q8_0: return raw_half(row + k / 32 * 34) * ((int)raw_quant(raw, row, k) - 128);
        case RAW_NVFP4: {
            const float scale = 256 * __half2float(__ushort_as_half((u16)(raw_scale(row, k) << 7)));
            return scale * raw_tiny(raw_quant(raw, row, k));
        }
        case RAW_MXFP4: return power_of_two(row[k / 32 * 17]) * raw_tiny(raw_quant(raw, row, k));
        case RAW_Q6_K: {
            const u8* b = row + k / 256 * 210;
            return raw_half(b + 208) * (signed char)b[192 + k % 256 / 16] * ((int)raw_quant(raw, row, k) - 32);
        }
        default: {
            const u8* b = row + k / 256 * (raw == RAW_Q4_K ? 144 : 176);
            const u8* s = b + 4;
            const int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
            const int minimum = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
            return raw_half(b) * scale * (int)raw_quant(raw, row, k) - raw_half(b + 2) * minimum;
        }
    }
}

// Strips from rows: a warp a tile. `raw_rows` is the first of the strips' rows, of which `rows` are there; the others of
// the last strip become zeros.
template <int format>
DEVICE void repack_tile(const u8* source, size_t row_bytes, int raw, int rows, int columns, int strip, int tile, u8* out) {
    typedef Tile<format> T;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int steps = min(4, (columns + 63) / 64 - tile * 4);
    const size_t first = (size_t)tile * 256;
    auto row = [&](int r) { return source + (size_t)(strip * 16 + r) * row_bytes; };
    auto quant = [&](int r, size_t k) {
        return strip * 16 + r < rows && first + k < columns ? raw_quant(raw, row(r), first + k) : 0;
    };
    const bool fifths = format == Q5_0 || format == Q5_K;
#pragma unroll 1
    for (int s = 0; s < steps; s++) {
        u32 bits5 = 0, bits6[2] = {0, 0};
#pragma unroll 1
        for (int r = 0; r < 2; r++) {
            const int at = g + 8 * r;
            if constexpr (format == F16) {
                for (int h = 0; h < 2; h++)
#pragma unroll 1
                    for (int i = 0; i < 8; i++) {
                        const size_t k = first + s * 64 + h * 32 + t * 8 + i;
                        float x = strip * 16 + at < rows && k < columns ? raw_float(raw, row(at), k) : 0;
                        x = fminf(fmaxf(x, -65504.f), 65504.f);
                        *(half*)(out + ((s * 2 + h) * 2 + r) * 512 + lane * 16 + i * 2) = __float2half_rn(x);
                    }
            } else if constexpr (format == Q8_0) {
#pragma unroll 1
                for (int i = 0; i < 16; i++)
                    out[(s * 2 + r) * 512 + lane * 16 + i] = quant(at, s * 64 + i / 8 * 32 + t * 8 + i % 8);
            } else if constexpr (format == NVFP4 || format == MXFP4) {
                u32 words[2] = {0, 0};
#pragma unroll 1
                for (int i = 0; i < 16; i++) {
                    const int h = i / 8, pair = i % 8 / 2;
                    words[pair / 2] |= spread_tiny(quant(at, s * 64 + h * 32 + t * 8 + i % 8), 2 * h + pair % 2) << (i % 2 * 16);
                }
                *(uint2*)(out + s * 512 + lane * 16 + r * 8) = make_uint2(words[0], words[1]);
            } else {
#pragma unroll 1
                for (int i = 0; i < 8; i++) {
                    const u32 a = quant(at, s * 64 + t * 8 + i), b = quant(at, s * 64 + 32 + t * 8 + i);
                    const int byte = i / 4 * 4 + (i % 4 == 1 ? 2 : i % 4 == 2 ? 1 : i % 4);
                    out[s * 512 + lane * 16 + r * 8 + byte] = (a & 15) | (b & 15) << 4;
                    const int pair = i / 2, second = i % 2 * 16;
                    bits5 |= (a >> 4 & 1) << (pair + 8 * r + second) | (b >> 4 & 1) << (4 + pair + 8 * r + second);
                    bits6[r] |= (a >> 4 & 3) << (2 * pair + second) | (b >> 4 & 3) << (8 + 2 * pair + second);
                }
            }
        }
        u8* after = out + steps * 512;
        if constexpr (fifths) *(u32*)(after + lane * 16 + s * 4) = bits5;
        if constexpr (format == Q6_K)
            for (int r = 0; r < 2; r++) *(u32*)(after + s / 2 * 512 + lane * 16 + s % 2 * 8 + r * 4) = bits6[r];
    }
    if constexpr (format == F16) return;
    u8* scales = out + steps * (format == Q8_0 ? 1024 : 512) + (fifths ? 512 : format == Q6_K ? 1024 : 0);
    if (fifths)  // steps that aren't there
        for (int s = steps; s < 4; s++) *(u32*)(out + steps * 512 + lane * 16 + s * 4) = 0;
#pragma unroll 1
    for (int i = lane; i < (format == MXFP4 ? 128 : 256); i += 32) {
        const int r = format == MXFP4 ? i / 8 : i / 16, byte = format == MXFP4 ? i % 8 : i % 16;
        const bool there = strip * 16 + r < rows;
        u8 x = 0;
        if constexpr (format == NVFP4) {
            const size_t k = first + byte * 16;
            if (there && k < columns) x = raw_scale(row(r), k);
        } else if constexpr (format == MXFP4) {
            const size_t k = first + byte * 32;
            if (there && k < columns) x = row(r)[k / 32 * 17];
        } else if constexpr (T::grouped && !T::minima) {
            const size_t k = first + byte / 2 * 32;
            const int block = format == Q4_0 ? 18 : format == Q5_0 ? 22 : 34;
            if (there && k < columns) x = row(r)[k / 32 * block + byte % 2];
        } else if constexpr (format == Q6_K) {
            if (there) x = row(r)[(size_t)tile * 210 + 192 + byte];
        } else {
            if (there) x = row(r)[(size_t)tile * (format == Q4_K ? 144 : 176) + byte];
        }
        scales[i] = x;
    }
    if constexpr (format == Q6_K) {
        const int r = lane / 2;
        scales[256 + lane] = strip * 16 + r < rows ? row(r)[(size_t)tile * 210 + 208 + lane % 2] : 0;
    }
}

KERNEL repack(const u8* source, u64 row_bytes, int raw, int format, int rows, int columns, u8* out) {
    release();
    depend();
    const int strip = blockIdx.x, warps = blockDim.x / 32;
#define CASE(F)                                                                                                    \
    case F:                                                                                                        \
        for (int tile = threadIdx.x / 32; tile < (columns + 255) / 256; tile += warps)                              \
            repack_tile<F>(source, row_bytes, raw, rows, columns, strip, tile, out + strip * strip_bytes(F, columns) + (size_t)tile * Tile<F>::BYTES); \
        break;
    switch (format) { CASE(F16) CASE(Q4_0) CASE(Q5_0) CASE(Q8_0) CASE(Q4_K) CASE(Q5_K) CASE(Q6_K) CASE(NVFP4) CASE(MXFP4) }
#undef CASE
}

// Rows of a table of embeddings, as they are in a file, become numbers.
KERNEL embed(const u8* rows, u64 row_bytes, int raw, int columns, float scale, float* out) {
    release();
    depend();
    const u8* row = rows + blockIdx.y * row_bytes;
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k < columns) out[(size_t)blockIdx.y * columns + k] = raw_value(raw, row, k) * scale;
}

// Strips become halves, in the blocks of 8 rows and 32 columns that activations have too, in the order of many rows:
// [strips / 8, chunks * 4, 16, 2, 512].
template <int format>
DEVICE void expand_strip(const u8* weights, int columns, int chunks, int strip, const Activations& out) {
    typedef Tile<format> T;
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32, g = lane / 4, t = lane % 4;
    const int steps = (columns + 63) / 64, tiles = (steps + 3) / 4;
    for (int tile = threadIdx.x / 32; tile < tiles; tile += warps) {
        T w;
        const int count = min(4, steps - tile * 4);
        w.load(weights + (size_t)tile * T::BYTES, lane, count);
        w.prepare(lane);
        const float d[2] = {w.d(0), w.d(1)};
#define GROUP(S, H)                                                                                              \
    {                                                                                                            \
        u32 a[4], b[4];                                                                                          \
        w.template get<S, H>(a, b, lane);                                                                        \
        _Pragma("unroll") for (int r = 0; r < 2; r++) {                                                          \
            float scale = d[r], minimum = 0;                                                                     \
            if constexpr (T::grouped) scale *= w.template group<S, H>(r);                                        \
            if constexpr (T::minima) {                                                                           \
                constexpr int group = 2 * S + H;                                                                 \
                minimum = w.dmin(r) * ((group < 4 ? w.scales[r].z : w.scales[r].w) >> (group % 4 * 8) & 255) +   \
                          scale * 1024;                                                                          \
            }                                                                                                    \
            const u32 x[4] = {a[r], a[r + 2], b[r], b[r + 2]};                                                   \
            u32 y[4];                                                                                            \
            _Pragma("unroll") for (int i = 0; i < 4; i++)                                                        \
                y[i] = pack(low(x[i]) * scale - minimum, high(x[i]) * scale - minimum);                          \
            u8* block = out.block(strip * 2 + r, (tile * 4 + S) * 2 + H);                                        \
            *(uint4*)(block + piece(g, t)) = make_uint4(y[0], y[1], y[2], y[3]);                                 \
        }                                                                                                        \
    }
        EACH_GROUP(count, GROUP);
#undef GROUP
    }
    // Columns beyond the last step.
    for (int k32 = steps * 2 + (int)threadIdx.x / 32; k32 < chunks * 8; k32 += warps)
        for (int r = 0; r < 2; r++) *(uint4*)(out.block(strip * 2 + r, k32) + lane * 16) = make_uint4(0, 0, 0, 0);
}

KERNEL __launch_bounds__(256) expand(const u8* weights, int format, int columns, int chunks, u8* out) {
    release();
    depend();
    const Activations to = {out, (int)gridDim.x * 16, chunks, 16};
#define CASE(F) \
    case F: return expand_strip<F>(weights + blockIdx.x * strip_bytes(F, columns), columns, chunks, blockIdx.x, to);
    switch (format) { CASE(F16) CASE(Q4_0) CASE(Q5_0) CASE(Q8_0) CASE(Q4_K) CASE(Q5_K) CASE(Q6_K) CASE(NVFP4) CASE(MXFP4) }
#undef CASE
}
