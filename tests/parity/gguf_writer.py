"""Writes model files: metadata of scalars and lists, tensors of 32- and 16-bit floats."""

import struct

import numpy

ALIGNMENT = 32
KINDS = {numpy.dtype("float32"): 0, numpy.dtype("float16"): 1}


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """The type of a value, and its bytes."""
    match item:
        case bool():
            return 7, struct.pack("<?", item)
        case int():
            return 4, struct.pack("<I", item)
        case float():
            return 6, struct.pack("<f", item)
        case str() | bytes():
            return 8, string(item)
        case list():
            kinds, items = zip(*map(value, item))
            return 9, struct.pack("<IQ", kinds[0], len(items)) + b"".join(items)
    raise TypeError(f"{item!r}")


def write(path, metadata, tensors):
    """`tensors` are arrays by name; their dimensions are stored from the innermost on."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, item in metadata.items():
        kind, data = value(item)
        head += string(key) + struct.pack("<I", kind) + data
    offset = 0
    for name, array in tensors.items():
        dims = array.shape[::-1]
        head += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, KINDS[array.dtype], offset)
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for array in tensors.values():
            file.write(array.tobytes() + b"\0" * (-array.nbytes % ALIGNMENT))
