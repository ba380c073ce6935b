"""The `tokenizers` library as an oracle: the tokenizer that a family's tokenizer.json describes, from a GGUF's own
vocabulary, as the file has all but the settings, which are published."""

import random
import unicodedata

import numpy
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

CONTROL, USER_DEFINED = 3, 4

# Of Qwen 2 to 3, as their tokenizer.json has it.
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def field(reader, name):
    return reader.fields[f"tokenizer.ggml.{name}"].contents()


def tokenizer(path):
    """The tokenizer of a family that we serve."""
    reader = GGUFReader(str(path))
    tokens = field(reader, "tokens")
    vocabulary = {}
    for number, token in enumerate(tokens):
        vocabulary.setdefault(token, number)
    kind = field(reader, "model")
    built = {"gpt2": qwen, "llama": gemma}[kind](reader, tokens, vocabulary)
    added = [(token, role) for token, role in zip(tokens, field(reader, "token_type")) if role in (CONTROL, USER_DEFINED)]
    built.add_tokens([AddedToken(token, normalized=False, special=role == CONTROL) for token, role in added])
    return built


def qwen(reader, tokens, vocabulary):
    merges = [tuple(merge.split(" ")) for merge in field(reader, "merges")]
    built = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False, byte_fallback=False))
    built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    built.decoder = decoders.ByteLevel()
    return built


def gemma(reader, tokens, vocabulary):
    scores = dict(zip(tokens, field(reader, "scores")))
    merges = []
    for token, score in scores.items():
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += [(*pair, score) for pair in sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))]
    merges.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    merges = [(left, right) for left, right, _ in merges]
    built = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    built.normalizer = normalizers.Replace(" ", "\u2581")
    return built


def is_known(char):
    """Whether the library's tables have this character: those of composition are old, and a mark that they do not know
    stays where it is."""
    if unicodedata.category(char) in ("Cn", "Cs"):
        return False
    return unicodedata.combining(char) <= 1 or normalizers.NFC().normalize_str(char + "\u0334") != char + "\u0334"


def random_unicode(seed, size):
    """Texts of `size` bytes together: characters of all kinds, most of them in runs of one script, between spaces."""
    rng = random.Random(seed)
    blocks = [(0x20, 0x7E), (0xA1, 0x24F), (0x250, 0x5FF), (0x600, 0xFFF), (0x1000, 0x1FFF), (0x2000, 0x2BFF),
              (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xA000, 0xD7A3), (0xE000, 0xFFFD), (0x10000, 0x1FBFF), (0x20000, 0x2FA1D)]
    texts, left = [], size
    while left > 0:
        text = ""
        while len(text) < 400:
            first, last = rng.choice(blocks)
            for _ in range(rng.randint(1, 12)):
                char = chr(rng.randint(first, last))
                text += char if is_known(char) else " "
            text += rng.choice(["", "", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "1", "23", "'s", "'LL", "\u0301", "."])
        texts.append(text)
        left -= len(text.encode())
    return texts
