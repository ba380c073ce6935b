"""Adapters trained on tiny models, and what `peft` computes with them in 32-bit floats.

    lora.py                      compares with the files in tests/fixtures/lora
    lora.py --write CONVERTER    writes them; CONVERTER is llama.cpp's convert_lora_to_gguf.py

The models are those of architectures.py. An adapter is a folder as PEFT saves it, in which lie too the GGUF file that
llama.cpp's converter makes of it, where that knows how, and what is expected: the 64 most likely tokens after some of them.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import architectures
import numpy
import peft
import torch

FIXTURES = Path(__file__).parent.parent / "fixtures" / "lora"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = ATTENTION + ["gate_proj", "up_proj", "down_proj"]
STEPS = 8

# The model, what is set of the adapter, and the converter's type; none where GGUF cannot say how it is scaled.
CASES = {
    "llama": ("llama-3", dict(r=4, lora_alpha=8, target_modules=ALL), "f32"),
    "llama-half": ("llama-3", dict(r=2, lora_alpha=3, target_modules=ATTENTION), "f16"),
    "mistral": ("mistral", dict(r=4, lora_alpha=4, target_modules=r".*\.layers\.1\..*_proj"), "bf16"),
    "llama-patterns": (
        "llama-2",
        dict(
            r=4,
            lora_alpha=6,
            use_rslora=True,
            target_modules=[*ALL, "lm_head"],
            rank_pattern={"layers.0.self_attn.q_proj": 2, "down_proj": 3},
            alpha_pattern={r"layers\.\d+\.mlp\.up_proj": 12, "v_proj": 2},
        ),
        None,
    ),
    "qwen2": ("qwen2-yarn", dict(r=4, lora_alpha=8, target_modules=ALL), "f32"),
    "qwen3": ("qwen3", dict(r=4, lora_alpha=8, target_modules=ALL), "f32"),
    "gemma3": ("gemma3", dict(r=2, lora_alpha=4, target_modules=ALL), "f32"),
}


def base(name):
    """The model that architectures.py writes under this name."""
    seed = list(architectures.CASES).index(name)
    _, _, (kind, config), _ = architectures.CASES[name]
    config._attn_implementation = "eager"
    model = kind(config).eval()
    architectures.randomise(model, seed)
    return model


def train(name, settings):
    """Some steps towards predicting random tokens; the weights are then rounded to numbers that halves of both kinds hold."""
    torch.manual_seed(list(CASES).index(name))
    model = peft.get_peft_model(base(CASES[name][0]), peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    tokens = torch.randint(architectures.VOCABULARY, (4, 32))
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=0.05)
    for _ in range(STEPS):
        optimiser.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimiser.step()
    for weight in weights:
        weight.data = weight.data.bfloat16().half().float()
    return model.eval()


def save(model, folder, outtype, converter):
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    config = folder / "adapter_config.json"
    fields = json.loads(config.read_text())
    fields["target_modules"] = fields["target_modules"] if isinstance(fields["target_modules"], str) else sorted(fields["target_modules"])
    config.write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
    if outtype:
        with tempfile.TemporaryDirectory() as shape:
            model.config.architectures = [type(model.get_base_model()).__name__]
            model.config.save_pretrained(shape)
            command = [sys.executable, converter, folder, "--base", shape, "--outtype", outtype, "--outfile", folder / "adapter.gguf"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def expectation(name, model):
    return {"base": CASES[name][0]} | architectures.expectation(model)


def main():
    writes = sys.argv[1:2] == ["--write"]
    failures = 0
    for name, (_, settings, outtype) in CASES.items():
        folder = FIXTURES / name
        beside = folder / "expected.json"
        if writes:
            model = train(name, settings)
            save(model, folder, outtype, sys.argv[2])
            beside.write_text(architectures.text(expectation(name, model)))
            plain = architectures.expectation(base(CASES[name][0]))
            moved = architectures.difference(logprobs(expectation(name, model)), logprobs(plain))
            print(f"{name}: {sum(file.stat().st_size for file in folder.iterdir())} bytes, log-probabilities moved by {moved:.2f}")
            continue
        model = peft.PeftModel.from_pretrained(base(CASES[name][0]), folder).eval()
        expected = json.loads(architectures.text(expectation(name, model)))
        far = architectures.difference(expected, json.loads(beside.read_text()))
        failures += far > architectures.TOLERANCE
        print(f"{name}: expectations differ by {far:.1e}")
    sys.exit(1 if failures else 0)


def logprobs(expected):
    """Of the likeliest tokens alone."""
    return [values[0] for _, _, values in expected["steps"]]


if __name__ == "__main__":
    main()
