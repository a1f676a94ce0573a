"""What others would use: plain versions in their own style, and adapters of packages to our API.

Needs the extra `bench` for GPT-2 of `transformers` and for `vector-quantize-pytorch`.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib.quantizer import Quantized
from vqlib.vqvae import VQVAE, VQVAEConfig


class OneHot(nn.Module):
    """The EMA quantizer of the public PyTorch tutorials.

    It computes the whole distance matrix, one-hot encodings, and two products with them. The
    codebook moves in the forward pass; `step` only returns that pass's perplexity.
    """

    def __init__(self, n_codes, code_dim, decay=0.99, epsilon=1e-5):
        super().__init__()
        self.n_codes, self.decay, self.epsilon = n_codes, decay, epsilon
        self.codebook = nn.Parameter(torch.randn(n_codes, code_dim), requires_grad=False)
        self.ema = nn.Parameter(self.codebook.clone(), requires_grad=False)
        self.register_buffer("size", torch.zeros(n_codes))

    def forward(self, z: Tensor) -> Quantized:                   # (B, D, h, w)
        inputs = z.permute(0, 2, 3, 1).contiguous()
        rows = inputs.view(-1, inputs.shape[-1])                 # (N, D)
        distances = (rows.pow(2).sum(1, keepdim=True) + self.codebook.pow(2).sum(1)
                     - 2 * rows @ self.codebook.t())             # (N, K)
        index = distances.argmin(1)[:, None]
        encodings = torch.zeros(len(rows), self.n_codes).scatter_(1, index, 1)  # (N, K)
        e = (encodings @ self.codebook).view(inputs.shape)
        if self.training:
            self.update(encodings, rows.detach())
        commit = F.mse_loss(e.detach(), inputs)
        p = encodings.mean(0)
        self.perplexity = torch.exp(-torch.sum(p * torch.log(p + 1e-10)))
        e = inputs + (e - inputs).detach()
        codes = index.view(inputs.shape[:-1])
        return Quantized(e.permute(0, 3, 1, 2).contiguous(), codes, commit)

    def update(self, encodings: Tensor, rows: Tensor) -> None:   # (N, K), (N, D)
        self.size = self.size * self.decay + (1 - self.decay) * encodings.sum(0)
        n = self.size.sum()
        self.size = (self.size + self.epsilon) / (n + self.n_codes * self.epsilon) * n
        sums = encodings.t() @ rows                              # (K, D)
        self.ema = nn.Parameter(self.ema * self.decay + (1 - self.decay) * sums, False)
        self.codebook = nn.Parameter(self.ema / self.size[:, None], False)

    def step(self) -> Tensor:
        return self.perplexity


class Lucidrains(nn.Module):
    """`vector-quantize-pytorch` with EMA; the codebook moves in the forward pass.

    Straight-through gradients instead of its slower default, the rotation trick.
    """

    def __init__(self, n_codes, code_dim, decay=0.99):
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize
        self.layer = VectorQuantize(code_dim, n_codes, decay=decay, commitment_weight=1.0,
                                    accept_image_fmap=True, rotation_trick=False)

    def forward(self, z: Tensor) -> Quantized:                   # (B, D, h, w)
        e, codes, commit = self.layer(z)
        return Quantized(e, codes, commit.sum())

    def step(self) -> None:
        """It reports no perplexity."""


def vqvae_around(quantizer: type | None, cfg: VQVAEConfig) -> VQVAE:
    """The report's nets around a quantizer; None: ours."""
    model = VQVAE(cfg)
    if quantizer:
        model.quantizer = quantizer(cfg.n_codes, cfg.code_dim, cfg.decay)
    return model.train()


class PlainBlock(nn.Module):
    """nanoGPT's: dropout on attention, its output and the feed-forward net; biases everywhere."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(),
                                 nn.Linear(4 * width, width), nn.Dropout(dropout))
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x):                                        # (B, T, C)
        B, T, C = x.shape
        parts = self.c_attn(self.ln_1(x)).split(C, 2)
        q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True,
                                           dropout_p=self.dropout if self.training else 0)
        x = x + self.resid_dropout(self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C)))
        return x + self.mlp(self.ln_2(x))


class PlainGPT(nn.Module):
    """nanoGPT's model: learned positions, pre-norm blocks, output layer tied to the embedding."""

    def __init__(self, vocab, length, width, heads, layers, dropout):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(length, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([PlainBlock(width, heads, dropout) for _ in range(layers)])
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)
        self.wte.weight = self.head.weight

    def forward(self, tokens, targets):                          # (B, T), (B, T)
        x = self.drop(self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1])))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def gpt2(vocab, length, width, heads, layers, dropout=0.0):
    """GPT-2 of `transformers`, untrained; no token ends a text."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging
    logging.set_verbosity_error()
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=vocab, n_positions=length, n_embd=width, n_head=heads, n_layer=layers,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        bos_token_id=None, eos_token_id=None))
