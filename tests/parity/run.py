"""Compares `sovereign worker` with llama.cpp, and its tokens with `tokenizers`': run.py BINARY MODELS_FOLDER FLOATS_FOLDER

Tokens must be the same. Greedy answers and log-probabilities are judged by llama.cpp with the same weights as floats
(see oracle.py): ours may be as far from those as llama.cpp's own quantised run is, and no further.
"""

import re
import sys
from pathlib import Path

import huggingface
from cases import MODELS, PROMPTS, TEXTS, as_trained, random_texts
from oracle import LIKELY, MARGIN, MOST, RMS, THERE, Oracle, rms, with_floats
from worker import Worker

ANSWER = 24
TOP = 5


def compare_tokens(name, worker, oracle):
    texts = TEXTS + random_texts(seed=2, count=1000)
    for text in texts:
        for special in (False, True):
            theirs = oracle.tokens(as_trained(name, text), special, add_bos=False)
            ours = worker.post("/tokenize", content=text, parse_special=special, add_special=False)["tokens"]
            if ours != theirs:
                yield f"tokens of {text!r} (special: {special}): {ours} instead of {theirs}"
    print(f"  {len(texts)} texts: tokens compared", flush=True)


def compare_with_huggingface(worker, path):
    """A megabyte of random Unicode, cut as the `tokenizers` library cuts it."""
    library = huggingface.tokenizer(path)
    texts = huggingface.random_unicode(seed=3, size=1 << 20)
    count = 0
    for text in texts:
        theirs = library.encode(text, add_special_tokens=False).ids
        ours = worker.post("/tokenize", content=text, parse_special=True, add_special=False)["tokens"]
        count += len(ours)
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs))
            at = next((at for at, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
            yield f"tokens of {text!r} from {at} on: {ours[at:at + 8]} instead of {theirs[at:at + 8]}"
    print(f"  {len(texts)} texts of random Unicode, {count} tokens: compared with tokenizers", flush=True)


def spelled(text):
    """The bytes of a token in OpenAI's older answers."""
    if text.startswith("bytes:"):
        return bytes(int(byte, 16) for byte in re.findall(r"\\x([0-9a-f]{2})", text))
    return text.encode()


def compare_answers(worker, oracle, floats, prompts):
    tokens_of = {}
    for token in range(oracle.llama.n_vocab()):
        tokens_of.setdefault(oracle.piece(token), []).append(token)
    steps, ours, theirs, deficits = 0, [], [], []
    for prompt in prompts:
        answer = worker.post("/v1/completions", model="m", prompt=prompt, max_tokens=ANSWER, temperature=0, logprobs=TOP)
        choice = answer["choices"][0]
        tokens = oracle.tokens(prompt, special=True, add_bos=True)
        logprobs = choice["logprobs"]
        for text, top in zip(logprobs["tokens"], logprobs["top_logprobs"]):
            peer, judge = oracle.row(tokens), floats.row(tokens)
            steps += 1

            def named(text):
                return max(tokens_of.get(spelled(text), []), key=lambda token: judge[token], default=None)

            token = named(text)
            if token is None:
                yield f"{prompt!r}: {text!r} is no token of llama.cpp's"
                break
            deficits.append((judge.max() - judge[token], judge.max() - judge[peer.argmax()], f"{prompt!r}: {text!r}"))
            for text, logprob in top.items():
                candidate = named(text)
                # Of tokens that are spelled alike only one is in our answer, and not always the same.
                if candidate is None or len(tokens_of[spelled(text)]) > 1:
                    continue
                likely = judge[candidate] > LIKELY
                ours.append((logprob - judge[candidate], likely, f"{prompt!r}: {text!r}"))
                theirs.append((peer[candidate] - judge[candidate], likely))
            tokens = tokens + [token]
        if choice["finish_reason"] == "stop" and not oracle.is_end(tokens[-1]):
            judge = floats.row(tokens)
            end = max(judge[token] for token in range(len(judge)) if oracle.is_end(token))
            deficits.append((judge.max() - end, 0, f"{prompt!r}: the end"))

    noise = rms(error for error, _ in theirs)
    print(f"  {len(prompts)} prompts, {steps} steps; {len(ours)} log-probabilities. From the weights as floats:", flush=True)
    for name, errors, least in ("ours", ours, [row[0] for row in deficits]), ("llama.cpp", theirs, [row[1] for row in deficits]):
        most = max(abs(row[0]) for row in errors if row[1])
        other = sum(deficit > 0 for deficit in least)
        print(f"  {name}: {rms(row[0] for row in errors):.3f} (rms), {most:.3f} at most; {other} other choices, by {max(least):.3f} at most", flush=True)
    for deficit, _, where in deficits:
        if deficit > MARGIN * noise:
            yield f"{where} is {deficit:.3f} less probable than the best, at most {MARGIN * noise:.3f} was expected"
    for (error, likely, where), (there, _) in zip(ours, theirs):
        most = max(MOST * noise, THERE * abs(there))
        if likely and abs(error) > most:
            yield f"{where} is off by {error:.3f}, at most {most:.3f} was expected"
    if rms(row[0] for row in ours) > RMS * noise:
        yield f"log-probabilities are off by {rms(row[0] for row in ours):.3f} (rms), at most {RMS * noise:.3f} was expected"


def main():
    binary, folder, floats_folder = sys.argv[1:4]
    failures = 0
    for name, file in MODELS.items():
        print(name, flush=True)
        path = Path(folder) / file
        worker, oracle, floats = Worker(binary, path), Oracle(path), Oracle(with_floats(path, floats_folder))
        tokens, random = compare_tokens(name, worker, oracle), compare_with_huggingface(worker, path)
        for compared in tokens, random, compare_answers(worker, oracle, floats, PROMPTS[name]):
            for failure in compared:
                failures += 1
                print(f"  FAILED {failure}", flush=True)
        worker.stop()
    print(f"{failures} failures")
    sys.exit(1 if failures else 0)


main()
