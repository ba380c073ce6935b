"""Writes what llama.cpp says into tests/fixtures/parity, for the tests that run without it:
freeze.py MODELS_FOLDER FLOATS_FOLDER

Answers are those with the weights as floats, each token with its log-probability there and in llama.cpp's quantised run;
`noise` is how far the latter are from the former.
"""

import json
import sys
from pathlib import Path

from cases import MODELS, PROMPTS, TEXTS, as_trained, random_texts
from oracle import Oracle, best, rms, with_floats

FIXTURES = Path(__file__).parent.parent / "fixtures" / "parity"
ANSWER = 12
TOP = 5


def texts(name, oracle):
    rows = []
    for text in TEXTS + random_texts(seed=1, count=60):
        plain, special = (oracle.tokens(as_trained(name, text), special, add_bos=False) for special in (False, True))
        rows.append({"text": text, "plain": plain} | ({"special": special} if special != plain else {}))
    return rows


def answers(oracle, floats, prompts):
    rows, errors = [], []
    for prompt in prompts:
        tokens = oracle.tokens(prompt, special=True, add_bos=True)
        steps = []
        answer = []
        while len(answer) < ANSWER:
            peer, judge = oracle.row(tokens + answer), floats.row(tokens + answer)
            top = best(judge, TOP)
            errors += [peer[token] - logprob for token, logprob in top]
            steps.append([[token, round(logprob, 4), round(float(peer[token]), 4)] for token, logprob in top])
            answer.append(top[0][0])
            if oracle.is_end(answer[-1]):
                break
        rows.append({"prompt": prompt, "tokens": tokens, "steps": steps})
    return rows, rms(errors)


def lines(rows):
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows) + "\n]"


for name, file in MODELS.items():
    path = Path(sys.argv[1]) / file
    oracle, floats = Oracle(path), Oracle(with_floats(path, sys.argv[2]))
    rows, noise = answers(oracle, floats, PROMPTS[name])
    content = f'{{"texts": {lines(texts(name, oracle))},\n"noise": {noise:.4f},\n"answers": {lines(rows)}}}\n'
    json.loads(content)
    (FIXTURES / f"{name}.json").write_text(content)
    print(f"{name}: {len(content)} bytes, noise {noise:.4f}")
