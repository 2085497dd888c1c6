"""Special tokens are the template's: what people write never becomes one.

A message may say ``</s>`` or ``<|im_end|>``. The tokenizer would read that as the end of the message, and what follows
as a turn that somebody else took. So a break of no width is put into such words, before the template sees them and
wherever a conversation is read: what is learned with it is served with it. Other servers that load a saved model must
do the same or accept forged turns.

Pieces of one character are left alone, and so are pieces that are not special (``<think>``): they are an answer's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Encoding, Tokenizer

from feilun.errors import DataError

BREAK = "\u200b"
PARTS = ("role", "content")  # of a message
TURNS = 1000  # a text is looked at again after each break; words that no break can part are refused


def special(tokenizer: Tokenizer) -> dict[int, str]:
    """The special tokens that words could be mistaken for, by id."""
    known = tokenizer.get_added_tokens_decoder()
    return {i: t.content for i, t in known.items() if t.special and len(t.content.strip()) > 1}


def words(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts without special tokens: those that have some get a break in each.

    Raises:
        DataError: a text has a special token that stays one whatever is put into it.
    """
    banned = special(tokenizer)
    found = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [
        text if banned.keys().isdisjoint(one.ids) else _broken(tokenizer, banned, text)
        for text, one in zip(texts, found, strict=True)
    ]


def told(
    tokenizer: Tokenizer, conversations: Sequence[Sequence[Mapping[str, str]]], *, parted: bool
) -> list[list[dict[str, str]]]:
    """Conversations as templates see them: what is a special token in a message is parted.

    Args:
        parted: whether a template keeps the messages apart. Without one a conversation is read as one text, so that
            its messages cannot make a token together.
    """
    if not parted:
        joined = words(tokenizer, ["".join(m["content"] for m in said) for said in conversations])
        return [[{"role": "user", "content": text}] for text in joined]
    parts = iter(words(tokenizer, [m[key] for said in conversations for m in said for key in PARTS]))
    return [[{key: next(parts) for key in PARTS} for _ in said] for said in conversations]


def _broken(tokenizer: Tokenizer, banned: dict[int, str], text: str) -> str:
    for _ in range(TURNS):
        encoded = tokenizer.encode(text, add_special_tokens=False)
        places = _places(tokenizer, banned, text, encoded)
        if not places:
            return text
        for at in reversed(places):
            text = text[:at] + BREAK + text[at:]
    raise DataError("a message holds a special token that stays one", where=repr(text[:40]), code="special-token")


def _places(tokenizer: Tokenizer, banned: dict[int, str], text: str, encoded: Encoding) -> list[int]:
    """Where a break parts each special token: after its first character."""
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
    found = []
    for piece, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        said = text[start:end]
        if piece in banned and (piece != unknown or said.strip() == banned[piece]):
            found.append(start + len(said) - len(said.lstrip()) + 1)  # some take the spaces before them along
    return found
