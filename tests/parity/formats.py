"""Writes what ggml makes of blocks and of floats into tests/fixtures/parity/formats.gguf, for the tests that run without it:
formats.py LIBGGML_BASE

Of each format: `NAME` are blocks, random ones and such with extreme scales, `NAME.numbers` what they stand for, and
`NAME.quantised` how the floats `source` are stored."""

import ctypes
import random
import struct
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "fixtures" / "parity" / "formats.gguf"
F32 = 0
ALIGNMENT = 32

# Name, id, what reads a row, weights a block, bytes a block, where halves lie that are scales.
FORMATS = [
    ("F16", 1, "ggml_fp16_to_fp32_row", 1, 2, [0]),
    ("BF16", 30, "ggml_bf16_to_fp32_row", 1, 2, [0]),
    ("Q4_0", 2, "dequantize_row_q4_0", 32, 18, [0]),
    ("Q4_1", 3, "dequantize_row_q4_1", 32, 20, [0, 2]),
    ("Q5_0", 6, "dequantize_row_q5_0", 32, 22, [0]),
    ("Q5_1", 7, "dequantize_row_q5_1", 32, 24, [0, 2]),
    ("Q8_0", 8, "dequantize_row_q8_0", 32, 34, [0]),
    ("Q2_K", 10, "dequantize_row_q2_K", 256, 84, [80, 82]),
    ("Q3_K", 11, "dequantize_row_q3_K", 256, 110, [108]),
    ("Q4_K", 12, "dequantize_row_q4_K", 256, 144, [0, 2]),
    ("Q5_K", 13, "dequantize_row_q5_K", 256, 176, [0, 2]),
    ("Q6_K", 14, "dequantize_row_q6_K", 256, 210, [208]),
    ("IQ4_NL", 20, "dequantize_row_iq4_nl", 32, 18, [0]),
    ("IQ4_XS", 23, "dequantize_row_iq4_xs", 256, 136, [0]),
    ("MXFP4", 39, "dequantize_row_mxfp4", 32, 17, []),
    ("NVFP4", 40, "dequantize_row_nvfp4", 64, 36, []),
]
# Zero, negative zero, the least subnormal, the least normal, one, the largest, and their negatives.
SCALES = [0x0000, 0x8000, 0x0001, 0x0400, 0x3C00, 0x7BFF, 0x8001, 0xFBFF]


def blocks(rng, name, size, scales, count):
    out = bytearray()
    for i in range(count):
        block = bytearray(rng.randbytes(size))
        for at in scales:
            half = rng.choice(SCALES) if i % 2 else rng.randrange(0x1000, 0x4000) | rng.randrange(2) << 15
            block[at : at + 2] = struct.pack("<H", half)
        if name == "MXFP4":
            block[0] = [0, 1, 2, 127, 250][i // 2 % 5] if i % 2 else rng.randrange(90, 160)
        if name == "NVFP4":
            block[:4] = bytes(rng.choice([0, 1, 7, 8, 0x7E, rng.randrange(0x7F)]) for _ in range(4))
        out += block
    return bytes(out)


def source(rng):
    """Rows of 256: normal, heavy-tailed, all above zero, one outlier, tiny, zero."""
    rows = [
        [rng.gauss(0, 0.05) for _ in range(256)],
        [rng.gauss(0, 0.02) / max(rng.random(), 0.05) for _ in range(256)],
        [rng.random() + 0.5 for _ in range(256)],
        [rng.gauss(0, 0.01) for _ in range(255)] + [-3.0],
        [rng.gauss(0, 1e-7) for _ in range(256)],
        [0.0] * 256,
    ]
    return struct.pack("<1536f", *[x for row in rows for x in row])


def write(tensors):
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 0)
    offset, data = 0, b""
    for name, kind, count, raw in tensors:
        header += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQIQ", 1, count, kind, offset)
        raw += bytes(-len(raw) % ALIGNMENT)
        data += raw
        offset += len(raw)
    OUT.write_bytes(header + bytes(-len(header) % ALIGNMENT) + data)


def main():
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    rng = random.Random(4)
    floats = source(rng)
    tensors = [("source", F32, len(floats) // 4, floats)]
    for name, kind, row, length, size, scales in FORMATS:
        count = max(512 // length, 2) if length > 1 else 64
        raw = blocks(rng, name, size, scales, count)
        numbers = (ctypes.c_float * (count * length))()
        getattr(ggml, row)(raw, numbers, ctypes.c_int64(count * length))
        tensors += [(name, kind, count * length, raw), (f"{name}.numbers", F32, count * length, bytes(numbers))]
        if length > 1:
            out = ctypes.create_string_buffer(len(floats) // 4 // length * size)
            rows = len(floats) // 1024
            done = ggml.ggml_quantize_chunk(kind, floats, out, ctypes.c_int64(0), ctypes.c_int64(rows), ctypes.c_int64(256), None)
            assert done == len(out.raw), name
            tensors.append((f"{name}.quantised", kind, len(floats) // 4, out.raw))
    write(tensors)


main()
