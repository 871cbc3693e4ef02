"""Emoji by name for encoders whose vocabulary has none.

To BERT's word pieces every emoji is the same unknown token, so "so glad 🥳" and "so glad 🙄" are one text. Rules in the
tokenizer's own normalizer spell the emoji that carry affect out by their Unicode names. They are saved with the
tokenizer, so that a saved model reads emoji wherever it is loaded, without this package.
"""

import unicodedata

from sentence_transformers import SentenceTransformer
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

#: Code points, first and last: faces, gestures, hearts, hands, celebration. Not every emoji there is, because each rule
#: costs every text half a microsecond.
_RANGES = (
    (0x1F600, 0x1F64F), (0x1F910, 0x1F92F), (0x1F970, 0x1F97A), (0x1FAE0, 0x1FAE7), (0x1F493, 0x1F49F),
    (0x1F90D, 0x1F90E), (0x1F446, 0x1F44F), (0x1F479, 0x1F480), (0x1F4A2, 0x1F4A6), (0x1F4A9, 0x1F4AA),
    (0x1F386, 0x1F38A), (0x2639, 0x263A), (0x2763, 0x2764), (0x270A, 0x270C),
)  # fmt: skip
#: And what stands for praise or trouble.
_SINGLE = "🧡🫶👀💋💯🔥✨⭐🌟☀🌈🌹🥀⛈🏆🥇🎂🎁🍾🥂🚨⚠✅❌❗❓💤🤙"


def names() -> dict[str, str]:
    """The Unicode name of each emoji that is spelt out, in lower case."""
    characters = {chr(code) for first, last in _RANGES for code in range(first, last + 1)} | set(_SINGLE)
    # "Heavy black heart" is the red one: the names of the oldest signs tell how to print them, not what they are.
    printed = {"heavy", "black", "white", "sign"}
    named = {character: unicodedata.name(character, "").lower().split() for character in sorted(characters)}
    return {
        character: " ".join(word for word in words if word not in printed)
        for character, words in named.items()
        if words
    }


def spell_out_emoji(model: SentenceTransformer) -> bool:
    """Add the rules to the model's tokenizer where it cannot tell emoji apart; returns whether it was done."""
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if (
        backend is None
        or tokenizer.unk_token_id is None
        or tokenizer.unk_token_id not in tokenizer("😊")["input_ids"]
    ):
        return False
    rules = [normalizers.Replace(character, f" {name} ") for character, name in names().items()]
    backend.normalizer = normalizers.Sequence([*rules, *([backend.normalizer] if backend.normalizer else [])])
    # A class of its own, such as BertTokenizer, would rebuild its normalizer on loading; the general one keeps it.
    model[0].processor = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        padding_side=tokenizer.padding_side,
        truncation_side=tokenizer.truncation_side,
        **tokenizer.special_tokens_map,
    )
    return True
