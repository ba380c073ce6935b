"""What is compared: texts to cut into tokens, and prompts to go on with."""

import random
import unicodedata

MODELS = {
    "gemma": "gemma-3-270m-q4_k_m.gguf",
    "qwen": "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
}

# llama.cpp does not compose characters (NFC), as these models' own tokenizers do.
COMPOSED = {"qwen"}


def as_trained(name, text):
    """A text as the model's own tokenizer takes it."""
    return unicodedata.normalize("NFC", text) if name in COMPOSED else text


TEXTS = [
    "",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\n\n\n",
    "\r\n\r\n",
    " \n \n",
    "\t\n",
    "a",
    " a",
    "  a",
    "a ",
    "a  ",
    "a  b   c    d",
    "Hello world",
    " Hello world",
    "Hello, world!",
    "HELLO WORLD",
    "hElLo WoRlD",
    "I'm, you're, he'll, we've, they'd, it's, don't",
    "I'M, YOU'RE, HE'LL, WE'VE, THEY'D, IT'S, DON'T",
    "'s't're've'm'll'd 'S 'T 'RE",
    "1 12 123 1234 12345 123456 1234567 12345678",
    "3.14159, -2.5e-10, 0xDEADBEEF, 1_000_000, 50%",
    "١٢٣ 一二三 Ⅷ ½ ²",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "http://localhost:8808/v1/chat/completions?x=1&y=2#top",
    "someone@example.org <someone@example.org>",
    "fn main() {\n    println!(\"{}\", 1 + 2);\n}\n",
    "def f(x):\n\treturn [y ** 2 for y in x if y % 2 == 0]\n\n\nprint(f(range(10)))",
    "#include <stdio.h>\nint main(void) { return 0; } // end\n",
    "SELECT * FROM t WHERE a >= 1 AND b != 'it''s';",
    "{\"key\": [1, 2.0, null, true], \"nested\": {\"a\": \"b\"}}",
    "<html><body class=\"x\">&nbsp;</body></html>",
    "| a | b |\n| --- | --- |\n| 1 | 2 |\n",
    "- one\n- two\n  - three\n\n1. four\n",
    "$E = mc^2$ and \\frac{a}{b} \\\\ \\n",
    "Größe, Äpfel, Übermut, Straße",
    "naïve café, garçon, déjà vu; ¿qué? ¡señor!",
    "Zażółć gęślą jaźń",
    "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку",
    "Η γρήγορη καφέ αλεπού",
    "الثعلب البني السريع يقفز فوق الكلب الكسول",
    "השועל החום המהיר",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते पर कूदती है",
    "สุนัขจิ้งจอกสีน้ำตาล",
    "敏捷的棕色狐狸跳过懒狗。",
    "いろはにほへと ちりぬるを",
    "빠른 갈색 여우가 게으른 개를 뛰어넘는다",
    "🦙🚀👩‍👩‍👧‍👦🏳️‍🌈 ok 👍🏽",
    "e\u0301 vs \u00e9, A\u030a vs \u00c5, \ufb01",
    "zero\u200bwidth, non\u00a0breaking, ideographic\u3000space, next\u0085line",
    "\u2581already\u2581escaped \u0120spelled",
    "control \x01\x02\x1f\x7f bytes",
    "\ufeffbyte order mark",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𓀀 \U0001f9d9\U000e0001",
    "...---===~~~!!!???,,,;;;:::",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "(a)[b]{c}<d>\"e\"'f'`g`",
    "a" * 40,
    " " * 40 + "x",
    "\n" * 40,
    "\n" * 40 + "x" + " " * 33,
    "ab" * 30,
    "=" * 70,
    "The quick brown fox jumps over the lazy dog. " * 4,
    "<bos>a<eos>",
    "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>a<|fim_prefix|>b<|fim_suffix|>c<|fim_middle|>",
    "<|im_start|",
    "<|im_start|><|im_start|>",
    "a <|im_end|> b",
    "<unused0><unused99> <pad> <unk> [multimodal]",
    "<tool_call>\n{\"name\": \"f\"}\n</tool_call>",
    "<0x41><0x0A>",
    "<table><tr><td>1</td></tr></table>",
    "x\n\n\n\ny\n\n\nz",
    "\tint x;\n\t\tint y;\n        int z;",
]


def random_texts(seed, count):
    """Texts of pieces that tokenizers treat in ways of their own."""
    rng = random.Random(seed)
    words = [word for text in TEXTS[12:] for word in text.split(" ") if word]
    odd = ["\n", "\n\n", "\r\n", "\t", " ", "  ", "   ", "'", "'s", "\u00a0", "\u3000", "1", "22", "333", "4444"]
    texts = []
    for _ in range(count):
        text = ""
        for _ in range(rng.randint(1, 12)):
            kind = rng.random()
            if kind < 0.4:
                text += rng.choice(words) + rng.choice(["", " ", " "])
            elif kind < 0.7:
                text += rng.choice(odd)
            elif kind < 0.9:
                text += "".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 5)))
            else:
                char = chr(rng.choice([rng.randint(0xA0, 0x2FFF), rng.randint(0x3000, 0xD7FF), rng.randint(0x10000, 0x1FFFF)]))
                # What a newer Unicode calls a letter is unassigned in an older one's tables, and cut otherwise.
                text += char if unicodedata.category(char) != "Cn" else ""
        texts.append(text)
    return texts


# Longer than the window that most of Gemma's layers look through.
LONG = " ".join(f"{n} times {n} is {n * n}." for n in range(1, 45))

SHARED = [
    "The capital of France is",
    "Once upon a time, there was a little",
    "def fibonacci(n):\n",
    "import numpy as np\n\ndef softmax(x):\n    ",
    "#include <stdio.h>\n\nint main(void) {\n",
    "SELECT name, COUNT(*) FROM users\n",
    "Water boils at",
    "Die Hauptstadt von Deutschland ist",
    "Il était une fois",
    "1, 1, 2, 3, 5, 8, 13,",
]

PROMPTS = {
    "gemma": SHARED
    + [
        LONG,
        "To make a cup of tea, first",
        "The three primary colours are",
        "La capital de España es",
        "日本の首都は",
        "Столица России",
        "# Installation\n\nRun the following command:\n\n```",
        "Photosynthesis is the process by which",
        "Q: What is 2 + 2?\nA:",
        "{\"name\": \"Alice\", \"age\":",
    ],
    "qwen": SHARED
    + ["fn main() {\n    let args: Vec<String> ="]
    + [
        f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        for question in [
            "What is the capital of Italy?",
            "Write a Python function that reverses a string.",
            "Explain what a mutex is in one sentence.",
            "Translate 'good morning' to French.",
            "用一句话解释什么是递归。",
            "Write a haiku about the sea.",
            "Fix this: `fn main() { let x = 5; x = 6; }`",
            "What is 17 * 23?",
        ]
    ]
    + ["<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n\nprint(add(1, 2))\n<|fim_middle|>"],
}
