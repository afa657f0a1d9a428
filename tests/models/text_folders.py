"""Tiny models of text with random weights, in folders that transformers itself writes."""

import pytest

SMALL = {
    **{
        "vocab_size": 120,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    **{"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},  # as DistilBERT has them
    **{"max_position_embeddings": 40, "pad_token_id": 0},
}
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "no",
    "fever",
    "cough",
    "severe",
    "mild",
    "chest",
    "pain",
    "the",
    "of",
    "normal",
    "lungs",
    "clear",
    "today",
]


def need_transformers():
    """Skip a test where the packages of the extra ``text`` are not installed; return transformers."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("transformers")
    from fedtl.models.text_folder import import_transformers

    return import_transformers()


def write_tokenizer(path):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*MARKS, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    made = Tokenizer(
        models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(path))


def write_folder(path, kind="bert", task="MaskedLM", **more):
    """Write a folder with a model of this ``model_type``, for ``task`` as transformers names its classes. Returns the model."""
    import torch

    transformers = need_transformers()
    path.mkdir(parents=True)
    write_tokenizer(path / "tokenizer.json")
    config = transformers.AutoConfig.for_model(kind, **SMALL, **more)
    torch.manual_seed(0)
    model = getattr(transformers, f"AutoModel{f'For{task}' if task else ''}").from_config(config).eval()
    transformers.logging.disable_progress_bar()
    model.save_pretrained(path)
    return model
