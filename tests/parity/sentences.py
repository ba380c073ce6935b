"""Sentences to embed: what people write, in several scripts, short and long."""

SUBJECTS = ["The old engineer", "My neighbour's cat", "A committee of experts", "Nobody in the village", "Dr. Müller", "The container", "Our smallest model", "El niño", "Une élève", "The 3rd battalion"]
VERBS = ["repaired", "ate", "postponed", "never understood", "measured twice", "restarted", "forgot", "praised"]
OBJECTS = ["the broken pump.", "a bowl of rice", "all 1,024 measurements!", "what the letter said?", "the café's naïve menu"]
OTHERS = [
    "Hi",
    "?",
    "a",
    "I",
    "OK!",
    "42",
    "3.14159",
    "2026-11-24T08:40:00Z",
    "https://example.com/path?query=1&other=two#part",
    "user.name+tag@example.co.uk",
    "fn main() { println!(\"{}\", 1 + 1); }",
    "SELECT * FROM usage WHERE status >= 500 ORDER BY at DESC;",
    "unaffable antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "今天天气很好，我们去公园吧。",
    "東京は日本の首都です。",
    "서울은 대한민국의 수도입니다.",
    "Москва — столица России.",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "القاهرة هي عاصمة مصر.",
    "नई दिल्ली भारत की राजधानी है।",
    "Thành phố Hà Nội là thủ đô của Việt Nam.",
    "İstanbul büyük bir şehirdir.",
    "Straße, Größe und Übermut: ß bleibt ß.",
    "naïve café résumé coöperate Zürich Ångström",
    "🙂 emoji 🚀 between words 👩‍👩‍👧 and families",
    "tabs\tand\nnew lines\r\nare spaces",
    "zero\u200bwidth and soft\u00adhyphens",
    "  leading, and trailing  ",
    "ALL CAPITALS SHOUT; small letters whisper.",
    "don't, won't, it's, they're: contractions",
    "C++ and C# and F# are languages; R is one, too.",
    "“Curly quotes” and ‘single ones’ – with dashes…",
    "½ + ¼ = ¾, and x² + y² = z²",
    "[CLS] is a token, and [MASK] is one",
    "a" * 120,
    " ".join(["The context of an encoder is short, and this goes on for a while."] * 12),
    " ".join(f"word{n}" for n in range(60)),
    "What is the capital of France?",
    "Paris is the capital of France.",
    "How do I reset my password?",
]
SENTENCES = OTHERS + [f"{subject} {verb} {OBJECTS[(7 * s + 3 * v) % 5]}" for s, subject in enumerate(SUBJECTS) for v, verb in enumerate(VERBS)]
SENTENCES += [f"{first} {second}" for first, second in zip(SENTENCES[40:120], SENTENCES[50:120] + SENTENCES[40:50])]
assert len(SENTENCES) == 200
