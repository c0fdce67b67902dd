"""An encoder and a decoder that attends to it, with the published keywords.

Axes: B batch, N length of the target, S length of the source, D width, V tokens.
"""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import require
from ...core.scalars import plain_scalars
from ...layers.modes import evaluating
from .autoregressive_wrapper import AutoregressiveWrapper
from .performer_lm import PerformerLM

ENCODER_TABLE, DECODER_TABLE = "enc.token_emb.weight", "dec.net.token_emb.weight"


class PerformerEncDec(nn.Module):
    """A :class:`PerformerLM` over the source and a causal, cross-attending one over the target.

    Args:
        dim: D, of both.
        ignore_index, pad_value: see :class:`AutoregressiveWrapper`.
        tie_token_embeds: one token embedding for both.
        no_projection: efficient attention in both.
        tie_token_embed: another spelling of ``tie_token_embeds``. The published package drops it without a word, so its checkpoints hold
            two embeddings; loading such a one unties them again, with a warning.
        kwargs: ``enc_...`` and ``dec_...``: the keywords of :class:`PerformerLM`.

    Raises:
        TypeError: for other keywords.
        ValueError: for ``enc_dim`` or ``dec_dim``, or a decoder that is not causal and cross-attending.
    """

    @plain_scalars
    def __init__(
        self,
        dim: int,
        ignore_index: int = 0,
        pad_value: int = 0,
        tie_token_embeds: bool = False,
        no_projection: bool = False,
        tie_token_embed: bool = False,
        **kwargs: Any,
    ):
        super().__init__()
        encoder, decoder = _split("PerformerEncDec", kwargs)
        require("dim" not in encoder and "dim" not in decoder, "dim is one for encoder and decoder: pass dim, not enc_dim or dec_dim")
        for name in ("causal", "cross_attend"):
            given = decoder.setdefault(name, True)
            require(given is True, f"dec_{name} must be True, got {given!r}: the decoder generates from the encoder")
        encoder.setdefault("no_projection", no_projection)
        decoder.setdefault("no_projection", no_projection)
        self.enc = PerformerLM(dim=dim, **encoder)
        self.dec = AutoregressiveWrapper(PerformerLM(dim=dim, **decoder), ignore_index=ignore_index, pad_value=pad_value)
        self._may_untie = not tie_token_embeds
        if tie_token_embeds or tie_token_embed:
            sizes = self.enc.token_emb.num_embeddings, self._decoder.token_emb.num_embeddings
            require(
                sizes[0] == sizes[1],
                f"tied embeddings need enc_num_tokens = dec_num_tokens, got {sizes[0]} and {sizes[1]}: leave tie_token_embeds=False",
            )
            self.enc.token_emb = self._decoder.token_emb
        self.register_state_dict_post_hook(_save_table_once)
        self.register_load_state_dict_pre_hook(_load_tables)

    @property
    def _decoder(self) -> PerformerLM:
        assert isinstance(self.dec.net, PerformerLM)
        return self.dec.net

    @property
    def tied(self) -> bool:
        """Whether encoder and decoder share their token embedding."""
        return self.enc.token_emb is self._decoder.token_emb

    @torch.no_grad()
    def generate(self, seq_in: Tensor, seq_out_start: Tensor, seq_len: int, **kwargs: Any) -> Tensor:
        """Continue the target (B, N) for the source (B, S) by up to ``seq_len``.

        Args:
            kwargs: ``enc_mask`` (B, S), ``dec_mask`` (B, N), and the keywords of :meth:`AutoregressiveWrapper.generate`.
        """
        encoder = {name.removeprefix("enc_"): kwargs.pop(name) for name in list(kwargs) if name.startswith("enc_")}
        decoder = {name.removeprefix("dec_"): kwargs.pop(name) for name in list(kwargs) if name.startswith("dec_")}
        decoder.setdefault("context_mask", encoder.get("mask"))
        with evaluating(self.enc):
            encodings = self.enc(seq_in, return_encodings=True, **encoder)
        return self.dec.generate(seq_out_start, seq_len, context=encodings, **{**decoder, **kwargs})

    def forward(self, seq_in: Tensor, seq_out: Tensor, enc_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Mean loss of the target (B, N) given the source (B, S); ``enc_mask`` (B, S), ``dec_mask`` (B, N): bool, True = real token."""
        encoder, decoder = _split("forward", kwargs)
        encodings = self.enc(seq_in, mask=enc_mask, return_encodings=True, **encoder)
        return self.dec(seq_out, context=encodings, context_mask=enc_mask, **decoder)

    def redraw_(self, generator: torch.Generator | None = None) -> None:
        """Draw new random features in both."""
        self.enc.redraw_(generator)
        self._decoder.redraw_(generator)

    def check_redraw_projections(self) -> None:
        """See :meth:`Performer.check_redraw_projections`."""
        self.enc.check_redraw_projections()
        self._decoder.check_redraw_projections()

    def fix_projection_matrices_(self) -> None:
        """Never redraw by count again."""
        self.enc.fix_projection_matrices_()
        self._decoder.fix_projection_matrices_()


def _split(what: str, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of the encoder and of the decoder, without their prefixes."""
    encoder, decoder = ({name[4:]: value for name, value in kwargs.items() if name.startswith(prefix)} for prefix in ("enc_", "dec_"))
    for name in kwargs:
        if not name.startswith(("enc_", "dec_")):
            raise TypeError(f"{what} got an unknown keyword {name!r}: keywords begin with enc_ (for the encoder) or dec_ (for the decoder)")
    return encoder, decoder


def _save_table_once(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, PerformerEncDec)
    if module.tied:
        state_dict.pop(prefix + ENCODER_TABLE, None)


def _load_tables(module: nn.Module, state_dict: dict[str, Any], prefix: str, *hook: Any) -> None:
    """Published checkpoints name a tied table twice; ours once."""
    assert isinstance(module, PerformerEncDec)
    encoder, decoder = state_dict.get(prefix + ENCODER_TABLE), state_dict.get(prefix + DECODER_TABLE)
    if not module.tied or decoder is None:
        return
    if encoder is None:
        state_dict[prefix + ENCODER_TABLE] = decoder
    elif not torch.equal(encoder, decoder):
        if module._may_untie:
            warnings.warn(
                "the state dict has two different token embeddings: they are untied; build the optimizer after this", stacklevel=2
            )
            module.enc.token_emb = copy.deepcopy(module.enc.token_emb)
        else:
            hook[-1].append("tie_token_embeds=True, but the token embeddings of encoder and decoder differ in the state dict")
