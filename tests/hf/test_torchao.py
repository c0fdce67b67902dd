"""Weights of eight bits by torchao, asked for as of any model of transformers."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("torchao")
from tests.hf.models import CAUSAL, causal, tokens
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, TorchAoConfig

from subquadratic.hf import SubquadraticForCausalLM


@pytest.mark.parametrize("name", CAUSAL)
def test_weights_of_eight_bits(name: str, tmp_path: Path) -> None:
    model, prompt = causal(name), tokens(2, 9)
    model.save_pretrained(tmp_path / "whole")
    config = TorchAoConfig(Int8WeightOnlyConfig())
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", quantization_config=config, device_map="cpu").eval()
    assert type(small) is SubquadraticForCausalLM
    maps = [module for path, module in small.named_modules() if isinstance(module, torch.nn.Linear) and path != "lm_head"]
    assert maps and all(type(module.weight.data).__name__ == "Int8Tensor" for module in maps)
    logits = small(prompt, use_cache=False).logits
    assert 0 < (logits - model(prompt, use_cache=False).logits).abs().mean() < 0.05
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    found = [small.generate(prompt, use_cache=use_cache, **options) for use_cache in (True, False)]
    torch.testing.assert_close(torch.stack(found[0].logits), torch.stack(found[1].logits), atol=1e-4, rtol=1e-3)
    small.save_pretrained(tmp_path / "small")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "small", device_map="cpu").eval()
    assert torch.equal(again(prompt, use_cache=False).logits, logits)
