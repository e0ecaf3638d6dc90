"""Tiny InstructBLIPs and BLIP-2s, with initial weights and a tokenizer of words."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    PreTrainedTokenizerFast,
)

WORDS = (
    "yes no maybe is are the a there in this image Question : Answer please circle "
    "square triangle red green blue yellow left right top bottom ? . , 1 2 3 4"
)
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
T5 = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "tie_word_embeddings": False,
}
OPT = {
    "model_type": "opt",
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
NUM_QUERIES = 4


def tokenizer():
    """Words, and single letters of what is none."""
    special = ["<pad>", "</s>", "<unk>"]
    words = [*special, *dict.fromkeys(WORDS.split())]
    made = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def save_tiny(folder, kind="instructblip", text=T5, seed=0):
    """A checkpoint folder as transformers saves it."""
    torch.manual_seed(seed)
    is_blip2 = kind == "blip-2"
    words, qformer_words = tokenizer(), tokenizer()
    image_processor = BlipImageProcessor(size={"height": 32, "width": 32})
    if is_blip2:
        processor = Blip2Processor(image_processor, words, NUM_QUERIES)
    else:
        processor = InstructBlipProcessor(
            image_processor, words, qformer_words, NUM_QUERIES
        )
    config_class = Blip2Config if is_blip2 else InstructBlipConfig
    config = config_class(
        vision_config=TOWER | {"image_size": 32, "patch_size": 16},
        qformer_config=TOWER
        | {
            "vocab_size": len(qformer_words),
            "encoder_hidden_size": 32,
            "cross_attention_frequency": 1,
        },
        text_config=text
        | {"vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 1},
        num_query_tokens=NUM_QUERIES,
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    cls = (
        Blip2ForConditionalGeneration
        if is_blip2
        else InstructBlipForConditionalGeneration
    )
    model = cls(config).eval()
    # Initial weights are small, so that all answers would be alike.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
        model.query_tokens.normal_()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
