"""Changes genuine codes into others, in every way that we could think of."""

import json
import random
import struct
import unicodedata
from collections import defaultdict

import base45
from nacl.signing import SigningKey

from tickets import codes

BASE45 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
LINE_ENDS = "\r\n\t"  # what a keyboard scanner adds is no part of a code
# The points of small order: where R and the key may be any of them, a signature of zeros verifies.
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]
# By character of Base45: what becomes it where text is normalized or set in capitals, and what only looks like it.
LOOK_ALIKES = defaultdict(list)
for _other in map(chr, (*range(0x80, 0xD800), *range(0xFF00, 0xFFF0), *range(0x1D400, 0x1D800))):
    LOOK_ALIKES[unicodedata.normalize("NFKC", _other).upper()].append(_other)
for _char, _others in {
    "A": "\u0410\u0391",
    "B": "\u0412\u0392",
    "O": "0\u041e\u039f",
    "0": "Oo",
    "1": "Il|",
}.items():
    LOOK_ALIKES[_char] += _others


def text_of(raw):
    return base45.b45encode(bytes(raw)).decode()


def chunk(number):
    """Write a number as three characters, also one that two bytes don't hold."""
    return BASE45[number % 45] + BASE45[number // 45 % 45] + BASE45[number // 2025]


class Forger:
    """Changes genuine codes; the same seed makes the same forgeries."""

    def __init__(self, genuine, seed):
        self.genuine = genuine
        self.random = random.Random(seed)
        self.key = SigningKey(bytes(self.random.randbytes(32)))
        self.ways = [
            self.flip_bits,
            self.replace_characters,
            self.swap_characters,
            self.cut,
            self.extend,
            self.change_case,
            self.write_a_chunk_beyond_two_bytes,
            self.name_another_key,
            self.name_another_ticket,
            self.take_the_signature_of_another_ticket,
            self.mix_two_signatures,
            self.add_the_group_order,
            self.take_a_point_of_small_order,
            self.sign_with_another_key,
            self.sign_without_the_domain,
            self.replace_by_look_alikes,
            self.insert_anything,
            self.write_it_in_another_way,
            self.make_up_bytes,
            self.make_up_text,
        ]

    def forge(self):
        """Return a way and a text that it made, which is no genuine code with line ends around it."""
        while True:
            way = self.random.choice(self.ways)
            text = way(self.random.choice(self.genuine))
            if text.strip(LINE_ENDS) not in self.genuine:
                return way.__name__, text

    def flip_bits(self, code):
        raw = bytearray(base45.b45decode(code))
        for _ in range(self.random.choice([1, 1, 1, 2, 3, 8])):
            raw[self.random.randrange(len(raw))] ^= 1 << self.random.randrange(8)
        return text_of(raw)

    def replace_characters(self, code):
        chars = list(code)
        for _ in range(self.random.choice([1, 1, 1, 2, 5])):
            chars[self.random.randrange(len(chars))] = self.random.choice(BASE45)
        return "".join(chars)

    def swap_characters(self, code):
        chars = list(code)
        one, other = self.random.randrange(len(chars)), self.random.randrange(len(chars))
        chars[one], chars[other] = chars[other], chars[one]
        return "".join(chars)

    def cut(self, code):
        length = self.random.randrange(len(code))
        return self.random.choice(
            [code[:length], code[-length:], code[length:], code[:length] + code[length + 1 :]]
        )

    def extend(self, code):
        more = "".join(self.random.choices(BASE45, k=self.random.choice([1, 2, 3, 6, 117])))
        return self.random.choice(
            [code + more, more + code, code + code, code + "\n" + code, f" {code}", f"{code} "]
        )

    def change_case(self, code):
        return self.random.choice(
            [code.lower(), code.title(), code.swapcase(), "".join(map(self._either_case, code))]
        )

    def _either_case(self, char):
        return char.lower() if self.random.random() < 0.1 else char

    def write_a_chunk_beyond_two_bytes(self, code):
        """Whoever keeps only 16 bits of the number reads the same bytes."""
        start = self.random.randrange(0, len(code), 3)
        number = sum(BASE45.index(char) * 45**place for place, char in enumerate(code[start : start + 3]))
        beyond = number + 65536
        return code[:start] + chunk(beyond if beyond < 45**3 else 45**3 - 1) + code[start + 3 :]

    def name_another_key(self, code):
        raw = bytearray(base45.b45decode(code))
        raw[1] = self.random.choice([1, 2, 255, self.random.randrange(256)])
        return text_of(raw)

    def name_another_ticket(self, code):
        raw = base45.b45decode(code)
        version, key_id, event_id, ticket_id = struct.unpack(">BBIQ", raw[:14])
        event_id, ticket_id = self.random.choice(
            [(event_id, ticket_id + 1), (event_id + 1, ticket_id), (event_id, self.random.getrandbits(64))]
        )
        return text_of(struct.pack(">BBIQ", version, key_id, event_id, ticket_id % 2**64) + raw[14:])

    def take_the_signature_of_another_ticket(self, code):
        other = base45.b45decode(self.random.choice(self.genuine))
        return text_of(base45.b45decode(code)[:14] + other[14:])

    def mix_two_signatures(self, code):
        raw, other = base45.b45decode(code), base45.b45decode(self.random.choice(self.genuine))
        return text_of(self.random.choice([raw[:46] + other[46:], raw[:14] + other[14:46] + raw[46:]]))

    def add_the_group_order(self, code):
        """S and S + L verify alike where nobody looks whether S is below L."""
        raw = base45.b45decode(code)
        s = int.from_bytes(raw[46:], "little")
        most = (2**256 - 1 - s) // GROUP_ORDER
        changed = self.random.choice([s + self.random.randint(1, most) * GROUP_ORDER, GROUP_ORDER - s])
        return text_of(raw[:46] + changed.to_bytes(32, "little"))

    def take_a_point_of_small_order(self, code):
        raw = base45.b45decode(code)
        s = self.random.choice([bytes(32), raw[46:], GROUP_ORDER.to_bytes(32, "little")])
        return text_of(raw[:14] + self.random.choice(SMALL_ORDER) + s)

    def sign_with_another_key(self, code):
        payload = base45.b45decode(code)[:14]
        return text_of(payload + self.key.sign(codes.DOMAIN + payload).signature)

    def sign_without_the_domain(self, code):
        payload = base45.b45decode(code)[:14]
        return text_of(payload + self.key.sign(payload).signature)

    def replace_by_look_alikes(self, code):
        share = self.random.choice([0.02, 0.2, 1])
        return "".join(
            self.random.choice(LOOK_ALIKES[char])
            if LOOK_ALIKES[char] and self.random.random() < share
            else char
            for char in code
        )

    def insert_anything(self, code):
        place = self.random.randrange(len(code) + 1)
        odd = [
            "\x00",
            " ",
            "\n",
            "\r\n",
            "\t",
            "\x0b",
            "\x0c",
            "\x1d",
            "\x85",
            "\xa0",
            "\u200b",
            "\u2028",
            "\ufeff",
        ]
        odd += ["\ud800", "\udfff", "\U0001f3ab", "\u0301", chr(self.random.randrange(0x110000))]
        return code[:place] + self.random.choice(odd) + code[place:]

    def write_it_in_another_way(self, code):
        raw = base45.b45decode(code)
        return self.random.choice(
            [
                raw.hex(),
                raw.decode("latin-1"),
                code[::-1],
                text_of(code.encode()),
                text_of(raw[::-1]),
                f"https://tickets.example.org/t/{code}",
                json.dumps(code),
                code.replace(" ", "+").replace("+", "%2B"),
                code.encode("utf-16-le").decode("latin-1"),
            ]
        )

    def make_up_bytes(self, code):
        return text_of(b"\x01\x01" + self.random.randbytes(self.random.choice([76, 76, 12, 75, 77])))

    def make_up_text(self, _code):
        alphabet = self.random.choice([BASE45, [chr(self.random.randrange(0x110000)) for _ in range(20)]])
        return "".join(self.random.choices(alphabet, k=self.random.choice([0, 1, 3, 117, 117, 300])))
