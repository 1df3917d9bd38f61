"""Small models with random weights, of architectures that no package carries: they compute like the real ones."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.base.modules import Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast, set_seed
from transformers import ElectraConfig, MPNetConfig, RobertaConfig

WORDS = list(topics.values())
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}


def wordpiece_tokenizer(inputs: list[str], pair: str = "<s> $A </s> </s> $B </s>") -> PreTrainedTokenizerFast:
    """As MPNet has it: BERT's word pieces between RoBERTa's special tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=pair, special_tokens=[(token, special.index(token)) for token in special]
    )
    return _wrapped(tokenizer, inputs)
