"""Of a tokenizer's folder only words, merges and plain settings are read."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_models import TOKENIZER, edit_json
from transformers import CLIPTokenizerFast

from dragwidget.diffusion.loading import load_model


def test_a_tokenizers_settings_name_no_file_and_no_class(broken, tiny, tmp_path):
    canary = tmp_path / "canary"
    (tmp_path / "other.json").write_text(json.dumps({"evil": 0}))
    (broken / "tokenizer" / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    edit_json(
        broken / "tokenizer" / "tokenizer_config.json",
        vocab_file=str(tmp_path / "other.json"),
        merges_file="/etc/passwd",
        tokenizer_file="/etc/passwd",
        added_tokens_file="/etc/passwd",
        name_or_path="attacker/model",
        tokenizer_class="Evil",
        auto_map={"AutoTokenizer": ["evil.Evil", None]},
        trust_remote_code=True,
        init_inputs=["/etc/passwd", "/etc/passwd"],
        chat_template="{{ 1 }}",
    )
    edit_json(
        broken / "tokenizer" / "special_tokens_map.json", vocab_file="/etc/passwd", evil="/etc"
    )
    model = load_model(broken, device="cpu")
    assert torch.equal(model.embed("a cat"), tiny.embed("a cat"))
    assert not canary.exists()


def keep_in_one_file(folder):
    shutil.rmtree(folder)
    CLIPTokenizerFast.from_pretrained(TOKENIZER).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):  # which transformers 4 writes beside it
        (folder / name).unlink(missing_ok=True)


@pytest.mark.loads("model", "tokenizer in one `tokenizer.json`", "SD 1.x", "loads")
def test_a_tokenizer_in_one_file_is_the_same(broken, tiny):
    keep_in_one_file(broken / "tokenizer")
    model = load_model(broken, device="cpu")
    for text in ("a cat", "the fox, 3 of them", "🦊 ünïcode"):
        assert torch.equal(model.embed(text), tiny.embed(text))


def test_patterns_in_a_tokenizers_file_are_not_run(broken, tiny):
    keep_in_one_file(broken / "tokenizer")
    slow = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    edit_json(broken / "tokenizer" / "tokenizer.json", normalizer=slow)
    prompt = "a" * 60 + "b"
    assert torch.equal(load_model(broken, device="cpu").embed(prompt), tiny.embed(prompt))


def test_added_words_are_words(broken):
    edit_json(broken / "tokenizer" / "tokenizer_config.json", added_tokens_decoder=...)
    (broken / "tokenizer" / "added_tokens.json").write_text('{"<cat-toy>": 534}')
    edit_json(broken / "text_encoder" / "config.json", vocab_size=534)
    with pytest.raises(ValueError, match="knows 535 tokens and its text encoder 534"):
        load_model(broken, device="cpu")


@pytest.mark.parametrize(
    "vocabulary", ['{"a": "b"}', '{"a": -1}', '{"a": 1.5}', "[]", '{"a": 1e99}']
)
def test_a_vocabulary_that_is_none_is_refused(broken, vocabulary):
    (broken / "tokenizer" / "vocab.json").write_text(vocabulary)
    with pytest.raises(ValueError, match=r"the tokenizer of .* cannot be loaded"):
        load_model(broken, device="cpu")
