"""A tokenizer of letters for the small models of the tests."""

from tests.hf.models import VOCAB
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}<{{ message.content }}>"
    "{% else %}{% generation %}{{ message.content }}[EOS]{% endgeneration %}{% endif %}{% endfor %}"
)


def tokenizer(*, chat_template: str | None = TEMPLATE, **special: str) -> PreTrainedTokenizerFast:
    """A token for a letter; `mask_token="[MASK]"` is one more than the model has."""
    vocabulary = {
        name: number for number, name in enumerate(["[PAD]", "[EOS]", "<", ">", *(chr(97 + number) for number in range(VOCAB - 4))])
    }
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", eos_token="[EOS]", chat_template=chat_template, **special)
