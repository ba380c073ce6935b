"""Writes model files. Needs nothing but Python."""

import struct

ALIGNMENT = 32
F32, F16 = 0, 1


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
    """`tensors` are (shape, kind, bytes) by name; dimensions are stored from the innermost on."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, item in metadata.items():
        kind, data = value(item)
        head += string(key) + struct.pack("<I", kind) + data
    offset = 0
    for name, (shape, kind, data) in tensors.items():
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)
        offset += -(-len(data) // ALIGNMENT) * ALIGNMENT
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for _, _, data in tensors.values():
            file.write(data)
            file.write(b"\0" * (-len(data) % ALIGNMENT))
