"""Compares `sovereign worker` with llama.cpp: run.py BINARY MODELS_FOLDER

Tokens must be the same. Greedy answers must be llama.cpp's choices, given the same beginning, except where its best two
are so close that the noise of quantised activations decides; log-probabilities of the best tokens must be close.
"""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy
from cases import MODELS, PROMPTS, TEXTS, random_texts
from oracle import Oracle, best

ANSWER = 24
TOP = 5
# Of log-probabilities: root of the mean square, the greatest among tokens of 5% and more, and the margin within which
# choices may differ. On these files llama.cpp itself is about as far from the same weights in floats.
TOLERANCE = {"gemma": (0.25, 1.2, 0.6), "qwen": (0.15, 0.6, 0.4)}
LIKELY = -3


class Worker:
    """A worker of its own for one model."""

    def __init__(self, binary, model):
        command = [binary, "worker", "--tied", "--model", model, "--listen", "tcp:127.0.0.1:0", "--ctx", "1024", "--slots", "1"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.address = re.search(r"\d+\.\d+\.\d+\.\d+:\d+", line).group()

    def post(self, path, **body):
        request = urllib.request.Request(f"http://{self.address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)

    def stop(self):
        self.process.stdin.close()
        self.process.wait(30)


def compare_tokens(worker, oracle):
    texts = TEXTS + random_texts(seed=2, count=1000)
    for text in texts:
        for special in (False, True):
            theirs = oracle.tokens(text, special, add_bos=False)
            ours = worker.post("/tokenize", content=text, parse_special=special, add_special=False)["tokens"]
            if ours != theirs:
                yield f"tokens of {text!r} (special: {special}): {ours} instead of {theirs}"
    print(f"  {len(texts)} texts: tokens compared", flush=True)


def spelled(text):
    """The bytes of a token in OpenAI's older answers."""
    if text.startswith("bytes:"):
        return bytes(int(byte, 16) for byte in re.findall(r"\\x([0-9a-f]{2})", text))
    return text.encode()


def compare_answers(worker, oracle, prompts, tolerance):
    rms_limit, most_limit, margin_limit = tolerance
    tokens_of = {}
    for token in range(oracle.llama.n_vocab()):
        tokens_of.setdefault(oracle.piece(token), []).append(token)
    errors, flips, steps = [], 0, 0
    for prompt in prompts:
        answer = worker.post("/v1/completions", model="m", prompt=prompt, max_tokens=ANSWER, temperature=0, logprobs=TOP)
        choice = answer["choices"][0]
        tokens = oracle.tokens(prompt, special=True, add_bos=True)
        logprobs = choice["logprobs"]
        for ours, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
            row = oracle.row(tokens)
            steps += 1

            def named(text):
                return max(tokens_of.get(spelled(text), []), key=lambda token: row[token], default=None)

            token = named(ours)
            if token is None:
                yield f"{prompt!r}: {ours!r} is no token of llama.cpp's"
                break
            margin = best(row, 1)[0][1] - row[token]
            flips += margin > 0
            if margin > margin_limit:
                yield f"{prompt!r}: {ours!r} is {margin:.3f} less probable than llama.cpp's best"
            for text, logprob in top.items():
                candidate = named(text)
                # Of tokens that are spelled alike only one is in our answer, and not always the same.
                if candidate is None or len(tokens_of[spelled(text)]) > 1:
                    continue
                errors.append(logprob - row[candidate])
                if row[candidate] > LIKELY and abs(errors[-1]) > most_limit:
                    yield f"{prompt!r}: {text!r} has {logprob:.3f} instead of {row[candidate]:.3f}"
            tokens = tokens + [token]
        if choice["finish_reason"] == "stop" and not oracle.is_end(tokens[-1]):
            row = oracle.row(tokens)
            end = max(row[token] for token in range(len(row)) if oracle.is_end(token))
            if row.max() - end > margin_limit:
                yield f"{prompt!r}: ended, which is {row.max() - end:.3f} less probable than llama.cpp's best"
    rms = float(numpy.sqrt(numpy.mean(numpy.square(errors))))
    print(f"  {len(prompts)} prompts, {steps} steps: {flips} other choices; {len(errors)} log-probabilities differ by {rms:.3f} (rms), {max(map(abs, errors)):.3f} at most", flush=True)
    if rms > rms_limit:
        yield f"log-probabilities differ by {rms:.3f} (rms), at most {rms_limit} was expected"


def main():
    binary, folder = sys.argv[1:3]
    failures = 0
    for name, file in MODELS.items():
        print(name, flush=True)
        worker, oracle = Worker(binary, Path(folder) / file), Oracle(Path(folder) / file)
        for compared in compare_tokens(worker, oracle), compare_answers(worker, oracle, PROMPTS[name], TOLERANCE[name]):
            for failure in compared:
                failures += 1
                print(f"  FAILED {failure}", flush=True)
        worker.stop()
    print(f"{failures} failures")
    sys.exit(1 if failures else 0)


main()
