"""Train as a published run did, and print what PyTorch reserved, in bytes.

    python published_runs.py gpt | gpt-bf16-sdpa | vit

Run on the virtual card by test_published_runs.py, which says who published what.
"""

import sys

import torch
from torch import nn

STEPS = 3
CONTEXT, WIDTH, HEADS, LAYERS, VOCABULARY, DROPOUT = 1024, 768, 12, 12, 50257, 0.1


class WrittenOutAttention(nn.Module):
    """Causal attention with its scores, and a buffer for the mask."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, WIDTH, bias=False)
        self.value = nn.Linear(WIDTH, WIDTH, bias=False)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        future = torch.triu(torch.ones(CONTEXT, CONTEXT), diagonal=1)
        self.register_buffer("future", future)

    def forward(self, x):
        def by_head(y):
            return y.view(*y.shape[:2], HEADS, -1).transpose(1, 2)

        key = by_head(self.key(x))
        query = by_head(self.query(x))
        value = by_head(self.value(x))
        scores = query @ key.transpose(2, 3)
        scores.masked_fill_(self.future.bool(), -torch.inf)
        weights = torch.softmax(scores / (WIDTH // HEADS) ** 0.5, dim=-1)
        mixed = (self.dropout(weights) @ value).transpose(1, 2)
        return self.project(mixed.reshape(x.shape))


class FusedAttention(nn.Module):
    """The same by PyTorch's own function, from one projection."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        qkv = self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        dropout = DROPOUT if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(
            *qkv, dropout_p=dropout, is_causal=True
        )
        return self.project(mixed.transpose(1, 2).contiguous().view(x.shape))


class WrittenOutNorm(nn.Module):
    """Layer normalisation, operator by operator."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.shift = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * ((x - mean) / torch.sqrt(variance + 1e-5)) + self.shift


class WrittenOutGelu(nn.Module):
    """GELU by its tanh approximation, operator by operator."""

    def forward(self, x):
        cubic = x + 0.044715 * torch.pow(x, 3)
        return 0.5 * x * (1 + torch.tanh(torch.sqrt(torch.tensor(0.63662)) * cubic))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with dropout and a shortcut."""

    def __init__(self, is_written_out):
        super().__init__()
        if is_written_out:
            attention, norm, gelu = WrittenOutAttention, WrittenOutNorm, WrittenOutGelu
        else:
            attention, norm, gelu = FusedAttention, library_norm, library_gelu
        self.attention = attention()
        self.feed_forward = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), gelu(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.norm_1, self.norm_2 = norm(), norm()
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x):
        x = self.dropout(self.attention(self.norm_1(x))) + x
        return self.dropout(self.feed_forward(self.norm_2(x))) + x


def library_norm():
    return nn.LayerNorm(WIDTH)


def library_gelu():
    return nn.GELU(approximate="tanh")


class Gpt(nn.Module):
    """GPT-2 of 124M parameters, its head untied."""

    def __init__(self, is_written_out):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block(is_written_out) for _ in range(LAYERS)))
        self.norm = WrittenOutNorm() if is_written_out else library_norm()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))
        return self.head(self.norm(self.blocks(x)))


def train_gpt(is_written_out, dtype, **optimizer_options):
    """8 sequences a step, and a look at two batches after the first step."""
    model = Gpt(is_written_out).to("cuda").to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), **optimizer_options)

    def loss_of_a_batch():
        tokens = torch.zeros(8, CONTEXT, dtype=torch.int64).to("cuda")
        targets = torch.zeros(8, CONTEXT, dtype=torch.int64).to("cuda")
        logits = model(tokens)
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    for step in range(STEPS):
        model.train()
        optimizer.zero_grad()
        loss = loss_of_a_batch()
        loss.backward()
        optimizer.step()
        if step == 0:
            model.eval()
            with torch.no_grad():
                loss_of_a_batch().item()
                loss_of_a_batch().item()


def train_vit():
    """ViT-L/16 for ten classes in fp32, 64 pictures a step."""
    from torchvision.models import vit_l_16

    model = vit_l_16(weights=None)
    model.heads.head = nn.Linear(1024, 10)
    model.to("cuda")
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(STEPS):
        pictures = torch.zeros(64, 3, 224, 224).to("cuda")
        targets = torch.zeros(64, dtype=torch.int64).to("cuda")
        loss = nn.functional.cross_entropy(model(pictures), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    match sys.argv[1]:
        case "gpt":
            train_gpt(True, torch.float32)
        case "gpt-bf16-sdpa":
            train_gpt(False, torch.bfloat16, fused=True)
        case "vit":
            train_vit()
    print(torch.cuda.max_memory_reserved())
