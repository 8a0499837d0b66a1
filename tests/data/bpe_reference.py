# Byte-pair encoding as plainly as it can be said, to compare with: cutting text, training, encoding, and GPT-2's ranks.
import base64
import collections
import tarfile
import unicodedata

SPACES = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}
CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def kind(character):
    if character in SPACES:
        return "space"
    category = unicodedata.category(character)[0]
    return {"L": "letter", "N": "number"}.get(category, "other")


def run(text, start):
    """Where the characters of one kind that begin at `start` end."""
    end = start + 1
    while end < len(text) and kind(text[end]) == kind(text[start]):
        end += 1
    return end


def pieces(text):
    place = 0
    while place < len(text):
        contraction = next((c for c in CONTRACTIONS if text.startswith(c, place)), None)
        after = place + (text[place] == " ")
        if contraction:
            end = place + len(contraction)
        elif after < len(text) and kind(text[after]) != "space":
            end = run(text, after)
        else:
            end = run(text, place)
            # White space leaves its last character to the word that follows.
            if end < len(text) and end - place > 1:
                end -= 1
        yield text[place:end]
        place = end


def train(text, vocabulary):
    tokens = [bytes([b]) for b in range(256)]
    words = collections.Counter(piece.encode() for piece in pieces(text))
    words = [(list(word), count) for word, count in words.items()]
    refused, merges = set(), []
    while len(tokens) < vocabulary - 1:
        counts = collections.Counter()
        for word, count in words:
            for pair in zip(word, word[1:]):
                counts[pair] += count
        best = min((p for p in counts if p not in refused and counts[p] > 1), key=lambda p: (-counts[p], p), default=None)
        if best is None:
            break
        both = tokens[best[0]] + tokens[best[1]]
        if both in tokens:
            refused.add(best)
            continue
        merges.append(best)
        words = [(merge(word, best, len(tokens)), count) for word, count in words]
        tokens.append(both)
    return tokens, merges


def merge(word, pair, made):
    result, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            result.append(made)
            i += 2
        else:
            result.append(word[i])
            i += 1
    return result


def encode_merges(text, merges):
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    known, result = {}, []
    for piece in pieces(text):
        if piece not in known:
            word = list(piece.encode())
            while True:
                best = min((ranks[p] for p in zip(word, word[1:]) if p in ranks), default=None)
                if best is None:
                    break
                word = merge(word, merges[best], 256 + best)
            known[piece] = word
        result += known[piece]
    return result


def encode_ranks(text, ranks):
    """As tiktoken does it: a piece that is a token is one; else the neighbours of the lowest rank join."""
    known, result = {}, []
    for piece in pieces(text):
        if piece not in known:
            parts = [bytes([b]) for b in piece.encode()]
            whole = b"".join(parts)
            while whole not in ranks and len(parts) > 1:
                rank, i = min((ranks.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(zip(parts, parts[1:])))
                if rank == 1 << 30:
                    break
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            known[piece] = [ranks[whole]] if whole in ranks else [ranks[part] for part in parts]
        result += known[piece]
    return result


def read_ranks(path):
    """From a tiktoken file, or from the source archive of openai-whisper, which holds GPT-2's. Also the file's bytes."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            member = next(m for m in archive.getmembers() if m.name.endswith("/assets/gpt2.tiktoken"))
            data = archive.extractfile(member).read()
    else:
        with open(path, "rb") as file:
            data = file.read()
    lines = (line.split() for line in data.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}, data


def hard_text(seed, length):
    """Characters of every kind, mixed, with runs of white space and contractions."""
    import random

    random.seed(seed)
    common = list(" \n\t'\"abcdest.,0123!-") + ["'s", "'re", "'ll", "'LL", "  ", " \n", "\r\n", "don't", " the", "\u00a0"]
    result = []
    while len(result) < length:
        if random.random() < 0.7:
            result.append(random.choice(common))
            continue
        code = random.choice((0x80, 0x800, 0x3000, 0x10000, 0x1F000, 0x110000))
        code = random.randrange(max(code - 0x800, 0), code)
        # Old characters only, about which all versions of Unicode agree.
        if not 0xD800 <= code < 0xE000 and unicodedata.ucd_3_2_0.category(chr(code)) != "Cn":
            result.append(chr(code))
    return "".join(result) + "\u180e x\x00\u2003\u3000\u3000y"
