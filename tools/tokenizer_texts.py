"""Texts that are hard on tokenizers, from a seeded generator. Used by make_tokenizer_goldens.py,
compare_tokenizer.py and text_tables.py. All sentences were written for this file."""
import functools
import pathlib
import random

SENTENCES = [
    "The prefill nodes read the prompt, and the decode nodes write the answer, one token at a time.",
    "She didn't say they're wrong; she'd only said it's late, we'll see, I'm sure you've heard.",
    "DON'T SHOUT, IT'S RUDE, WE'LL GO, THEY'VE GONE, I'D STAY, I'M HERE, YOU'RE THERE.",
    "Der Bäcker grüßte höflich, als die Straßenbahn über die Brücke fuhr; es waren 1.234,56 Euro.",
    "Le garçon a mangé une crêpe près de l'église où naquit l'évêque ; ça coûte 3 € l'unité.",
    "El niño pingüino comió piñata mañana. ¿Cómo estás? ¡Qué día más extraño, año 2024!",
    "Mały żółw ślimak pożarł źdźbło trawy, a gęś poszła w świat.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Bu sabah İstanbul'da ılık bir rüzgâr esti, çiğ düştü.",
    "Сегодня утром в городе шёл мокрый снег, и объём работ вырос на 15 процентов.",
    "Сьогодні вранці їжак з'їв п'ять яблук.",
    "Το πρωί ο ήλιος έλαμπε πάνω από τη θάλασσα, ὁ δ᾽ ἄνεμος ἔπνει.",
    "הבוקר ירד גשם קל על העיר, וְהַיֶּלֶד שָׂמַח.",
    "في الصباح هطل المطر على المدينة، وكان عددهم ٣٤٥٦ شخصًا.",
    "امروز صبح باران می‌بارید و ۱۲۳ نفر آمدند.",
    "आज सुबह शहर में हल्की बारिश हुई और १२३४ लोग आए।",
    "আজ সকালে শহরে হালকা বৃষ্টি হয়েছে, সংখ্যা ৫৬৭৮।",
    "இன்று காலை நகரத்தில் மழை பெய்தது.",
    "เช้านี้ฝนตกเบา ๆ ในเมือง มีคนมา ๑๒๓ คน",
    "今朝、町では小雨が降っていました。ガギグゲゴ、パピプペポ、ｶﾞｷﾞ、１２３４。",
    "今天早上城里下了小雨，来了一千二百三十四个人。漢字與简体字混排。",
    "오늘 아침 도시에 가랑비가 내렸습니다. 한국어 문장입니다.",
    "Sáng nay trời mưa nhẹ ở thành phố, Nguyễn Thị Hương đã đến.",
    "დღეს დილით ქალაქში წვიმდა. Այսօր առավոտյան անձրև էր։",
    "ዛሬ ጠዋት በከተማው ዝናብ ነበር። ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ",
    "int main(void)\n{\n    for (int i = 0; i < 10; i++)\n        printf(\"%d\\n\", i * 2);\n    return 0;\n}\n",
    "def f(x: int) -> dict[str, float]:\n\treturn {k: v ** 2 for k, v in zip(\"abc\", range(x)) if v != 0}\n\n\n",
    "SELECT name, COUNT(*) AS n FROM users WHERE id >= 1000 GROUP BY name HAVING n > 1; -- done",
    "<html>\r\n  <body class=\"main\">&nbsp;<a href='https://example.org/?q=1&r=%20'>link</a></body>\r\n</html>",
    "{\"key\": [1, 2.5e-10, null, true], \"nested\": {\"a\\u00e9\": \"\\n\"}}",
    "fn main() { let s = \"héllo\"; println!(\"{s:?}\"); } // 🦀",
    "$ tar -xzf file.tar.gz && ./configure --prefix=/usr/local || echo \"failed: $?\"",
    "x = (a+b)*c/d-e%f^g&h|i~j!k=l<m>n?o:p;q,r.s@t#u$v_w`y{z}",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ⇒ γ, ∑_{i=1}^n i² = n(n+1)(2n+1)⁄6",
    "👩‍👩‍👧‍👦 👨🏽‍🚀 🏳️‍🌈 🇩🇪🇯🇵 ❤️‍🔥 🤷🏻‍♀️ 1️⃣2️⃣ ☎️ 🫨🫷🏿",
    "Z̷̡̛a̸l̴g̵o̶ t̷e̸x̶t̵ ñ é é Å Å Ω Ω ﬁ ﬀ ẛ̣ ḍ̇",
    "1 22 333 4444 55555 666666 7777777 3.14159 1,000,000 0xDEADBEEF 1e-9 ½ ²³ Ⅷ ⑦ ٣ 四 𝟘𝟙",
    "   leading, trailing   \t\ttabs\n\n\nnewlines \r\n windows \u00a0nbsp\u3000ideographic\u2028line\u2029para  ",
    "it's IT'S it’s It'S 'ſ 'K 'S'T'RE'VE'M'LL'D 's't're've'm'll'd ''s '''t",
]

SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 32, 0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x2003, 0x2007,
                           0x200A, 0x200B, 0x2028, 0x2029, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF)]
NASTY = list("''sStTdDmMlLrReEvVkK  \n\n\r\t  1239x-_.,!?()[]{}<>|/\\\"#@:;") + [
    "ſ", "K", "²", "Ⅷ", "٣", "४", "𝟘", "é", "e\u0301", "e\u0323\u0307", "漢", "字", "か\u3099", "が",
    "한", "\u1112\u1161\u11ab", "\u1112\u1161", "🇩🇪", "👩\u200d👧", "🏽", "\ufe0f", "\u200d", "\u200c", "’", "‘",
    "\u00a0", "\u3000", "\x00", "\x01", "\x1b", "\x7f", "\x85", "\ufffd", "\U0010fffd", "\u0378", "\u212b",
    "\u0344", "\u0958", "\u0b94", "\u1ac6", "\U00011938", "\U0001e4d0", "\U00031350", "\U0002ebf0",
    "\U00010d4a", "\U00010d40", "\U0001fae9", "▁", "Ġ", "Ċ", "Ã", "\u180e", "ǅ", "ʰ", "ª", "ー", "々"]
EMOJI = ["👍", "👍🏿", "👩‍💻", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "😶‍🌫️", "🇫🇷", "🐦‍⬛",
         "#️⃣", "♾️", "🧑🏻‍❤️‍💋‍🧑🏿"]


def sentence_part(rng):
    text = rng.choice(SENTENCES)
    if rng.random() < 0.5:
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        text = text[a:b]
    return text


def word_shuffle(rng):
    words = (rng.choice(SENTENCES) + " " + rng.choice(SENTENCES)).split(" ")
    rng.shuffle(words)
    return rng.choice([" ", "  ", "\n", "", " \n", "\t"]).join(words[:rng.randrange(1, 25)])


def spaces(rng):
    out = []
    for _ in range(rng.randrange(1, 8)):
        out.append(rng.choice([" ", "\n", rng.choice(SPACES)]) * rng.randrange(1, 9))
        out.append(rng.choice(["", "a", "é", "1", "!", "漢", rng.choice(SPACES), "\r\n"]))
    return "".join(out)


def digits(rng):
    sets = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "²³¹⁴₅½¾", "ⅠⅡⅢⅣⅿ", "①②③㉑", "一二三千"]
    out = []
    for _ in range(rng.randrange(1, 6)):
        out.append("".join(rng.choice(rng.choice(sets[:rng.randrange(1, 9)])) for _ in range(rng.randrange(1, 12))))
        out.append(rng.choice(["", " ", ".", ",", "a", "-", "\n"]))
    return "".join(out)


def nasty(rng):
    return "".join(rng.choice(NASTY) for _ in range(rng.randrange(1, 40)))


def salad(rng):
    """Random bytes as a decoder would show them."""
    data = bytes(rng.choice([rng.randrange(256), rng.randrange(0x20, 0x7F), 0xE2, 0x80, 0x9C, 0xF0])
                 for _ in range(rng.randrange(1, 60)))
    return data.decode("utf-8", errors="replace")


def code_points(rng):
    out = []
    for _ in range(rng.randrange(1, 30)):
        kind = rng.random()
        if kind < 0.4:
            code = rng.randrange(0x3000)
        elif kind < 0.7:
            code = rng.randrange(0x10000)
        elif kind < 0.9:
            code = rng.randrange(0x10000, 0x32400)
        else:
            code = rng.randrange(0x110000)
        if not 0xD800 <= code < 0xE000:
            out.append(chr(code))
    return "".join(out)


def marks(rng):
    out = []
    for _ in range(rng.randrange(1, 6)):
        out.append(rng.choice("aeoOAåéक가かحאเ漢 \n1"))
        for _ in range(rng.randrange(8)):
            out.append(chr(rng.choice([rng.randrange(0x300, 0x370), 0x3099, 0x309A, 0x93C, 0x94D, 0x5B0, 0x64B,
                                       0xE49, 0x11A8, 0x1161, 0x20D0, 0x1AC0, 0x1DF8, 0xFE20])))
    return "".join(out)


