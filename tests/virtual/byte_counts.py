"""Take two training steps with small models and print PyTorch's own byte counts.

    python byte_counts.py "decoder bf16 fused" ...

Run on the virtual card by test_exact_bytes.py, which holds the formulas. A case is a
model, a precision and an optimizer; what comes out for each is the requested bytes
that live after each part of both steps, and the peak within that part.
"""

import gc
import json
import sys

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

BATCH, LENGTH, VOCABULARY, WIDTH, HEADS, HIDDEN, LAYERS = 4, 512, 32000, 512, 8, 1376, 4
IMAGES, SIDE, CHANNELS, CLASSES = 16, 64, 64, 1000
RANK = 16


class DecoderBlock(nn.Module):
    """Norm, causal attention, norm, gated feed-forward; no biases."""

    def __init__(self):
        super().__init__()
        self.norm_1 = nn.RMSNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm_2 = nn.RMSNorm(WIDTH)
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x):
        x = x + self.proj(attend(self.qkv(self.norm_1(x)), is_causal=True))
        y = self.norm_2(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def attend(qkv, is_causal):
    """Attention with heads side by side in one projection, and merged after it."""
    heads = qkv.view(*qkv.shape[:2], 3, HEADS, WIDTH // HEADS)
    query, key, value = heads.permute(2, 0, 3, 1, 4)
    mixed = nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=is_causal
    )
    return mixed.transpose(1, 2).reshape(*qkv.shape[:2], WIDTH)


class Decoder(nn.Module):
    """A language model with an output layer of its own; the loss is taken in fp32."""

    def __init__(self, checkpointing=False):
        super().__init__()
        self.checkpointing = checkpointing
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(DecoderBlock() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            if self.checkpointing:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        logits = self.head(self.norm(x)).float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())


class EncoderBlock(nn.Module):
    """Attention and feed-forward with biases and dropout, a norm after each."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm_1 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norm_2 = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        mixed = self.proj(attend(self.qkv(x), is_causal=False))
        x = self.norm_1(x + self.dropout(mixed))
        y = self.down(nn.functional.gelu(self.up(x)))
        return self.norm_2(x + self.dropout(y))


class Encoder(nn.Module):
    """Token and position embeddings, blocks, and classes for the first token."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList(EncoderBlock() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, batch):
        tokens, labels = batch
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.tokens(tokens) + self.positions(positions))
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(x[:, 0]), labels)


class ConvolutionNet(nn.Module):
    """Convolution, batch norm, ReLU and pooling three times, then classes."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, CHANNELS, 3, padding=1, bias=False)
            for inputs in (3, CHANNELS, CHANNELS)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(3))
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, batch):
        x, labels = batch
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.functional.max_pool2d(norm(convolution(x)).relu(), 2)
        return nn.functional.cross_entropy(self.head(x.mean((2, 3))), labels)


class Adapted(nn.Module):
    """Three nf4 layers under peft's adapters, a ReLU after each, all in bf16."""

    def __init__(self):
        from bitsandbytes.nn import Linear4bit

        super().__init__()
        self.layers = nn.ModuleList(
            Linear4bit(
                WIDTH,
                WIDTH,
                bias=False,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
                compress_statistics=True,
            )
            for _ in range(3)
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x).relu()
        return x.float().mean()


def adapted():
    """Quantized on its way to the device, then wrapped; adapters stay in fp32."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, target_modules=["0", "1", "2"])
    return get_peft_model(Adapted().to(torch.bfloat16).cuda(), config)


def tokens():
    return torch.randint(0, VOCABULARY, (BATCH, LENGTH), device="cuda")


def labelled_tokens():
    return tokens(), torch.randint(0, CLASSES, (BATCH,), device="cuda")


def images(dtype):
    pictures = torch.randn(IMAGES, 3, SIDE, SIDE, device="cuda", dtype=dtype)
    return pictures, torch.randint(0, CLASSES, (IMAGES,), device="cuda")


def features():
    return torch.randn(BATCH, LENGTH, WIDTH, device="cuda", dtype=torch.bfloat16)


def optimizer_of(name, parameters):
    """AdamW in one of its four forms."""
    match name:
        case "foreach":
            return torch.optim.AdamW(parameters, foreach=True)
        case "fused":
            return torch.optim.AdamW(parameters, fused=True)
        case "forloop":
            return torch.optim.AdamW(parameters, foreach=False)
        case "8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(parameters)


def build(name, dtype):
    """The model and its batch, on the device."""
    if name == "adapted":
        return adapted(), features()
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        match name:
            case "decoder":
                built = Decoder(), tokens()
            case "checkpointed":
                built = Decoder(checkpointing=True), tokens()
            case "encoder":
                built = Encoder(), labelled_tokens()
            case "convolution":
                built = ConvolutionNet(), images(dtype)
    torch.set_default_dtype(torch.float32)
    return built


def count(case):
    """Two steps of a case: {"built": ..., "forward 1": ..., ...}, in bytes."""
    name, precision, optimizer_name = case.split()
    counts = {}

    def note(moment):
        stats = torch.cuda.memory_stats()
        counts[moment] = {
            "live": stats["requested_bytes.all.current"],
            "peak": stats["requested_bytes.all.peak"],
        }
        torch.cuda.reset_peak_memory_stats()

    note("before")
    model, batch = build(name, torch.bfloat16 if precision == "bf16" else torch.float32)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer_of(optimizer_name, trained)
    note("built")
    for step in (1, 2):
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "autocast"):
            loss = model(batch)
        note(f"forward {step}")
        loss.backward()
        note(f"backward {step}")
        optimizer.step()
        note(f"step {step}")
        optimizer.zero_grad()
        del loss
    return counts


def main():
    torch.cuda.init()
    counted = {}
    for case in sys.argv[1:]:
        counted[case] = count(case)
        # The next case begins as a new process would: no workspaces, nothing cached.
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
