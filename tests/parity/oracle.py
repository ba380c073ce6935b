"""llama.cpp as the oracle: its tokens, and its log-probabilities.

Both engines round activations to 8 bits before they multiply quantised weights, and no two round alike: the judge of both
is llama.cpp with the same weights as floats, where nothing is rounded.
"""

import ctypes
import os
from pathlib import Path

# On a machine that is busy, threads that spin while they wait for each other keep each other from running.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import llama_cpp
import numpy

# How far ours may be from the floats, in units of llama.cpp's own distance (root of the mean square): all
# log-probabilities together, that of any token of 5% and more, and how much less probable than the best a choice may be.
# Where a small difference grows large, llama.cpp's does too: a token may be so many times as far off as there.
RMS, MOST, MARGIN = 1.15, 6, 4
THERE = 2
LIKELY = -3


def rms(errors):
    """The root of the mean square."""
    return float(numpy.sqrt(numpy.mean(numpy.square(list(errors)))))


def with_floats(path, folder):
    """The same model with its weights as floats, exactly those that its quantised ones stand for."""
    target = Path(folder) / (path.stem + "-f32.gguf")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
        settings.allow_requantize = True
        settings.nthread = 2
        status = llama_cpp.llama_model_quantize(str(path).encode(), str(partial).encode(), ctypes.byref(settings))
        if status != 0:
            raise RuntimeError(f"llama.cpp could not write the weights of {path} as floats")
        partial.rename(target)
    return target


class Oracle:
    """One model, run by llama.cpp on the processor."""

    def __init__(self, path, context=1024, threads=2):
        self.llama = llama_cpp.Llama(str(path), n_ctx=context, n_batch=context, n_threads=threads, verbose=False)

    def tokens(self, text, special, add_bos):
        """The tokens of a text; `special` says that control tokens in it are themselves."""
        return self.llama.tokenize(text.encode(), add_bos=add_bos, special=special)

    def piece(self, token):
        """The bytes of a token; of a control token its name."""
        return self.llama.detokenize([token], special=True)

    def is_end(self, token):
        vocabulary = llama_cpp.llama_model_get_vocab(self.llama.model)
        return llama_cpp.llama_vocab_is_eog(vocabulary, token)

    def row(self, tokens):
        """The log-probabilities of what follows `tokens`, which continue those of the last call where they can."""
        known = self.llama.input_ids[: self.llama.n_tokens].tolist()
        shared = 0
        while shared < min(len(known), len(tokens) - 1) and known[shared] == tokens[shared]:
            shared += 1
        if shared == 0:
            self.llama.reset()
        self.llama.n_tokens = shared
        self.llama.eval(tokens[shared:])
        logits = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        row = numpy.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (self.llama.n_vocab(),))
        row = row.astype(numpy.float64)
        row -= row.max()
        return row - numpy.log(numpy.exp(row).sum())


def best(row, count):
    """The most probable tokens of a row and their log-probabilities, the most probable first."""
    order = numpy.argsort(-row, kind="stable")[:count]
    return [(int(token), float(row[token])) for token in order]