def repeats(rng):
    unit = rng.choice(NASTY + ["ab", "na", "the ", " the", "\r\n", " \n", "  x", "--", "==", "11"])
    return unit * rng.randrange(2, 60)


def emoji(rng):
    return "".join(rng.choice(EMOJI + [" ", "a", "\ufe0f", "\u200d"]) for _ in range(rng.randrange(1, 15)))


def with_tokens(rng, tokens):
    """Added tokens, whole and cut, between other things."""
    out = []
    for _ in range(rng.randrange(1, 7)):
        token = rng.choice(tokens) if tokens else "<|x|>"
        kind = rng.random()
        if kind < 0.7:
            out.append(token)
        elif kind < 0.85:
            out.append(token[:rng.randrange(len(token) + 1)])
        else:
            out.append(token[rng.randrange(len(token)):])
        out.append(rng.choice(["", "", " ", "  ", "\n", "a", "_", "é", "1", "\u3000", sentence_part(rng)[:20], spaces(rng)[:6]]))
    return "".join(out)


def texts(seed, count, tokens=()):
    """`count` texts; tokens are contents of added tokens, strewn into some of them."""
    rng = random.Random(seed)
    makers = [sentence_part, word_shuffle, spaces, digits, nasty, salad, code_points, marks, repeats, emoji]
    out = ["", " ", "a", "\n", "\x00", "'s", "é"] + SENTENCES + list(tokens)
    while len(out) < count:
        kind = rng.random()
        if kind < 0.15:
            out.append(with_tokens(rng, list(tokens)))
        elif kind < 0.25:
            out.append("".join(rng.choice(makers)(rng) for _ in range(3)))
        else:
            out.append(rng.choice(makers)(rng))
    return out[:count]


def id_lists(seed, count, n_ids):
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        top = rng.choice([n_ids, n_ids, min(n_ids, 300)]) # bytes are among the first ids
        out.append([rng.randrange(top) for _ in range(rng.randrange(1, 24))])
    return out


CODE = ("int main", "def f(", "SELECT", "<html>", "{\"key\"", "fn main", "$ tar", "x = (")
PROSE = [sentence for sentence in SENTENCES if not sentence.startswith(CODE)]


def prose(rng):
    """Whole sentences of several languages, words of several in one, marks upon marks."""
    if rng.random() < 0.2:
        return marks(rng)
    text = " ".join(rng.choice(PROSE) for _ in range(rng.randrange(1, 4)))
    if rng.random() < 0.3:
        words = text.split(" ")
        rng.shuffle(words)
        text = rng.choice([" ", "  ", "\n"]).join(words)
    return text


@functools.cache
def sources():
    """This tree's own files, of every language that it has."""
    root = pathlib.Path(__file__).resolve().parents[1]
    found = [path for part in ("src", "tools", "tests/e2e", "docs")
             for kind in ("*.c", "*.h", "*.py", "*.sh", "*.txt", "*.proto", "*.html", "*.md")
             for path in sorted((root / part).rglob(kind)) if "__pycache__" not in path.parts]
    return [path.read_text(encoding="utf-8") for path in found]


def code(rng):
    text = rng.choice(sources())
    start = rng.randrange(len(text))
    return text[start:start + rng.randrange(1, 1500)]


def controls(rng):
    """C0, C1, format characters, separators, between words and alone."""
    out = []
    for _ in range(rng.randrange(1, 40)):
        kind = rng.random()
        if kind < 0.35:
            out.append(chr(rng.randrange(0x20)))
        elif kind < 0.55:
            out.append(chr(rng.randrange(0x7F, 0xA1)))
        elif kind < 0.75:
            out.append(chr(rng.choice([0xAD, 0x61C, 0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2028, 0x2029,
                                       0x202A, 0x202E, 0x2060, 0x2064, 0x2066, 0x2069, 0xFEFF, 0xFFF9, 0xE0001])))
        else:
            out.append(rng.choice(["word", " ", "1", "é", "漢", "'s", "\r\n"]))
    return "".join(out)


def random_bytes(rng):
    """Bytes of any value: as UTF-8 with U+FFFD where they are none, or each as one character."""
    data = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))
    return data.decode("utf-8", errors="replace") if rng.random() < 0.5 else data.decode("latin-1")


CORPORA = {"multilingual text": prose, "code": code, "emoji": emoji, "control characters": controls,
           "random bytes": random_bytes}


def corpus(name, seed, count):
    rng = random.Random(f"{name} {seed}")
    return [CORPORA[name](rng) for _ in range(count)]
