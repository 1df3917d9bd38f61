"""Small models with random weights, of architectures that no package carries: they compute like the real ones."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    set_seed,
)

TEXTS = list(topics.values())[:20]
VOCABULARY = 1000


def mpnet_encoder(folder: Path) -> Path:
    """all-mpnet-base-v2 with 2 layers: 768 dimensions, no token types, mean pooling, normalized."""
    config = MPNetConfig(hidden_size=768, num_hidden_layers=2, vocab_size=VOCABULARY, **_roberta_like())
    return _encoder(folder, config, _roberta_tokenizer(word_pieces=True), "mean", Normalize())


def bert_encoder(folder: Path) -> Path:
    """CLS pooling, lengths as they come, and prompts of its own."""
    prompts = {"query": "Represent this question: ", "document": "passage: "}
    return _encoder(folder, BertConfig(vocab_size=VOCABULARY, **_small()), _bert_tokenizer(), "cls", prompts=prompts)


def long_bert_encoder(folder: Path) -> Path:
    """A window of 8,192 tokens."""
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=8192, **_small())
    return _encoder(folder, config, _bert_tokenizer(), "mean")


def distilbert_encoder(folder: Path) -> Path:
    """An architecture that only an export can serve."""
    config = DistilBertConfig(vocab_size=VOCABULARY, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
    return _encoder(folder, config, _bert_tokenizer(), "mean")


def bert_cross_encoder(folder: Path) -> Path:
    """ms-marco-MiniLM with 2 layers."""
    return _classifier(folder, BertConfig(vocab_size=VOCABULARY, **_small()), _bert_tokenizer(), outputs=1)


def mpnet_cross_encoder(folder: Path) -> Path:
    """Position by distance, and a classifier of two layers."""
    config = MPNetConfig(vocab_size=VOCABULARY, **_small(), **_roberta_like())
    return _classifier(folder, config, _roberta_tokenizer(word_pieces=True), outputs=1)


def electra_cross_encoder(folder: Path, outputs: int = 1) -> Path:
    """ms-marco-electra-base with 2 layers."""
    return _classifier(folder, ElectraConfig(vocab_size=VOCABULARY, **_small()), _bert_tokenizer(), outputs)


def roberta_cross_encoder(folder: Path) -> Path:
    """Byte-level tokens, two separators between query and passage, no token types."""
    config = RobertaConfig(vocab_size=VOCABULARY, **_small(), **_roberta_like())
    return _classifier(folder, config, _roberta_tokenizer(word_pieces=False), outputs=1)


def late_bert(folder: Path, projection: int | None = None) -> Path:
    """answerai-colbert-small with 2 layers; `projection` is the dimension of its `linear.weight`, as on the hub."""
    config = BertConfig(vocab_size=VOCABULARY, **_small())
    model = _randomized(AutoModel.from_config(config))
    _bert_tokenizer().save_pretrained(folder)
    config.architectures = ["HF_ColBERT"]
    config.save_pretrained(folder)
    prefix = "" if projection is None else "bert."
    weights = {f"{prefix}{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    if projection is not None:
        weights["linear.weight"] = torch.randn(projection, config.hidden_size)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def store_as_bf16(folder: Path) -> None:
    """Store the weights of an encoder again, in half of their size."""
    AutoModel.from_pretrained(folder).bfloat16().save_pretrained(folder)


def _small() -> dict[str, int]:
    return {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}


def _roberta_like() -> dict[str, int]:
    return {"pad_token_id": 1, "max_position_embeddings": 514}


def _encoder(
    folder: Path,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerFast,
    pooling: str,
    *after: Normalize,
    prompts: dict[str, str] | None = None,
) -> Path:
    _randomized(AutoModel.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    modules = [Transformer(str(folder)), Pooling(config.hidden_size, pooling), *after]
    SentenceTransformer(modules=modules, prompts=prompts).save(str(folder))
    return folder


def _classifier(folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, outputs: int) -> Path:
    config.num_labels = outputs
    _randomized(AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _randomized(model: PreTrainedModel) -> PreTrainedModel:
    """Make every parameter count: new models have biases of zero."""
    set_seed(7)
    for name, parameter in model.named_parameters():
        spread = 0.5 if "relative_attention_bias" in name else 0.1
        parameter.data += spread * torch.randn(parameter.shape)
    return model


def _bert_tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _roberta_tokenizer(*, word_pieces: bool) -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if word_pieces:
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
